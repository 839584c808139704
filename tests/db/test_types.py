"""The types of statements: asked for once, and no longer believed once a migration has changed them."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from urllib.parse import quote

import asyncpg
import pytest
from sqlalchemy import TableClause, column, insert, literal_column, select, table

from backend.db import connection as connection_module
from backend.db.connection import StatementTypes
from backend.db.session import Database
from backend.errors import DatabaseNotMigrated, DatabaseUnavailable, OutcomeUnknown
from tests.db.conftest import NewDatabase
from tests.neon import DATABASE, PASSWORD, USER, Neon

Migrate = Callable[[str], Awaitable[object]]


@pytest.fixture(params=["PostgreSQL", "PgBouncer"])
async def migrated_under(
    request: pytest.FixtureRequest, open_database: NewDatabase, neon: Neon
) -> AsyncIterator[tuple[Callable[[int], Database], Migrate, TableClause]]:
    """A maker of databases, what changes their schema meanwhile, and a table of the test's own."""
    name = f"changing_{uuid.uuid4().hex}"
    direct = f"postgresql://{USER}:{quote(PASSWORD, safe='')}@/{DATABASE}?host={neon.postgres.socket_folder}"
    url = neon.url() if request.param == "PgBouncer" else direct
    admin = await neon.postgres.admin()
    await admin.execute(f"SET ROLE {USER}")

    async def migrate(statement: str) -> None:
        await admin.execute(statement.format(table=name))

    await migrate("CREATE TABLE {table} (number integer)")
    yield lambda pool_size: open_database(url, database_pool_size=pool_size), migrate, table(name, column("number"))
    await migrate("DROP TABLE {table}")
    await admin.close()


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_a_migration_under_a_running_service_is_read_as_it_is(
    migrated_under: tuple[Callable[[int], Database], Migrate, TableClause], pool_size: int
) -> None:
    make, migrate, numbers = migrated_under
    executor = make(pool_size).executor

    async def read() -> list[object]:
        return list((await executor.exec(select(numbers.c.number))).scalars())

    await migrate("INSERT INTO {table} VALUES (5)")
    assert await read() == [5]
    await migrate("ALTER TABLE {table} ADD COLUMN another text, ALTER COLUMN number TYPE bigint")
    assert await read() == [5]
    await migrate("ALTER TABLE {table} DROP COLUMN another; ALTER TABLE {table} RENAME number TO away")
    with pytest.raises(DatabaseNotMigrated):
        await read()
    await migrate("ALTER TABLE {table} RENAME away TO number")
    assert await read() == [5]
    await migrate("DROP TABLE {table}; CREATE TABLE {table} (before text, number integer)")
    await migrate("INSERT INTO {table} VALUES ('', 7)")
    assert await read() == [7]
    await migrate("ALTER TABLE {table} ALTER COLUMN number TYPE text USING 'seven'")
    with pytest.raises(DatabaseUnavailable):
        async with executor.transaction() as transaction:
            await transaction.exec(select(numbers.c.number))
    assert await read() == ["seven"]


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_a_write_whose_result_has_another_type_is_stored_once(
    migrated_under: tuple[Callable[[int], Database], Migrate, TableClause], pool_size: int
) -> None:
    make, migrate, numbers = migrated_under
    executor = make(pool_size).executor
    write = insert(numbers).values(number=literal_column("6")).returning(numbers.c.number)
    assert (await executor.exec(write)).scalar_one() == 6
    await migrate("ALTER TABLE {table} ALTER COLUMN number TYPE bigint")
    with pytest.raises(OutcomeUnknown):
        await executor.exec(write)
    assert (await executor.exec(write)).scalar_one() == 6
    assert list((await executor.exec(select(numbers.c.number))).scalars()) == [6, 6, 6]


async def test_types_are_asked_for_anew_when_they_are_old_and_of_few_statements_kept(
    server: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "MAX_DESCRIBED", 2)

    async def known(types: StatementTypes, *queries: str) -> list[bool]:
        return [(await types.describe(server, query))[1] for query in queries]

    assert await known(StatementTypes(60), "SELECT 1", "SELECT 1", "SELECT 2", "SELECT 3", "SELECT 2", "SELECT 1") == [
        *(False, True, False, False, True, False)
    ]
    assert await known(StatementTypes(0), "SELECT 1", "SELECT 1") == [False, False]
