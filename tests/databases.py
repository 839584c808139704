"""Databases that exist for as long as a test needs them."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from backend.db.url import PostgresURL, parse_database_url


@asynccontextmanager
async def new_postgres_database(server_url: str) -> AsyncIterator[str]:
    """Make an empty database on a server for as long as the block lasts."""
    url = parse_database_url(server_url)
    assert isinstance(url, PostgresURL)
    connection = await asyncpg.connect(**url.connect_arguments())
    name = f"todo_{uuid.uuid4().hex}"
    await connection.execute(f"CREATE DATABASE {name}")
    try:
        separator = "&" if "?" in server_url else "?"
        yield f"{server_url}{separator}dbname={name}"
    finally:
        await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()
