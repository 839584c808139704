"""Following: every task whose last change is after a checkpoint, in the order of revisions.

A revision is taken while its owner's row is locked, so revisions are committed in their order: what is greater than a
reader's is all that it has missed. One statement reads the owner's revision and the tasks, in one snapshot.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Select, bindparam, select, true, tuple_

from backend.errors import CheckpointExpired
from backend.models.task import DeletedChange, TaskPublic
from backend.services.rows import LAST_ID, PUBLIC, OwnedTasks, living, owned, owner_now, tasks


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a follower stands: it has seen everything up to the task `task_id` of `revision`.

    `base` is the owner's revision when the follower began to read everything. What was erased before that it was never
    sent, so a purge during a long first reading does not send it back to the beginning.
    """

    revision: int = 0
    task_id: UUID = LAST_ID  # it has seen all of the revision
    base: int = 0


NOTHING = Checkpoint()
"""Where a follower stands that has found neither a task nor an owner."""


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes, the checkpoint behind each of them, and whether more follow."""

    changes: list[TaskPublic | DeletedChange]
    checkpoints: list[Checkpoint]
    last: Checkpoint
    """Where the follower stands when it has all of them."""
    more: bool
    head: int
    """The owner's revision in the same snapshot."""


_REVISION = PUBLIC.index(tasks.c.revision)


@cache
def _select_changes(*, everything: bool) -> Select[*tuple[Any, ...]]:
    page = (living if everything else owned)(select(tasks.c.deleted_at, *PUBLIC))
    if not everything:
        page = page.where(
            tuple_(tasks.c.revision, tasks.c.id)
            > tuple_(bindparam("after", type_=tasks.c.revision.type), bindparam("after_id", type_=tasks.c.id.type))
        )
    found = page.order_by(tasks.c.revision, tasks.c.id).limit(bindparam("limit")).subquery("page")
    return (
        select(owner_now.c.head, owner_now.c.forgotten, *found.c)
        .select_from(owner_now.outerjoin(found, true()))
        .order_by(found.c.revision, found.c.id)
    )


class TaskChanges(OwnedTasks):
    """What has changed since."""

    async def changes(self, since: Checkpoint | None, *, limit: int) -> Changes:
        """Return up to `limit` changes after a checkpoint; without one, everything that lives.

        Raises `CheckpointExpired`.
        """
        parameters: dict[str, Any] = {"limit": limit + 1}
        if since is not None:
            parameters |= {"after": since.revision, "after_id": since.task_id}
        rows = (await self._run(_select_changes(everything=since is None), **parameters)).all()
        head, forgotten = rows[0][:2]
        if since is not None and not _is_good(since, head, forgotten):
            raise CheckpointExpired("something was erased since, or the database was restored")
        base = head if since is None else since.base
        found = [(deleted_at, task) for _, _, deleted_at, *task in rows if task[0] is not None]
        shown = found[:limit]
        checkpoints = [Checkpoint(task[_REVISION], task[0], base) for _, task in shown]
        more = len(found) > limit
        last = checkpoints[-1] if more else Checkpoint(head, LAST_ID, head)
        return Changes(
            [self._task(task) if at is None else DeletedChange(id=task[0], deleted=True) for at, task in shown],
            checkpoints,
            last,
            more,
            head,
        )


def _is_good(since: Checkpoint, head: int, forgotten: int) -> bool:
    """Tell whether a follower can go on.

    It cannot where something was erased that it may still have, nor where it has seen more than there is: then all was
    erased, or the database was restored to an earlier time. Who has seen nothing has nothing to forget.
    """
    if since == NOTHING:
        return True
    # A page can end between two tasks of one write, and those that were still to come may have been erased.
    seen = since.revision if since.task_id == LAST_ID else since.revision - 1
    return forgotten <= max(seen, since.base) and max(since.revision, since.base) <= head
