"""A database that hangs: every client is told within its own limit, none behind another, and nothing stays behind."""

import asyncio
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import asyncpg
import httpx
import pytest

from tests.faults.load import LONG, Service, url_at
from tests.neon import USER, Neon, until
from tests.network import Proxy, proxy_to

CLIENTS = 30
TIMEOUT = 1
"""Seconds for connecting, and as many for a statement."""
LIMIT = 2 * TIMEOUT + 1
"""Seconds until the last of all clients has its response. One behind another they would need 30 at least."""


@dataclass
class Parts:
    """A service that finds its database through a proxy."""

    neon: Neon
    proxy: Proxy
    service: Service

    async def ask(self, statement: str, *arguments: object) -> asyncpg.Record:
        """Ask the server for a row, past everything."""
        connection = await self.neon.postgres.admin()
        try:
            return await connection.fetchrow(statement, *arguments)
        finally:
            await connection.close()

    async def nothing_runs(self) -> bool:
        """Tell whether no statement of the service is being run or waits for a lock."""
        statement = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND state <> 'idle'"
        return tuple(await self.ask(statement, USER)) == (0,)


@pytest.fixture(scope="module", params=[0, 5], ids=["NullPool", "pool"])
async def parts(
    neon: Neon, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Parts]:
    """The parts, with and without a pool.

    There is no PgBouncer: it takes no notice of the cancellation of a statement that still waits for a connection, and
    would run it later, for nobody.
    """
    folder, limit = tmp_path_factory.mktemp("hangs"), str(TIMEOUT)
    timeouts = {
        "DATABASE_CONNECT_TIMEOUT": limit,
        "DATABASE_COMMAND_TIMEOUT": limit,
        "MAX_CONCURRENT_REQUESTS_PER_USER": str(CLIENTS),
    }
    async with proxy_to(path=neon.postgres.socket) as proxy:
        service = Service(folder, url_at(proxy.port), request.param, timeouts)
        yield Parts(neon, proxy, service)
        service.stop()


@asynccontextmanager
async def black_hole(parts: Parts, _user: str) -> AsyncIterator[None]:
    """Nothing comes through, neither way."""
    parts.proxy.flowing.clear()
    yield
    parts.proxy.flowing.set()


@asynccontextmanager
async def lock(parts: Parts, user: str) -> AsyncIterator[None]:
    """Nobody can change what is there."""
    connection = await parts.neon.postgres.admin()
    async with connection.transaction():
        await connection.execute("SELECT 1 FROM tasks WHERE user_id = $1 FOR UPDATE", user)
        yield
    await connection.close()


@asynccontextmanager
async def slowness(parts: Parts, _user: str) -> AsyncIterator[None]:
    """Every change takes a minute."""
    connection = await parts.neon.postgres.admin()
    await connection.execute(
        "CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$"
    )
    await connection.execute("CREATE TRIGGER slow BEFORE UPDATE ON tasks FOR EACH ROW EXECUTE FUNCTION sleep()")
    yield
    await connection.execute("DROP FUNCTION sleep CASCADE")
    await connection.close()


Hang = Callable[[Parts, str], AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("hang", [black_hole, lock, slowness])
async def test_thirty_clients_of_a_database_that_hangs_get_their_responses_in_time_and_nothing_is_written(
    parts: Parts, hang: Hang
) -> None:
    user = f"hung-{uuid.uuid4()}"
    async with parts.service.client(user) as client, parts.service.client(user) as prober:
        (task_id,) = await parts.ask(
            "INSERT INTO tasks (user_id, id, title, completed, created_at, updated_at) "
            "VALUES ($1, gen_random_uuid(), 'before', false, now(), now()) RETURNING id",
            user,
        )

        def call(number: int) -> Awaitable[httpx.Response]:
            if number % 2:
                return client.post(f"/api/tasks/{task_id}/toggle")
            return client.patch(f"/api/tasks/{task_id}", json={"title": "after"})

        async def timed(number: int) -> tuple[httpx.Response, float]:
            started = time.monotonic()
            return await call(number), time.monotonic() - started

        await asyncio.gather(*(prober.get("/api/tasks") for _ in range(CLIENTS)))  # fills a pool
        async with hang(parts, user):
            calls = [asyncio.create_task(timed(number)) for number in range(CLIENTS)]
            probes = []
            while not all(call.done() for call in calls):
                started = time.monotonic()
                assert (await prober.get("/health")).status_code == 200
                probes.append(time.monotonic() - started)
            assert len(probes) > 2, "alive while they wait: one may come before all of them, and one after"
            responses = await asyncio.gather(*calls)
            if hang is not black_hole:
                await until(parts.nothing_runs)  # while the cause is still there
        assert {response.status_code for response, _ in responses} == {503}
        assert {response.json()["code"] for response, _ in responses} <= {"database_unavailable", "outcome_unknown"}
        assert not LONG or max(seconds for _, seconds in responses) < LIMIT  # time is judged by `make faults` alone
        print(f"slowest response {max(seconds for _, seconds in responses):.2f} s", end="; ")
        print(f"/health {statistics.median(probes) * 1000:.0f} ms, at most {max(probes) * 1000:.0f}, of {len(probes)}")
        stored = await parts.ask("SELECT title, completed FROM tasks WHERE id = $1", task_id)
        assert tuple(stored) == ("before", False)

        async def serves_again() -> bool:
            return (await call(0)).status_code == 200

        await until(serves_again)  # the limits are short, and the machine may be busy
