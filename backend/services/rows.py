"""Tasks as they are stored: whose they are, how a write is stamped, and what a row is to its owner.

Every select, update and delete on tasks starts with `owned`, so nothing can see or change what is somebody else's; an
alias of the table names the owner itself, and only `maintenance.py` is about all users. Every write takes the owner's
next revision, in its own statement or at the beginning of its transaction: the task's entity tag and the followers'
order are made with it (specs/decisions/0016-revisions.md).
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2s
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic_core import from_json
from sqlalchemy import (
    BigInteger,
    Delete,
    Result,
    Select,
    Update,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    select,
    update,
)
from sqlmodel import SQLModel

from backend.errors import PreconditionFailed, RuleBroken, TaskNotFound
from backend.models.task import NEED_DATE, Owner, Task, TaskBase, TaskPublic
from backend.services.executor import Executor

tasks = SQLModel.metadata.tables[str(Task.__tablename__)]
owners = SQLModel.metadata.tables[str(Owner.__tablename__)]

PUBLIC = tuple(tasks.c["revision" if name == "etag" else name] for name in TaskPublic.__annotations__)
"""The columns that make a task; its entity tag is made of its revision."""
NAMES = tuple(TaskPublic.__annotations__)

NEW_TASK: Mapping[str, Any] = {
    name: field.default
    for name, field in TaskBase.model_fields.items()
    if name not in {"title", "position"}  # the one is required, the other made for each task
}
"""What a new task has where nobody has said otherwise."""

LAST_ID = UUID(int=2**128 - 1)
"""Greater than every task's id."""

Rows = Result[*tuple[Any, ...]]
"""What a statement gives: rows that have all been fetched."""

Match = frozenset[int] | None
"""Revisions of which the task must have one; None where any will do."""

Statement = TypeVar("Statement", Select[*tuple[Any, ...]], Update, Delete)


def owned(statement: Statement) -> Statement:
    """Narrow a statement to all of the user's tasks, those in the trash too. `OwnedTasks._run` fills in the owner."""
    return statement.where(tasks.c.user_id == bindparam("owner"))


def living(statement: Statement) -> Statement:
    """Narrow a statement to the user's tasks that are not in the trash."""
    return owned(statement).where(tasks.c.deleted_at.is_(None))


def trashed(statement: Statement) -> Statement:
    """Narrow a statement to the user's tasks in the trash."""
    return owned(statement).where(tasks.c.deleted_at.is_not(None))


def this(statement: Statement) -> Statement:
    """Narrow a statement to one task."""
    return statement.where(tasks.c.id == bindparam("task_id"))


def these(statement: Statement) -> Statement:
    """Narrow a statement to the tasks of several ids: see `task_ids`."""
    return statement.where(tasks.c.id.in_(bindparam("task_ids", expanding=True)))


how_many = owned(select(func.count()).select_from(tasks)).scalar_subquery()
"""How many tasks the user has, the trash included."""

_greatest = owned(select(tasks.c.revision)).order_by(tasks.c.revision.desc()).limit(1).scalar_subquery()
owner_now = (
    select(
        # What a version before revisions has written has revision 1, and may have no owner's row.
        func.coalesce(func.max(owners.c.revision), _greatest, 0).label("head"),
        func.coalesce(func.max(owners.c.forgotten), 0).label("forgotten"),
    )
    .where(owners.c.user_id == bindparam("owner"))
    .cte("owner_now")
)
"""The owner's revision, 0 for one who has nothing and has never written. Read in the same statement as the tasks, it is
the version of exactly the rows that are returned."""

_select_revision = select(owners.c.revision).where(owners.c.user_id == bindparam("owner"))
_select_head = select(owner_now.c.head)

next_revision = select(func.next_revision(bindparam("owner"), type_=BigInteger))
"""Takes the owner's next revision, and makes other writers of this owner wait for the end of the transaction."""


forget = (
    update(owners)
    .where(owners.c.user_id == bindparam("owner"))
    .values(forgotten=case((owners.c.forgotten < bindparam("erased"), bindparam("erased")), else_=owners.c.forgotten))
)
"""Notes that something of this revision was erased: a follower that is older must start anew."""


_owner = select(owners.c.user_id).where(owners.c.user_id == bindparam("owner"))
_erased_meanwhile = and_(_owner.exists(), _owner.with_for_update(key_share=True).scalar_subquery().is_(None))
"""Whether the owner was there when the statement began, and is gone now that its row is locked, with all tasks."""


def stamped(statement: Update) -> Update:
    """Have an update take a revision and the time.

    As a subselect it is run once for the statement, when the first row is found: where nothing is changed none is
    taken. A bare call would run for every row. Who has waited while all of the user was erased takes none, either: it
    would make the owner's row again. Its task is gone, and no row gets the 1.
    """
    revision = case((_erased_meanwhile, literal_column("1")), else_=next_revision.scalar_subquery())
    return statement.values(revision=revision, updated_at=bindparam("now"))


def if_matched(statement: Statement, *, matched: bool) -> Statement:
    """Have a write ask for the revisions `match`, where there are any.

    In the statement that writes: between a look and a write another write could come.
    """
    return statement.where(tasks.c.revision.in_(bindparam("match", expanding=True))) if matched else statement


_select_living = this(living(select(*PUBLIC)))
_select_trashed = this(trashed(select(*PUBLIC)))


