"""The executors: what is committed when, what a failure is called, and that nothing waits or lingers."""

import asyncio
import gc
import select as operating_system_select
import socket
import sqlite3
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import Delete, Select, Update, delete, event, insert, literal_column, select, table, text, update
from sqlalchemy.exc import IntegrityError
from sqlmodel import SQLModel
from uuid_utils.compat import uuid7

from backend.config import ConfigurationError
from backend.db import connection as connection_module
from backend.db.migrating import migrate
from backend.db.session import (
    Database,
    check_db_health,
    create_db_and_tables,
    get_session_context,
)
from backend.db.url import PostgresURL, parse_database_url
from backend.errors import (
    DatabaseError,
    DatabaseNotMigrated,
    DatabaseRefused,
    DatabaseUnavailable,
    OutcomeUnknown,
    TaskNotFound,
)
from backend.models.task import Task
from tests.applications import client_of, running
from tests.databases import connect, new_postgres_database
from tests.db.conftest import NewDatabase
from tests.neon import until
from tests.network import Proxy, free_port, proxy_to
from tests.settings import make_settings

tasks = SQLModel.metadata.tables[str(Task.__tablename__)]

BACKENDS = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"


def row(owner: str, title: str = "title") -> dict[str, Any]:
    moment = datetime(2026, 1, 2, tzinfo=UTC)
    return {
        "user_id": owner,
        "id": uuid.uuid4(),
        "title": title,
        "description": None,
        "completed": False,
        "tags": "[]",
        "position": 0,
        "revision": 1,
        "created_at": moment,
        "updated_at": moment,
    }


def of(owner: str) -> Select[Any]:
    return select(tasks.c.title).where(tasks.c.user_id == owner)


def rename(owner: str) -> Update:
    return update(tasks).where(tasks.c.user_id == owner).values(title="renamed")


def remove(owner: str) -> Delete:
    return delete(tasks).where(tasks.c.user_id == owner)


async def titles(database: Database, owner: str) -> list[str]:
    result = await database.executor.exec(of(owner))
    return list(result.scalars())


async def until_async(condition: Callable[[], bool], what: str) -> None:
    """Wait until a condition of this process holds."""

    async def holds() -> bool:
        return condition()

    await until(holds, what)


async def until_running(server: asyncpg.Connection, query: str) -> int:
    """Wait until a query that contains this text sleeps or waits for a lock, and return its process.

    It is active before, too: while the server only parses it.
    """
    pid: int = await until(
        lambda: server.fetchval(
            f"SELECT pid {BACKENDS} AND wait_event_type IN ('Timeout', 'Lock') AND position($1 in query) > 0", query
        ),
        f"{query} runs",
    )
    return pid


async def until_waiting_for_a_lock(server: asyncpg.Connection) -> int:
    pid: int = await until(lambda: server.fetchval(f"SELECT pid {BACKENDS} AND wait_event_type = 'Lock'"), "waits")
    return pid


async def until_idle(server: asyncpg.Connection) -> None:
    await until(lambda: server.fetchval(f"SELECT count(*) = 0 {BACKENDS} AND state <> 'idle'"), "nothing runs")


async def until_alone(server: asyncpg.Connection) -> None:
    await until(lambda: server.fetchval(f"SELECT count(*) = 0 {BACKENDS}"), "no other connection")


@asynccontextmanager
async def locked(url: str, owner: str) -> AsyncIterator[asyncpg.Connection]:
    """Hold a lock on the owner's rows."""
    connection = await connect(url)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("SELECT 1 FROM tasks WHERE user_id = $1 FOR UPDATE", owner)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def server(server: asyncpg.Connection) -> asyncpg.Connection:
    """The server, once the connections of the test before have ended: this one must not take them for its own."""
    await until_alone(server)
    return server


# Single statements


async def test_a_statement_is_committed_by_itself(migrated_url: str, open_database: NewDatabase, owner: str) -> None:
    await open_database(migrated_url).executor.exec(insert(tasks), params=row(owner))
    assert await titles(open_database(migrated_url), owner) == ["title"]


async def test_rows_can_be_read_after_their_connection_was_given_back(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_url)
    await database.executor.exec(insert(tasks), params=[row(owner, str(number)) for number in range(300)])
    assert len(await titles(database, owner)) == 300


async def test_a_statement_against_a_constraint_fails_and_is_no_database_failure(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_url)
    with pytest.raises(IntegrityError):
        await database.executor.exec(insert(tasks), params=row(owner, title=""))
    assert await titles(database, owner) == []


