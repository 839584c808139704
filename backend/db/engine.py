"""Engines: how a connection is made, kept, looked at before use, and closed.

Every statement of the service runs on its own in autocommit: no BEGIN, no COMMIT, one round trip where the connection
is kept. The reasons and the measurements: specs/decisions/0004-neon-connection.md.
"""

import asyncio
import contextlib
import select
import sys
from contextvars import ContextVar
from typing import Any

import asyncpg
from sqlalchemy import URL, AsyncAdaptedQueuePool, Connection, NullPool, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from backend.config import Settings
from backend.db.failures import NOT_SENT, may_pass
from backend.db.url import DatabaseURL, PostgresURL, SQLiteURL
from backend.errors import DatabaseUnavailable

CLOSE_TIMEOUT = 1.0
"""Seconds that a goodbye to the server may take."""

RETRY_AFTER = 0.05
"""Seconds before the first new attempt to connect; the pauses grow from there, at random, up to the next figure."""
MAX_RETRY_AFTER = 0.5
REFUSED_PATIENCE = 3.0
"""Seconds for which refused connections are taken for a server that restarts."""

OVERFLOW_AFTER = 0.05
"""Seconds for which a request waits for a kept connection before it opens one of the overflow."""

MIGRATION_TIMEOUT = 90.0
"""Seconds that one statement of a migration may take; the server's own limit, set by the migration, comes before it."""

retrying: ContextVar[bool] = ContextVar("retrying", default=True)
"""Whether failures that may pass are worth another attempt, here and now."""

_closing: set[asyncio.Task[None]] = set()


class BackgroundCloseConnection(asyncpg.Connection):
    """A connection whose `close()` returns at once: a goodbye costs a round trip, and no answer should wait for it."""

    async def close(self, *, timeout: float | None = None) -> None:
        """Close in the background, within `CLOSE_TIMEOUT`."""
        task = asyncio.create_task(self._say_goodbye())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Exception):  # a connection that cannot be closed properly is dropped by close() itself
            await super().close(timeout=CLOSE_TIMEOUT)


async def closed_connections() -> None:
    """Wait until all connections given up so far are closed; at most a little over `CLOSE_TIMEOUT`."""
    if _closing:
        await asyncio.wait(_closing, timeout=CLOSE_TIMEOUT + 0.5)


class PooledPostgresDialect(PGDialect_asyncpg):
    """SQLAlchemy's asyncpg dialect without the questions that it asks on an engine's first connection.

    They cost nine round trips, and run under a mutex: while a first connection hangs, every other request would queue
    behind it. What they would find out does not matter to our statements, or is known: Neon runs PostgreSQL 14 and up.
    """

    driver = "asyncpg_pooled"
    supports_statement_cache = True

    def initialize(self, connection: Connection) -> None:
        """Set what the questions would have found."""
        self.server_version_info = (14, 0)
        self.default_schema_name = "public"
        self.default_isolation_level = "READ COMMITTED"
        self._backslash_escapes = False

    def is_disconnect(self, e: Exception, connection: Any, cursor: Any) -> bool:
        """Tell whether a connection is of no more use."""
        return bool(super().is_disconnect(e, connection, cursor)) or NOT_SENT in str(e)  # type: ignore[no-untyped-call] # SQLAlchemy has not typed it

    def on_connect(self) -> None:
        """Install no codecs: no column of ours is JSON."""


registry.register("postgresql.asyncpg_pooled", __name__, PooledPostgresDialect.__name__)


def connect_timeout(url: DatabaseURL, settings: Settings) -> float:
    """Return the seconds that connecting may take: the URL's own `connect_timeout`, else `DATABASE_CONNECT_TIMEOUT`."""
    own = url.connect_timeout if isinstance(url, PostgresURL) else None
    return settings.database_connect_timeout if own is None else own


async def connect(url: PostgresURL, settings: Settings, *, command_timeout: float | None = None) -> asyncpg.Connection:
    """Connect to PostgreSQL, trying again for as long as the connect timeout lasts where the server is not ready yet.

    Raises what asyncpg and the operating system raise: at once for what will not pass, such as a wrong password.
    """
    failures: list[Exception] = []

    async def attempt() -> asyncpg.Connection:
        try:
            return await _connect_once(url, command_timeout or settings.database_command_timeout)
        except Exception as error:
            failures.append(error)
            raise

    try:
        async with asyncio.timeout(connect_timeout(url, settings)):
            try:
                return await attempt()
            except Exception as error:
                if not (may_pass(error) and retrying.get()):
                    raise
            await asyncio.sleep(RETRY_AFTER)
            again = AsyncRetrying(
                retry=retry_if_exception(may_pass),
                wait=wait_random_exponential(multiplier=RETRY_AFTER, max=MAX_RETRY_AFTER),
                stop=_nobody_listens,
                reraise=True,
            )
            return await again(attempt)
    except TimeoutError as error:
        error.args = (f"after {failures[-1]!r}",) if failures else ()
        raise


