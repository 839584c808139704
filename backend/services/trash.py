"""The trash: where deleted tasks are kept for `TRASH_DAYS`, and what it takes to erase them for good.

What is erased cannot be told to followers any more, so `forgotten` in the owner's row says up to which revision there
is a gap: an older checkpoint has expired.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any, NoReturn
from uuid import UUID

from sqlalchemy import Update, and_, bindparam, delete, exists, select, update
from sqlalchemy.sql.dml import ReturningDelete

from backend.errors import DatabaseError, PreconditionFailed, TaskNotFound
from backend.services.executor import Executor, RollBack, transaction
from backend.services.rows import (
    Match,
    OwnedTasks,
    changed_rows,
    forget,
    if_matched,
    living,
    next_revision,
    now,
    owned,
    owners,
    stamped,
    tasks,
    this,
    trashed,
)

ERASED_AT_ONCE = 100
"""How many expired tasks a user's own write erases with it."""

_other = tasks.alias("other")
has_expired = exists().where(_other.c.user_id == bindparam("owner"), _other.c.deleted_at < bindparam("expired"))
"""Whether there is something to erase: a column of what writes return, read from the trash's own small index."""
_trash_completed = (
    stamped(living(update(tasks))).where(tasks.c.completed).values(deleted_at=bindparam("now")).returning(has_expired)
)
_erase_completed = living(delete(tasks)).where(tasks.c.completed).returning(tasks.c.revision)
_erase_all = owned(delete(tasks))
_erase_owner = delete(owners).where(owners.c.user_id == bindparam("owner"))
_expired_ids = trashed(select(tasks.c.id)).where(tasks.c.deleted_at < bindparam("expired")).limit(bindparam("limit"))
_other_ids = _expired_ids.where(tasks.c.id.not_in(bindparam("but", expanding=True)))
_is_locked = select(
    and_(
        exists().where(owners.c.user_id == bindparam("owner")),
        select(owners.c.user_id)
        .where(owners.c.user_id == bindparam("owner"))
        .with_for_update(skip_locked=True)
        .scalar_subquery()
        .is_(None),
    )
)
"""Whether somebody else is writing for the owner; if not, nobody will before the transaction ends."""
_erase_expired = trashed(delete(tasks)).where(tasks.c.id.in_(_expired_ids)).returning(tasks.c.revision)
_erase_other_expired = trashed(delete(tasks)).where(tasks.c.id.in_(_other_ids)).returning(tasks.c.revision)


@cache
def _trash_one(*, matched: bool) -> Update:
    statement = stamped(this(living(update(tasks)))).values(deleted_at=bindparam("now"))
    return if_matched(statement, matched=matched).returning(has_expired)


@cache
def _erase_one(*, from_trash: bool, matched: bool) -> ReturningDelete[*tuple[Any, ...]]:
    statement = this((trashed if from_trash else living)(delete(tasks)))
    return if_matched(statement, matched=matched).returning(tasks.c.revision)


class TaskTrash(OwnedTasks):
    """Deleting, and erasing."""

    async def delete(self, task_id: UUID, *, match: Match = None, permanent: bool = False) -> None:
        """Move a task to the trash, or, if `permanent`, erase one that is there.

        Where nothing is kept in the trash, a task is erased at once. Raises `TaskNotFound`, `PreconditionFailed`.
        """
        parameters: dict[str, Any] = {"task_id": task_id, "match": match}
        if permanent or self._limits.trash_days == 0:
            statement = _erase_one(from_trash=permanent, matched=match is not None)
            if await self._erase(statement, from_trash=permanent, **parameters) == 0:
                await self._explain(task_id, match, in_trash=permanent)
            return
        parameters |= {"now": now(), "expired": self._expired_before()}
        found = (await self._run(_trash_one(matched=match is not None), **parameters)).one_or_none()
        if found is None:
            await self._explain(task_id, match, in_trash=False)
        await self._erase_some(found)

    async def delete_completed(self) -> int:
        """Move all completed tasks to the trash; return how many they were."""
        if self._limits.trash_days == 0:
            return await self._erase(_erase_completed, from_trash=False)
        written = (await self._run(_trash_completed, now=now(), expired=self._expired_before())).all()
        if written:
            await self._erase_some(written[0])
        return len(written)

    async def delete_all(self) -> int:
        """Erase all that there is of the user; return how many tasks they were, those in the trash too."""
        async with transaction(self._executor) as within:
            # The owner's row first, as in every write: whoever is writing now is waited for. It may not be there yet.
            await self._run(next_revision, within=within)
            erased = changed_rows(await self._run(_erase_all, within=within))
            await self._run(_erase_owner, within=within)
            return erased

    async def erase_expired(self, *, limit: int = 1000, waits: bool = True) -> int:
        """Erase up to `limit` tasks whose time in the trash is over; return how many they were.

        Unless it `waits`, none where somebody else is writing for the owner.
        """
        parameters = {"expired": self._expired_before(), "limit": limit}
        return await self._erase(_erase_expired, from_trash=True, waits=waits, **parameters)

    async def _erase_some(self, written: Sequence[Any]) -> None:
        """Erase a few expired tasks after a write whose row ends with `has_expired`.

        Where that fails, the write stands all the same, and so does its response; a later one tries again.
        """
        if written[-1]:
            with suppress(DatabaseError):
                await self.erase_expired(limit=ERASED_AT_ONCE)

    async def _erase_some_within(
        self, within: Executor, *, but: Sequence[UUID] = (), limit: int = ERASED_AT_ONCE, owner: str | None = None
    ) -> int:
        """Erase a few expired tasks, `but` some, in a transaction that has the owner's row; return how many they were.

        The owner is this user, unless another is named. As long as a task is there its user sees it in the trash, and
        may bring it back.
        """
        owner = owner or self._user_id
        parameters: dict[str, Any] = {"expired": self._expired_before(), "limit": limit, "but": but}
        revisions = (await self._run(_erase_other_expired, within=within, owner=owner, **parameters)).scalars().all()
        await self._run(forget, within=within, owner=owner, erased=max(revisions, default=0))
        return len(revisions)

    async def _erase(
        self, statement: ReturningDelete[*tuple[Any, ...]], *, from_trash: bool, waits: bool = True, **parameters: Any
    ) -> int:
        revisions: Sequence[int] = ()
        async with transaction(self._executor) as within:
            if not waits and (await self._run(_is_locked, within=within)).scalar_one():
                raise RollBack
            revision = (await self._run(next_revision, within=within)).scalar_one()
            revisions = (await self._run(statement, within=within, **parameters)).scalars().all()
            if not revisions:
                raise RollBack  # and no revision is taken
            # A follower that saw the task go to the trash need not hear that it was erased: only older ones must start
            # anew. Of a task that never was in the trash no change tells that it is gone: all followers must.
            erased = max(revisions) if from_trash else revision
            await self._run(forget, within=within, erased=erased)
        return len(revisions)

    async def _explain(self, task_id: UUID, match: Match, *, in_trash: bool) -> NoReturn:
        """Say why a statement found no row to write."""
        if match is None:
            raise TaskNotFound
        raise PreconditionFailed(await self._find(task_id, in_trash=in_trash))
