"""`make bench`: what a request costs, beside the floor and beside the usual recipe.

CPU is what the operating system charges to the service's processes; load comes from wrk. The three services take turns,
and each figure is the median over the rounds. The ratios are the result: the times are this machine's.
"""

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.network import Proxy, proxy_to
from tests.performance.chart import draw
from tests.performance.servers import COMMANDS, TOKEN, Service, environment, pgbouncer, postgres, service
from tests.performance.tokens import measure_tokens

RESULTS = Path(__file__).parents[2] / "specs" / "performance"
DONE = """
done = function(summary, latency)
  local e = summary.errors
  local failed = e.status + e.connect + e.read + e.timeout
  local p50, p99 = latency:percentile(50), latency:percentile(99)
  io.write(string.format("RESULT %d %d %f %f\\n", summary.requests, failed, p50, p99))
end
"""

DELAY = 0.01
"""Seconds that the proxy adds to each direction, so that what is counted happens as it does over a network."""

Request = tuple[str, str, Any]


def scenarios(task_id: str) -> dict[str, Request]:
    """The requests that are measured."""
    return {
        "get": ("GET", f"/api/tasks/{task_id}", None),
        "list 20": ("GET", "/api/tasks?limit=20", None),
        "list 100": ("GET", "/api/tasks?limit=100", None),
        "create": ("POST", "/api/tasks", {"title": "Buy milk"}),
        "patch": ("PATCH", f"/api/tasks/{task_id}", {"title": "Buy more milk"}),
        "toggle": ("POST", f"/api/tasks/{task_id}/toggle", None),
    }


def load(target: Service, request: Request, connections: int, seconds: int) -> dict[str, float]:
    """Load a service with one request; return what each cost."""
    method, path, body = request
    script = f'wrk.method = "{method}"\nwrk.headers["Authorization"] = "Bearer {TOKEN}"\n'
    script += 'wrk.headers["Content-Type"] = "application/json"\n' + (
        f"wrk.body = '{json.dumps(body)}'\n" if body else ""
    )
    script += DONE
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        url = f"http://127.0.0.1:{target.port}{path}"
        before, started = target.cpu(), time.perf_counter()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", file.name, url]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        cpu, elapsed = target.cpu() - before, time.perf_counter() - started
    fields = next(line for line in output.splitlines() if line.startswith("RESULT")).split()[1:]
    requests, errors, p50, p99 = (float(field) for field in fields)
    assert errors == 0, f"{target.name}: {errors:.0f} of {requests:.0f} requests failed"
    return {"cpu_us": cpu / requests * 1e6, "p50_us": p50, "p99_us": p99, "per_second": requests / elapsed}


def measure_cost(port: int, pool_size: int, rounds: int, seconds: int, only: list[str]) -> dict[str, Any]:
    """Measure every scenario on every service, at 1 and at 8 connections, in alternating rounds."""
    names = [name for name in COMMANDS if name != "floor" or pool_size]  # the floor has no NullPool
    samples: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    memory = {}
    with ExitStack() as stack:
        targets = [stack.enter_context(service(name, port, pool_size)) for name in names]
        wanted = scenarios(targets[-1].request("POST", "/api/tasks", {"title": "Buy milk"})["id"])
        memory = {target.name: target.memory() for target in targets}
        for _ in range(rounds):
            for name, request in wanted.items():
                if only and name not in only:
                    continue
                for connections in (1, 8):
                    for target in targets:
                        sample = load(target, request, connections, seconds)
                        samples.setdefault((name, target.name, connections), []).append(sample)
    medians = {
        key: {figure: statistics.median(sample[figure] for sample in values) for figure in values[0]}
        for key, values in samples.items()
    }
    return {
        "memory_bytes": memory,
        "requests": [
            {"request": name, "service": who, "connections": connections, **figures}
            for (name, who, connections), figures in medians.items()
        ],
    }


async def measure_round_trips(port: int, names: tuple[str, ...] = ("service", "recipe")) -> list[dict[str, Any]]:
    """Count on the wire how many round trips to the database each request takes until it is answered.

    TCP's own is not seen. A request is made several times, because a kept connection prepares a statement first.
    """
    table = []
    async with proxy_to(port=port, delay=DELAY) as proxy:
        for pool_size in (0, 5):
            for name in names:
                rows = await asyncio.to_thread(count_round_trips, name, proxy, pool_size)
                table += [{"service": name, "pool_size": pool_size, **row} for row in rows]
    return table


