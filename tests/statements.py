"""What a database is asked: each statement, and each connection, by whichever way."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from backend.db.pool import Pool
from backend.db.session import Database
from backend.db.statements import CompiledStatement


@contextmanager
def recorded_statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the SQL that the database runs, with its parameters."""
    statements: list[tuple[str, Any]] = []
    driver_form = CompiledStatement.driver_form

    def by_driver(compiled: CompiledStatement, values: Any) -> Any:
        statements.append(driver_form(compiled, values))
        return statements[-1]

    def by_sqlalchemy(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_others: Any) -> None:
        statements.append((statement, parameters))

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", by_sqlalchemy)
    try:
        with patch.object(CompiledStatement, "driver_form", by_driver):
            yield statements
    finally:
        event.remove(engine, "before_cursor_execute", by_sqlalchemy)


@contextmanager
def recorded_connections(database: Database) -> Iterator[list[Any]]:
    """Collect the connections that are asked for, new or kept."""
    connections: list[Any] = []
    take = Pool.take

    async def by_driver(pool: Pool) -> Any:
        connections.append(await take(pool))
        return connections[-1]

    def by_sqlalchemy(connection: Any, *_others: Any) -> None:
        connections.append(connection)

    engine = database.engine.sync_engine
    event.listen(engine, "checkout", by_sqlalchemy)
    try:
        with patch.object(Pool, "take", by_driver):
            yield connections
    finally:
        event.remove(engine, "checkout", by_sqlalchemy)
