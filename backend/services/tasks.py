"""Every rule about tasks: who may touch which, what changes together, in one SQL statement each."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy import (
    BindParameter,
    CursorResult,
    Delete,
    Result,
    Row,
    Select,
    Update,
    bindparam,
    delete,
    false,
    func,
    insert,
    not_,
    select,
    true,
    update,
)
from sqlmodel import SQLModel
from uuid_utils.compat import uuid7

from backend.errors import SameUser, TaskNotFound
from backend.models.task import Task, TaskCreate, TaskPublic, TaskStats, TaskUpdate
from backend.services.executor import Executor

_tasks = SQLModel.metadata.tables[str(Task.__tablename__)]
_public = tuple(_tasks.c[name] for name in TaskPublic.__annotations__)
_names = tuple(TaskPublic.__annotations__)

Statement = TypeVar("Statement", Select[*tuple[Any, ...]], Update, Delete)


def _owned(statement: Statement) -> Statement:
    """Narrow a statement to the caller's tasks. Every select, update and delete on tasks goes through here.

    `TaskService._run` fills in the owner, so that no statement can be run for nobody.
    """
    return statement.where(_tasks.c.user_id == bindparam("owner"))


def _this(statement: Statement) -> Statement:
    return _owned(statement).where(_tasks.c.id == bindparam("task_id"))


# The statements are built once: building one costs as much as running it.
_select_one = _this(select(*_public))
_insert = insert(_tasks).returning(*_public)
_toggle = (
    _this(update(_tasks)).values(completed=not_(_tasks.c.completed), updated_at=bindparam("now")).returning(*_public)
)
_delete_one = _this(delete(_tasks))
_delete_completed = _owned(delete(_tasks)).where(_tasks.c.completed == true())
_transfer = _owned(update(_tasks)).values(user_id=bindparam("new_owner"), updated_at=bindparam("now"))
_complete = (
    _owned(update(_tasks))
    .where(_tasks.c.id.in_(bindparam("task_ids", expanding=True)), _tasks.c.completed != bindparam("state"))
    .values(completed=bindparam("state"), updated_at=bindparam("now"))
)
_count = _owned(
    select(
        func.count().label("total"),
        func.count().filter(_tasks.c.completed == true()).label("completed"),
        func.count().filter(_tasks.c.completed == false()).label("active"),
    ).select_from(_tasks)
)


@cache
def _select_page(*, filtered: bool, after: bool) -> Select[*tuple[Any, ...]]:
    statement = (
        _owned(select(*_public)).order_by(_tasks.c.id.desc()).limit(bindparam("limit")).offset(bindparam("skip"))
    )
    if filtered:
        statement = statement.where(_tasks.c.completed == bindparam("state"))
    if after:
        statement = statement.where(_tasks.c.id < bindparam("after"))
    return statement


@cache
def _update_one(names: frozenset[str]) -> Update:
    values: dict[str, BindParameter[Any]] = {name: bindparam(f"new_{name}") for name in names}
    return _this(update(_tasks)).values(**values, updated_at=bindparam("now")).returning(*_public)


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks, newest first, and whether older ones follow."""

    tasks: list[TaskPublic]
    more: bool


class TaskService:
    """One user's tasks. Built for each request; nothing that it does can see or change anybody else's.

    Every method is one statement. Besides what its docstring names, each raises `errors.DatabaseError`.
    """

    def __init__(self, executor: Executor, user_id: str) -> None:
        self._executor = executor
        self._user_id = user_id

    async def list(
        self, *, completed: bool | None = None, limit: int, skip: int = 0, after: UUID | None = None
    ) -> Page:
        """Return up to `limit` tasks, newest first: those older than the task `after`, and past the first `skip`."""
        statement = _select_page(filtered=completed is not None, after=after is not None)
        result = await self._run(statement, state=completed, after=after, limit=limit + 1, skip=skip)
        rows = result.all()
        return Page([_task(row) for row in rows[:limit]], more=len(rows) > limit)

    async def get(self, task_id: UUID) -> TaskPublic:
        """Return a task. Raises `TaskNotFound`."""
        return _the_task(await self._run(_select_one, task_id=task_id))

    async def create(self, task: TaskCreate) -> TaskPublic:
        """Store a new task and return it."""
        now = _now()
        values: dict[str, Any] = task.model_dump() | {
            "user_id": self._user_id,
            "id": uuid7(),
            "created_at": now,
            "updated_at": now,
        }
        return _the_task(await self._executor.exec(_insert, params=values))

    async def update(self, task_id: UUID, patch: TaskUpdate) -> TaskPublic:
        """Change the fields that the patch names, and return the task. Raises `TaskNotFound`."""
        changes = patch.changes()
        if not changes:
            return await self.get(task_id)
        values = {f"new_{name}": value for name, value in changes.items()}
        return _the_task(await self._run(_update_one(frozenset(changes)), task_id=task_id, now=_now(), **values))

    async def toggle(self, task_id: UUID) -> TaskPublic:
        """Complete a task that is active, or the reverse; atomic. Raises `TaskNotFound`."""
        return _the_task(await self._run(_toggle, task_id=task_id, now=_now()))

    async def delete(self, task_id: UUID) -> None:
        """Delete a task. Raises `TaskNotFound`."""
        if _count_of(await self._run(_delete_one, task_id=task_id)) == 0:
            raise TaskNotFound

    async def complete(self, task_ids: Iterable[UUID], *, completed: bool = True) -> int:
        """Set `completed` on those of the tasks that are the caller's; return how many that changed."""
        return _count_of(await self._run(_complete, task_ids=list(task_ids), state=completed, now=_now()))

    async def delete_completed(self) -> int:
        """Delete all completed tasks; return how many they were."""
        return _count_of(await self._run(_delete_completed))

    async def stats(self) -> TaskStats:
        """Count the tasks."""
        row = (await self._run(_count)).one()
        return TaskStats(total=row.total, completed=row.completed, active=row.active)

    async def transfer_to(self, user_id: str) -> int:
        """Give all tasks to another user; return how many they were. Raises `SameUser`.

        The service's caller answers for having verified both users.
        """
        if user_id == self._user_id:
            raise SameUser
        return _count_of(await self._run(_transfer, new_owner=user_id, now=_now()))

    async def _run(
        self, statement: Select[*tuple[Any, ...]] | Update | Delete, **parameters: Any
    ) -> Result[*tuple[Any, ...]]:
        result: Result[*tuple[Any, ...]] = await self._executor.exec(
            statement, params=parameters | {"owner": self._user_id}
        )
        return result


def _now() -> datetime:
    return datetime.now(UTC)


def _task(row: Row[*tuple[Any, ...]]) -> TaskPublic:
    return cast(TaskPublic, dict(zip(_names, row, strict=True)))


def _the_task(result: Result[*tuple[Any, ...]]) -> TaskPublic:
    row = result.one_or_none()
    if row is None:
        raise TaskNotFound
    return _task(row)


def _count_of(result: Result[*tuple[Any, ...]]) -> int:
    return cast(CursorResult[*tuple[Any, ...]], result).rowcount
