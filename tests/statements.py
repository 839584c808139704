"""What a database is asked: each statement, and each connection, by the executor that requests use."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from backend.db.pool import Pool
from backend.db.session import Database
from backend.db.statements import CompiledStatement
from backend.db.url import SQLiteURL


@contextmanager
def _listening(database: Database, name: str, listener: Callable[..., None]) -> Iterator[None]:
    """Listen to SQLAlchemy where it runs the executor's statements: on SQLite."""
    if not isinstance(database.url, SQLiteURL):
        yield
        return
    engine = database.engine.sync_engine
    event.listen(engine, name, listener)
    try:
        yield
    finally:
        event.remove(engine, name, listener)


@contextmanager
def recorded_statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """Collect the SQL that the executor runs, with its parameters."""
    statements: list[tuple[str, Any]] = []
    driver_form = CompiledStatement.driver_form

    def by_driver(compiled: CompiledStatement, values: Any) -> Any:
        statements.append(driver_form(compiled, values))
        return statements[-1]

    def by_sqlalchemy(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_others: Any) -> None:
        statements.append((statement, parameters))

    with (
        patch.object(CompiledStatement, "driver_form", by_driver),
        _listening(database, "before_cursor_execute", by_sqlalchemy),
    ):
        yield statements


@contextmanager
def recorded_connections(database: Database) -> Iterator[list[Any]]:
    """Collect the connections that the executor asks for, new or kept."""
    connections: list[Any] = []
    acquire = Pool.acquire

    async def by_driver(pool: Pool, **options: Any) -> Any:
        connections.append(await acquire(pool, **options))
        return connections[-1]

    def by_sqlalchemy(connection: Any, *_others: Any) -> None:
        connections.append(connection)

    with patch.object(Pool, "acquire", by_driver), _listening(database, "checkout", by_sqlalchemy):
        yield connections
