"""A database in a bad hour: it wakes up late, pauses, refuses, deadlocks, and responds in crumbs."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import httpx
import pytest

from backend.config import Settings
from tests.applications import client_of, running
from tests.faults.load import LONG, direct_url, pooled_url, url_at
from tests.neon import DATABASE, USER, Neon, until
from tests.network import proxy_to
from tests.settings import make_settings

WAKING = 3 if LONG else 0.5
"""Seconds that a database takes to wake up."""


@pytest.fixture(params=[0, 5], ids=["NullPool", "pool"])
def pool_size(request: pytest.FixtureRequest) -> int:
    """No pool, or one."""
    size: int = request.param
    return size


@asynccontextmanager
async def client_on(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A new user's client of an application."""
    async with running(settings) as app, client_of(app, settings, f"user-{uuid.uuid4()}") as client:
        yield client


@asynccontextmanager
async def admin_of(neon: Neon) -> AsyncIterator[asyncpg.Connection]:
    """A superuser's connection, past everything."""
    connection = await neon.postgres.admin()
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def changed(neon: Neon, change: str, back: str) -> AsyncIterator[None]:
    """Change the server for as long as the block lasts."""
    async with admin_of(neon) as admin:
        await admin.execute(change)
        try:
            yield
        finally:
            await admin.execute(back)


async def test_a_cold_start_is_waited_for_by_all_who_come(neon: Neon, pool_size: int) -> None:
    async with proxy_to(port=neon.pgbouncer.port) as proxy:
        proxy.flowing.clear()  # as Neon's: it accepts at once, and goes on when the compute is awake
        async with client_on(make_settings(url_at(proxy.port), database_pool_size=pool_size)) as client:
            asyncio.get_running_loop().call_later(WAKING, proxy.flowing.set)
            writes = (client.post("/api/tasks", json={"title": "early"}) for _ in range(10))
            assert [response.status_code for response in await asyncio.gather(*writes)] == [201] * 10
            assert (await client.get("/api/tasks/stats")).json()["total"] == 10


@pytest.mark.parametrize(("slices", "delay"), [(1, 0), (0, 0.05)], ids=["single bytes", "latency"])
async def test_whatever_the_network_makes_of_it_the_response_is_right(
    neon: Neon, pool_size: int, slices: int, delay: float
) -> None:
    async with proxy_to(port=neon.pgbouncer.port, delay=delay) as proxy:
        proxy.slices = slices
        async with client_on(make_settings(url_at(proxy.port), database_pool_size=pool_size)) as client:
            texts = [{"title": f"{number} ✓", "description": "ü" * 100} for number in range(5)]
            made = await asyncio.gather(*(client.post("/api/tasks", json=text) for text in texts))
            assert [response.status_code for response in made] == [201] * 5
            tasks = sorted((response.json() for response in made), key=lambda task: str(task["id"]), reverse=True)
            assert (await client.get("/api/tasks")).json() == tasks


async def test_a_read_whose_response_breaks_off_is_read_again(neon: Neon, pool_size: int) -> None:
    async with proxy_to(port=neon.pgbouncer.port) as proxy:
        user = f"user-{uuid.uuid4()}"
        settings = make_settings(url_at(proxy.port), database_pool_size=pool_size)
        async with running(settings) as app, client_of(app, settings, user) as client:
            for number in range(20):
                await client.post("/api/tasks", json={"title": f"{number}"})
            proxy.cut_within = user.encode()
            assert len((await client.get("/api/tasks")).json()) == 20
            assert proxy.cut_within is None


async def test_a_pause_of_the_pooler_fails_nobody_if_it_is_short_and_everybody_in_time_if_it_is_not(
    neon: Neon, pool_size: int
) -> None:
    def settings(timeout: int) -> Settings:
        timeouts = {"database_connect_timeout": timeout, "database_command_timeout": timeout}
        return make_settings(pooled_url(neon), database_pool_size=pool_size, **timeouts)

    async with client_on(settings(60)) as patient, client_on(settings(2)) as client:

        async def create(client: httpx.AsyncClient, title: str) -> set[str]:
            responses = await asyncio.gather(*(client.post("/api/tasks", json={"title": title}) for _ in range(10)))
            return {str(response.json().get("code", response.status_code)) for response in responses}

        for each in (patient, client):
            await create(each, "before")
        await neon.pgbouncer.order("PAUSE")
        creating = asyncio.create_task(create(patient, "short"))
        await asyncio.sleep(0.3)
        assert not creating.done()
        await neon.pgbouncer.order("RESUME")
        assert await creating == {"201"}
        await neon.pgbouncer.order("PAUSE")
        try:
            assert await create(client, "long") <= {"database_unavailable", "outcome_unknown"}
        finally:
            await neon.pgbouncer.order("RESUME")
        assert await create(client, "after") == {"201"}  # at once, whatever was left of those before


