"""Clients that go away at any moment: what their requests held comes back, all of it."""

import asyncio
import random
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from backend.config import Settings
from backend.db.session import Database
from backend.models.task import TaskCreate
from backend.services.batch import Operation
from backend.services.tasks import TaskService
from tests.faults.load import LONG, Service, authorization, pooled_url
from tests.neon import USER, Neon, until
from tests.network import reset

ABORTS = 1_000 if LONG else 200
AT_ONCE = 25
PLACES = 12
POOL = 5
"""Connections of the service's pool, none of overflow, and of PgBouncer's."""


async def abort(port: int, request: bytes, choose: random.Random) -> None:
    """Send a part of a request, or the whole as often as not, and go away without a word a little later."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request[: choose.randrange(1, 2 * len(request))])
    await asyncio.sleep(choose.uniform(0, 0.05))
    reset(writer) if choose.random() < 0.5 else writer.close()


@pytest.mark.parametrize("pool_size", [0, POOL], ids=["NullPool", "pool"])
async def test_clients_that_go_away_leave_no_transaction_and_keep_no_connection_and_no_place(
    neon: Neon, tmp_path: Path, pool_size: int
) -> None:
    settings = {
        "MAX_CONCURRENT_REQUESTS": str(PLACES),
        "MAX_CONCURRENT_REQUESTS_PER_USER": str(PLACES),
        "DATABASE_MAX_OVERFLOW": "0",
    }
    patience = {"DATABASE_POOL_TIMEOUT": "60", "DATABASE_COMMAND_TIMEOUT": "60"}  # whatever the machine is busy with
    service = Service(tmp_path, pooled_url(neon), pool_size, settings | patience)
    user, choose = f"aborter-{uuid.uuid4()}", random.Random(1)
    admin = await neon.postgres.admin()
    statements = f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}' AND "
    try:
        async with service.client(user) as client:
            path = f"/api/tasks/{(await client.post('/api/tasks', json={'title': 'x'})).json()['id']}"
            head = f"Host: test\r\nAuthorization: {authorization(user)['Authorization']}\r\n"
            body = 'Content-Type: application/json\r\nContent-Length: 14\r\n\r\n{"title": "y"}'
            requests = [
                f"{line} HTTP/1.1\r\n{head}{rest}".encode()
                for line, rest in (
                    (f"POST {path}/toggle", "\r\n"),
                    (f"PATCH {path}", body),
                    ("POST /api/tasks", body),
                    ("GET /api/tasks", "\r\n"),
                )
            ]
            for _ in range(ABORTS // AT_ONCE):
                async with admin.transaction():  # so that changes are still under way when their clients leave
                    await admin.execute("SELECT 1 FROM tasks WHERE user_id = $1 FOR UPDATE", user)
                    await asyncio.gather(
                        *(abort(service.port, choose.choice(requests), choose) for _ in range(AT_ONCE))
                    )

            async def all_is_quiet() -> bool:
                # Who is served last in each place has nobody before it any more.
                responses = await asyncio.gather(*(client.get("/api/tasks?limit=1") for _ in range(PLACES)))
                running = await admin.fetchval(statements + "state <> 'idle'")
                return running == 0 and all(response.status_code == 200 for response in responses)

            await until(all_is_quiet)
            # All places and one more: one is refused, once all the others have theirs, and only one.
            async with admin.transaction():
                await admin.execute("SELECT 1 FROM tasks WHERE user_id = $1 FOR UPDATE", user)
                calls = [asyncio.create_task(client.post(f"{path}/toggle")) for _ in range(PLACES + 1)]
                (refused,), waiting = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

                async def all_connections_are_in_use() -> bool:
                    waiting: int = await admin.fetchval(statements + "wait_event_type = 'Lock'")
                    return waiting == POOL

                await until(all_connections_are_in_use)
            assert code_of(await refused) == "overloaded"
            assert [code_of(response) for response in await asyncio.gather(*waiting)] == ["OK"] * PLACES
    finally:
        service.stop()
        await admin.close()


async def test_whoever_is_cancelled_locks_nothing_and_leaves_nothing_by_halves(
    settings: Settings, database: Database, user_id: Callable[[str], str]
) -> None:
    user, choose = user_id("canceller"), random.Random(1)
    service = TaskService(database.executor, user)
    task = await service.create(TaskCreate(title="x"))
    calls: list[Callable[[], Coroutine[Any, Any, Any]]] = [
        lambda: service.toggle(task["id"]),
        lambda: service.batch([Operation("put", uuid7(), {"title": "one of two"}) for _ in range(2)]),
        service.erase_expired,
        lambda: service.list(limit=500),
    ]
    for _ in range(ABORTS // AT_ONCE):
        running = [asyncio.create_task(choose.choice(calls)()) for _ in range(AT_ONCE)]
        for call in running:
            asyncio.get_running_loop().call_later(choose.uniform(0, 0.05), call.cancel)
        outcomes = await asyncio.gather(*running, return_exceptions=True)
        assert [outcome for outcome in outcomes if isinstance(outcome, Exception)] == []
        another = Database(settings)  # as another process would have
        await TaskService(another.executor, user).toggle(task["id"])
        await another.close()
    assert len((await service.list(limit=500)).tasks) % 2 == 1


def code_of(response: httpx.Response) -> str:
    return "OK" if response.status_code == 200 else str(response.json()["code"])