async def test_an_error_shows_no_parameter(migrated_url: str, open_database: NewDatabase, owner: str) -> None:
    database = open_database(migrated_url)
    values = row(owner, title="c4n4ry" * 40)
    with pytest.raises(IntegrityError) as error:
        await database.executor.exec(insert(tasks), params=values)
    assert "c4n4ry" not in str(error.value).split("DETAIL")[0]
    assert owner not in str(error.value)


# Transactions


async def test_a_transaction_is_committed_at_its_end_and_not_before(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_url)
    async with database.executor.transaction() as within:
        await within.exec(insert(tasks), params=row(owner, "one"))
        await within.exec(insert(tasks), params=row(owner, "two"))
        assert await titles(database, owner) == []
    assert sorted(await titles(database, owner)) == ["one", "two"]


async def test_an_error_in_the_block_rolls_the_transaction_back(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_url)
    with pytest.raises(LookupError):  # noqa: PT012 # it is the whole block that raises
        async with database.executor.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
            raise LookupError
    assert await titles(database, owner) == []


async def test_an_error_of_the_block_that_is_not_the_databases_is_not_translated(
    migrated_url: str, open_database: NewDatabase
) -> None:
    with pytest.raises(FileNotFoundError):
        async with open_database(migrated_url).executor.transaction():
            raise FileNotFoundError


