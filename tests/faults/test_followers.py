"""Whatever is killed while anything is written, followers end equal to the lists, and nothing is lost or deadlocks."""

import asyncio
import os
import random
import uuid
from contextlib import suppress

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from backend.db.session import Database
from backend.errors import DatabaseError, TodoError
from backend.models.task import TaskPut
from backend.services.tasks import TaskService
from tests.faults.load import pooled_url
from tests.neon import DATABASE, USER, Neon
from tests.services.conftest import all_of, new
from tests.services.following import Replica, write_anything
from tests.settings import make_settings

WRITES = 60 * int(os.environ.get("FAULT_ROUNDS", "1"))
"""Of each of the writers."""
WRITERS = 5


async def deadlocks(admin: asyncpg.Connection) -> int:
    await admin.execute("SELECT pg_stat_force_next_flush()")
    count: int = await admin.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = $1", DATABASE)
    return count


class Scene:
    """Three users who write and hand their tasks on, a client that puts until it is heard, and whoever kills."""

    def __init__(self, neon: Neon, database: Database, admin: asyncpg.Connection) -> None:
        self.neon, self.database, self.admin = neon, database, admin
        self.ring = {name: TaskService(database.executor, f"{name}-{uuid.uuid4()}") for name in ("a", "b", "c")}
        self.faithful = TaskService(database.executor, f"faithful-{uuid.uuid4()}")
        self.replicas = [Replica(service) for service in self.ring.values() for _ in range(2)]
        self.ids: list[uuid.UUID] = []
        self.writing = True
        self.acknowledged = self.put = 0

    async def write(self, number: int) -> None:
        pick = random.Random(number)
        for _ in range(WRITES):
            with suppress(TodoError):  # a task has gone, or the connection
                await write_anything(self.ring, self.ids, self.database, pick)
                self.acknowledged += 1

    async def put_until_acknowledged(self) -> None:
        while self.writing:
            task_id, done = uuid7(), False
            while not done:
                with suppress(DatabaseError):
                    await self.faithful.put(task_id, TaskPut(title=f"put {self.put}"))
                    done = True
            self.put += 1

    async def follow(self, replica: Replica) -> None:
        while self.writing:
            with suppress(DatabaseError):
                await replica.follow(limit=5)
            await asyncio.sleep(0)

    async def acknowledgments(self, count: int) -> None:
        """Wait for so many more, or the end: by the clock, a slow machine's writes would all be killed."""
        count += self.acknowledged
        await asyncio.sleep(0.05)
        while self.writing and self.acknowledged < count:  # noqa: ASYNC110 # the end is no event
            await asyncio.sleep(0.01)

    async def kill(self) -> None:
        half = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = $1 AND random() < 0.5"
        while self.writing:
            for _ in range(3):
                await self.admin.execute(half, USER)
                await self.acknowledgments(2)
            self.neon.pgbouncer.kill()
            self.neon.pgbouncer.start()

    async def play(self) -> None:
        for service in self.ring.values():
            await service.batch([new({"title": str(number)}) for number in range(8)])
            self.ids += [task["id"] for task in await all_of(service)]
        async with asyncio.TaskGroup() as group:
            for replica in self.replicas:
                group.create_task(self.follow(replica))
            group.create_task(self.put_until_acknowledged())
            group.create_task(self.kill())
            await asyncio.gather(*(self.write(number) for number in range(WRITERS)))
            self.writing = False


@pytest.mark.parametrize("pool_size", [0, 4], ids=["NullPool", "pool"])
async def test_followers_end_equal_whatever_is_killed(neon: Neon, pool_size: int) -> None:
    database = Database(make_settings(pooled_url(neon), database_pool_size=pool_size, database_command_timeout=5))
    admin = await neon.postgres.admin()
    before = await deadlocks(admin)
    scene = Scene(neon, database, admin)
    await scene.play()
    for replica in scene.replicas:
        await replica.assert_equal()
    stored = await admin.fetch("SELECT title FROM tasks WHERE user_id = $1", scene.faithful._user_id)
    assert sorted(row[0] for row in stored) == sorted(f"put {number}" for number in range(scene.put))
    assert await deadlocks(admin) == before
    assert scene.acknowledged > WRITES / 2  # most of them, whoever was killed
    print(f"{scene.acknowledged} writes acknowledged, {scene.put} puts, 0 differences, 0 deadlocks")
    await admin.close()
    await database.close()
