"""The question behind /health/db: is there what requests need?"""

import logging
import uuid
from collections.abc import AsyncIterator

import asyncpg
import pytest

from backend.db.session import Database, create_db_and_tables
from backend.errors import DatabaseNotMigrated, DatabaseRefused
from tests.databases import connect, create_tables
from tests.db.conftest import NewDatabase

ROLE = f"todo_ready_{uuid.uuid4().hex}"


@pytest.fixture
async def owner(empty_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """The owner of a migrated database, in which a role may do what requests need."""
    await create_tables(empty_postgres_url)
    connection = await connect(empty_postgres_url)
    await connection.execute(f"CREATE ROLE {ROLE} LOGIN PASSWORD 'app'")
    await connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {ROLE}")
    yield connection
    await connection.execute(f"DROP OWNED BY {ROLE}; DROP ROLE {ROLE}")
    await connection.close()


@pytest.fixture
def database(empty_postgres_url: str, owner: asyncpg.Connection, open_database: NewDatabase) -> Database:
    return open_database(f"{empty_postgres_url}&user={ROLE}&password=app")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ("DROP TABLE tasks", DatabaseNotMigrated),
        ("ALTER TABLE tasks RENAME title TO name", DatabaseNotMigrated),
        (f"REVOKE SELECT ON tasks FROM {ROLE}", DatabaseRefused),
        ("ALTER TABLE tasks ADD COLUMN colour text", None),
    ],
    ids=["no table", "no column", "no right", "another column"],
)
async def test_what_requests_need_is_asked_for(
    change: str, error: type[Exception] | None, database: Database, owner: asyncpg.Connection
) -> None:
    await database.ping()
    await owner.execute(change)
    if error is None:
        await database.ping()
    else:
        with pytest.raises(error):
            await database.ping()


async def test_row_security_is_told_once(
    database: Database, owner: asyncpg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    await owner.execute("ALTER TABLE tasks ENABLE ROW LEVEL SECURITY")
    with caplog.at_level(logging.WARNING):
        await database.ping()
        await database.ping()
    assert [record.getMessage() for record in caplog.records if "row security" in record.getMessage()] != []
    assert len(caplog.records) == 1


async def test_a_file_without_tables_is_not_ready(sqlite_url: str, open_database: NewDatabase) -> None:
    database = open_database(sqlite_url)
    with pytest.raises(DatabaseNotMigrated):
        await database.ping()
    await create_db_and_tables(database)
    await database.ping()
