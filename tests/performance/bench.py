"""`make bench`: what a request costs, beside the floor, a peer and the usual recipe; what many cost; and too many.

CPU is what the operating system charges to the service's processes; load comes from wrk. Services take turns, and each
figure is the median over the rounds. The ratios are the result: the times are this machine's.
How each section is measured: specs/performance/README.md.
"""

import argparse
import asyncio
import json
import platform
import sys
from argparse import Namespace
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from tests.performance.chart import draw
from tests.performance.cost import measure_cost, measure_round_trips, measure_start, print_cost, print_round_trips
from tests.performance.endpoints import measure_endpoints, print_endpoints
from tests.performance.flood import measure_flood, print_flood
from tests.performance.mixed import (
    MEMORY_REQUESTS,
    measure_memory,
    measure_mixed,
    measure_workers,
    print_memory,
    print_mixed,
    print_workers,
)
from tests.performance.open_loop import measure_open_loop, print_open_loop
from tests.performance.servers import PEER
from tests.performance.tokens import measure_tokens

FOLDER = Path(__file__).parents[2] / "specs" / "performance"
RESULTS = FOLDER / "results.json"
DISTURBED = 10
"""Percent of the machine that others may use before the figures are theirs as well."""

SECTIONS: dict[str, tuple[Callable[[Namespace], Any], Callable[[Any], None]]] = {
    "cost": (lambda options: measure_cost(options.rounds, options.seconds, options.only), print_cost),
    "endpoints": (lambda options: measure_endpoints(options.rounds, options.seconds), print_endpoints),
    "round_trips": (lambda _: measure_round_trips(), print_round_trips),
    "start_seconds": (lambda _: measure_start(), lambda found: print("\nseconds from start to first response:", found)),
    "tokens": (
        lambda _: asyncio.run(measure_tokens()),
        lambda found: print("\nµs to verify a token, first and again:", found),
    ),
    "mixed": (lambda options: measure_mixed(options.rounds, 2 * options.seconds), print_mixed),
    "workers": (lambda options: measure_workers(options.rounds, options.seconds), print_workers),
    "memory": (lambda options: measure_memory(options.seconds, options.requests), print_memory),
    "flood": (lambda options: measure_flood(options.rounds, 2 * options.seconds), print_flood),
    "open_loop": (lambda options: measure_open_loop(options.rounds, 2 * options.seconds), print_open_loop),
}
"""How each is measured and printed. Each has databases of its own, and so finds the same alone as among the others."""


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
        "peer": json.loads((PEER / "package.json").read_text())["dependencies"],
    }


def kept_results(sections: list[str]) -> dict[str, Any]:
    """Return the results to which these sections are added: of this machine and these packages, or none."""
    if set(sections) == set(SECTIONS) or not RESULTS.exists():
        return {"machine": machine()}
    kept: dict[str, Any] = json.loads(RESULTS.read_text())
    if kept["machine"] != machine():
        sys.exit(f"{RESULTS.name} is of another machine or of other packages: measure all sections")
    return kept


def main() -> None:
    """Measure, print, and write `specs/performance` after each section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", help=f"which to measure anew: {', '.join(SECTIONS)}; all, if none is named"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="that each service is loaded in a round")
    parser.add_argument("--requests", type=int, default=MEMORY_REQUESTS, help="after which memory is measured")
    parser.add_argument("--only", nargs="*", default=[], help="some of the requests of `cost`, and no files written")
    options = parser.parse_args()
    sections = options.sections or (["cost"] if options.only else list(SECTIONS))
    if unknown := set(sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(sorted(unknown))}")
    results = kept_results(sections)
    for section in sections:
        measure, show = SECTIONS[section]
        busy = psutil.cpu_percent(1)  # of the whole machine; nothing of ours is running now
        results[section] = measure(options)
        show(results[section])
        if busy > DISTURBED:
            print(f"\nother programs used {busy:.0f} % of the machine before `{section}` began: measure it again")
        today = datetime.now(UTC).date().isoformat()
        results.setdefault("measured", {})[section] = {"on": today, "busy_percent": busy}
        if not options.only:
            ordered = {name: results[name] for name in ("machine", "measured", *SECTIONS) if name in results}
            RESULTS.write_text(json.dumps(ordered, indent=2) + "\n")
    if "cost" in sections and not options.only:
        (FOLDER / "cost.svg").write_text(draw(results["cost"]["pool"]["requests"], FOLDER / "before.json"))


if __name__ == "__main__":
    main()
