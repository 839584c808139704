"""The database as the service meets it in production."""

from collections.abc import AsyncIterator, Callable

import asyncpg
import pytest

from backend.db.session import Database
from tests.databases import connect, create_tables, new_postgres_database
from tests.neon import Neon, neon_like
from tests.programs import needed_program
from tests.settings import make_settings

NewDatabase = Callable[..., Database]


@pytest.fixture(scope="session")
async def neon() -> AsyncIterator[Neon]:
    """A migrated PostgreSQL behind PgBouncer behind TLS."""
    needed_program("pgbouncer")
    async with neon_like() as neon:
        await create_tables(neon.url())
        yield neon


@pytest.fixture(scope="session")
async def migrated_postgres_url(postgres_server_url: str) -> AsyncIterator[str]:
    """A migrated PostgreSQL database of these tests."""
    async with new_postgres_database(postgres_server_url) as url:
        await create_tables(url)
        yield url


@pytest.fixture(scope="session")
async def migrated_sqlite_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A migrated SQLite file of these tests."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('db') / 'todo.db'}"
    await create_tables(url)
    return url


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def migrated_url(request: pytest.FixtureRequest) -> str:
    """A migrated database of either engine."""
    url: str = request.getfixturevalue(f"migrated_{request.param}_url")
    return url


@pytest.fixture
async def empty_postgres_url(postgres_server_url: str) -> AsyncIterator[str]:
    """An empty PostgreSQL database of the test's own."""
    async with new_postgres_database(postgres_server_url) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """An empty database of either engine."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "empty_postgres_url")
    return url


@pytest.fixture
async def open_database() -> AsyncIterator[NewDatabase]:
    """A maker of databases that are closed after the test."""
    opened: list[Database] = []

    def make(url: str, **changes: object) -> Database:
        opened.append(Database(make_settings(url, **changes)))
        return opened[-1]

    yield make
    for database in opened:
        await database.close()


@pytest.fixture
def owner(user_id: Callable[[str], str]) -> str:
    """A user id that no other test has."""
    return user_id("owner")


@pytest.fixture
async def server(migrated_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the test's own to the migrated PostgreSQL database."""
    connection = await connect(migrated_postgres_url)
    yield connection
    await connection.close()
