"""One task: create, read, change, complete, bring back. `trash.py` deletes; what concerns many has modules of its own.

Each method is one SQL statement, in autocommit, as long as no rule needs more: to say why a statement found no row, and
to complete a recurring task, there is a second step.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import cache, lru_cache
from typing import Any
from uuid import UUID

from sqlalchemy import Boolean, Insert, Update, bindparam, case, insert, not_, null, or_, select, update
from sqlalchemy.exc import IntegrityError
from uuid_utils.compat import uuid7

from backend.errors import DatabaseError, OutcomeUnknown
from backend.models.task import NEED_DATE, TaskCreate, TaskPublic, TaskPut, TaskUpdate
from backend.services.batch import Operation, TaskBatch, Written
from backend.services.changes import TaskChanges
from backend.services.lists import TaskLists
from backend.services.moves import TaskMoves
from backend.services.recurrence import find_next_dates
from backend.services.rows import (
    PUBLIC,
    Match,
    how_many,
    if_matched,
    living,
    new_columns,
    next_revision,
    now,
    owned,
    stamped,
    stored,
    task_ids,
    tasks,
    these,
    this,
    trashed,
)
from backend.services.transfer import TaskTransfer
from backend.services.trash import has_expired

RECURRING_AT_ONCE = 50
"""Recurring tasks that are completed in one transaction, for which the user's other writes wait."""

_NEW = tuple(column.name for column in tasks.c if column.name not in {"user_id", "revision", "deleted_at"})
_is_there = this(owned(select(tasks.c.id))).exists()
_state = bindparam("state", type_=Boolean)
_moment = bindparam("now", type_=tasks.c.completed_at.type)

_set_completed = (
    stamped(these(living(update(tasks))))
    .where(tasks.c.completed != _state, or_(tasks.c.recurrence.is_(None), not_(_state)))
    .values(completed=_state, completed_at=case((_state, _moment), else_=null()))
    .returning(has_expired)
)
_select_recurring = these(living(select(tasks.c.id, tasks.c.recurrence, tasks.c.due_date))).where(
    tasks.c.recurrence.is_not(None), not_(tasks.c.completed)
)


@cache
def _insert(*, if_absent: bool) -> Insert:
    # Selected rather than given as VALUES, so that the limit and the look for the id are part of the statement, and no
    # revision is taken where there is nothing to insert.
    values = select(
        bindparam("owner", type_=tasks.c.user_id.type),
        *(bindparam(f"new_{name}", type_=tasks.c[name].type) for name in _NEW),
        next_revision.scalar_subquery(),
    ).where(how_many < bindparam("max_tasks"))
    if if_absent:
        values = values.where(not_(_is_there))
    return insert(tasks).from_select(["user_id", *_NEW, "revision"], values).returning(*PUBLIC, has_expired)


@lru_cache(maxsize=500)  # there are thousands of sets of fields
def _update_one(names: frozenset[str], *, dated: bool, completed_by: str | None, matched: bool) -> Update:
    values: dict[str, Any] = {name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in names}
    if "completed" in names:
        values["completed_at"] = _completed_at(values["completed"])
    statement = stamped(this(living(update(tasks)))).values(**values)
    if dated:
        statement = statement.where(tasks.c.due_date.is_not(None))
    if completed_by is not None:
        # To complete an active task that has a rule makes a successor, in a transaction: it is left alone here. With a
        # rule in the patch every task has one, so only one that is completed already is changed.
        statement = statement.where(tasks.c.completed if completed_by == "new rule" else _makes_no_successor)
    return if_matched(statement, matched=matched).returning(*PUBLIC, has_expired)


def _completed_at(completed: Any) -> Any:
    return case((not_(completed), null()), (tasks.c.completed, tasks.c.completed_at), else_=_moment)


_makes_no_successor = or_(tasks.c.recurrence.is_(None), tasks.c.completed)


@cache
def _toggle(*, matched: bool) -> Update:
    values = {"completed": not_(tasks.c.completed), "completed_at": _completed_at(not_(tasks.c.completed))}
    statement = stamped(this(living(update(tasks)))).where(_makes_no_successor).values(**values)
    return if_matched(statement, matched=matched).returning(*PUBLIC, has_expired)


@cache
def _restore(*, matched: bool) -> Update:
    statement = stamped(this(trashed(update(tasks)))).values(deleted_at=null())
    return if_matched(statement, matched=matched).returning(*PUBLIC)


