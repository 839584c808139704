"""What Alembic runs: the migrations on the connection it was given, or, from its own command line, on one it makes."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection, event, text
from sqlmodel import SQLModel

from backend.config import load_settings
from backend.db.migrating import run_on_schema
from backend.db.migrations import VERSION_TABLE

_LIMITS = text("SELECT set_config('lock_timeout', '2s', true), set_config('statement_timeout', '60s', true)")
"""Whoever waits for a lock on a table keeps all that come later waiting, too: so not for long, and rather again
(`db/migrating.py`). Both end with the transaction, so they are safe behind a pooler. In an autocommit block neither
holds, which is as it should be: CREATE INDEX CONCURRENTLY waits long, and keeps nobody waiting."""


def _limit_waits(connection: Connection) -> None:
    connection.execute(_LIMITS)


def _migrate(connection: Connection) -> None:
    if connection.dialect.name == "postgresql" and not event.contains(connection, "begin", _limit_waits):
        event.listen(connection, "begin", _limit_waits)
    _run(
        connection=connection,
        render_as_batch=connection.dialect.name == "sqlite",
        # In SQLite one transaction is what keeps two processes apart; elsewhere `db/migrating.py` does.
        transaction_per_migration=connection.dialect.name != "sqlite",
    )


def _run(**options: Any) -> None:
    metadata = SQLModel.metadata
    context.configure(target_metadata=metadata, version_table=VERSION_TABLE, transactional_ddl=True, **options)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():  # to print the statements
    dialect = context.config.attributes["dialect"]
    _run(dialect_name=dialect, literal_binds=True, transaction_per_migration=True)
elif context.config.attributes.get("connection") is None:
    asyncio.run(run_on_schema(load_settings(), _migrate))
else:
    _migrate(context.config.attributes["connection"])
