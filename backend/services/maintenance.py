"""What an operator does to all users: empty the trash, have all that clients keep start anew."""

import json
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, bindparam, case, delete, literal, select, tuple_, update

from backend.services.executor import Executor, transaction
from backend.services.functions import bytewise
from backend.services.rows import Limits, changed_rows, next_revision, now, owned, owners, stored, tasks, this
from backend.services.tasks import TaskService

RENEWED_AT_ONCE = 500
"""Tasks that get a new revision in one transaction, for which their owners' writes wait."""

_users_with_expired = select(tasks.c.user_id).where(tasks.c.deleted_at < bindparam("expired")).distinct()
_clock = bindparam("clock", type_=BigInteger)
# Whoever writes now is left out: nobody waits for another. Who has written meanwhile has a new revision, which is asked
# for again once the row is locked; the tasks are not.
_idle = (
    select(owners.c.user_id)
    .where(owners.c.revision < _clock, ~select(literal(1)).where(tasks.c.user_id == owners.c.user_id).exists())
    .with_for_update(skip_locked=True)
)
_forget_idle = delete(owners).where(owners.c.user_id.in_(_idle))
_later = case((owners.c.revision >= _clock, owners.c.revision + 1), else_=_clock)
_locked = owners.alias("locked")
# Locked in the order in which a transfer locks its two, and in one statement, which sees no row that is made meanwhile.
_in_order = select(_locked.c.user_id).order_by(bytewise(_locked.c.user_id)).with_for_update()
_start_anew = update(owners).where(owners.c.user_id.in_(_in_order)).values(revision=_later, forgotten=_later)
_of_some = _in_order.where(_locked.c.user_id.in_(bindparam("users", expanding=True)))
_take_revisions = update(owners).where(owners.c.user_id.in_(_of_some)).values(revision=_later)
_unknown_owners = (
    select(tasks.c.user_id).where(~select(literal(1)).where(owners.c.user_id == tasks.c.user_id).exists()).distinct()
)
_FOLDED = ("title_folded", "description_folded", "tags_folded")
_next_tasks = (
    select(*(tasks.c[name] for name in ("user_id", "id", "revision", "title", "description", "tags")))
    .where(
        tuple_(tasks.c.user_id, tasks.c.id)
        > tuple_(bindparam("user_id", type_=tasks.c.user_id.type), bindparam("task_id", type_=tasks.c.id.type))
    )
    .order_by(tasks.c.user_id, tasks.c.id)
    .limit(bindparam("limit"))
)
_renew = (
    this(owned(update(tasks)))
    # What somebody has written meanwhile has a new revision, and is folded.
    .where(tasks.c.user_id == owners.c.user_id, tasks.c.revision == bindparam("read_revision"))
    .values(revision=owners.c.revision, **{name: bindparam(f"new_{name}") for name in _FOLDED})
)


async def purge(executor: Executor, trash_days: int) -> int:
    """Erase every task whose time in the trash is over; return how many they were.

    So are users who have had no task for as long, and for a day at least: that is more than clocks differ. Where one
    comes back, its followers start anew. What is of a user who writes meanwhile is left to the next time.
    """
    erased = 0
    expired = now() - timedelta(days=trash_days)
    for user_id in (await executor.exec(_users_with_expired, params={"expired": expired})).scalars().all():
        service = TaskService(executor, user_id, Limits(trash_days=trash_days))
        while count := await service.erase_expired(waits=False):
            erased += count
    await executor.exec(_forget_idle, params=_clock_of(now() - timedelta(days=max(trash_days, 1))))
    return erased


async def resync(executor: Executor) -> int:
    """Have every checkpoint and every entity tag expire, and fold all texts anew; return of how many users.

    For a database that was restored to an earlier time, and for what processes of an older version wrote. Where it
    fails, some users' tags have expired: it can be run again.
    """
    for user_id in (await executor.exec(_unknown_owners)).scalars().all():
        async with transaction(executor) as within:
            await within.exec(next_revision, params={"owner": user_id})
    # Followers last: those who come meanwhile get what is new, and only then read everything once more.
    await _renew_tasks(executor)
    return changed_rows(await executor.exec(_start_anew, params=_clock_of(now())))


async def _renew_tasks(executor: Executor) -> None:
    """Give every task a new revision, and the folded texts of what it is now.

    Every task, because nothing tells those that a process of an older version has changed: it knows no revision, and
    its clock is another one.
    """
    place: dict[str, Any] = {"user_id": "", "task_id": UUID(int=0)}
    while rows := (await executor.exec(_next_tasks, params=place | {"limit": RENEWED_AT_ONCE})).all():
        changes = []
        for row in rows:
            texts = stored({"title": row.title, "description": row.description, "tags": json.loads(row.tags)})
            changes.append(
                {"owner": row.user_id, "task_id": row.id, "read_revision": row.revision}
                | {f"new_{name}": texts[name] for name in _FOLDED}
            )
        async with transaction(executor) as within:
            await within.exec(_take_revisions, params=_clock_of(now()) | {"users": list({row.user_id for row in rows})})
            await within.exec(_renew, params=changes)
        place = {"user_id": rows[-1].user_id, "task_id": rows[-1].id}


def _clock_of(moment: datetime) -> dict[str, int]:
    return {"clock": int(moment.timestamp() * 1_000_000)}