@lru_cache(maxsize=4096)
def owner_tag(user_id: str) -> str:
    """Return what tells one user's entity tags from another's.

    A browser sends what it stored for one user with the next one's token, `Vary` notwithstanding, and shows it after a
    304.
    """
    return blake2s(user_id.encode(), digest_size=6).hexdigest()


LEAST_ROOM = 64
"""Between two tasks that are made in the same moment."""
_last_position = 0


def new_position() -> int:
    """Return a position before all that this process gave earlier: 1,024 for each millisecond, counted down."""
    global _last_position  # noqa: PLW0603 # one clock for the process
    _last_position = min(_last_position - LEAST_ROOM, -int(time.time() * 1000 * 1024))
    return _last_position


def stored(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns that fields are stored in: with them what search and order by title compare."""
    values = dict(changes)
    if "title" in values:
        values["title_folded"] = values["title"].casefold()
    if "description" in values:
        values["description_folded"] = (values["description"] or "").casefold()
    if "tags" in values:
        values["tags_folded"] = "\n".join(values["tags"]).casefold()
        values["tags"] = json.dumps(values["tags"], ensure_ascii=False, separators=(",", ":"))
    return values


def new_columns(fields: Mapping[str, Any], moment: datetime) -> dict[str, Any]:
    """Return the columns of a new task with these fields."""
    values = stored({**NEW_TASK, **fields})
    values.setdefault("position", new_position())
    values["completed_at"] = moment if values["completed"] else None
    return values


def check_due_date(row: Mapping[str, Any]) -> None:
    """Raise `RuleBroken` where a task has a time or a rule without a date."""
    for name in NEED_DATE:
        if row[name] is not None and row["due_date"] is None:
            raise RuleBroken(name, "needs_due_date", "needs a due_date")


def now() -> datetime:
    """Return the time."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Limits:
    """What bounds one user's tasks: how many there may be, the trash included, and how long the trash is kept."""

    max_tasks: int = 10_000
    trash_days: int = 30


class OwnedTasks:
    """One user's tasks. Built for each request; nothing that it does can see or change anybody else's.

    Besides what its docstring names, each method raises `errors.DatabaseError`.
    """

    def __init__(self, executor: Executor, user_id: str, limits: Limits = Limits()) -> None:  # frozen
        self._executor = executor
        self._user_id = user_id
        self._tag = owner_tag(user_id)
        self._limits = limits

    async def _run(
        self, statement: Any, *, within: Executor | None = None, match: Match = None, **parameters: Any
    ) -> Rows:
        """Run a statement for the owner, in a transaction where `within` is one."""
        if match is not None:
            parameters["match"] = list(match)
        result: Rows = await (within or self._executor).exec(statement, params={"owner": self._user_id} | parameters)
        return result

    async def _find(self, task_id: UUID, *, in_trash: bool = False, within: Executor | None = None) -> TaskPublic:
        """Return a task. Raises `TaskNotFound`."""
        statement = _select_trashed if in_trash else _select_living
        row = (await self._run(statement, within=within, task_id=task_id)).one_or_none()
        if row is None:
            raise TaskNotFound
        return self._task(row)

    async def head(self) -> int:
        """Return the owner's revision: who knows it has this state already.

        Asked for alone, it is one row by its key. Within the statement that reads tasks it would save a round trip
        where something is new; but where nothing is, which is what clients that poll meet, PostgreSQL would plan all
        of that statement, and a 304 would cost more than reading a task.
        """
        head = (await self._run(_select_revision)).scalar_one_or_none()
        if head is None:
            head = (await self._run(_select_head)).scalar_one()
        return cast(int, head)

    async def _unchanged(self, task_id: UUID, match: Match, *, within: Executor | None = None) -> TaskPublic:
        """Return a task that is not in the trash. Raises `TaskNotFound`, `PreconditionFailed`."""
        task = await self._find(task_id, within=within)
        if match is not None and int(task["etag"].partition("-")[0]) not in match:
            raise PreconditionFailed(task)
        return task

    def _task(self, row: Iterable[Any]) -> TaskPublic:
        """Return a row of `PUBLIC` as its owner sees it."""
        task = dict(zip(NAMES, row, strict=False))  # a list's rows have more behind
        # Most have none; and json.loads takes three times as long.
        task["tags"] = [] if task["tags"] == "[]" else from_json(task["tags"])
        task["etag"] = f"{task['etag']}-{self._tag}"
        return cast(TaskPublic, task)

    def _expired_before(self) -> datetime:
        """Return when what has expired in the trash was deleted at the latest."""
        return now() - timedelta(days=self._limits.trash_days)

    def etag(self, revision: int) -> str:
        """Return the entity tag, without quotes, of what has this revision."""
        return f"{revision}-{self._tag}"

    def revisions(self, etags: Iterable[str]) -> frozenset[int]:
        """Return the revisions that entity tags stand for; another user's stand for none."""
        tag = self._tag
        pairs = (etag.partition("-") for etag in etags)
        return frozenset(int(number) for number, _, owner in pairs if owner == tag and _is_revision(number))


def _is_revision(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19 and text == str(int(text))


def changed_rows(result: Rows) -> int:
    """Return how many rows a write has changed."""
    return cast(int, cast(Any, result).rowcount)


def task_ids(values: Iterable[UUID]) -> list[UUID]:
    """Return ids as a parameter of `IN`, each once, and the last again up to a power of two.

    Each number of ids is a statement of its own, of which the database is asked for the types: so there are few.
    """
    ids = list(dict.fromkeys(values))
    return ids + ids[-1:] * ((1 << (len(ids) - 1).bit_length()) - len(ids))
