"""SQLAlchemy's engines: for sessions, for migrations, and for what requests run on SQLite."""

import contextlib
import os
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, NullPool, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from backend.config import Settings
from backend.db.connection import connect
from backend.db.url import DatabaseURL, PostgresURL, SQLiteURL

MIGRATION_TIMEOUT = 600.0
"""Seconds that one statement of a migration may take, CREATE INDEX CONCURRENTLY above all. In a transaction the
server's own limit, which the migration sets, comes before it."""

SQLITE_CONNECTIONS = 10
"""Connections to an SQLite file, each with a thread of its own. Only one of them can write at a time."""

_AUTOCOMMIT = "todo_autocommit"

NEXT_REVISION = """
INSERT INTO owners (user_id, revision, forgotten)
SELECT ?, now, now - 1
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000 AS now) WHERE true
ON CONFLICT (user_id) DO UPDATE SET revision = max(owners.revision + 1, excluded.revision)
RETURNING revision
"""
"""SQLite's `next_revision(owner)`; PostgreSQL's is made by the migration."""


def make_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make the engine for sessions: SQLAlchemy as its documentation describes it, SQL parameters hidden.

    On PostgreSQL it keeps `DATABASE_POOL_SIZE` connections, none where that is 0.
    """
    if isinstance(url, SQLiteURL):
        engine = _make_sqlite_engine(url, settings)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine
    pool: dict[str, Any] = {"poolclass": NullPool}
    if settings.database_pool_size:
        pool = {
            "pool_size": settings.database_pool_size,
            "max_overflow": settings.database_max_overflow,
            "pool_timeout": settings.database_pool_timeout,
            "pool_recycle": settings.database_pool_recycle,
            "pool_pre_ping": settings.database_pool_pre_ping,
        }
    return create_async_engine(
        URL.create("postgresql+asyncpg"), async_creator=lambda: connect(url, settings), hide_parameters=True, **pool
    )


def make_sqlite_autocommit_engine(url: SQLiteURL, settings: Settings) -> AsyncEngine:
    """Make an engine on which each statement commits by itself, unless BEGIN was said."""
    return _make_sqlite_engine(url, settings, skip_autocommit_rollback=True)


def in_autocommit(engine: AsyncEngine) -> AsyncEngine:
    """Return the same on an engine for sessions: a database in memory has one connection, and so one engine."""
    return engine.execution_options(**{_AUTOCOMMIT: True})


def make_migration_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make an engine for schema changes: one connection, real transactions."""
    if isinstance(url, PostgresURL):
        return create_async_engine(
            URL.create("postgresql+asyncpg"),
            async_creator=lambda: connect(url, settings, command_timeout=MIGRATION_TIMEOUT),
            poolclass=NullPool,
            hide_parameters=True,
        )
    engine = _make_sqlite_engine(url, settings)
    # IMMEDIATE keeps two migrations apart.
    event.listen(engine.sync_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _make_sqlite_engine(url: SQLiteURL, settings: Settings, **options: Any) -> AsyncEngine:
    pool = {"pool_size": SQLITE_CONNECTIONS, "max_overflow": 0, "pool_timeout": settings.database_pool_timeout}
    engine = create_async_engine(
        url.sqlalchemy_url,
        connect_args={"timeout": settings.database_command_timeout},
        **(pool if url.path else {}),
        # Python's sqlite3 begins transactions when it thinks fit, never for DDL. In autocommit we say when.
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,
        **options,
    )
    if url.path is not None:
        path = url.path

        def find_file(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
            with contextlib.suppress(OSError):  # to connect will say it better
                path.touch(mode=0o600, exist_ok=False)  # what users write is for nobody else on the machine
            if _is_frozen(path):
                arguments[0], options["uri"] = f"{path.absolute().as_uri()}?immutable=1", True

        event.listen(engine.sync_engine, "do_connect", find_file)
    event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _is_frozen(path: Path) -> bool:
    """Tell whether a file can be read only as one that nobody changes.

    It is in WAL mode, of which SQLite keeps an index in a file beside it, and none is there nor can be made.
    """
    if os.access(path.parent, os.W_OK) or path.with_name(f"{path.name}-wal").exists():
        return False
    # Not before: when a process closes a file it loses all its locks on it, SQLite's too, and another process takes
    # itself for the only one, and removes the log that this one writes (https://www.sqlite.org/howtocorrupt.html, 2.2).
    try:
        with path.open("rb") as file:
            header = file.read(20)
    except OSError:
        return False
    return header[18:] == b"\2\2"  # https://www.sqlite.org/fileformat.html#the_database_header


def _begin(connection: Connection) -> None:
    if _AUTOCOMMIT not in connection.get_execution_options():
        connection.exec_driver_sql("BEGIN")


def _set_up_sqlite(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Readers beside a writer (WAL), commits that outlive a power failure, foreign keys that hold.

    `timeout` above is SQLite's busy timeout.
    """
    cursor = dbapi_connection.cursor()
    try:
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        with contextlib.suppress(sqlite3.OperationalError):  # a file that is read-only can be read all the same
            cursor.execute("PRAGMA journal_mode = WAL")
    except sqlite3.Error:
        dbapi_connection.close()  # the pool would not: its thread would outlive the event loop, with a traceback
        raise
    cursor.close()
    connection = dbapi_connection.driver_connection._conn  # noqa: SLF001 # the sqlite3 connection behind aiosqlite's

    def next_revision(owner: str) -> int:
        revision: int = connection.execute(NEXT_REVISION, (owner,)).fetchone()[0]
        return revision

    dbapi_connection.create_function("next_revision", 1, next_revision)