class TaskService(TaskLists, TaskMoves, TaskChanges, TaskBatch, TaskTransfer):
    """One user's tasks: all that can be done with them."""

    async def get(self, task_id: UUID) -> TaskPublic:
        """Return a task. Raises `TaskNotFound`."""
        return await self._find(task_id)

    async def create(self, task: TaskCreate) -> TaskPublic:
        """Store a new task and return it. Raises `TooManyTasks`."""
        task_id, changes = uuid7(), task.changes()
        created = await self._insert(task_id, changes, if_absent=False)
        # A batch erases what has expired, which makes room, and counts when others have ended.
        return created if created is not None else (await self._one(Operation("put", task_id, changes))).task

    async def put(
        self,
        task_id: UUID,
        task: TaskPut,
        *,
        match: Match = None,
        must_exist: bool = False,
        create_only: bool = False,
    ) -> Written:
        """Create the task of this id, or change the fields that were sent; where they are equal, change nothing.

        Raises `TaskDeleted` for one in the trash, `PreconditionFailed`, `RuleBroken`, `TooManyTasks`.
        """
        changes = task.changes()
        if match is None and not must_exist and "title" in changes and not _needs_date(changes):
            with suppress(IntegrityError):  # another put of this id was quicker
                created = await self._insert(task_id, changes, if_absent=True)
                if created is not None:
                    return Written(created, created=True)
        return await self._one(Operation("put", task_id, changes, match, must_exist, create_only))

    async def update(self, task_id: UUID, patch: TaskUpdate, *, match: Match = None) -> Written:
        """Change the fields that the patch names. Raises `TaskNotFound`, `PreconditionFailed`, `RuleBroken`."""
        changes = patch.changes()
        if not changes:
            return Written(await self._unchanged(task_id, match), changed=False)
        values = stored(changes)
        statement = _update_one(
            frozenset(values),
            dated=_needs_date(changes),
            completed_by=_completed_by(changes),
            matched=match is not None,
        )
        parameters = {f"new_{name}": value for name, value in values.items()}
        return await self._write_one(Operation("patch", task_id, changes, match), statement, parameters)

    async def toggle(self, task_id: UUID, *, match: Match = None) -> Written:
        """Complete a task that is active, or the reverse; atomic. Raises `TaskNotFound`, `PreconditionFailed`."""
        return await self._write_one(Operation("toggle", task_id, match=match), _toggle(matched=match is not None), {})

    async def restore(self, task_id: UUID, *, match: Match = None) -> TaskPublic:
        """Bring a task back from the trash. Raises `TaskNotFound`, `PreconditionFailed`."""
        statement = _restore(matched=match is not None)
        row = (await self._run(statement, task_id=task_id, now=now(), match=match)).one_or_none()
        return self._task(row) if row is not None else await self._explain(task_id, match, in_trash=True)

    async def complete(self, ids: Iterable[UUID], *, completed: bool = True) -> int:
        """Set `completed` on those of the tasks that are the user's; return how many that changed."""
        wanted = task_ids(ids)
        expired = self._expired_before()
        result = await self._run(_set_completed, task_ids=wanted, state=completed, now=now(), expired=expired)
        written = result.all()
        changed = len(written)
        if written:
            await self._erase_some(written[0])
        if not completed or changed == len(set(wanted)):
            return changed
        try:
            recurring = (await self._run(_select_recurring, task_ids=wanted)).all()
            for start in range(0, len(recurring), RECURRING_AT_ONCE):
                some = recurring[start : start + RECURRING_AT_ONCE]
                await find_next_dates([(row.recurrence, row.due_date) for row in some], now())
                # A PUT leaves alone what somebody else has completed meanwhile; a PATCH to an equal value is a write.
                operations = [Operation("put", row.id, {"completed": True}, must_exist=True) for row in some]
                outcomes = await self.batch(operations, atomic=False)
                changed += sum(isinstance(outcome, Written) and outcome.changed for outcome in outcomes)
        except DatabaseError as error:
            if not changed:
                raise
            raise OutcomeUnknown("some were completed, others of those that recur were not") from error
        return changed

    async def _insert(self, task_id: UUID, fields: dict[str, Any], *, if_absent: bool) -> TaskPublic | None:
        moment = now()
        columns = new_columns(fields, moment) | {"id": task_id, "created_at": moment, "updated_at": moment}
        parameters = {f"new_{name}": columns[name] for name in _NEW}
        parameters |= {"max_tasks": self._limits.max_tasks, "expired": self._expired_before()}
        if if_absent:
            parameters["task_id"] = task_id
        row = (await self._run(_insert(if_absent=if_absent), **parameters)).one_or_none()
        return await self._wrote(row) if row is not None else None

    async def _write_one(self, operation: Operation, statement: Update, parameters: dict[str, Any]) -> Written:
        """Run a statement on one task; where it finds no row, find out why, and do what it could not decide."""
        parameters |= {"task_id": operation.task_id, "now": now(), "expired": self._expired_before()}
        row = (await self._run(statement, match=operation.match, **parameters)).one_or_none()
        if row is not None:
            return Written(await self._wrote(row))
        await self._unchanged(operation.task_id, operation.match)
        return await self._one(operation)

    async def _wrote(self, row: Sequence[Any]) -> TaskPublic:
        """Return the task of a row of `PUBLIC` and `has_expired`."""
        await self._erase_some(row)
        return self._task(row)


def _needs_date(changes: dict[str, Any]) -> bool:
    return "due_date" not in changes and any(changes.get(name) is not None for name in NEED_DATE)


def _completed_by(changes: dict[str, Any]) -> str | None:
    """Return which rule decides on a successor of a task that a patch completes: the stored one, or the patch's.

    None where the task is not completed, or has no rule then.
    """
    if changes.get("completed") is not True or changes.get("recurrence", ...) is None:
        return None
    return "new rule" if "recurrence" in changes else "stored rule"
