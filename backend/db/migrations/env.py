"""What Alembic runs: the migrations on the connection it was given, or, from its own command line, on one it makes."""

import asyncio
from typing import Any

from alembic import context
from sqlalchemy import Connection
from sqlmodel import SQLModel

from backend.config import load_settings
from backend.db.migrating import run_on_schema
from backend.db.migrations import VERSION_TABLE


def _migrate(connection: Connection) -> None:
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
