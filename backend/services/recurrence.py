"""Recurring tasks: what follows one that was completed. The rules themselves are in `models/recurrence.py`."""

import asyncio
import json
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any

from backend.models.recurrence import next_date, next_rule
from backend.models.task import TaskBase

_SAME = tuple(
    name
    for name in TaskBase.model_fields
    if name not in {"completed", "due_date", "remind_at", "tags", "recurrence", "position"}
)
"""The fields whose columns a successor takes over as they are."""


async def find_next_dates(tasks: Iterable[tuple[str, str]], moment: datetime) -> None:
    """Have the next dates of tasks, given by rule and due date, in memory before a transaction asks for them."""
    for rule, due_date in tasks:
        next_date(rule, date.fromisoformat(due_date), moment.date())
        await asyncio.sleep(0)  # it can take 12 ms: others go on meanwhile


def successor_of(row: Mapping[str, Any], rule: str, moment: datetime) -> dict[str, Any] | None:
    """Return the fields of the task that follows a completed one by its rule; None where nothing follows."""
    following = next_rule(rule)
    due = date.fromisoformat(row["due_date"])
    found = next_date(rule, due, moment.date()) if following is not None else None
    if found is None:
        return None
    return {
        **{name: row[name] for name in _SAME},
        "due_date": found.isoformat(),
        "remind_at": _later(row["remind_at"], found - due),
        "tags": json.loads(row["tags"]),
        "recurrence": following,
    }


def _later(wall_clock: str | None, days: timedelta) -> str | None:
    if wall_clock is None:
        return None
    try:
        return (datetime.fromisoformat(wall_clock) + days).isoformat(timespec="minutes")
    except OverflowError:  # past the year 9999
        return None
