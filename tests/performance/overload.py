"""More callers than there are places: how much work still gets done, and how long everybody waits."""

import asyncio
import http.client
import statistics
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.performance.load import POOL_SIZE, Figures, Users, medians, run_wrk, users_of
from tests.performance.servers import Service, core_apart, databases, service

PLACES = 16
CALLERS = 4 * PLACES
PROBE_EVERY = 0.01
"""Seconds between two probes of `/health`."""
SETTLE = 1.0
"""Seconds until nobody holds a place any more whose caller has left: wrk does not wait for its last answers."""

FORMS = {
    "as many callers as places": (PLACES, "impatient"),
    "refused callers ask again at once": (CALLERS, "impatient"),
    "refused callers wait as Retry-After says": (CALLERS, "patient"),
}
PEAK = next(iter(FORMS))


@contextmanager
def probing(target: Service) -> Iterator[list[float]]:
    """Ask for `/health` all the while, each time on a new connection; collect how many µs each answer took."""
    times: list[float] = []
    ended = threading.Event()

    def probe() -> None:
        while not ended.wait(PROBE_EVERY):
            connection = http.client.HTTPConnection("127.0.0.1", target.port)
            started = time.perf_counter()
            connection.request("GET", "/health")
            assert connection.getresponse().status == 200
            times.append((time.perf_counter() - started) * 1e6)
            connection.close()

    with ThreadPoolExecutor() as executor:
        probes = executor.submit(probe)
        try:
            yield times
        finally:
            ended.set()
        probes.result()  # raises what went wrong


def overload(target: Service, users: Users, form: str, seconds: int) -> Figures:
    """Load the service in one of the forms; return what became of accepted and refused requests, and of the probes."""
    callers, patience = FORMS[form]
    with probing(target) as probes:
        figures = run_wrk(
            target, "overload.lua", users.file, patience, connections=callers, threads=callers, seconds=seconds
        )
    time.sleep(SETTLE)
    return {
        "accepted_per_second": figures["accepted"] / figures["seconds"],
        "accepted_p50_us": figures["accepted_p50_us"],
        "accepted_p99_us": figures["accepted_p99_us"],
        "refused_per_second": figures["refused"] / figures["seconds"],
        "refused_p99_us": figures["refused_p99_us"],
        "health_p99_us": statistics.quantiles(probes, n=100)[98],
    }


def measure_overload(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure the most that the service can do, and what it does for four times as many callers as it has places."""
    samples: dict[str, list[Figures]] = {form: [] for form in FORMS}
    with core_apart() as core, databases() as (direct, _), users_of(direct) as users:
        places = {"MAX_CONCURRENT_REQUESTS": str(PLACES)}
        with service("service", direct, POOL_SIZE, core=core, **places) as target:
            asyncio.run(users.reset())
            overload(target, users, PEAK, seconds)  # connects, and fills the caches
            for _ in range(rounds):
                for form, values in samples.items():
                    asyncio.run(users.reset())
                    values.append(overload(target, users, form, seconds))
                    peak = samples[PEAK][-1]["accepted_per_second"]
                    values[-1]["share_of_peak"] = values[-1]["accepted_per_second"] / peak
    return {"places": PLACES, "callers": CALLERS, "forms": {form: medians(values) for form, values in samples.items()}}


def print_overload(found: dict[str, Any]) -> None:
    """Print what `measure_overload` has found."""
    print(f"\noverload: {found['places']} places, {found['callers']} callers\n")
    for form, row in found["forms"].items():
        milliseconds = {name: value / 1000 for name, value in row.items() if name.endswith("_us")}
        print(
            f"{form:40}  {row['share_of_peak']:4.0%} of the peak (goal 90 %)   "
            f"accepted {row['accepted_per_second']:.0f}/s, p99 {milliseconds['accepted_p99_us']:.1f} ms (goal 250)   "
            f"refused {row['refused_per_second']:.0f}/s, p99 {milliseconds['refused_p99_us']:.1f} ms (goal 10)   "
            f"/health p99 {milliseconds['health_p99_us']:.1f} ms"
        )
