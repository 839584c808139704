"""SQLAlchemy's engines: for requests, on our pool; for migrations; and for SQLite.

Every statement of the service runs on its own in autocommit: no BEGIN, no COMMIT, one round trip where the connection
is kept. The reasons and the measurements: specs/decisions/0004-neon-connection.md.
"""

from typing import Any

from sqlalchemy import URL, Connection, NullPool, event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from backend.config import Settings
from backend.db.connection import connect
from backend.db.failures import NOT_SENT
from backend.db.pool import Pool
from backend.db.url import DatabaseURL, PostgresURL, SQLiteURL

MIGRATION_TIMEOUT = 90.0
"""Seconds that one statement of a migration may take; the server's own limit, set by the migration, comes before it."""

SQLITE_CONNECTIONS = 10
"""Connections to an SQLite file, each with a thread of its own. Only one of them can write at a time."""


class PooledPostgresDialect(PGDialect_asyncpg):
    """SQLAlchemy's asyncpg dialect without the questions that it asks on an engine's first connection.

    They cost nine round trips, and run under a mutex: while a first connection hangs, every other request would queue
    behind it. What they would find out does not matter to our statements, or is known: Neon runs PostgreSQL 14 and up.
    """

    driver = "asyncpg_pooled"
    supports_statement_cache = True

    pool: Pool
    """Where the connections come from, and go back to."""

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

    def do_close(self, dbapi_connection: DBAPIConnection) -> None:
        """Give a connection back that has done its work."""
        connection = dbapi_connection.driver_connection
        if connection.is_in_transaction():
            self.pool.give_up(connection)
        else:
            self.pool.give_back(connection)

    def do_terminate(self, dbapi_connection: DBAPIConnection) -> None:
        """Give a connection up that was lost, or left in the middle of something."""
        self.pool.give_up(dbapi_connection.driver_connection)


registry.register("postgresql.asyncpg_pooled", __name__, PooledPostgresDialect.__name__)


def make_postgres_engine(pool: Pool) -> AsyncEngine:
    """Make the engine for requests to PostgreSQL: autocommit, SQL parameters hidden. What is kept, our pool keeps."""
    engine = create_async_engine(
        URL.create("postgresql+asyncpg_pooled"),
        async_creator=pool.take,
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    engine.dialect.pool = pool  # type: ignore[attr-defined] # the dialect is ours, and this engine's own
    return engine


def make_sqlite_engine(url: SQLiteURL, settings: Settings) -> AsyncEngine:
    """Make an engine for an SQLite file, or a database in memory, which has one connection."""
    pool = {"pool_size": SQLITE_CONNECTIONS, "max_overflow": 0, "pool_timeout": settings.database_pool_timeout}
    engine = create_async_engine(
        url.sqlalchemy_url,
        connect_args={"timeout": settings.database_command_timeout},
        **(pool if url.path else {}),
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
    engine = make_sqlite_engine(url, settings)
    # Python's sqlite3 begins no transaction before DDL by itself. IMMEDIATE keeps two migrations apart.
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine
