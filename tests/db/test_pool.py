"""The pool: what is kept and for how long, what is never handed out again, and who shares it."""

import asyncio
import gc
import socket
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from datetime import date, time
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from sqlalchemy import (
    JSON,
    ColumnElement,
    Date,
    Enum,
    Float,
    Integer,
    Numeric,
    Time,
    bindparam,
    cast,
    column,
    insert,
    literal,
    null,
    text,
    update,
)
from sqlalchemy import select as core_select
from sqlalchemy.exc import IntegrityError, StatementError
from sqlmodel import select

from backend import __version__
from backend.db.connection import DriverConnection, closed_connections, connect
from backend.db.pool import Pool
from backend.db.session import check_db_health
from backend.db.statements import compile_statement
from backend.db.url import PostgresURL, parse_database_url
from backend.errors import DatabaseUnavailable
from backend.models.task import Task
from tests.db.conftest import NewDatabase
from tests.db.test_executors import proxied, remove, rename, row, tasks, titles
from tests.settings import make_settings
from tests.statements import recorded_connections

PING = b"SELECT 1\0"


@pytest.fixture
async def make_pool(migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Pool]]:
    """A maker of pools whose connections are all closed after the test."""
    url = parse_database_url(migrated_postgres_url)
    assert isinstance(url, PostgresURL)
    pools: list[Pool] = []
    taken: list[DriverConnection] = []
    take = Pool.acquire

    async def take_and_remember(pool: Pool) -> DriverConnection:
        taken.append(await take(pool))
        return taken[-1]

    monkeypatch.setattr(Pool, "acquire", take_and_remember)

    def make(size: int, **changes: Any) -> Pool:
        pools.append(Pool(url, make_settings(migrated_postgres_url, database_pool_size=size, **changes)))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    for connection in taken:
        if not connection.is_closed():
            connection.terminate()
    await closed_connections()


