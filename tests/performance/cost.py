"""What one request costs beside the floor and the recipe: CPU, time, round trips; and memory at rest, and the start."""

import asyncio
import time
from contextlib import ExitStack
from typing import Any

from tests.network import Proxy, proxy_to
from tests.performance.load import POOL_SIZE, Figures, load, medians
from tests.performance.servers import COMMANDS, ONLY_POOLED, Request, databases, service, why_no_peer

DELAY = 0.01
"""Seconds that the proxy adds to each direction, so that what is counted happens as it does over a network."""


CREATORS = tuple(f"creator-{number}" for number in range(200))
"""Who creates: of one user the tasks would be too many, and counting them would be measured."""

GOALS = {"get": 1.25, "list 100": 1.0, "create": 1.5, "patch": 1.5, "toggle": 1.5}
"""Times the CPU of the floor."""


def scenarios(task_id: str) -> dict[str, Request]:
    """The requests that are measured."""
    return {
        "get": Request("GET", f"/api/tasks/{task_id}"),
        "list 20": Request("GET", "/api/tasks?limit=20"),
        "list 100": Request("GET", "/api/tasks?limit=100"),
        "create": Request("POST", "/api/tasks", {"title": "Buy milk"}, CREATORS),
        "patch": Request("PATCH", f"/api/tasks/{task_id}", {"title": "Buy more milk"}),
        "toggle": Request("POST", f"/api/tasks/{task_id}/toggle"),
    }


def measure_cost(rounds: int, seconds: int, only: list[str]) -> dict[str, Any]:
    """Measure every request with a pool and behind NullPool."""
    no_peer = why_no_peer()
    with databases() as (direct, pooled):
        with service("service", direct, POOL_SIZE) as target:
            for number in range(200):
                target.request("POST", "/api/tasks", {"title": f"Task {number}", "description": "As tasks are"})
        return {
            **({"no_peer": no_peer} if no_peer else {}),
            "pool": measure_requests(
                direct,
                direct,
                POOL_SIZE,
                [name for name in COMMANDS if name != "peer" or not no_peer],
                rounds,
                seconds,
                only,
            ),
            "NullPool": measure_requests(
                direct, pooled, 0, [name for name in COMMANDS if name not in ONLY_POOLED], rounds, seconds, only
            ),
        }


def measure_requests(
    direct: int, port: int, pool_size: int, names: list[str], rounds: int, seconds: int, only: list[str]
) -> dict[str, Any]:
    """Measure every scenario on these services, at 1 and at 8 connections, in alternating rounds."""
    samples: dict[tuple[str, str, int], list[Figures]] = {}
    with ExitStack() as stack:
        targets = [stack.enter_context(service(name, port, pool_size)) for name in names]
        memory = {target.name: target.memory() for target in targets}
        wanted = scenarios(targets[-1].request("POST", "/api/tasks", {"title": "Buy milk"})["id"])
        for _ in range(rounds):
            for name, request in wanted.items():
                if only and name not in only:
                    continue
                for connections in (1, 8):
                    for target in targets:
                        sample = load(target, request, connections, seconds, direct)
                        samples.setdefault((name, target.name, connections), []).append(sample)
    return {
        "memory_bytes": memory,
        "requests": [
            {"request": name, "service": who, "connections": connections, **medians(values)}
            for (name, who, connections), values in samples.items()
        ],
    }


def measure_round_trips() -> list[dict[str, Any]]:
    """Count on the wire how many round trips to the database each request takes until it has its response.

    TCP's own is not seen. A request is made several times, because a kept connection prepares a statement first.
    """
    with databases() as (_, pooled):
        return asyncio.run(count_all(pooled))


async def count_all(port: int) -> list[dict[str, Any]]:
    """Count the round trips of the service and the recipe to the database behind a port."""
    table = []
    async with proxy_to(port=port, delay=DELAY) as proxy:
        for pool_size in (0, POOL_SIZE):
            for name in ("service", "recipe"):
                rows = await asyncio.to_thread(count_round_trips, name, proxy, pool_size)
                table += [{"service": name, "pool_size": pool_size, **row} for row in rows]
    return table


def count_round_trips(name: str, proxy: Proxy, pool_size: int, repeat: int = 5) -> list[dict[str, Any]]:
    """Make every request, one after the other; return the medians of each one's round trips and bytes sent."""

    def count(request: Request) -> Figures:
        time.sleep(0.2)  # the request before may still be closing its connection
        proxy.round_trips = proxy.bytes_sent = 0
        target.respond(request)
        return {"round_trips": proxy.round_trips, "bytes_sent": proxy.bytes_sent}

    with service(name, proxy.port, pool_size) as target:
        task_id = target.request("POST", "/api/tasks", {"title": "Buy milk"})["id"]
        counts = {label: [count(request) for _ in range(repeat)] for label, request in scenarios(task_id).items()}
        counts["delete"] = []
        for _ in range(repeat):
            victim = target.request("POST", "/api/tasks", {"title": "Buy milk"})["id"]
            counts["delete"].append(count(Request("DELETE", f"/api/tasks/{victim}")))
    return [{"request": label, **medians(values)} for label, values in counts.items()]


def measure_start(repeat: int = 5) -> dict[str, float]:
    """Measure the seconds from the start of a service to its first response."""
    samples = []
    with databases() as (direct, _):
        for _ in range(repeat):
            sample = {}
            for name in ("service", "recipe"):
                started = time.perf_counter()
                with service(name, direct, POOL_SIZE):
                    sample[name] = time.perf_counter() - started
            samples.append(sample)
    return medians(samples)


def print_cost(found: dict[str, Any]) -> None:
    """Print what `measure_cost` has found."""
    if "no_peer" in found:
        print(f"\nno peer: {found['no_peer']}")
    for title in ("pool", "NullPool"):
        cost = found[title]
        print_requests(title, cost)
        print("\nbytes of memory at rest:", cost["memory_bytes"])


def print_requests(title: str, cost: dict[str, Any]) -> None:
    """Print a table of CPU and times."""
    print(f"\n{title}: CPU µs a request, and of the database (p50, p99 in µs)\n")
    rows = {(row["request"], row["service"], row["connections"]): row for row in cost["requests"]}
    for connections in (1, 8):
        for name in dict.fromkeys(row["request"] for row in cost["requests"]):
            found = {who: rows[name, who, connections] for who in COMMANDS if (name, who, connections) in rows}
            cells = [
                f"{who} {row['cpu_us']:5.0f} + {row['database_us']:5.0f} ({row['p50_us']:.0f}, {row['p99_us']:.0f})"
                for who, row in found.items()
            ]
            own = found["service"]["cpu_us"]
            ratios = [f"/ {who} {own / row['cpu_us']:.2f}" for who, row in found.items() if who != "service"]
            ratios += [f"(goal: {GOALS[name]} of the floor)"] if "floor" in found and name in GOALS else []
            print(f"{name:9} {connections} conn.  " + "   ".join(cells + ratios))


def print_round_trips(rows: list[dict[str, Any]]) -> None:
    """Print what `measure_round_trips` has found."""
    print("\nround trips to the database, on the wire\n")
    for row in rows:
        print(
            f"{row['request']:9} pool {row['pool_size']}  {row['service']:8} "
            f"{row['round_trips']:.0f}  {row['bytes_sent']:.0f} bytes sent"
        )
