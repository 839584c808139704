"""What only SQLite needs: its engines, and its executor."""

import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from shutil import disk_usage
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Executable, event, util
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry
from sqlalchemy.util.concurrency import greenlet_spawn

from backend.config import Settings
from backend.db.executors import (
    DatabaseExecutor,
    Params,
    Rows,
    Sent,
    Transaction,
    ending_by,
    repeated,
    timed,
    within_deadline,
)
from backend.db.failures import translated
from backend.db.pool import OverflowSemaphore
from backend.db.statements import is_read
from backend.db.url import SQLiteURL
from backend.errors import DatabaseNotMigrated, DatabaseUnavailable

CONNECTIONS = 10
"""The executor's to an SQLite file, and as many for sessions. Each has a thread; only one can write at a time."""

LEAST_ROOM = 64 * 1024
"""Bytes that a small write may add to the log of an SQLite file."""

_AUTOCOMMIT = "todo_autocommit"
_BUFFERED = util.immutabledict({"prebuffer_rows": True})

NEXT_REVISION = """
INSERT INTO owners (user_id, revision, forgotten)
SELECT ?, now, now - 1
FROM (SELECT CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) * 1000 AS now) WHERE true
ON CONFLICT (user_id) DO UPDATE SET revision = max(owners.revision + 1, excluded.revision)
RETURNING revision
"""
"""`next_revision(owner)`; PostgreSQL's is made by the migration."""