async def test_as_many_are_kept_as_may_be_and_the_last_is_used_first(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    first, second, third = await asyncio.gather(pool.acquire(), pool.acquire(), pool.acquire())
    for connection in (first, second, third):
        pool.release(connection)
    assert [await pool.acquire(), await pool.acquire()] == [second, first]
    assert await pool.acquire() is not third


async def test_without_a_size_nothing_is_kept_but_for_the_next_statement_of_the_same_request(
    make_pool: Callable[..., Pool],
) -> None:
    pool = make_pool(0)
    connection = await pool.acquire()
    pool.release(connection)
    assert await pool.acquire() is connection
    pool.release(connection)
    await asyncio.sleep(0)
    assert pool.state()["connections_idle"] == 0
    await closed_connections()
    assert connection.is_closed()


async def test_a_session_says_whose_it_is_and_what_connecting_took_is_counted(
    make_pool: Callable[..., Pool], migrated_postgres_url: str
) -> None:
    pool = make_pool(1)
    connection = await pool.acquire()
    assert await connection.fetchval("SHOW application_name") == f"todo-backend/{__version__}"
    pool.release(connection)
    assert await pool.acquire() is connection
    state = pool.state()
    assert state["connects_total"] == 1
    assert state["connect_seconds_total"] > 0
    named = parse_database_url(
        f"{migrated_postgres_url}{'&' if '?' in migrated_postgres_url else '?'}application_name=own"
    )
    assert isinstance(named, PostgresURL)
    own = await connect(named, make_settings(migrated_postgres_url))
    assert await own.fetchval("SHOW application_name") == "own"
    await own.close()
    await closed_connections()


async def test_a_connection_that_is_too_old_is_not_used_again(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(1, database_pool_recycle=60)
    connection = await pool.acquire()
    pool.release(connection)
    assert await pool.acquire() is connection
    connection.opened_at -= 61
    pool.release(connection)
    assert await pool.acquire() is not connection


async def test_an_error_of_the_statement_leaves_the_connection(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(1)
    connection = await pool.acquire()
    with pytest.raises(asyncpg.PostgresError) as error:
        await connection.execute("SELEKT 1")
    pool.discard(connection, error.value)
    assert await pool.acquire() is connection


async def test_a_connection_in_the_middle_of_something_is_not_used_again(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(1)
    connection = await pool.acquire()
    pool.discard(connection, asyncio.CancelledError())
    assert await pool.acquire() is not connection


async def test_one_that_is_lost_takes_the_idle_ones_with_it(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    lost, idle = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    lost.terminate()
    pool.discard(lost, ConnectionResetError())
    assert await pool.acquire() is not idle


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        asyncpg.exceptions.ReadOnlySQLTransactionError("reason"),
        asyncpg.exceptions.AdminShutdownError("reason"),
        asyncpg.exceptions.TooManyConnectionsError("reason"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_what_ends_one_ends_its_idle_peers(make_pool: Callable[..., Pool], error: Exception) -> None:
    pool = make_pool(2)
    failed, idle = await pool.acquire(), await pool.acquire()
    pool.release(idle)
    pool.discard(failed, error)
    assert await pool.acquire() not in {failed, idle}


async def test_the_kernel_is_told_to_find_out_whether_the_server_is_there(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (_, url):
        database = open_database(url, database_pool_size=1, database_command_timeout=7)
        with recorded_connections(database) as connections:
            await titles(database, owner)
        kept = connections[0]._transport.get_extra_info("socket")
        assert kept.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if sys.platform == "linux":
            assert kept.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000
        await database.close()


async def test_a_ping_finds_a_connection_that_only_looks_alive(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=1, database_pool_pre_ping=True)
        await database.executor.exec(insert(tasks), params=row(owner))
        proxy.cut_before = PING
        await database.executor.exec(insert(tasks), params=row(owner))  # a write: it would not be repeated
        assert proxy.cut_before is None
        assert len(await titles(database, owner)) == 2
        await database.close()


async def test_without_a_ping_a_kept_connection_costs_no_round_trip_before_use(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=1)
        await titles(database, owner)
        proxy.cut_before = PING
        await titles(database, owner)
        assert proxy.cut_before is not None
        await database.close()


async def test_a_transaction_waits_for_its_turn_like_everybody(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(
        migrated_postgres_url, database_pool_size=1, database_max_overflow=0, database_pool_timeout=0.05
    )
    async with database.executor.transaction() as within:
        await within.exec(insert(tasks), params=row(owner))
        with pytest.raises(DatabaseUnavailable, match="pool"):
            await titles(database, owner)
    assert await titles(database, owner) == ["title"]


async def test_a_transaction_that_fails_leaves_a_clean_connection(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=1, database_max_overflow=0)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 # it is the whole block that raises
        async with database.executor.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
            raise ZeroDivisionError
    await database.executor.exec(insert(tasks), params=row(owner, "kept"))
    assert await titles(database, owner) == ["kept"]


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        pytest.param(cast(literal(1), Numeric) / 2, Decimal("0.5"), id="Numeric"),
        pytest.param(cast(literal(1), Float) / 2, 0.5, id="Float"),
        pytest.param(literal("x"), "x", id="a value of its own"),
        pytest.param(null(), None, id="null"),
        pytest.param(literal(date(2026, 2, 28), Date), date(2026, 2, 28), id="Date"),
        pytest.param(literal(time(12, 30), Time), time(12, 30), id="Time"),
        pytest.param(literal("low", Enum("low", "high", native_enum=False)), "low", id="Enum"),
        pytest.param(literal({"a": [1, None]}, JSON), {"a": [1, None]}, id="JSON"),
    ],
)
async def test_expressions_have_their_values(
    migrated_url: str, open_database: NewDatabase, expression: ColumnElement[Any], value: Any
) -> None:
    executor = open_database(migrated_url).executor
    for _ in range(2):
        assert (await executor.exec(core_select(expression))).scalar_one() == value


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(select(Task), id="entities"),
        pytest.param(core_select(bindparam("called", callable_=lambda: 7, type_=Integer)), id="a value from Python"),
    ],
)
def test_what_only_a_session_can_run_is_refused(statement: Any) -> None:
    with pytest.raises(TypeError, match="session"):
        compile_statement(statement, ())


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        (core_select(literal(1)), False),
        (core_select(update(tasks).values(title="x").returning(tasks.c.id).cte("changed").c.id), True),
        (remove("nobody"), True),
        (core_select(literal(1)).add_cte(remove("nobody").cte("removed")), True),
        (core_select(literal(1)).union(core_select(literal(2))), False),
        (text("SELECT 1"), True),
        (text("SELECT 1").columns(column("one", Integer)), True),
    ],
)
def test_what_may_be_run_twice_is_known(statement: Any, writes: bool) -> None:
    assert compile_statement(statement, ()).writes is writes


async def test_a_parameter_that_is_not_given_is_a_mistake(migrated_url: str, open_database: NewDatabase) -> None:
    executor = open_database(migrated_url).executor
    with pytest.raises((KeyError, StatementError)):
        await executor.exec(core_select(bindparam("missing", type_=Integer)))


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_list_of_values_is_as_long_as_it_is(
    count: int, migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    executor = open_database(migrated_url).executor
    rows = [row(owner) for _ in range(4)]
    for each in rows:
        await executor.exec(insert(tasks), params=each)
    chosen = core_select(tasks.c.id).where(
        tasks.c.user_id == bindparam("owner"), tasks.c.id.in_(bindparam("ids", expanding=True))
    )
    result = await executor.exec(chosen, params={"owner": owner, "ids": [each["id"] for each in rows[:count]]})
    assert {found.id for found in result} == {each["id"] for each in rows[:count]}


async def test_rows_and_lists_of_values_can_be_parts_of_one_statement(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    executor = open_database(migrated_url).executor
    inserted = await executor.exec(
        insert(tasks).values([row(owner, title) for title in "abc"]).returning(tasks.c.title)
    )
    assert sorted(inserted.scalars()) == ["a", "b", "c"]
    copied = [literal(f"{owner}-copy") if each.name == "user_id" else each for each in tasks.c]
    chosen = core_select(*copied).where(tasks.c.user_id == owner, tasks.c.title.in_(["a", "c", "d"]))
    changed: Any = await executor.exec(insert(tasks).from_select(list(tasks.c.keys()), chosen))
    assert changed.rowcount == 2


async def test_a_list_of_parameters_is_a_row_for_each(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    executor = open_database(migrated_url).executor
    await executor.exec(insert(tasks), params=[row(owner), row(owner)])
    with pytest.raises(IntegrityError):
        await executor.exec(insert(tasks), params=[row(owner), row(owner, "")])
    found = await executor.exec(core_select(tasks.c.id).where(tasks.c.user_id == owner))
    assert len(found.all()) == 2, "all or none"


async def test_rows_that_asyncpg_would_not_return_are_not_lost_in_silence(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    executor = open_database(migrated_postgres_url).executor
    with pytest.raises(TypeError, match="values"):
        await executor.exec(insert(tasks).returning(tasks.c.id), params=[row(owner), row(owner)])


async def test_a_probe_compiles_nothing_anew(migrated_postgres_url: str, open_database: NewDatabase) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=1)
    await check_db_health(database)
    misses = compile_statement.cache_info().misses
    await check_db_health(database)
    assert compile_statement.cache_info().misses == misses


async def test_a_connection_is_given_back_once(make_pool: Callable[..., Pool]) -> None:
    pool = make_pool(2)
    connection = await pool.acquire()
    pool.release(connection)
    with pytest.raises(KeyError):
        pool.release(connection)


async def test_a_connection_that_was_used_once_is_gone_without_the_garbage_collector(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    # The collector counts objects and not their bytes, of which a connection has very many.
    database = open_database(migrated_postgres_url)
    with recorded_connections(database) as connections:
        await titles(database, owner)
        connection = weakref.ref(connections.pop())
    gc.disable()
    try:
        await closed_connections()
        assert connection() is None
    finally:
        gc.enable()


async def test_nobody_waits_for_ever_while_others_ask_again_at_once(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_url, database_pool_size=2, database_max_overflow=0)
    responses = 0

    async def ask_again_and_again() -> None:
        nonlocal responses
        while True:
            await titles(database, owner)
            responses += 1

    greedy = [asyncio.create_task(ask_again_and_again()) for _ in range(30)]
    await asyncio.sleep(0)
    await titles(database, owner)
    assert responses < 100
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_a_statement_says_how_many_rows_it_changed(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    executor = open_database(migrated_url).executor
    for _ in range(3):
        await executor.exec(insert(tasks), params=row(owner))
    result: Any = await executor.exec(rename(owner))
    assert result.rowcount == 3
    result = await executor.exec(remove("nobody"))
    assert result.rowcount == 0
