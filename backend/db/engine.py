"""SQLAlchemy's engines: for sessions, and for migrations."""

from typing import Any

from sqlalchemy import URL, Connection, NullPool, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backend.config import Settings
from backend.db import sqlite
from backend.db.connection import connect
from backend.db.url import DatabaseURL, SQLiteURL

MIGRATION_TIMEOUT = 600.0
"""Seconds that one statement of a migration may take, CREATE INDEX CONCURRENTLY above all. In a transaction the
server's own limit, which the migration sets, comes before it."""


def _limits(lock_timeout: str, statement_timeout: str, *, local: bool) -> str:
    """Return the statement that sets all limits of time that a server has: a role or a database may have its own."""
    return f"""
        SELECT set_config(
            name,
            CASE name
                WHEN 'lock_timeout' THEN '{lock_timeout}'
                WHEN 'statement_timeout' THEN '{statement_timeout}'
                ELSE '0'
            END,
            {local}
        )
        FROM pg_settings
        WHERE name IN (
            'lock_timeout', 'statement_timeout', 'transaction_timeout',
            'idle_in_transaction_session_timeout', 'idle_session_timeout'
        )
    """  # noqa: S608 # ours


MIGRATION_LIMITS = _limits("2s", "60s", local=True)
"""Whoever waits for a lock on a table keeps all that come later waiting, too: so not for long, and rather again
(`db/migrating.py`). They end with the transaction, so they are safe behind a pooler."""
_NO_LIMITS = _limits("0", "0", local=False)
"""For an autocommit block: CREATE INDEX CONCURRENTLY waits long, and keeps nobody waiting."""


def make_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make the engine for sessions: SQLAlchemy as its documentation describes it, SQL parameters hidden.

    On PostgreSQL it keeps `DATABASE_POOL_SIZE` connections, none where that is 0.
    """
    if isinstance(url, SQLiteURL):
        return sqlite.make_engine(url, settings)
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


def make_migration_engine(url: DatabaseURL, settings: Settings) -> AsyncEngine:
    """Make an engine for schema changes: one connection, real transactions, our own limits of time."""
    if isinstance(url, SQLiteURL):
        return sqlite.make_engine(url, settings, begin="BEGIN IMMEDIATE", makes_file=True)  # which keeps two apart
    engine = create_async_engine(
        URL.create("postgresql+asyncpg"),
        async_creator=lambda: connect(url, settings, command_timeout=MIGRATION_TIMEOUT),
        poolclass=NullPool,
        hide_parameters=True,
    )
    event.listen(engine.sync_engine, "begin", _set_limits)
    return engine


def _set_limits(connection: Connection) -> None:
    autocommit = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
    connection.exec_driver_sql(_NO_LIMITS if autocommit else MIGRATION_LIMITS)