class _Connection(sqlite3.Connection):
    """A connection that ends its statements when it is closed, as whoever is cancelled has SQLAlchemy do.

    SQLite itself waits for their end (https://sqlite.org/c3ref/close.html): a write whose rows nobody has read by then
    would keep the file locked, for every process, until Python collects its cursor; a read would keep the log growing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cursors = WeakSet[sqlite3.Cursor]()

    def cursor(self, *args: Any) -> Any:
        cursor = super().cursor(*args)
        self._cursors.add(cursor)
        return cursor

    def close(self) -> None:
        for cursor in list(self._cursors):
            cursor.close()
        self._cursors.clear()  # or it could not be closed twice
        super().close()


def make_engine(url: SQLiteURL, settings: Settings, *, begin: str = "BEGIN", makes_file: bool = False) -> AsyncEngine:
    """Make the engine. `begin` begins a transaction, when SQLAlchemy says so. A file must be there, or `makes_file`."""
    pool = {"pool_size": CONNECTIONS, "max_overflow": CONNECTIONS, "pool_timeout": settings.database_pool_timeout}
    engine = create_async_engine(
        url.sqlalchemy_url,
        connect_args={"timeout": settings.database_command_timeout, "factory": _Connection},
        **(pool if url.path else {}),
        # Python's sqlite3 begins transactions when it thinks fit, never for DDL. In autocommit we say when.
        isolation_level="AUTOCOMMIT",
        skip_autocommit_rollback=True,
        hide_parameters=True,
    )
    # To ask the connection's thread for a rollback costs a sixth of a statement: not where there is none to do.
    engine.dialect.detect_autocommit_setting = _has_no_transaction  # type: ignore[method-assign] # which asks it before
    if url.path is not None:
        path = url.path

        def find_file(_dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]) -> None:
            if makes_file:
                with suppress(OSError):
                    path.touch(mode=0o600, exist_ok=False)  # what users write is for nobody else on the machine
            require_file(url)
            if _is_frozen(path):
                arguments[0], options["uri"] = f"{path.absolute().as_uri()}?immutable=1", True

        event.listen(engine.sync_engine, "do_connect", find_file)
    event.listen(engine.sync_engine, "connect", _set_up)

    def begin_transaction(connection: Connection) -> None:
        if _AUTOCOMMIT not in connection.get_execution_options():
            connection.exec_driver_sql(begin)

    event.listen(engine.sync_engine, "begin", begin_transaction)
    return engine


def _has_no_transaction(dbapi_conn: DBAPIConnection) -> bool:
    return not dbapi_conn.driver_connection.in_transaction


def require_usable(path: Path) -> None:
    """Raise `DatabaseUnavailable` where a file cannot be opened, nor made."""
    if not path.parent.is_dir():
        reason = "the file's folder does not exist"
    elif path.is_dir():
        reason = "names a folder, not a file"
    elif path.exists() and not os.access(path, os.R_OK):
        reason = "the file cannot be read"
    elif not path.exists() and not os.access(path.parent, os.W_OK):
        reason = "the file is not there, and its folder cannot be written"
    else:
        return
    raise DatabaseUnavailable(f"DATABASE_URL: {reason}")


def require_file(url: SQLiteURL) -> None:
    """Raise `DatabaseError` where a file is not there, or cannot be opened: to connect would make an empty one."""
    if url.path is None:
        return
    require_usable(url.path)
    if not url.path.exists():
        raise DatabaseNotMigrated("DATABASE_URL: there is no such file yet; run todo-backend migrate")


def require_room(url: SQLiteURL) -> None:
    """Raise `DatabaseUnavailable` where a file may be written, but its disk is full."""
    if url.path is not None and os.access(url.path, os.W_OK) and disk_usage(url.path).free < LEAST_ROOM:
        raise DatabaseUnavailable("DATABASE_URL: the file's disk is full")


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


def _set_up(dbapi_connection: DBAPIConnection, _record: ConnectionPoolEntry) -> None:
    """Readers beside a writer (WAL), commits that outlive a power failure, foreign keys that hold.

    `timeout` above is SQLite's busy timeout.
    """
    cursor = dbapi_connection.cursor()
    try:
        for pragma in ("synchronous = FULL", "foreign_keys = ON"):
            cursor.execute(f"PRAGMA {pragma}")
        with suppress(sqlite3.OperationalError):  # a file that is read-only can be read all the same
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


class SQLiteExecutor(DatabaseExecutor):
    """Statements by SQLAlchemy, each committed by itself unless BEGIN was said.

    SQLite lets one connection write at a time, and a statement that waits for it, up to `lock_timeout`, cannot be given
    up: so there are few connections, whoever finds them all in use waits in order, and nothing begins later than so
    many seconds before its deadline.
    """

    def __init__(
        self, engine: AsyncEngine, semaphore: OverflowSemaphore, seconds: float, *, lock_timeout: float
    ) -> None:
        super().__init__(seconds)
        self._engine = engine.execution_options(**{_AUTOCOMMIT: True})
        self._semaphore = semaphore
        self._lock_timeout = lock_timeout

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement: see `DatabaseExecutor`."""
        if isinstance(params, Sequence) and len(params) > 1:  # all rows or none; in autocommit each would be committed
            async with self.transaction() as within:
                return await within.exec(statement, params=params)
        writes, deadline = not is_read(statement), self._deadline()

        def run_by_sqlalchemy(sent: Sent) -> Rows:
            with self._engine.sync_engine.connect() as connection:
                sent.connected, sent.write = True, writes
                return connection.execute(statement, params, execution_options=_BUFFERED)

        async def run(sent: Sent) -> Rows:
            async with self._turn(deadline):
                return await timed(greenlet_spawn(run_by_sqlalchemy, sent), "database")

        return await repeated(run, deadline=deadline, retry=retry)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run several statements: see `DatabaseExecutor`. The file is locked for writing from the beginning."""
        within, deadline = _SQLiteTransaction(), self._deadline()
        async with within_deadline(deadline, within), self._turn(deadline), AsyncExitStack() as stack:
            with translated():
                connection = within.connection = await stack.enter_async_context(self._engine.connect())
                await connection.exec_driver_sql("BEGIN IMMEDIATE")  # or two that read first could both fail
            try:
                yield within
                await within.commit()
            except BaseException:
                with suppress(SQLAlchemyError):  # it may be rolled back, or closed, by now
                    await connection.exec_driver_sql("ROLLBACK")
                raise

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[None]:
        with translated():
            async with ending_by(deadline - self._lock_timeout):
                await timed(self._semaphore.acquire(), "waited")
        try:
            yield
        finally:
            self._semaphore.release()


class _SQLiteTransaction(Transaction):
    connection: AsyncConnection

    async def _run(self, statement: Executable, params: Params | None) -> Rows:
        self.sent.write = self.sent.write or not is_read(statement)
        return await timed(self.connection.execute(statement, params, execution_options=_BUFFERED), "database")

    async def _commit(self) -> None:
        await self.connection.exec_driver_sql("COMMIT")
