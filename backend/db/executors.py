"""What requests run their statements with: one statement, committed by itself, or several in a transaction.

Every failure is told in the service's own words, within a deadline. A statement that surely had no effect, because it
reads or was rolled back, is run once more where its connection was lost or another statement was in its way. A write
that may have run never is (specs/decisions/0005-autocommit-one-statement.md).
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Protocol

from asyncpg.transaction import Transaction
from sqlalchemy import Executable, Result, util
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.util.concurrency import greenlet_spawn

from backend.db.connection import DriverConnection
from backend.db.failures import DATABASE_FAILURES, is_repeatable, translated
from backend.db.pool import Pool, Turns
from backend.db.statements import CompiledStatement, compile_statement

REPEAT_AFTER = 0.1
"""The longest pause, in seconds, before a statement is run once more."""

Params = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Rows = Result[*tuple[Any, ...]]

_BUFFERED = util.immutabledict({"prebuffer_rows": True})


class TransactionExecutor(Protocol):
    """Runs the statements of one transaction. Until its end nothing of them is kept."""

    async def exec(self, statement: Executable, *, params: Params | None = None) -> Rows:
        """Run a statement. Raises `DatabaseError`; then the transaction is over."""


class DatabaseExecutor(Protocol):
    """What both executors promise.

    Raises `DatabaseUnavailable` where a statement had no effect, `OutcomeUnknown` where a write may have had one,
    `DatabaseNotMigrated`, `DatabaseRefused`, SQLAlchemy's `IntegrityError`, and for what can only be a mistake in the
    statement what SQLAlchemy or the driver raises. Takes no longer than connect and command timeout together.
    """

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement, commit it, and return its rows, all of them fetched.

        `params` are its parameters by name, or a list of such for many rows. Without `retry` nothing is tried twice.
        """

    def transaction(self) -> AbstractAsyncContextManager[TransactionExecutor]:
        """Run the block's statements in one transaction: committed when it ends well, rolled back when it does not.

        Nothing is run twice. The commit without an answer is an `OutcomeUnknown` where something was written.
        """


class _Sent:
    """How far a statement got: whether a connection was had, and a write is on its way."""

    connected = False
    write = False


@asynccontextmanager
async def _deadline(seconds: float, *, may_have_run: Callable[[], bool]) -> AsyncIterator[None]:
    """Limit a block's time. An error of the block's own goes through as it is."""
    try:
        async with asyncio.timeout(seconds) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        with translated(may_have_run):
            raise error from None


async def _repeated(run: Callable[[_Sent], Awaitable[Rows]], *, deadline: float, retry: bool) -> Rows:
    """Run a statement, and once more where that is safe and may help."""
    sent = _Sent()
    with translated(may_have_run=lambda: sent.write):
        async with asyncio.timeout(deadline):
            try:
                return await run(sent)
            except DATABASE_FAILURES as error:
                # Connecting has attempts of its own.
                if not (retry and sent.connected and is_repeatable(error, may_have_run=sent.write)):
                    raise
            sent.connected = sent.write = False
            await asyncio.sleep(random.uniform(0, REPEAT_AFTER))  # noqa: S311 # no secret
            return await run(sent)