async def test_a_statement_that_a_deadlock_ends_is_run_once_more(neon: Neon, pool_size: int) -> None:
    async with (
        client_on(make_settings(direct_url(neon), database_pool_size=pool_size)) as client,
        admin_of(neon) as watcher,
        admin_of(neon) as second_holder,
        admin_of(neon) as third_holder,
    ):
        # The last to wait looks for a deadlock first, and gives up: that is to be the service's statement.
        ids = [(await client.post("/api/tasks", json={"title": title})).json()["id"] for title in "abc"]
        lock = "SELECT 1 FROM tasks WHERE id = $1 FOR UPDATE"
        await third_holder.execute("SET deadlock_timeout = '1min'")

        async def waiting() -> int:
            number: int = await watcher.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
            return number

        async with third_holder.transaction():
            await third_holder.execute(lock, ids[2])
            async with second_holder.transaction():
                await second_holder.execute(lock, ids[1])
                completing = asyncio.create_task(client.post("/api/tasks/bulk-complete", json={"task_ids": ids}))
                await until(lambda: equal(waiting, 1))  # the service has the first, and wants the second
                locking = asyncio.create_task(third_holder.execute(lock, ids[0]))
                await until(lambda: equal(waiting, 2))
            await locking  # the service has wanted the third, and lost the first
        response = await completing
        assert (response.status_code, response.json()) == (200, {"updated": 3})


async def equal(ask: Callable[[], Awaitable[int]], number: int) -> bool:
    return await ask() == number


async def test_what_cannot_be_serialized_is_refused_or_done_and_never_both(neon: Neon, pool_size: int) -> None:
    at_once = 30  # of one user, of whom none waits for another's end: after a second it would be refused
    patience = {"database_pool_size": pool_size, "max_concurrent_requests_per_user": at_once}
    async with (
        changed(
            neon,
            f"ALTER ROLE {USER} SET default_transaction_isolation = 'serializable'",
            f"ALTER ROLE {USER} RESET ALL",
        ),
        client_on(make_settings(direct_url(neon), **patience)) as client,
    ):
        task = f"/api/tasks/{(await client.post('/api/tasks', json={'title': 'x'})).json()['id']}"
        responses = await asyncio.gather(*(client.post(f"{task}/toggle") for _ in range(at_once)))
        done = [response for response in responses if response.status_code == 200]
        refused = {response.json()["code"] for response in responses if response.status_code != 200}
        assert refused <= {"database_unavailable"}
        assert (await client.get(task)).json()["completed"] is (len(done) % 2 == 1)


async def test_a_database_that_only_reads_refuses_writes_and_serves_reads(neon: Neon, pool_size: int) -> None:
    read_only = f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on"
    async with (
        changed(neon, read_only, f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only"),
        client_on(make_settings(direct_url(neon), database_pool_size=pool_size)) as client,
    ):
        response = await client.post("/api/tasks", json={"title": "x"})
        assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert (await client.get("/api/tasks")).json() == []


async def test_a_database_without_a_free_connection_is_waited_for_and_then_unavailable(
    neon: Neon, pool_size: int
) -> None:
    settings = make_settings(direct_url(neon), database_pool_size=pool_size, database_connect_timeout=2)
    async with client_on(settings) as client:
        async with changed(neon, f"ALTER ROLE {USER} CONNECTION LIMIT 0", f"ALTER ROLE {USER} CONNECTION LIMIT -1"):
            response = await client.post("/api/tasks", json={"title": "x"})
            assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
        assert (await client.post("/api/tasks", json={"title": "x"})).status_code == 201
