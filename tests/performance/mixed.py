"""What users do all day, mixed as they do it: its throughput, its cost with two workers, and the memory it leaves."""

import asyncio
import statistics
from contextlib import ExitStack
from typing import Any

from tests.performance.load import POOL_SIZE, Figures, Users, load_mixed, medians, run_mixed, users_of
from tests.performance.servers import Service, core_apart, databases, service

CLIENTS = 8
WORKERS_CLIENTS = 32
"""More than elsewhere, because a client stays with the worker that took its connection: few spread unevenly."""

WARM_UP = 10_000
"""Requests after which caches are full, and memory should not grow any more."""
MEMORY_REQUESTS = 200_000
NULLPOOL_SHARE = 0.25
"""How many of them behind NullPool, where one takes ten times as long."""

Samples = dict[str, list[Figures]]


def in_turns(targets: dict[str, Service], users: Users, connections: int, rounds: int, seconds: int) -> Samples:
    """Load the services one after the other, on the same table, over and over; return each one's figures."""
    samples: Samples = {name: [] for name in targets}
    asyncio.run(users.reset())
    for target in targets.values():
        load_mixed(target, users, connections, seconds)  # connects, and fills the caches
    for _ in range(rounds):
        for name, target in targets.items():
            asyncio.run(users.reset())
            samples[name].append(load_mixed(target, users, connections, seconds))
    return samples


def ratio(samples: Samples, figure: str, name: str, other: str) -> float:
    """Return the median of the rounds' ratios: its two ran one after the other, on an equally busy machine."""
    pairs = zip(samples[name], samples[other], strict=True)
    return statistics.median(one[figure] / two[figure] for one, two in pairs)


def measure_mixed(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure the service and the recipe under the mixed load, with a pool and behind NullPool."""
    table = {}
    with databases() as (direct, pooled), users_of(direct) as users:
        for title, port, pool_size in (("pool", direct, POOL_SIZE), ("NullPool", pooled, 0)):
            with ExitStack() as stack:
                targets = {name: stack.enter_context(service(name, port, pool_size)) for name in ("service", "recipe")}
                samples = in_turns(targets, users, CLIENTS, rounds, seconds)
            table[title] = {
                **{name: medians(values) for name, values in samples.items()},
                "throughput_ratio": ratio(samples, "per_second", "service", "recipe"),
                "cpu_ratio": ratio(samples, "cpu_us", "service", "recipe"),
            }
    return table


def print_mixed(table: dict[str, Any]) -> None:
    """Print what `measure_mixed` has found."""
    print(f"\nmixed load, {CLIENTS} clients: requests a second (p50, p99 in µs; CPU µs a request)\n")
    for title, found in table.items():
        cells = [
            f"{name} {row['per_second']:5.0f} ({row['p50_us']:.0f}, {row['p99_us']:.0f}; {row['cpu_us']:.0f})"
            for name, row in found.items()
            if isinstance(row, dict)
        ]
        goal = {"pool": 5, "NullPool": 2}[title]
        print(f"{title:9} {'   '.join(cells)}   {found['throughput_ratio']:.2f} times (goal {goal})")


def measure_workers(rounds: int, seconds: int) -> dict[str, Any]:
    """Measure what a request costs when two workers share the load, beside one that has it all.

    Either has the same one core, so that neither pays for caches that it shares with its clients. Nobody opens
    connections of the overflow: who waits for how long, and so how many there are, would be chance.
    """
    settings = {"DATABASE_MAX_OVERFLOW": "0"}
    with core_apart() as core, databases() as (direct, _), users_of(direct) as users, ExitStack() as stack:
        targets = {
            f"{count}": stack.enter_context(
                service("service", direct, POOL_SIZE, "--workers", f"{count}", core=core, **settings)
            )
            for count in (1, 2)
        }
        samples = in_turns(targets, users, WORKERS_CLIENTS, rounds, seconds)
        *_, less, more = sorted(targets["2"].cpus())
    return {
        "workers": {name: medians(values) for name, values in samples.items()},
        "cpu_ratio": ratio(samples, "cpu_us", "2", "1"),
        "busier_worker_share": more / (less + more),
    }


def print_workers(found: dict[str, Any]) -> None:
    """Print what `measure_workers` has found."""
    print(f"\nworkers, {WORKERS_CLIENTS} clients: CPU µs a request (requests a second)\n")
    for name, row in found["workers"].items():
        print(f"{name}: {row['cpu_us']:.0f} ({row['per_second']:.0f})")
    share = found["busier_worker_share"]
    print(f"two cost {found['cpu_ratio']:.3f} of one (goal 0.95 to 1.05); the busier did {share:.0%} of the work")


def measure_memory(seconds: int, requests: int = MEMORY_REQUESTS) -> dict[str, Any]:
    """Measure the memory at rest, after a warm-up and after many requests, with a pool and behind NullPool."""
    table = {}
    with databases() as (direct, pooled), users_of(direct) as users:
        ways = (("pool", direct, POOL_SIZE, requests), ("NullPool", pooled, 0, requests * NULLPOOL_SHARE))
        for title, port, pool_size, enough in ways:
            asyncio.run(users.reset())
            with service("service", port, pool_size) as target:
                points = [(0, target.memory())]
                while (done := points[-1][0]) < enough:
                    done += int(run_mixed(target, users, CLIENTS, seconds)["requests"])
                    points.append((done, target.memory()))
            warm = next((point for point in points if point[0] >= WARM_UP), points[-1])
            table[title] = {
                "at_rest": points[0][1],
                "warm": {"requests": warm[0], "bytes": warm[1]},
                "last": {"requests": points[-1][0], "bytes": points[-1][1]},
                "highest_bytes": max(size for _, size in points),
                "growth_from_rest": points[-1][1] / points[0][1] - 1,
                "growth_from_warm": points[-1][1] / warm[1] - 1,
            }
    return table


def print_memory(table: dict[str, Any]) -> None:
    """Print what `measure_memory` has found."""
    print("\nmemory of the service under the mixed load, MB\n")
    for title, found in table.items():
        warm, last = found["warm"], found["last"]
        print(
            f"{title:9} at rest {found['at_rest'] / 1e6:.1f}   after {warm['requests']:,}: {warm['bytes'] / 1e6:.1f}   "
            f"after {last['requests']:,}: {last['bytes'] / 1e6:.1f}   growth since then "
            f"{found['growth_from_warm']:+.1%} (goal 2 %), from rest {found['growth_from_rest']:+.1%}"
        )
