"""What Alembic runs: the migrations on the connection it was given, or, from its own command line, on one it makes."""

import asyncio

import asyncpg
from alembic import context
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from backend.config import load_settings
from backend.db.url import PostgresURL, direct_database_url
from backend.models import task  # noqa: F401 # to have its table in the metadata

LOCK_KEY = 7_305_808_869_231_650_420
"""PostgreSQL's advisory lock of this schema: any number, the same in every process."""


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        # The lock lets two deployments at once wait for each other; the limits keep a migration from stopping a table
        # in use for long. All three end with the transaction, so they are safe behind a pooler, too.
        connection.execute(text("SET LOCAL lock_timeout = '10s'"))
        connection.execute(text("SET LOCAL statement_timeout = '60s'"))
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)").columns(), {"key": LOCK_KEY})
    context.configure(
        connection=connection,
        target_metadata=SQLModel.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    with context.begin_transaction():
        context.run_migrations()


async def _connect_and_migrate() -> None:
    settings = load_settings()
    url = direct_database_url(settings)
    if isinstance(url, PostgresURL):
        engine = create_async_engine(
            "postgresql+asyncpg://", async_creator=lambda: asyncpg.connect(**url.connect_arguments())
        )
    else:
        engine = create_async_engine(url.sqlalchemy_url)
    async with engine.begin() as connection:
        await connection.run_sync(_migrate)
    await engine.dispose()


if context.config.attributes.get("connection") is None:
    asyncio.run(_connect_and_migrate())
else:
    _migrate(context.config.attributes["connection"])
