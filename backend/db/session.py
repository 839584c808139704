"""The database: plain SQLModel sessions for scripts, and the executor that requests use.

A function that is given no `Database` uses the process's own, made from the settings when it is first needed:
`engine` and `session_maker` of this module are that database's. What a session does and raises, SQLAlchemy and SQLModel
document. Requests do not use sessions: one statement by `Database.executor` costs a quarter of one by a session
(specs/decisions/0014-cost-of-a-request.md).
"""

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import ColumnElement, FromClause, Select, false, literal_column, select, true
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from backend.config import Settings, load_settings
from backend.db import sqlite
from backend.db.connection import closed_connections, connect_timeout
from backend.db.engine import make_engine
from backend.db.executors import DatabaseExecutor, PostgresExecutor
from backend.db.pool import OverflowSemaphore, Pool
from backend.db.url import PostgresURL, SQLiteURL, database_url

logger = logging.getLogger(__name__)


class Database:
    """One database: its executor, and an engine for sessions. Connects when first used."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = database_url(settings)
        self.executor: DatabaseExecutor
        self._pool: Pool | None = None
        self.engine = make_engine(self.url, settings)
        """SQLAlchemy's engine. Its connections are the sessions' own but on SQLite."""
        self.session_maker = async_sessionmaker(self.engine, class_=AsyncSession, expire_on_commit=False)
        self._probe: asyncio.Task[None] | None = None
        self._asked_at = 0.0
        self.has_responded = False
        """Whether the database has responded to `ping` since the start."""
        self._row_security_was_told = False
        command_timeout = settings.database_command_timeout
        seconds = connect_timeout(self.url, settings) + command_timeout
        if isinstance(self.url, SQLiteURL):
            connections = sqlite.CONNECTIONS if self.url.path else 1
            semaphore = OverflowSemaphore(connections, 0, settings.database_pool_timeout)
            self.executor = sqlite.SQLiteExecutor(self.engine, semaphore, seconds, lock_timeout=command_timeout)
        else:
            self._pool = Pool(self.url, settings)
            self.executor = PostgresExecutor(self._pool, seconds)

    async def ping(self, *, max_age: float = 0) -> None:
        """Return when the database has shown that it has every column that we need, and lets us read it.

        An SQLite file must have room to grow, too, unless it can only be read.

        Those who ask at the same time share one query. Its outcome, good or bad, serves for `max_age` seconds. Raises
        `DatabaseError`.
        """
        if self._probe is None or (self._probe.done() and time.monotonic() - self._asked_at >= max_age):
            self._probe = asyncio.create_task(self._ask())
        await asyncio.shield(self._probe)  # one that goes away must not fail the others

    async def _ask(self) -> None:
        on_postgres = isinstance(self.url, PostgresURL)
        try:
            # Not tried twice: it is to tell how things are.
            result = await self.executor.exec(_question(on_postgres=on_postgres), retry=False)
            if isinstance(self.url, SQLiteURL):
                sqlite.require_room(self.url)
        finally:
            self._asked_at = time.monotonic()
        self.has_responded = True
        if result.scalar() and not self._row_security_was_told:
            self._row_security_was_told = True
            logger.warning("row security is active for our role: todo-backend check tells whether it hides tasks")

    def state(self) -> dict[str, float]:
        """Return figures of the pool, for metrics."""
        return {} if self._pool is None else self._pool.state()

    async def close(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
        await self.engine.dispose()
        await closed_connections()


@functools.cache
def _question(*, on_postgres: bool) -> Select[*tuple[Any, ...]]:
    """Make a statement that names every column of ours, reads no row of any, and tells whether row security is active.

    It is asked again and again, so it is one statement, and fails where a column is missing. Which one,
    `migrations.missing` says, which takes several. A role of which row security hides tasks is no error to PostgreSQL:
    the tables look empty.
    """
    tables = SQLModel.metadata.sorted_tables  # of the models that are in use
    active: ColumnElement[Any] = literal_column(
        " OR ".join(f"row_security_active('{table.name}')" for table in tables) or "false"
    )
    source: FromClause = select(literal_column("1").label("one")).subquery()
    for table in tables:
        source = source.outerjoin(select(*table.columns).where(false()).subquery(), true())
    return select(active if on_postgres else literal_column("0")).select_from(source)


@functools.cache
def default_database() -> Database:
    """Return the database of the process's settings."""
    return Database(load_settings(database_url))


def __getattr__(name: str) -> Any:
    if name in {"engine", "session_maker"}:  # made when asked for: importing a module must not connect or fail
        return getattr(default_database(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


async def get_session() -> AsyncIterator[AsyncSession]:
    """Yield a session and close it: for `Depends(get_session)`. What is not committed is rolled back."""
    async with default_database().session_maker() as session:
        yield session


@asynccontextmanager
async def get_session_context(database: Database | None = None) -> AsyncIterator[AsyncSession]:
    """Open a session for a block: committed when it ends well, rolled back when it does not."""
    async with (database or default_database()).session_maker() as session:
        yield session
        await session.commit()


async def create_db_and_tables(database: Database | None = None) -> None:
    """Bring the schema up to date, over the direct address. Raises `DatabaseError`."""
    from backend.db.migrating import migrate, one_at_a_time
    from backend.db.migrations import upgrade  # Alembic takes long to import, and few processes need it

    database = database or default_database()
    if isinstance(database.url, SQLiteURL) and database.url.path is None:  # in memory: another engine would be another
        async with one_at_a_time, database.engine.connect() as connection:
            await connection.run_sync(upgrade)
        return
    await migrate(database.settings, upgrade)


async def check_db_health(database: Database | None = None) -> None:
    """Return when the database has responded to a query. Raises `DatabaseError`."""
    await (database or default_database()).ping()
