"""What an operator does to all users: empty the trash, start followers anew."""

from datetime import timedelta

from sqlalchemy import BigInteger, bindparam, case, literal, select, update

from backend.services.executor import Executor, transaction
from backend.services.functions import bytewise
from backend.services.rows import Limits, changed_rows, next_revision, now, owners, tasks
from backend.services.tasks import TaskService

_users_with_expired = select(tasks.c.user_id).where(tasks.c.deleted_at < bindparam("expired")).distinct()
_clock = bindparam("clock", type_=BigInteger)
_later = case((owners.c.revision >= _clock, owners.c.revision + 1), else_=_clock)
_locked = owners.alias("locked")
# Locked in the order in which a transfer locks its two, and in one statement, which sees no row that is made meanwhile.
_in_order = select(_locked.c.user_id).order_by(bytewise(_locked.c.user_id)).with_for_update()
_start_anew = update(owners).where(owners.c.user_id.in_(_in_order)).values(revision=_later, forgotten=_later)
_unknown_owners = (
    select(tasks.c.user_id).where(~select(literal(1)).where(owners.c.user_id == tasks.c.user_id).exists()).distinct()
)


async def purge(executor: Executor, trash_days: int) -> int:
    """Erase every task whose time in the trash is over; return how many they were."""
    erased = 0
    expired = now() - timedelta(days=trash_days)
    for user_id in (await executor.exec(_users_with_expired, params={"expired": expired})).scalars().all():
        service = TaskService(executor, user_id, Limits(trash_days=trash_days))
        while count := await service.erase_expired():
            erased += count
    return erased


async def resync(executor: Executor) -> int:
    """Have every checkpoint expire, and every entity tag of a list change; return of how many users.

    For a database that was restored to an earlier time, and for what processes of an older version wrote.
    """
    clock = {"clock": int(now().timestamp() * 1_000_000)}
    known = changed_rows(await executor.exec(_start_anew, params=clock))
    unknown = (await executor.exec(_unknown_owners)).scalars().all()
    for user_id in unknown:
        async with transaction(executor) as within:
            await within.exec(next_revision, params={"owner": user_id})  # a new row forgets all before it
    return known + len(unknown)