class PostgresExecutor:
    """A `DatabaseExecutor`: statements by asyncpg itself, on connections of a pool."""

    def __init__(self, pool: Pool, deadline: float) -> None:
        self._pool = pool
        self._deadline = deadline

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement: see `DatabaseExecutor`."""
        compiled = _compiled(statement, params)

        async def run(sent: _Sent) -> Rows:
            connection = await self._pool.acquire(retry=retry)
            sent.connected = True
            try:
                result = await _run(connection, compiled, params, sent)
            except BaseException as error:
                self._pool.discard(connection, error)
                raise
            self._pool.release(connection)
            return result

        return await _repeated(run, deadline=self._deadline, retry=retry)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TransactionExecutor]:
        """Run several statements: see `DatabaseExecutor`. BEGIN costs a round trip, with the first of them."""
        within = _PostgresTransaction()
        async with _deadline(self._deadline, may_have_run=lambda: within.commits_a_write):
            with translated():
                connection = within.connection = await self._pool.acquire()
            try:
                yield within
                with translated(may_have_run=lambda: within.commits_a_write):
                    await within.commit()
            except BaseException as error:
                if await within.was_rolled_back(error):
                    connection.forget()
                    self._pool.release(connection)
                else:
                    self._pool.discard(connection, error.__cause__ or error)
                raise
            self._pool.release(connection)


class _PostgresTransaction:
    """The statements of one transaction, on its connection."""

    connection: DriverConnection

    def __init__(self) -> None:
        self._transaction: Transaction | None = None
        self._wrote = False
        self.commits_a_write = False

    async def exec(self, statement: Executable, *, params: Params | None = None) -> Rows:
        """Run a statement."""
        compiled = _compiled(statement, params)
        with translated():
            if self._transaction is None:
                self._transaction = self.connection.transaction()
                await self._transaction.start()
            self._wrote = self._wrote or compiled.writes
            return await _run(self.connection, compiled, params, _Sent())

    async def commit(self) -> None:
        self.commits_a_write = self._wrote
        if self._transaction is not None:
            await self._transaction.commit()

    async def was_rolled_back(self, error: BaseException) -> bool:
        """Roll back after an error; tell whether that went well, so that the connection can be used again."""
        interrupted = isinstance(error, asyncio.CancelledError | TimeoutError)
        if interrupted or self.commits_a_write or self.connection.is_closed():
            return False
        try:
            if self._transaction is not None:
                await self._transaction.rollback()
        except DATABASE_FAILURES:
            return False
        return True


async def _run(connection: DriverConnection, compiled: CompiledStatement, params: Params | None, sent: _Sent) -> Rows:
    rows = params if isinstance(params, Sequence) else (params or {},)
    forms = [compiled.driver_form(values) for values in rows]
    prepared = await connection.prepare(forms[0][0])
    sent.write = compiled.writes
    if len(forms) > 1:
        await prepared.executemany([arguments for _, arguments in forms])
        return compiled.result([], prepared)
    return compiled.result(await prepared.fetch(*forms[0][1]), prepared)


def _compiled(statement: Executable, params: Params | None) -> CompiledStatement:
    first = params[0] if isinstance(params, Sequence) else params
    return compile_statement(statement, tuple(first or ()))


class SQLiteExecutor:
    """A `DatabaseExecutor`: statements by SQLAlchemy, on an engine in autocommit.

    SQLite lets one connection write at a time, and a statement that waits for it cannot be given up: so there are few
    connections, and whoever finds them all in use waits in order.
    """

    def __init__(self, engine: AsyncEngine, turns: Turns, deadline: float) -> None:
        self._engine = engine
        self._turns = turns
        self._deadline = deadline

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement: see `DatabaseExecutor`."""
        writes = not getattr(statement, "is_select", False)

        def run_by_sqlalchemy(sent: _Sent) -> Rows:
            with self._engine.sync_engine.connect() as connection:
                sent.connected, sent.write = True, writes
                return connection.execute(statement, params, execution_options=_BUFFERED)

        async def run(sent: _Sent) -> Rows:
            await self._turns.acquire()
            try:
                return await greenlet_spawn(run_by_sqlalchemy, sent)
            finally:
                self._turns.release()

        return await _repeated(run, deadline=self._deadline, retry=retry)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[TransactionExecutor]:
        """Run several statements: see `DatabaseExecutor`. The file is locked for writing from the beginning."""
        await self._turns.acquire()
        try:
            async with _deadline(self._deadline, may_have_run=lambda: False), AsyncExitStack() as stack:
                with translated():
                    connection = await stack.enter_async_context(self._engine.connect())
                    await connection.exec_driver_sql("BEGIN IMMEDIATE")  # or two that read first could both fail
                try:
                    yield _SQLiteTransaction(connection)
                    with translated():
                        await connection.exec_driver_sql("COMMIT")
                except BaseException:
                    with suppress(SQLAlchemyError):  # some errors have rolled it back already
                        await asyncio.shield(connection.exec_driver_sql("ROLLBACK"))
                    raise
        finally:
            self._turns.release()


class _SQLiteTransaction:
    """The statements of one transaction, on its connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def exec(self, statement: Executable, *, params: Params | None = None) -> Rows:
        """Run a statement."""
        with translated():
            return await self._connection.execute(statement, params, execution_options=_BUFFERED)