async def test_where_a_statement_has_failed_the_whole_transaction_has(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    # PostgreSQL responds to such a COMMIT with ROLLBACK and no error; SQLite would keep the other statements.
    database = open_database(migrated_url)
    for go_on in (False, True):
        with pytest.raises(RuntimeError, match="has failed"):  # noqa: PT012 # it is the whole block that raises
            async with database.executor.transaction() as within:
                await within.exec(insert(tasks), params=row(owner))
                with pytest.raises(IntegrityError):
                    await within.exec(insert(tasks), params=row(owner, ""))
                if go_on:
                    await within.exec(of(owner))
    assert await titles(database, owner) == []


async def test_an_error_of_the_block_costs_no_connection(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=1)
    pids = set()
    for _ in range(3):
        with pytest.raises(TaskNotFound):  # noqa: PT012 # it is the whole block that raises
            async with database.executor.transaction() as within:
                pids.add((await within.exec(text("SELECT pg_backend_pid()"))).scalar_one())
                await within.exec(insert(tasks), params=row(owner))
                raise TaskNotFound
    assert len(pids) == 1
    assert await titles(database, owner) == []


async def test_a_transaction_whose_rollback_is_interrupted_leaves_nothing(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=1, database_max_overflow=0)
        in_block = asyncio.Event()

        async def fail() -> None:
            async with database.executor.transaction() as within:
                await within.exec(insert(tasks), params=row(owner))
                proxy.flowing.clear()  # the server hears no more of it
                in_block.set()
                raise LookupError

        task = asyncio.create_task(fail())
        await in_block.wait()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proxy.flowing.set()
        assert await titles(database, owner) == []
        await database.close()


async def test_a_transaction_begins_on_another_connection_where_the_first_was_dead(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=1)
        proxy.cut_before = b"BEGIN"
        async with database.executor.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
        assert proxy.cut_before is None
        assert await titles(database, owner) == ["title"]
        await database.close()


REFUSE_AT_COMMIT = (
    """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '23514'; END $$""",
    """CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON tasks DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION refuse()""",
)


async def test_a_commit_that_the_server_refuses_is_never_silent(
    postgres_server_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with new_postgres_database(postgres_server_url) as url:
        database = open_database(url)
        await create_db_and_tables(database)
        for statement in REFUSE_AT_COMMIT:
            await database.executor.exec(text(statement))
        with pytest.raises(IntegrityError):
            async with database.executor.transaction() as within:
                await within.exec(insert(tasks), params=row(owner))
        assert await titles(database, owner) == []
        await database.close()


@asynccontextmanager
async def proxied(address: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a database, and the database's address through it."""
    server = parse_database_url(address)
    assert isinstance(server, PostgresURL)
    assert server.host is not None
    path = f"{server.host}/.s.PGSQL.{server.port}" if server.host.startswith("/") else None
    async with proxy_to(path=path, port=server.port) as proxy:
        credentials = f"{quote(server.user or '')}:{quote(server.password or '')}"
        yield proxy, f"postgresql://{credentials}@127.0.0.1:{proxy.port}/{server.database}?sslmode=disable"


async def test_a_commit_without_a_response_has_an_unknown_outcome(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url)
        with pytest.raises(OutcomeUnknown):  # noqa: PT012 # it is the whole block that raises
            async with database.executor.transaction() as within:
                await within.exec(insert(tasks), params=row(owner, "committed"))
                proxy.cut_after = b"COMMIT"
        assert proxy.cut_after is None
        assert await titles(database, owner) == ["committed"]  # as it happens: the response was lost, not the commit
        await database.close()


async def test_a_transaction_that_breaks_before_its_commit_wrote_nothing(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection, owner: str
) -> None:
    with pytest.raises(DatabaseUnavailable):  # noqa: PT012 # it is the whole block that raises
        async with open_database(migrated_postgres_url).executor.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
            await server.execute(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
            await within.exec(of(owner))


# What failures are called


async def test_a_database_that_cannot_be_reached_is_unavailable(open_database: NewDatabase) -> None:
    url = f"postgresql://u:c4n4ry@127.0.0.1:{free_port()}/db"
    database = open_database(url, database_connect_timeout=0.3)
    with pytest.raises(DatabaseUnavailable) as error:
        await database.executor.exec(remove("nobody"))
    assert "c4n4ry" not in str(error.value)
    with pytest.raises(DatabaseUnavailable):
        await check_db_health(database)
    with pytest.raises(DatabaseUnavailable):
        await create_db_and_tables(database)
    with pytest.raises(DatabaseUnavailable):
        async with database.executor.transaction() as within:
            await within.exec(of("nobody"))


async def test_a_host_without_an_address_is_unavailable(open_database: NewDatabase) -> None:
    with pytest.raises(DatabaseUnavailable):
        await check_db_health(open_database("postgresql://u:p@host.invalid/db"))


@pytest.mark.parametrize("wrong", ["dbname=nope", "user=nope"])
async def test_a_wrong_database_or_user_is_unavailable(
    wrong: str, migrated_postgres_url: str, open_database: NewDatabase
) -> None:
    # Of a parameter given twice nothing may be accepted, so the right one gives way.
    name = wrong.partition("=")[0]
    url = "&".join(part for part in migrated_postgres_url.split("&") if not part.startswith(f"{name}=")) + f"&{wrong}"
    with pytest.raises(DatabaseUnavailable):
        await open_database(url).executor.exec(remove("nobody"))


async def test_a_wrong_password_is_unavailable_and_is_not_repeated(
    open_database: NewDatabase, refusing_server: str
) -> None:
    with pytest.raises(DatabaseUnavailable) as error:
        await open_database(refusing_server).executor.exec(remove("nobody"))
    assert "c4n4ry" not in str(error.value)


@pytest.fixture
async def refusing_server() -> AsyncIterator[str]:
    """A server that refuses as Neon's proxy does: everything is XX000."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4))
        await reader.readexactly(length - 4)
        writer.write(error_response("XX000", "password authentication failed for user 'u'"))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield f"postgresql://u:c4n4ry@127.0.0.1:{port}/db?sslmode=disable"
    server.close()
    await server.wait_closed()


async def test_a_database_without_tables_is_not_migrated(empty_url: str, open_database: NewDatabase) -> None:
    database = open_database(empty_url)
    for statement in (of("nobody"), remove("nobody")):
        with pytest.raises(DatabaseNotMigrated):
            await database.executor.exec(statement)
    with pytest.raises(DatabaseNotMigrated):
        async with database.executor.transaction() as within:
            await within.exec(of("nobody"))
    await database.close()


# An UPDATE that joins the sleep would not do: with fresh statistics the planner looks for the rows first, finds none,
# and never sleeps.
SLEEPING_WRITE = (
    "INSERT INTO tasks (user_id, id, title, completed, created_at, updated_at) "
    "SELECT 'nobody', gen_random_uuid(), 'late', false, now(), now() FROM (SELECT pg_sleep(60)) AS slept "
    "RETURNING title"
)


@pytest.mark.parametrize(
    ("end", "error"),
    [("pg_terminate_backend", OutcomeUnknown), ("pg_cancel_backend", DatabaseUnavailable)],
    ids=["its connection dies", "the server cancels it"],
)
async def test_a_write_has_an_unknown_outcome_unless_the_server_tells_that_it_had_none(
    end: str,
    error: type[Exception],
    migrated_postgres_url: str,
    open_database: NewDatabase,
    server: asyncpg.Connection,
) -> None:
    write = asyncio.create_task(open_database(migrated_postgres_url).executor.exec(text(SLEEPING_WRITE)))
    await server.execute(f"SELECT {end}($1)", await until_running(server, "AS slept"))
    with pytest.raises(error):
        await write


async def test_a_select_around_a_write_is_a_write(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection
) -> None:
    """It looks like a read, which is run once more where its connection is lost."""
    gone = delete(tasks).where(literal_column("(SELECT pg_sleep(60) AS slept) IS NULL")).returning(tasks.c.id)
    statement: Select[Any] = select(gone.cte("gone").c.id)
    write = asyncio.create_task(open_database(migrated_postgres_url).executor.exec(statement))
    await server.execute("SELECT pg_terminate_backend($1)", await until_running(server, "AS slept"))
    with pytest.raises(OutcomeUnknown):
        await write


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_a_write_that_was_lost_before_it_was_sent_is_written_once(
    pool_size: int, migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    # A connection asks for a statement's types the first time: what is cut then cannot have run.
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=pool_size)
        proxy.cut_before = b"INSERT INTO"
        await database.executor.exec(insert(tasks), params=row(owner))
        assert proxy.cut_before is None
        assert await titles(database, owner) == ["title"]
        await database.close()


WAITING_READ = "pg_advisory_xact_lock(7)::text || 'read'"


async def test_a_read_whose_connection_dies_is_run_once_more(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection
) -> None:
    await server.execute("SELECT pg_advisory_lock(7)")
    statement: Select[Any] = select(literal_column(WAITING_READ))
    read = asyncio.create_task(open_database(migrated_postgres_url).executor.exec(statement))
    await server.execute("SELECT pg_terminate_backend($1)", await until_running(server, WAITING_READ))
    await server.execute("SELECT pg_advisory_unlock(7)")
    assert (await read).scalar_one() == "read"


async def test_a_read_whose_connection_dies_twice_is_unavailable(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection
) -> None:
    await server.execute("SELECT pg_advisory_lock(7)")
    statement: Select[Any] = select(literal_column(WAITING_READ))
    read = asyncio.create_task(open_database(migrated_postgres_url).executor.exec(statement))
    for _ in range(2):
        # Returns when that one has ended: the next one that runs is the repetition.
        await server.execute("SELECT pg_terminate_backend($1, 10000)", await until_running(server, WAITING_READ))
    with pytest.raises(DatabaseUnavailable):
        await read
    await server.execute("SELECT pg_advisory_unlock(7)")


async def test_the_servers_own_time_limit_is_unavailable(
    migrated_postgres_url: str, open_database: NewDatabase
) -> None:
    database = open_database(f"{migrated_postgres_url}&options=-c%20statement_timeout%3D50")
    with pytest.raises(DatabaseUnavailable, match="57014"):
        await database.executor.exec(text(SLEEPING_WRITE))


@pytest.mark.parametrize("sqlstate", ["25006", "53300", "53100", "40001", "40P01", "55P03"])
async def test_a_refusal_of_the_server_is_unavailable_without_its_detail(
    sqlstate: str, migrated_postgres_url: str, open_database: NewDatabase
) -> None:
    raises = f"RAISE EXCEPTION 'reason' USING ERRCODE = '{sqlstate}', DETAIL = 'c4n4ry-detail', HINT = 'c4n4ry-hint'"
    with pytest.raises(DatabaseUnavailable) as error:
        await open_database(migrated_postgres_url).executor.exec(text(f"DO $$ BEGIN {raises}; END $$"))
    assert "reason" in str(error.value)
    assert "c4n4ry" not in str(error.value)


async def test_a_missing_right_is_no_outage(migrated_postgres_url: str, open_database: NewDatabase) -> None:
    raises = "RAISE EXCEPTION 'permission denied for table tasks' USING ERRCODE = '42501'"
    with pytest.raises(DatabaseRefused, match="permission denied for table tasks"):
        await open_database(migrated_postgres_url).executor.exec(text(f"DO $$ BEGIN {raises}; END $$"))


async def test_a_mistake_in_a_statement_is_no_failure_of_the_database(
    migrated_postgres_url: str, open_database: NewDatabase
) -> None:
    with pytest.raises(Exception, match="syntax error") as error:
        await open_database(migrated_postgres_url).executor.exec(text("SELEKT 1"))
    assert not isinstance(error.value, DatabaseError)


# Deadlines


async def test_a_write_that_waits_too_long_for_a_lock_ends_here_and_on_the_server(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection, owner: str
) -> None:
    await open_database(migrated_postgres_url).executor.exec(insert(tasks), params=row(owner))
    database = open_database(migrated_postgres_url, database_command_timeout=0.3)
    async with locked(migrated_postgres_url, owner):
        with pytest.raises(OutcomeUnknown):
            await database.executor.exec(rename(owner))
        await until(
            lambda: server.fetchval(f"SELECT count(*) = 0 {BACKENDS} AND wait_event_type = 'Lock'"), "the query ends"
        )
    assert await titles(database, owner) == ["title"]


async def test_all_calls_of_a_request_share_one_deadline_and_none_is_begun_after_it(
    migrated_url: str, open_database: NewDatabase, owner: str
) -> None:
    # On SQLite a statement that waits for a lock cannot be given up: none is begun that could wait past the deadline.
    command_timeout = 60 if migrated_url.startswith("sqlite") else 1
    database = open_database(
        migrated_url, database_connect_timeout=1, database_command_timeout=command_timeout, database_pool_size=1
    )
    request = database.executor.for_request()

    async def read_again_and_again() -> None:
        while True:  # each of them is in time
            await request.exec(of(owner))

    async with asyncio.timeout(20):
        with pytest.raises(DatabaseUnavailable):
            await read_again_and_again()
    # Another request has its own time, and leaves a connection on which the next could be sent at once.
    await database.executor.for_request().exec(insert(tasks), params=row(owner, "another's"))
    with pytest.raises(DatabaseUnavailable):  # not `OutcomeUnknown`
        await request.exec(insert(tasks), params=row(owner))
    with pytest.raises(DatabaseUnavailable):
        async with request.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
    assert await titles(database, owner) == ["another's"]


async def test_a_request_of_many_calls_is_refused_where_each_of_them_is_in_time(
    migrated_postgres_url: str, owner: str
) -> None:
    recurring = {"title": "daily", "due_date": "2030-01-01", "recurrence": "FREQ=DAILY"}
    async with proxied(migrated_postgres_url) as (proxy, url):
        settings = make_settings(url, database_connect_timeout=1, database_command_timeout=1, database_pool_size=1)
        async with running(settings) as app, client_of(app, settings, owner) as client:
            wanted = [(await client.post("/api/tasks", json={"title": "plain"})).json()["id"]]
            for _ in range(2):
                operations = [{"op": "put", "id": str(uuid7()), "task": recurring} for _ in range(100)]
                assert (await client.post("/api/tasks/batch", json={"operations": operations})).status_code == 200
                wanted += [operation["id"] for operation in operations]
            proxy.delay = 0.1  # each way; a statement for the plain task, then four transactions of 1.2 s
            response = await client.post("/api/tasks/bulk-complete", json={"task_ids": wanted})
            proxy.delay = 0
            assert (response.status_code, response.json()["code"]) == (503, "outcome_unknown")
            assert 1 <= (await client.get("/api/tasks/stats")).json()["completed"] < len(wanted)
            assert app.state.database.state()["connections_in_use"] == 0


async def test_a_server_that_accepts_and_says_nothing_is_unavailable_in_the_end(open_database: NewDatabase) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        database = open_database(f"postgresql://u:p@127.0.0.1:{port}/db", database_connect_timeout=0.2)
        async with asyncio.timeout(20):
            with pytest.raises(DatabaseUnavailable):
                await database.executor.exec(remove("nobody"))


async def test_waiting_for_a_pooled_connection_has_a_limit(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection, owner: str
) -> None:
    database = open_database(
        migrated_postgres_url, database_pool_size=1, database_max_overflow=0, database_pool_timeout=0.2
    )
    sleep = asyncio.create_task(database.executor.exec(text("SELECT pg_sleep(60), 'holder'")))
    await until_running(server, "'holder'")
    with pytest.raises(DatabaseUnavailable, match="pool"):
        await database.executor.exec(rename(owner))
    sleep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleep


async def test_a_locked_sqlite_file_is_unavailable_after_the_command_timeout(
    sqlite_url: str, open_database: NewDatabase, owner: str
) -> None:
    database = open_database(sqlite_url, database_command_timeout=0.2)
    await create_db_and_tables(database)
    async with database.executor.transaction() as within:
        await within.exec(insert(tasks), params=row(owner))
        with pytest.raises(DatabaseUnavailable):
            await database.executor.exec(insert(tasks), params=row(owner))
        assert await titles(database, owner) == [], "WAL: readers do not wait for a writer"


async def test_first_connections_do_not_queue_behind_one_that_hangs(open_database: NewDatabase) -> None:
    accepted: list[asyncio.StreamWriter] = []
    everybody = asyncio.Event()

    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        if len(accepted) == 3:
            everybody.set()

    listener = await asyncio.start_server(accept, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    database = open_database(f"postgresql://u:p@127.0.0.1:{port}/db?sslmode=disable", database_pool_size=5)
    waiting = [asyncio.create_task(database.executor.exec(rename("x"))) for _ in range(3)]
    async with asyncio.timeout(20):
        await everybody.wait()  # all three have asked for a connection, and none has one
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for writer in accepted:
        writer.close()
    listener.close()


# Pools


async def test_a_pooled_connection_that_died_while_idle_reaches_nobody(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection, owner: str
) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=3)
    for _ in range(5):
        pids = await asyncio.gather(
            *(database.executor.exec(text("SELECT pg_backend_pid(), pg_sleep(0.05)")) for _ in range(3))
        )
        assert len({result.scalar_one() for result in pids}) == 3
        await server.execute(f"SELECT pg_terminate_backend(pid) {BACKENDS}")
        await until_alone(server)
        results = await asyncio.gather(
            *(database.executor.exec(insert(tasks), params=row(owner)) for _ in range(3)), return_exceptions=True
        )
        assert not [result for result in results if isinstance(result, BaseException)]
    assert len(await titles(database, owner)) == 15


def kill_and_wait(url: PostgresURL, pid: int) -> None:
    """End a process of the server and wait until it has, on a loop of our own."""

    async def kill() -> None:
        connection = await asyncpg.connect(**url.connect_arguments())
        await connection.execute("SELECT pg_terminate_backend($1, 20000)", pid)
        await connection.close()

    asyncio.run(kill())


@pytest.mark.parametrize("system", ["this one", "Windows"])
async def test_a_pooled_connection_whose_end_the_loop_has_not_seen_reaches_nobody(
    system: str, migrated_postgres_url: str, open_database: NewDatabase, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if system == "Windows":
        monkeypatch.delattr(operating_system_select, "poll")
    url = parse_database_url(migrated_postgres_url)
    assert isinstance(url, PostgresURL)
    database = open_database(migrated_postgres_url, database_pool_size=1)
    pid = (await database.executor.exec(text("SELECT pg_backend_pid()"))).scalar_one()
    assert (await database.executor.exec(text("SELECT pg_backend_pid()"))).scalar_one() == pid
    killer = threading.Thread(target=kill_and_wait, args=(url, pid))
    killer.start()
    killer.join()  # keeps this loop from reading what the server says
    await database.executor.exec(insert(tasks), params=row(owner))
    assert await titles(database, owner) == ["title"]


def error_response(sqlstate: str, message: str) -> bytes:
    """A server's last words, as PostgreSQL's protocol writes them."""
    fields = f"SFATAL\0VFATAL\0C{sqlstate}\0M{message}\0\0".encode()
    return b"E" + (len(fields) + 4).to_bytes(4) + fields


async def test_a_pooled_connection_that_has_been_told_goodbye_and_is_still_open_reaches_nobody(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    # Between the server's last message and the end of the stream there is nothing to read.
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(url, database_pool_size=1)
        await database.executor.exec(insert(tasks), params=row(owner, "before"))
        for writer in proxy.open:
            writer.write(error_response("57P01", "terminating connection due to administrator command"))
            await writer.drain()
        for _ in range(100):  # turns of the loop, in which the connection reads what has come
            await asyncio.sleep(0)
        await database.executor.exec(insert(tasks), params=row(owner, "after"))
        assert sorted(await titles(database, owner)) == ["after", "before"]
        await database.close()


async def test_a_kept_connection_is_used_again(migrated_postgres_url: str, open_database: NewDatabase) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=3)
    pids = {(await database.executor.exec(text("SELECT pg_backend_pid()"))).scalar_one() for _ in range(5)}
    assert len(pids) == 1


async def test_without_a_pool_every_request_connects_anew_and_leaves_nothing(
    migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection
) -> None:
    database = open_database(migrated_postgres_url)
    pids = set()
    for _ in range(3):
        pids.add((await database.executor.exec(text("SELECT pg_backend_pid()"))).scalar_one())
        await asyncio.sleep(0)  # as between requests
    assert len(pids) == 3
    await until_alone(server)


@pytest.mark.parametrize("pool_size", [0, 2])
async def test_a_client_that_goes_away_leaves_no_connection_and_no_query(
    pool_size: int, migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection
) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=pool_size)
    task = asyncio.create_task(database.executor.exec(text(SLEEPING_WRITE)))
    await until_running(server, "AS slept")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_idle(server)
    # As many as may be open can be taken at the same time: nobody holds a permit any more.
    async with asyncio.timeout(20):
        await asyncio.gather(*(database.executor.exec(text("SELECT pg_sleep(0.05)")) for _ in range(12)))


@pytest.mark.parametrize("pool_size", [0, 2])
async def test_a_transaction_whose_client_goes_away_leaves_nothing(
    pool_size: int, migrated_postgres_url: str, open_database: NewDatabase, server: asyncpg.Connection, owner: str
) -> None:
    database = open_database(migrated_postgres_url, database_pool_size=pool_size)

    async def write() -> None:
        async with database.executor.transaction() as within:
            await within.exec(insert(tasks), params=row(owner))
            await within.exec(text("SELECT pg_sleep(60), 'in a transaction'"))

    task = asyncio.create_task(write())
    await until_running(server, "'in a transaction'")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_idle(server)
    assert await titles(database, owner) == []


async def test_after_a_failover_no_write_fails(
    migrated_postgres_url: str, open_database: NewDatabase, owner: str
) -> None:
    # What was the primary is a replica now, and new connections lead to the new primary.
    database = open_database(migrated_postgres_url, database_pool_size=3)
    sleeps = (database.executor.exec(text("SELECT pg_sleep(0.05)")) for _ in range(3))
    await asyncio.gather(*sleeps)
    for connection in database._pool._idle if database._pool else ():
        await connection.execute("SET default_transaction_read_only = on")
    await database.executor.exec(insert(tasks), params=row(owner))
    assert database._pool is not None
    assert len(database._pool._idle) == 1, "those that were idle lead to the replica as well"
    for _ in range(3):
        await database.executor.exec(insert(tasks), params=row(owner))
    assert len(await titles(database, owner)) == 4


@pytest.mark.parametrize(("pool_size", "connections"), [(0, 6), (3, 3)])
async def test_who_cannot_connect_gets_a_connection_that_comes_back(
    migrated_postgres_url: str,
    open_database: NewDatabase,
    monkeypatch: pytest.MonkeyPatch,
    pool_size: int,
    connections: int,
) -> None:
    monkeypatch.setattr(connection_module, "RETRY_AFTER", 30)  # nobody shall come to a second attempt
    monkeypatch.setattr(connection_module, "MAX_RETRY_AFTER", 30)
    async with proxied(migrated_postgres_url) as (proxy, url):
        database = open_database(
            url, database_pool_size=pool_size, database_max_overflow=0, database_connect_timeout=60
        )
        pool = database._pool
        assert pool is not None
        kept = await pool.acquire()

        async def refuse() -> Any:
            raise ConnectionRefusedError

        proxy.connect_backend = refuse
        waiting = [asyncio.create_task(database.executor.exec(text("SELECT 1"))) for _ in range(5)]
        refused = connections - 1  # the first was let in; all others are to be seen waiting, or they would come late
        waiters: Any = vars(pool._came_back)
        await until_async(lambda: len(waiters["_waiters"]) == refused, "all that may have tried to connect")
        pool.release(kept)
        async with asyncio.timeout(20):
            await asyncio.gather(*waiting)
        await database.close()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # nothing can be said on a loop that is closed
def test_a_pool_outlives_an_event_loop(migrated_postgres_url: str, owner: str) -> None:
    database = Database(make_settings(migrated_postgres_url, database_pool_size=1))

    async def write() -> None:
        await database.executor.exec(insert(tasks), params=row(owner))

    for _ in range(3):
        asyncio.run(write())
    assert asyncio.run(titles(database, owner)) == ["title"] * 3
    asyncio.run(database.close())
    gc.collect()


# Health


async def test_a_healthy_database_responds(migrated_url: str, open_database: NewDatabase) -> None:
    await check_db_health(open_database(migrated_url))


async def test_probes_at_the_same_time_share_one_query(
    migrated_postgres_url: str, open_database: NewDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = open_database(migrated_postgres_url)
    asked = 0
    ask: Callable[[], Coroutine[Any, Any, None]] = database._ask

    async def count() -> None:
        nonlocal asked
        asked += 1
        await ask()

    monkeypatch.setattr(database, "_ask", count)
    await asyncio.gather(*(check_db_health(database) for _ in range(20)))
    assert asked == 1
    await check_db_health(database)
    assert asked == 2, "a response is not kept"


async def test_a_probe_that_goes_away_does_not_fail_the_others(
    migrated_postgres_url: str, open_database: NewDatabase
) -> None:
    database = open_database(migrated_postgres_url)
    first, second = (asyncio.create_task(check_db_health(database)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first


# SQLite


async def test_sqlite_is_set_up_for_several_readers_and_a_writer(sqlite_url: str, open_database: NewDatabase) -> None:
    database = open_database(sqlite_url, database_command_timeout=3)
    await create_db_and_tables(database)
    executor = database.executor
    values = {
        name: (await executor.exec(text(f"PRAGMA {name}"))).scalar_one()
        for name in ("journal_mode", "foreign_keys", "busy_timeout", "synchronous")
    }
    assert values == {"journal_mode": "wal", "foreign_keys": 1, "busy_timeout": 3000, "synchronous": 2}


async def test_a_file_that_cannot_be_set_up_now_can_be_read(tmp_path: Path, open_database: NewDatabase) -> None:
    # So it is with a file that may not be written, which root, who may run these tests, could not show.
    with closing(sqlite3.connect(tmp_path / "old.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE one AS SELECT 1 AS number")
        other.execute("BEGIN")
        other.execute("SELECT * FROM one").fetchall()  # whoever reads it keeps others from changing its journal
        database = open_database(f"sqlite+aiosqlite:///{tmp_path / 'old.db'}", database_command_timeout=0.1)
        found = await database.executor.exec(select(literal_column("number")).select_from(table("one")))
        assert found.scalar_one() == 1
        await database.close()


async def by_statement(database: Database, owner: str) -> None:
    await database.executor.exec(insert(tasks).returning(tasks.c.id), params=row(owner))


async def by_transaction(database: Database, owner: str) -> None:
    async with database.executor.transaction() as within:
        for _ in range(2):
            await within.exec(insert(tasks).returning(tasks.c.id), params=row(owner))


async def by_session(database: Database, owner: str) -> None:
    async with get_session_context(database) as session:
        for _ in range(2):
            await session.exec(insert(tasks).returning(tasks.c.id), params=row(owner))


async def by_reading(database: Database, _owner: str) -> None:
    await database.executor.exec(select(literal_column("name")).select_from(table("sqlite_master")))


@pytest.mark.parametrize(
    ("work", "statements", "rows"),
    [(by_statement, 1, 1), (by_transaction, 4, 2), (by_session, 3, 2), (by_reading, 1, 0)],
)
async def test_who_is_cancelled_leaves_no_lock_on_an_sqlite_file_and_nothing_by_halves(
    sqlite_url: str,
    tmp_path: Path,
    open_database: NewDatabase,
    work: Callable[[Database, str], Coroutine[Any, Any, None]],
    statements: int,
    rows: int,
) -> None:
    database = open_database(sqlite_url)
    await create_db_and_tables(database)
    await database.executor.exec(insert(tasks), params=row("another"))  # there must be something in the log
    sent = asyncio.Semaphore(0)
    event.listen(database.engine.sync_engine, "before_cursor_execute", lambda *_: sent.release())
    gc.disable()  # which would give back what nobody else does, some time
    try:
        for number in range(1, statements + 1):
            owner = f"cancelled at statement {number}"
            task = asyncio.create_task(work(database, owner))
            for _ in range(number):
                await sent.acquire()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            with closing(sqlite3.connect(tmp_path / "todo.db", timeout=0)) as another:
                assert another.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0, "someone reads or writes"
            assert len(await titles(database, owner)) in {0, rows}
            sent = asyncio.Semaphore(0)
    finally:
        gc.enable()


async def test_a_database_in_memory_keeps_its_tables(open_database: NewDatabase, owner: str) -> None:
    database = open_database("sqlite+aiosqlite://")
    await create_db_and_tables(database)
    await database.executor.exec(insert(tasks), params=row(owner))
    assert await titles(database, owner) == ["title"]


async def test_a_migration_over_a_wrong_direct_address_names_the_variable() -> None:
    settings = make_settings("sqlite+aiosqlite://", database_url_direct=SecretStr("nonsense"))
    with pytest.raises(ConfigurationError, match="DATABASE_URL_DIRECT"):
        await migrate(settings, lambda _connection: None)
