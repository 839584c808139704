"""Operations on several tasks in one transaction: all of them, or none, or each for itself.

What one statement cannot decide is decided here, too: a task that recurs is completed, and its successor made. The
tasks are read once, under the lock of their owner's row, changed in memory, and written once, so the number of round
trips does not grow with the number of operations. So the rules that `tasks.py` and `trash.py` put into one statement
stand here again, for tasks in memory; a test has both do the same.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select, true, update
from uuid_utils.compat import uuid7

from backend.errors import (
    DatabaseError,
    PreconditionFailed,
    RuleBroken,
    TaskDeleted,
    TaskNotFound,
    TodoError,
    TooManyTasks,
)
from backend.models.task import TaskPublic
from backend.services.executor import Executor, RollBack, transaction
from backend.services.recurrence import successor_of
from backend.services.rows import (
    PUBLIC,
    Match,
    check_due_date,
    forget,
    how_many,
    new_columns,
    next_revision,
    now,
    owned,
    owners,
    stored,
    task_ids,
    tasks,
    these,
    this,
)
from backend.services.trash import ERASED_AT_ONCE, TaskTrash, has_expired

MAX_OPERATIONS = 100
"""Operations of one request: the user's other writes wait for the end of their transaction."""

NEVER = 0
"""The revision of what a dry run shows: no task ever has it. The one that was taken is rolled back, and given again to
the next write where the clock is behind."""

Row = dict[str, Any]

_COLUMNS = tuple(column for column in tasks.c if column.name != "user_id")
_WRITABLE = tuple(column.name for column in _COLUMNS if column.name not in {"id", "created_at"})

