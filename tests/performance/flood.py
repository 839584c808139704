"""One user who asks as fast as 64 connections can, beside others who ask now and then: what the others feel."""

import asyncio
import subprocess
from typing import Any

from tests.performance.load import POOL_SIZE, Figures, load_mixed, medians, users_of
from tests.performance.open_loop import arrive
from tests.performance.servers import core_apart, databases, service, token_of

OTHERS = 500
"""Requests of the others in a second, a quarter of what the service can do."""
CONNECTIONS = 64
LIMITS = {
    "defaults": {},
    "two at once": {"MAX_CONCURRENT_REQUESTS_PER_USER": "2"},
    "100 a second": {"RATE_LIMIT": "100/second"},
}
GOAL = 2.0
"""Times the others' p99 without the flood."""


def measure_flood(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure the others' times without and with the flood, under several limits for one user."""
    found: dict[str, Any] = {}
    with core_apart() as core, databases() as (direct, _), users_of(direct) as users:
        for name, limits in LIMITS.items():
            samples: dict[str, list[Figures]] = {"alone": [], "beside": []}
            with service("service", direct, POOL_SIZE, core=core, MAX_CONCURRENT_REQUESTS="100", **limits) as target:
                asyncio.run(users.reset())
                load_mixed(target, users, 16, seconds)  # connects, and fills the caches
                for _ in range(rounds):
                    samples["alone"].append(arrive(target, users, OTHERS, seconds))
                    with subprocess.Popen(_flood(target.port, seconds + 3), stdout=subprocess.DEVNULL) as flood:
                        samples["beside"].append(arrive(target, users, OTHERS, seconds))
                        flood.terminate()
            found[name] = {key: medians(values) for key, values in samples.items()}
    return found


def _flood(port: int, seconds: int) -> list[str]:
    authorization = f"Authorization: Bearer {token_of('flooder')}"
    address = f"http://127.0.0.1:{port}/api/tasks?limit=20"
    return ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}", "-H", authorization, address]


def print_flood(found: dict[str, Any]) -> None:
    """Print what `measure_flood` has found."""
    print(f"\none user floods on {CONNECTIONS} connections; p50 and p99 of the others, in ms\n")
    for name, row in found.items():
        alone, beside = row["alone"], row["beside"]
        times = beside["accepted_p99_us"] / alone["accepted_p99_us"]
        print(
            f"{name}: {alone['accepted_p50_us'] / 1000:.1f} and {alone['accepted_p99_us'] / 1000:.1f} alone, "
            f"{beside['accepted_p50_us'] / 1000:.1f} and {beside['accepted_p99_us'] / 1000:.1f} beside it: "
            f"p99 {times:.1f} times (goal {GOAL:.0f})"
        )
