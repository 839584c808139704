"""What can be asked of a list of tasks: the filters, and the orders."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

SortKey = Literal[
    "created_at",
    "updated_at",
    "due_date",
    "priority",
    "title",
    "position",
    "completed_at",
    "completed",
    "deleted_at",
]

NATURALLY_DESCENDING = frozenset({"created_at", "updated_at", "completed_at", "priority"})
"""Keys that begin with the newest, or the most urgent, where no direction is said."""

MAX_SORT_KEYS = 3
MAX_FILTER_TAGS = 10
SEARCH_MAX = 100


@dataclass(frozen=True, slots=True)
class TaskFilter:
    """Which tasks: all that meet every condition that is set."""

    completed: bool | None = None
    words: tuple[str, ...] = ()
    """Each occurs in the title, the description or a tag, without regard to case."""
    tags: tuple[str, ...] = ()
    """All of them are there."""
    any_tags: tuple[str, ...] = ()
    """At least one of them is there; empty means no condition."""
    priorities: tuple[str, ...] = ()
    """One of them; "none" stands for no priority."""
    due_from: str | None = None
    due_to: str | None = None
    no_due_date: bool = False


ALL = TaskFilter()


@dataclass(frozen=True, slots=True)
class Order:
    """By which key, and which way."""

    key: SortKey
    descending: bool


NEWEST_FIRST: tuple[Order, ...] = ()
"""The order where none is asked for: by id, descending."""
LATEST_DELETION_FIRST = (Order("deleted_at", descending=True),)
"""The order of the trash."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a page ended: the last row's value of each key of the order, and its id."""

    values: tuple[str | int | datetime, ...]
    task_id: UUID


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a task is moved to: before or after another, or to an end."""

    relation: Literal["before", "after", "first", "last"]
    neighbour: UUID | None = None
