"""Requests that arrive at a fixed rate: at half of what the service can do, and at four times as much."""

import asyncio
import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from tests.performance.load import POOL_SIZE, Figures, Users, load_mixed, medians, users_of
from tests.performance.servers import Service, core_apart, databases, service

PLACES = 16
PROBE_EVERY = 0.02
"""Seconds between two probes of `/health`."""
HALF, OVERLOAD = 0.5, 4.0
"""Times the capacity."""
LATE = 0.1
"""Share of the accepted ones' p99. Requests that leave so late say that the generator can make no more."""


@contextmanager
def probing(target: Service) -> Iterator[list[float]]:
    """Ask for `/health` all the while, each time on a new connection; collect how many µs each response took."""
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


def arrive(target: Service, users: Users, rate: float, seconds: int) -> Figures:
    """Let requests arrive; return what became of them, of the probes, and what the service used of its core."""
    command = [
        sys.executable,
        "-m",
        "tests.performance.arrivals",
        str(target.port),
        users.file,
        str(rate),
        str(seconds),
    ]
    cpu = target.cpu()
    with probing(target) as probes:
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    figures: Figures = json.loads(output)
    assert figures["failed"] == 0, f"{figures['failed']:.0f} requests failed"
    return {
        **figures,
        "rate": rate,
        "service_cpu": target.cpu() - cpu,
        "health_p95_us": statistics.quantiles(probes, n=100)[94],
    }


def measure_open_loop(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure what the service can do, and both open loops of that.

    The capacity is what is accepted of arrivals at the rate that a closed loop of as many clients as places gets done:
    that closed loop itself does a fifth more, because it has a few connections where the arrivals have thousands.
    """
    samples: dict[str, list[Figures]] = {"closed": [], "capacity": [], "half": [], "overload": []}
    with core_apart() as core, databases() as (direct, _), users_of(direct) as users:
        places = {"MAX_CONCURRENT_REQUESTS": str(PLACES)}
        with service("service", direct, POOL_SIZE, core=core, **places) as target:
            asyncio.run(users.reset())
            load_mixed(target, users, PLACES, seconds)  # connects, and fills the caches
            for _ in range(rounds):
                asyncio.run(users.reset())
                samples["closed"].append(load_mixed(target, users, PLACES, seconds))
                asyncio.run(users.reset())
                samples["capacity"].append(arrive(target, users, samples["closed"][-1]["per_second"], seconds))
                capacity = samples["capacity"][-1]["accepted_per_second"]
                for name, share in (("half", HALF), ("overload", OVERLOAD)):
                    asyncio.run(users.reset())
                    samples[name].append(arrive(target, users, share * capacity, seconds))
                overload, half = samples["overload"][-1], samples["half"][-1]
                overload["share_of_capacity"] = overload["accepted_per_second"] / capacity
                overload["times_half"] = overload["accepted_p99_us"] / half["accepted_p99_us"]
                half["p99_by_p50"] = half["accepted_p99_us"] / half["accepted_p50_us"]
    return {"places": PLACES, **{name: medians(values) for name, values in samples.items()}}


def print_open_loop(found: dict[str, Any]) -> None:
    """Print what `measure_open_loop` has found."""
    capacity, half, overload = found["capacity"], found["half"], found["overload"]
    print(f"\nopen loop, {found['places']} places; capacity {capacity['accepted_per_second']:.0f} requests a second\n")
    print(
        f"half of it: p50 {half['accepted_p50_us'] / 1000:.2f} ms, p99 {half['accepted_p99_us'] / 1000:.2f} ms, "
        f"{half['p99_by_p50']:.1f} times (goal 5); refused {half['refused_per_second']:.0f}/s; "
        f"/health p95 {half['health_p95_us'] / 1000:.1f} ms"
    )
    print(
        f"four times, {overload['rate']:.0f} a second: {overload['share_of_capacity']:.0%} of capacity (goal 80 %); "
        f"accepted p99 {overload['accepted_p99_us'] / 1000:.0f} ms, {overload['times_half']:.1f} times that at half "
        f"(goal 5); refused {overload['refused_per_second']:.0f}/s, p99 {overload['refused_p99_us'] / 1000:.0f} ms "
        f"(goal 250); /health p95 {overload['health_p95_us'] / 1000:.0f} ms (goal 500); "
        f"unanswered {overload['unanswered']:.0f} of {overload['arrived']:.0f}"
    )
    for name, row in (("half", half), ("overload", overload)):
        limit = (
            ": the generator, or the machine, could not keep up"
            if row["late_p99_us"] > LATE * row["accepted_p99_us"]
            else ""
        )
        print(f"{name}: requests left {row['late_p99_us'] / 1000:.2f} ms late (p99){limit}")