_lock = next_revision.add_columns(has_expired)
_named = these(owned(select(*_COLUMNS))).with_for_update().subquery()
# Tasks are counted here, not in the statement that waits for the lock: that sees what was there before it waited.
_read = (
    select(how_many, *_named.c)
    .select_from(owners.outerjoin(_named, true()))
    .where(owners.c.user_id == bindparam("owner"))
)
_insert_rows = insert(tasks)
_erase = these(owned(delete(tasks)))
_update_rows = this(owned(update(tasks))).values(
    {name: bindparam(f"new_{name}", type_=tasks.c[name].type) for name in _WRITABLE}
)


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of one task. `changes` are the fields that were sent.

    `must_exist` and `create_only` go with `put`; a `patch` that is `idempotent` writes nothing when it is repeated.
    """

    op: Literal["put", "patch", "delete", "toggle", "restore"]
    task_id: UUID
    changes: Mapping[str, Any] = field(default_factory=dict)
    match: Match = None
    must_exist: bool = False
    create_only: bool = False
    idempotent: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """A task as it was written, whether it is new, whether it has changed, and the successor of one that recurs."""

    task: TaskPublic
    created: bool = False
    changed: bool = True
    successor: UUID | None = None


Outcome = Written | TodoError
"""What came of an operation of a batch."""


class OperationFailed(Exception):
    """An operation of an atomic batch that failed, by its number: nothing was written.

    `changed_before` tells that it failed at what an operation before it would have made of its task.
    """

    def __init__(self, number: int, error: TodoError, *, changed_before: bool) -> None:
        super().__init__(number)
        self.number = number
        self.error = error
        self.changed_before = changed_before


class TaskBatch(TaskTrash):
    """Several operations at once."""

    async def batch(
        self, operations: Sequence[Operation], *, atomic: bool = True, dry_run: bool = False
    ) -> list[Outcome]:
        """Run operations in their order, and return what came of each.

        Atomic: all or nothing; raises `OperationFailed` for the first that fails. Otherwise each stands alone, and its
        outcome has its error. A dry run does all of it, and rolls back.
        """
        outcomes: list[Outcome] = []
        try:
            async with transaction(self._executor) as within:
                work = await self._begin(within, task_ids(operation.task_id for operation in operations))
                if dry_run:
                    work.revision = NEVER
                for number, operation in enumerate(operations):
                    await asyncio.sleep(0)  # to find a rule's next date can take 12 ms: others go on meanwhile
                    try:
                        outcomes.append(work.apply(operation))
                    except TodoError as error:
                        if atomic:
                            raise work.failed(number, operation.task_id, error) from error
                        outcomes.append(error)
                await self._write(within, work)
                # What has expired is erased by what writes, and for who finds no room: an equal PUT changes nothing.
                needed_room = work.made_room and any(isinstance(outcome, TooManyTasks) for outcome in outcomes)
                if dry_run or not (work.told or work.erased or needed_room):
                    raise RollBack  # and the revision is not taken
        except OperationFailed as failed:
            if isinstance(failed.error, TooManyTasks) and work.made_room and not dry_run:  # which was rolled back
                with suppress(DatabaseError):
                    await self.erase_expired(limit=ERASED_AT_ONCE)
            raise
        return outcomes

    async def _one(self, operation: Operation) -> Written:
        """Run one operation in a transaction. Raises what it raises."""
        try:
            return (await self.batch([operation]))[0]  # type: ignore[return-value] # atomic: an error is raised
        except OperationFailed as failed:
            raise failed.error from None

    async def _begin(self, within: Executor, ids: Sequence[UUID]) -> "_UnitOfWork":
        before = self._expired_before()
        revision, expired = (await self._run(_lock, within=within, expired=before)).one()
        # Before anything is read: what is erased makes room.
        made_room = expired and await self._erase_some_within(within, but=ids) > 0
        rows = (await self._run(_read, within=within, task_ids=ids)).all()
        names = [column.name for column in _COLUMNS]
        found = {row.id: dict(zip(names, row[1:], strict=True)) for row in rows if row.id is not None}
        return _UnitOfWork(
            stored=found,
            rows=dict(found),
            revision=revision,
            made_room=made_room,
            room=self._limits.max_tasks - rows[0][0],
            expired_before=before,
            trash=self._limits.trash_days != 0,
            public=lambda row: self._task([row[column.name] for column in PUBLIC]),
        )

    async def _write(self, within: Executor, work: "_UnitOfWork") -> None:
        created = [work.rows[task_id] | {"user_id": self._user_id} for task_id in work.created]
        changed = [
            {"owner": self._user_id, "task_id": task_id}
            | {f"new_{name}": work.rows[task_id][name] for name in _WRITABLE}
            for task_id in work.changed
            if task_id not in work.created
        ]
        if work.erased:  # before the new ones, of which one may have its id
            await self._run(_erase, within=within, task_ids=task_ids(work.erased))
            await self._run(forget, within=within, erased=max(work.erased.values()))
        if changed:
            await within.exec(_update_rows, params=changed)
        if created:
            await within.exec(_insert_rows, params=created)


@dataclass(slots=True)
class _UnitOfWork:
    """The tasks of a batch in memory."""

    stored: dict[UUID, Row]
    """As they were read: a change replaces a row, and leaves this one as it was."""
    rows: dict[UUID, Row]
    """As they will be written."""
    revision: int
    made_room: bool
    """Whether expired tasks were erased, but for those that are named."""
    room: int
    """How many more tasks the user may have, but for those that make room."""
    expired_before: datetime
    """When what may make room was deleted."""
    trash: bool
    """Whether what is deleted is kept."""
    public: Callable[[Row], TaskPublic]
    changed: dict[UUID, None] = field(default_factory=dict)
    created: dict[UUID, None] = field(default_factory=dict)
    told: bool = False
    """Whether an outcome has the revision, though its task may be erased by a later operation."""
    erased: dict[UUID, int] = field(default_factory=dict)
    """With the revision that a follower must have seen to miss nothing: see `TaskTrash._erase`."""
    moment: datetime = field(default_factory=now)

    def failed(self, number: int, task_id: UUID, error: TodoError) -> OperationFailed:
        """Return the failure of a batch of which nothing is kept: a task is then as it was before the batch."""
        stored = self.stored.get(task_id)
        is_about_state = isinstance(error, TaskNotFound | TaskDeleted | PreconditionFailed)
        if isinstance(error, PreconditionFailed):
            error = PreconditionFailed(self.public(stored) if stored is not None else None)
        changed_before = is_about_state and self.rows.get(task_id) is not stored
        return OperationFailed(number, error, changed_before=changed_before)

    def apply(self, operation: Operation) -> Written:
        """Run an operation. Raises `TodoError` where it fails, and then has changed nothing."""
        return getattr(self, f"_{operation.op}")(operation)  # type: ignore[no-any-return] # each returns one

    def _put(self, operation: Operation) -> Written:
        row = self.rows.get(operation.task_id)
        if row is None:
            return self._create(operation)
        if row["deleted_at"] is not None:
            raise TaskDeleted
        self._check(row, operation.match)
        changes = _news(row, operation.changes)
        if not changes:
            return Written(self.public(row), changed=False)
        if operation.create_only:
            raise PreconditionFailed(self.public(row))
        return self._change(row, changes)

    def _create(self, operation: Operation) -> Written:
        if operation.match is not None or operation.must_exist:
            raise PreconditionFailed(None)
        if "title" not in operation.changes:
            raise RuleBroken("title", "required", "is required")
        row = self._add(operation.task_id, operation.changes)
        return Written(self.public(row), created=True)

    def _patch(self, operation: Operation) -> Written:
        row = self._found(operation)
        changes = _news(row, operation.changes) if operation.idempotent else operation.changes
        return self._change(row, changes) if changes else Written(self.public(row), changed=False)

    def _toggle(self, operation: Operation) -> Written:
        row = self._found(operation)
        return self._change(row, {"completed": not row["completed"]})

    def _delete(self, operation: Operation) -> Written:
        row = self._found(operation)
        if self.trash:
            return Written(self.public(self._set(row | {"deleted_at": self.moment})))
        self._erase(row["id"])
        return Written(self.public(row))

    def _restore(self, operation: Operation) -> Written:
        row = self._found(operation, in_trash=True)
        return Written(self.public(self._set(row | {"deleted_at": None})))

    def _found(self, operation: Operation, *, in_trash: bool = False) -> Row:
        row = self.rows.get(operation.task_id)
        if row is None or (row["deleted_at"] is not None) != in_trash:
            raise TaskNotFound
        self._check(row, operation.match)
        return row

    def _check(self, row: Row, match: Match) -> None:
        if match is not None and row["revision"] not in match:
            raise PreconditionFailed(self.public(row))

    def _change(self, before: Row, changes: Mapping[str, Any]) -> Written:
        row = before | stored(changes)
        check_due_date(row)
        successor = None
        if row["completed"] and not before["completed"]:
            row["completed_at"] = self.moment
            successor = self._succeed(row)
        elif not row["completed"]:
            row["completed_at"] = None
        return Written(self.public(self._set(row)), successor=successor)

    def _succeed(self, row: Row) -> UUID | None:
        """Move the rule of a task that is being completed on to its successor; return the successor's id."""
        rule = row["recurrence"]
        row["recurrence"] = None
        fields = successor_of(row, rule, self.moment) if rule is not None else None
        if fields is None or not self._has_room():
            return None
        task_id = uuid7()
        self._add(task_id, fields)
        return task_id

    def _add(self, task_id: UUID, fields: Mapping[str, Any]) -> Row:
        row: Row = {"id": task_id, "created_at": self.moment, "deleted_at": None, **new_columns(fields, self.moment)}
        check_due_date(row)
        if not self._has_room():
            raise TooManyTasks
        self.room -= 1
        self.created[task_id] = None
        return self._set(row)

    def _has_room(self) -> bool:
        """Tell whether there may be one more task, if need be in the place of those of the batch that have expired."""
        for row in list(self.rows.values()):
            if self.room > 0:
                break
            if row["deleted_at"] is not None and row["deleted_at"] < self.expired_before:
                self._erase(row["id"])
        return self.room > 0

    def _erase(self, task_id: UUID) -> None:
        for kept in (self.rows, self.changed, self.created):
            kept.pop(task_id, None)
        if (row := self.stored.get(task_id)) is not None:
            self.erased[task_id] = self.revision if row["deleted_at"] is None else row["revision"]
        self.room += 1

    def _set(self, row: Row) -> Row:
        row["revision"], row["updated_at"], self.told = self.revision, self.moment, True
        self.rows[row["id"]] = row
        self.changed[row["id"]] = None
        return row


def _news(row: Row, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the changes that a write is to make: none where the task has all these values, as after a repetition."""
    news = dict(changes)
    if changes.get("completed") is True and row["completed"] and row["recurrence"] is None:
        news.pop("recurrence", None)  # a retry of the completion that has moved the rule on
    values = stored(news)
    return {} if all(row[name] == values[name] for name in news) else news
