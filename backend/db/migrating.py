"""How the schema is changed while the service is in use: one migration at a time, and no lock waited for for long."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from backend.config import Settings
from backend.db.connection import closed_connections, connect
from backend.db.engine import MIGRATION_LIMITS, make_migration_engine
from backend.db.failures import is_lock_timeout, reason_of, translated
from backend.db.url import DatabaseURL, PostgresURL, direct_database_url
from backend.errors import DatabaseNotMigrated, DatabaseUnavailable, OutcomeUnknown

PATIENCE = 300.0
"""Seconds for which a migration waits for another one to end, and then for locks that others hold."""
LOOK_AGAIN = 0.5
"""Seconds after which it looks whether the other one has ended."""
PAUSE = 2.0
"""The longest pause, in seconds, after which a lock is tried again. Meanwhile those that it kept waiting go on."""

LOCK_KEY = 7_305_808_869_231_650_420
"""PostgreSQL's advisory lock of this schema: any number, the same in every process."""

T = TypeVar("T")

one_at_a_time = asyncio.Lock()
"""Alembic keeps its state in a module, so a process runs one migration at a time; the database's lock is for others."""


async def migrate(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run one of `migrations`' functions over the direct address while no other migration runs.

    It is run again from its beginning where a table was locked for two seconds. Raises `DatabaseError`.
    """
    url = direct_database_url(settings)
    async with one_at_a_time:
        if not isinstance(url, PostgresURL):  # an SQLite file is locked as a whole
            return await run_on_schema(settings, change)
        async with _alone(url, settings):
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    return await run_on_schema(settings, change)
                except DatabaseUnavailable as error:
                    if not is_lock_timeout(error) or time.monotonic() > end:
                        raise
                await asyncio.sleep(random.uniform(PAUSE / 2, PAUSE))  # noqa: S311 # no secret


async def run_on_schema(settings: Settings, function: Callable[[Connection], T], url: DatabaseURL | None = None) -> T:
    """Run a function on a connection, over the direct address unless another is given, and commit.

    Raises `DatabaseError`.
    """
    from backend.db.migrations import Unusable

    engine = make_migration_engine(url or direct_database_url(settings), settings)
    changed = False
    try:
        with translated(may_have_run=lambda: changed):
            async with engine.connect() as connection:
                try:
                    result = await connection.run_sync(function)
                except PendingRollbackError as error:  # the end of an autocommit block, on a connection that was lost
                    raise error.__context__ or error from None
                changed = True  # but for the commit, whose response can be lost
                await connection.commit()
            return result
    except Unusable as error:
        raise DatabaseNotMigrated(str(error)) from error
    except DBAPIError as error:  # what `translated` takes for a mistake of ours, and here is one of a migration
        raise DatabaseNotMigrated(f"a statement of the migration failed: {reason_of(error)}") from error
    finally:
        await engine.dispose()
        await closed_connections()


@asynccontextmanager
async def _alone(url: PostgresURL, settings: Settings) -> AsyncIterator[None]:
    """Hold the advisory lock, in a transaction of a connection of its own, which no pooler can take apart.

    A waiting statement and an open portal both hold a snapshot, for whose end another migration's CREATE INDEX
    CONCURRENTLY would wait. So the lock is polled, and the result is read from the command's status.
    Where the connection is lost, and the lock with it, the block is cut off: another migration may begin.
    """
    with translated():
        connection = await connect(url, settings)
    try:
        end = time.monotonic() + PATIENCE
        with translated():
            await connection.execute("BEGIN")
            await connection.execute(MIGRATION_LIMITS)  # nothing is said for as long as the migration lasts
            while await connection.execute(f"SELECT WHERE pg_try_advisory_xact_lock({LOCK_KEY})") != "SELECT 1":
                if time.monotonic() > end:
                    raise DatabaseUnavailable(f"another migration has not ended in {PATIENCE:.0f} s")
                await asyncio.sleep(LOOK_AGAIN)
        async with asyncio.timeout(None) as cut:

            def cut_off(_connection: object) -> None:
                cut.reschedule(0)

            connection.add_termination_listener(cut_off)
            try:
                yield
            finally:
                connection.remove_termination_listener(cut_off)
    except TimeoutError as error:
        raise OutcomeUnknown("the connection that held the lock of migrations was lost") from error
    finally:
        connection.terminate()  # and with it the transaction and its lock
