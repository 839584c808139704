"""What a request met on its way: for its log line, and for metrics. `api`, `agents` and `db` add to it."""

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Observation:
    """One request's. Times are in seconds."""

    waited: float = 0.0
    """For a place, the user's turn, and a connection."""
    database: float = 0.0
    """From statements sent to their results."""
    body: float = 0.0
    """Until the request's body had arrived."""
    retries: int = 0
    """New attempts to connect, or to run a statement."""
    code: str | None = None
    """The problem that was the response."""
    reason: str | None = None
    """Why its token was refused."""
    sqlstate: str | None = None
    constraint: str | None = None
    pid: int | None = None
    """The server process whose statement failed."""

    def fields(self) -> dict[str, Any]:
        """Return what there is to say of it, under the names that log lines have."""
        found = {
            "code": self.code,
            "db_ms": _milliseconds(self.database),
            "wait_ms": _milliseconds(self.waited),
            "body_ms": _milliseconds(self.body),
            "attempts": self.retries + 1 if self.retries else None,
            "sqlstate": self.sqlstate,
            "constraint": self.constraint,
            "pid": self.pid,
            "reason": self.reason,
        }
        return {name: value for name, value in found.items() if value is not None}


def _milliseconds(seconds: float) -> float | None:
    return round(seconds * 1000, 2) if seconds >= 0.00005 else None


observation: ContextVar[Observation] = ContextVar("observation", default=Observation())  # noqa: B039 # a shared default is safe: outside of a request nobody reads it
"""That of the request that is being served."""
