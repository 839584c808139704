"""Followers, and writers who do anything that can be done to a user's tasks."""

import random
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from backend.db.session import Database
from backend.errors import CheckpointExpired
from backend.models.queries import Destination
from backend.models.task import TaskCreate, TaskPublic, TaskPut, TaskUpdate
from backend.services.batch import Operation
from backend.services.changes import Checkpoint
from backend.services.rows import Limits
from backend.services.tasks import TaskService
from tests.services.conftest import all_of


class Replica:
    """A copy that follows, as a client keeps one."""

    def __init__(self, service: TaskService) -> None:
        self.service = service
        self.since: Checkpoint | None = None
        self.tasks: dict[UUID, TaskPublic] = {}
        self.restarts = 0

    async def follow(self, limit: int = 500) -> None:
        """Apply pages until no more follow."""
        while True:
            try:
                page = await self.service.changes(self.since, limit=limit)
            except CheckpointExpired:
                self.since, self.tasks = None, {}
                self.restarts += 1
                assert self.restarts < 100, "it starts anew for ever"
                continue
            assert len(page.changes) == len(page.checkpoints) <= limit
            for change in page.changes:
                if "deleted" in change:
                    self.tasks.pop(change["id"], None)
                else:
                    self.tasks[change["id"]] = change
            self.since = page.last
            if not page.more:
                return

    async def assert_equal(self) -> None:
        await self.follow(limit=3)
        listed = {task["id"]: task for task in await all_of(self.service)}
        assert self.tasks == listed


async def expire(database: Database, service: TaskService) -> None:
    """Erase all that is in the trash, as when its time is over."""
    await TaskService(database.executor, service._user_id, Limits(trash_days=-1)).erase_expired()


async def write_anything(
    services: Mapping[str, TaskService], ids: Sequence[UUID], database: Database, pick: random.Random
) -> None:
    """Make one write of one user, chosen at random: to those ids, or a transfer to the next of the users."""
    names = list(services)
    name = pick.choice(names)
    service = services[name]
    taker = services[names[(names.index(name) + 1) % len(names)]]
    some = pick.choice(ids)
    others = pick.sample(ids, 3)
    actions = (
        lambda: service.create(TaskCreate(title="new")),
        lambda: service.put(pick.choice([some, uuid7()]), TaskPut(title="put", priority="high")),
        lambda: service.update(some, TaskUpdate(title=str(pick.random()))),
        lambda: service.toggle(some),
        lambda: service.delete(some),
        lambda: service.delete(some, permanent=True),
        lambda: service.restore(some),
        lambda: service.complete(others),
        service.delete_completed,
        lambda: service.batch([Operation("toggle", others[0]), Operation("delete", others[1])], atomic=False),
        lambda: service.move(some, Destination("before", others[0])),
        lambda: service.transfer_to(taker._user_id),
        lambda: expire(database, service),
    )
    action: Any = pick.choice(actions)
    await action()
