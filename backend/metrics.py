"""Metrics for Prometheus, where `serve --admin-port` asks for them.

Each process writes into files of its own in one folder, PROMETHEUS_MULTIPROC_DIR, which prometheus_client adds up: what
a worker has counted outlives it. No label holds anything that a client chose: paths are templates, and what is no
route or no known method shares one value.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Literal

from prometheus_client import Counter, Gauge, Histogram

from backend import __version__
from backend.observation import Observation

MIN_WAIT = 0.001
"""Seconds below which a request did not wait."""
SAMPLED_EVERY = 1.0
"""Seconds between two looks at what is a state, not an event."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_OTHER = "other"
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25)

State = Callable[[], Mapping[str, float]]
"""Returns the gauges by name. Those whose names end in `_total` are counted since the process began; of an age, which
ends in `_age_seconds`, the oldest of all processes is shown, and of others the sum."""


class Metrics:
    """What is measured. One for each process."""

    def __init__(self) -> None:
        self._durations = Histogram(
            "todo_request_duration_seconds",
            "From a request's head to its response.",
            ["method", "route", "status"],
            buckets=_BUCKETS,
        )
        self._database = Histogram("todo_statement_seconds", "A request's time in the database.", buckets=_BUCKETS)
        self._waited = Histogram(
            "todo_wait_seconds", "A request's waiting for a place, its user's turn and a connection.", buckets=_BUCKETS
        )
        self._problems = Counter("todo_problems", "Responses that are a problem.", ["code"])
        self._retries = Counter("todo_retries", "New attempts to connect, or to run a statement.")
        Gauge("todo_build_info", "The version that runs.", ["version"], multiprocess_mode="livemax").labels(
            __version__
        ).set(1)

    def observe(
        self, method: str, route: str | None, status: int | None, seconds: float, observation: Observation
    ) -> None:
        """Count a request. `status` is None for one whose client went away."""
        method = method if method in _METHODS else _OTHER
        self._durations.labels(method, route or _OTHER, status or "none").observe(seconds)
        if observation.database:
            self._database.observe(observation.database)
        if observation.waited > MIN_WAIT:
            self._waited.observe(observation.waited)
        if observation.code is not None:
            self._problems.labels(observation.code).inc()
        if observation.retries:
            self._retries.inc(observation.retries)

    async def sample(self, state: State) -> None:
        """Look at the process's state again and again, until cancelled."""
        gauges: dict[str, Any] = {}
        counters: dict[str, tuple[Any, float]] = {}
        while True:
            for name, value in state().items():
                help_text = name.replace("_", " ").capitalize()
                if name.endswith("_total"):
                    counter, before = counters.get(name) or (Counter(f"todo_{name}", help_text), 0)
                    counter.inc(value - before)
                    counters[name] = counter, value
                else:
                    if name not in gauges:
                        mode: Literal["livemax", "livesum"] = "livemax" if name.endswith("_age_seconds") else "livesum"
                        gauges[name] = Gauge(f"todo_{name}", help_text, multiprocess_mode=mode)
                    gauges[name].set(value)
            await asyncio.sleep(SAMPLED_EVERY)