def count_round_trips(name: str, proxy: Proxy, pool_size: int, repeat: int = 5) -> list[dict[str, Any]]:
    """Make every request, one after the other; return the median of each one's round trips."""

    def count(request: Request) -> int:
        time.sleep(0.2)  # the request before may still be closing its connection
        proxy.round_trips = 0
        target.request(*request)
        return proxy.round_trips

    with service(name, proxy.port, pool_size) as target:
        task_id = target.request("POST", "/api/tasks", {"title": "Buy milk"})["id"]
        counts = {label: [count(request) for _ in range(repeat)] for label, request in scenarios(task_id).items()}
        counts["delete"] = []
        for _ in range(repeat):
            victim = target.request("POST", "/api/tasks", {"title": "Buy milk"})["id"]
            counts["delete"].append(count(("DELETE", f"/api/tasks/{victim}", None)))
    return [{"request": label, "round_trips": statistics.median(values)} for label, values in counts.items()]


def measure_start(port: int, repeat: int = 5) -> dict[str, float]:
    """Measure the seconds from the start of a service to its first answer."""
    times: dict[str, list[float]] = {}
    for _ in range(repeat):
        for name in ("service", "recipe"):
            started = time.perf_counter()
            with service(name, port, 5):
                times.setdefault(name, []).append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def prepare(port: int) -> None:
    """Make the tables, and tasks to list."""
    subprocess.run([COMMANDS["service"][0], "migrate"], env=environment(port, 0), check=True, stdout=subprocess.DEVNULL)
    with service("service", port, 5) as target:
        for number in range(200):
            target.request("POST", "/api/tasks", {"title": f"Task {number}", "description": "As tasks are"})


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    packages = [
        "fastapi",
        "sqlmodel",
        "sqlalchemy",
        "asyncpg",
        "uvicorn",
        "uvloop",
        "httptools",
        "python-jose",
        "pydantic",
    ]
    return {
        "cores": psutil.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def print_cost(title: str, cost: dict[str, Any]) -> None:
    """Print a table of CPU and times."""
    print(f"\n{title}: CPU µs a request (and p50, p99 in µs)\n")
    rows = {(row["request"], row["service"], row["connections"]): row for row in cost["requests"]}
    for connections in (1, 8):
        for name in dict.fromkeys(row["request"] for row in cost["requests"]):
            found = {who: rows[name, who, connections] for who in COMMANDS if (name, who, connections) in rows}
            cells = [
                f"{who} {row['cpu_us']:6.0f} ({row['p50_us']:.0f}, {row['p99_us']:.0f})" for who, row in found.items()
            ]
            own = found["service"]["cpu_us"]
            ratios = [f"/ {who} {own / row['cpu_us']:.2f}" for who, row in found.items() if who != "service"]
            print(f"{name:9} {connections} conn.  " + "   ".join(cells + ratios))


def main() -> None:
    """Measure, print, write `specs/performance/results.json` and draw the chart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="some of the requests, and no files written")
    arguments = parser.parse_args()
    with postgres() as direct, pgbouncer(direct) as pooled:
        prepare(direct)
        results: dict[str, Any] = {"machine": machine()}
        for title, port, pool_size in (("pool", direct, 5), ("NullPool", pooled, 0)):
            cost = measure_cost(port, pool_size, arguments.rounds, arguments.seconds, arguments.only)
            print_cost(title, cost)
            results[title] = cost
        if arguments.only:
            return
        results["round_trips"] = asyncio.run(measure_round_trips(pooled))
        results["start_seconds"] = measure_start(direct)
        results["tokens"] = asyncio.run(measure_tokens())
    print("\nround trips to the database, on the wire\n")
    for row in results["round_trips"]:
        print(f"{row['request']:9} pool {row['pool_size']}  {row['service']:8} {row['round_trips']}")
    print("\nµs to verify a token, first and again:", results["tokens"])
    print("\nseconds from start to first answer:", results["start_seconds"])
    print("bytes of memory at rest:", results["pool"]["memory_bytes"])
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (RESULTS / "cost.svg").write_text(draw(results["pool"]["requests"]))


if __name__ == "__main__":
    main()
