"""SQLAlchemy's engines: for sessions, and for migrations."""

from typing import Any

from sqlalchemy import URL, NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from backend.config import Settings
from backend.db import sqlite
from backend.db.connection import connect
from backend.db.url import DatabaseURL, SQLiteURL

MIGRATION_TIMEOUT = 600.0
"""Seconds that one statement of a migration may take, CREATE INDEX CONCURRENTLY above all. In a transaction the
server's own limit, which the migration sets, comes before it."""


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
    """Make an engine for schema changes: one connection, real transactions."""
    if isinstance(url, SQLiteURL):
        return sqlite.make_engine(url, settings, begin="BEGIN IMMEDIATE", makes_file=True)  # which keeps two apart
    return create_async_engine(
        URL.create("postgresql+asyncpg"),
        async_creator=lambda: connect(url, settings, command_timeout=MIGRATION_TIMEOUT),
        poolclass=NullPool,
        hide_parameters=True,
    )
