"""Transfer: all tasks of one user to another, as when a guest signs up.

Rows are inserted for the taker and deleted for the giver. An UPDATE of `user_id` would be followed by statements that
wait for the row with an older snapshot; two of them can deadlock.
"""

from sqlalchemy import bindparam, delete, func, insert, select, update
from uuid_utils.compat import uuid7

from backend.errors import SameUser, TooManyTasks
from backend.services.executor import RollBack, transaction
from backend.services.rows import changed_rows, forget, how_many, living, next_revision, now, owned, tasks
from backend.services.trash import TaskTrash

_MOVED = tuple(column.name for column in tasks.c if column.name not in {"user_id", "revision", "updated_at"})
_taken = tasks.alias("taken")

_count_living = living(select(func.count()).select_from(tasks))
_count_all = select(how_many)
_select_shared_ids = (
    living(select(tasks.c.id))
    .where(tasks.c.id.in_(select(_taken.c.id).where(_taken.c.user_id == bindparam("taker"))))
    .order_by(tasks.c.id)  # in which the new ones are made, so that the newest stays first
)
_give_new_id = owned(update(tasks)).where(tasks.c.id == bindparam("task_id")).values(id=bindparam("new_id"))
_insert = insert(tasks).from_select(
    ["user_id", "revision", "updated_at", *_MOVED],
    living(
        select(
            bindparam("taker", type_=tasks.c.user_id.type),
            bindparam("revision", type_=tasks.c.revision.type),
            bindparam("now", type_=tasks.c.updated_at.type),
            *(tasks.c[name] for name in _MOVED),
        )
    ),
)
_delete = living(delete(tasks))


class TaskTransfer(TaskTrash):
    """Giving tasks away."""

    async def transfer_to(self, user_id: str) -> int:
        """Give all tasks but those in the trash to another user; return how many they were.

        Both users must have been verified before. Raises `SameUser`, `TooManyTasks`.
        """
        if user_id == self._user_id:
            raise SameUser
        async with transaction(self._executor) as within:
            # Both owners are locked, in the order of their ids, or two transfers could wait for each other.
            revisions = {
                owner: (await self._run(next_revision, within=within, owner=owner)).scalar_one()
                for owner in sorted((self._user_id, user_id))
            }
            moved: int = (await self._run(_count_living, within=within)).scalar_one()
            if moved == 0:
                raise RollBack  # and no revision is taken
            there: int = (await self._run(_count_all, within=within, owner=user_id)).scalar_one()
            excess = moved + there - self._limits.max_tasks
            if excess > 0 and await self._erase_some_within(within, owner=user_id, limit=excess) < excess:
                raise TooManyTasks
            shared = (await self._run(_select_shared_ids, within=within, taker=user_id)).scalars().all()
            if shared:  # all in one go: each alone would be a round trip under both users' locks
                rows = [{"owner": self._user_id, "task_id": task_id, "new_id": uuid7()} for task_id in shared]
                await within.exec(_give_new_id, params=rows)
            await self._run(_insert, within=within, taker=user_id, revision=revisions[user_id], now=now())
            moved = changed_rows(await self._run(_delete, within=within))
            await self._run(forget, within=within, erased=revisions[self._user_id])
        return moved