def _nobody_listens(state: RetryCallState) -> bool:
    # Neon's proxy always answers. Where nobody does for longer than a restart takes, the caller is better told so.
    refused = state.outcome is not None and isinstance(state.outcome.exception(), OSError)
    return refused and (state.seconds_since_start or 0) > REFUSED_PATIENCE


async def _connect_once(url: PostgresURL, command_timeout: float) -> asyncpg.Connection:
    # `statement_cache_size=0` makes asyncpg send statements without names, which every PgBouncer in transaction mode
    # can pass on. SQLAlchemy's own cache must then stay at its default, or each statement costs a second round trip.
    return await asyncpg.connect(
        **url.connect_arguments(),
        command_timeout=command_timeout,
        statement_cache_size=0,
        connection_class=BackgroundCloseConnection,
    )


class Turns:
    """Admits as many at once as the pool keeps connections, first come, first served.

    The pool's own queue gives a connection to whoever asks in the moment when it comes back, past all who wait: under
    load some requests would wait until they fail. And it opens an overflow connection, which costs as much as a dozen
    statements, as soon as all kept ones are busy, though one is free again in a moment: here overflow is for those who
    have waited `OVERFLOW_AFTER`.
    """

    def __init__(self, kept: int, overflow: int, timeout: float) -> None:
        self._kept = asyncio.Semaphore(kept)
        self._overflow = asyncio.Semaphore(overflow)
        self._patience: tuple[tuple[asyncio.Semaphore, float], ...] = ((self._kept, timeout),)
        if overflow and timeout > OVERFLOW_AFTER:
            self._patience = ((self._kept, OVERFLOW_AFTER), (self._overflow, timeout - OVERFLOW_AFTER))

    async def take(self) -> asyncio.Semaphore:
        """Wait for a turn, `DATABASE_POOL_TIMEOUT` at most; return what has to be released after it.

        Raises `DatabaseUnavailable` where none has come.
        """
        if not self._kept.locked():
            await self._kept.acquire()
            return self._kept
        for places, seconds in self._patience:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await places.acquire()
                return places
        raise DatabaseUnavailable("no connection of the pool became free in time")


def make_turns(engine: AsyncEngine, settings: Settings) -> Turns:
    """Return the turns of an engine's pool; without a pool there are as many as anybody can ask for."""
    pool = engine.pool
    if not isinstance(pool, AsyncAdaptedQueuePool):
        return Turns(sys.maxsize, 0, settings.database_pool_timeout)
    return Turns(pool.size(), pool._max_overflow, settings.database_pool_timeout)  # noqa: SLF001 # it is not told otherwise


def make_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make the engine that serves requests: autocommit, SQL parameters hidden. Connects to nothing yet."""
    if isinstance(url, SQLiteURL):
        return _make_sqlite_engine(url, settings)
    return _make_postgres_engine(url, settings)


def _make_postgres_engine(url: PostgresURL, settings: Settings) -> AsyncEngine:
    pool: dict[str, Any] = {"poolclass": NullPool}
    if settings.database_pool_size:
        pool = {
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_max_overflow,
            "pool_timeout": settings.database_pool_timeout,
            "pool_recycle": settings.database_pool_recycle,
            "pool_pre_ping": settings.database_pool_pre_ping,
            "pool_use_lifo": True,  # the connections that are not needed grow old and go
        }
    engine = create_async_engine(
        URL.create("postgresql+asyncpg_pooled"),
        async_creator=lambda: connect(url, settings),
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
        **pool,
    )
    if settings.database_pool_size:
        event.listen(engine.sync_engine, "checkout", _refuse_dead_connection)
    return engine


def _refuse_dead_connection(
    dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
) -> None:
    """Replace a pooled connection that died while idle. Costs no round trip: the socket's state is looked at.

    An idle connection has nothing to read. Where there is something, it is the end of the stream or the server's notice
    of it, which the event loop has not handled yet.
    """
    connection = dbapi_connection.driver_connection
    # An aborted TLS connection has no socket any more, and is not yet said to be closed.
    socket = None if connection.is_closed() else connection._transport.get_extra_info("socket")  # noqa: SLF001 # asyncpg offers no other way
    if socket is not None:
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)  # asyncpg offers no other way to its socket
        if not poll.poll(0):
            return
    raise DisconnectionError("the connection died while idle")


def _make_sqlite_engine(url: SQLiteURL, settings: Settings) -> AsyncEngine:
    engine = create_async_engine(
        url.sqlalchemy_url,
        connect_args={"timeout": settings.database_command_timeout},
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Readers beside a writer (WAL), foreign keys that hold. `timeout` above is SQLite's busy timeout."""
    cursor = dbapi_connection.cursor()
    for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def make_migration_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make an engine for schema changes: SQLAlchemy's own dialects, one connection, real transactions."""
    if isinstance(url, PostgresURL):
        return create_async_engine(
            URL.create("postgresql+asyncpg"),
            async_creator=lambda: connect(url, settings, command_timeout=MIGRATION_TIMEOUT),
            poolclass=NullPool,
            hide_parameters=True,
        )
    engine = _make_sqlite_engine(url, settings)
    # Python's sqlite3 begins no transaction before DDL by itself. IMMEDIATE keeps two migrations apart.
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine
