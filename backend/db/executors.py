"""What requests run their statements with: one statement, committed by itself, or several in a transaction.

Every failure is told in the service's own words, within a deadline. A statement that surely had no effect, because it
reads or was rolled back, is run once more where its connection was lost or another statement was in its way. A write
that may have run never is (specs/decisions/0005-autocommit-one-statement.md).
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Literal, Self, TypeVar

import asyncpg
from sqlalchemy import Executable, Result, text
from sqlalchemy.exc import IntegrityError

from backend.db.connection import DriverConnection
from backend.db.failures import DATABASE_FAILURES, is_repeatable, is_unreadable, may_mean_other_types, translated
from backend.db.pool import Pool, can_be_kept
from backend.db.statements import CompiledStatement, compile_statement
from backend.errors import DatabaseError
from backend.observation import observation

REPEAT_AFTER = 0.1
"""The longest pause, in seconds, before a statement is run once more."""

Params = Mapping[str, Any] | Sequence[Mapping[str, Any]]
Rows = Result[*tuple[Any, ...]]
T = TypeVar("T")

_SAVEPOINT, _UNDO, _RELEASE = text("SAVEPOINT block"), text("ROLLBACK TO block"), text("RELEASE block")


class DatabaseExecutor:
    """What both executors promise, and their limit of time. A deadline is a moment of the event loop's clock.

    Raises `DatabaseUnavailable` where a statement had no effect, `OutcomeUnknown` where a write may have had one,
    `DatabaseNotMigrated`, `DatabaseRefused`, SQLAlchemy's `IntegrityError`, and for what can only be a mistake in the
    statement what SQLAlchemy or the driver raises. Takes no longer than connect and command timeout together.
    """

    shared_deadline: float | None = None
    """Of all calls; where it is None, each has its own."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def for_request(self) -> Self:
        """Return an executor of which all calls together, from now on, take no longer than one of this one's may."""
        executor = type(self).__new__(type(self))  # copy.copy() takes four times as long: 5 µs of each request's time
        vars(executor).update(vars(self), shared_deadline=self._deadline())
        return executor

    def _deadline(self) -> float:
        """Return that of a call which begins now."""
        shared = self.shared_deadline
        return asyncio.get_running_loop().time() + self._seconds if shared is None else shared

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement, commit it, and return its rows, all of them fetched.

        `params` are its parameters by name, or a list of such for many rows. Without `retry` nothing is tried twice.
        """
        raise NotImplementedError

    def transaction(self) -> AbstractAsyncContextManager["Transaction"]:
        """Run the block's statements in one transaction: committed when it ends well, rolled back when it does not.

        Nothing but BEGIN is run twice. Once a statement has failed nothing can be committed: going on raises
        `RuntimeError`. A commit without a response is an `OutcomeUnknown` where something was written.
        """
        raise NotImplementedError


class Sent:
    """How far a statement got: a connection was acquired; a write was sent."""

    connected = False
    write = False


class Transaction:
    """Runs the statements of one transaction. Where one has failed, none is run any more, and none is kept."""

    def __init__(self) -> None:
        self.sent = Sent()
        self.commits_a_write = False  # so that it may be kept, whatever comes next
        self._failed = False

    async def exec(self, statement: Executable, *, params: Params | None = None) -> Rows:
        """Run a statement. Raises `DatabaseError`; then the transaction is over."""
        self._check()
        try:
            with translated():
                return await self._run(statement, params)
        except BaseException:
            self._failed = True
            raise

    async def commit(self) -> None:
        """Keep what was done. Raises `OutcomeUnknown` where no response came."""
        self._check()
        self.commits_a_write = self.sent.write
        with translated(lambda: self.commits_a_write):
            await self._commit()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Self]:
        """Run the block's statements in a savepoint: kept with the others, or undone alone where the block raises."""
        await self.exec(_SAVEPOINT)
        try:
            yield self
        except BaseException:
            if not self._failed:
                await self.exec(_UNDO)
                await self.exec(_RELEASE)
            raise
        await self.exec(_RELEASE)

    def _check(self) -> None:
        if self._failed:  # PostgreSQL would turn COMMIT into a silent ROLLBACK, SQLite would keep the others
            raise RuntimeError("a statement of this transaction has failed, which is the end of it")

    async def _run(self, statement: Executable, params: Params | None) -> Rows:
        raise NotImplementedError

    async def _commit(self) -> None:
        raise NotImplementedError


def ending_by(deadline: float) -> asyncio.Timeout:
    """Limit a block's time. Raises `TimeoutError` where it is over: `asyncio` would begin, and might send a write."""
    if asyncio.get_running_loop().time() >= deadline:
        raise TimeoutError
    return asyncio.timeout_at(deadline)


@asynccontextmanager
async def within_deadline(deadline: float, within: Transaction) -> AsyncIterator[None]:
    """Limit a transaction's time. An error of the block's own goes through as it is."""
    try:
        async with asyncio.timeout_at(deadline) as limit:
            yield
    except TimeoutError as error:
        if not limit.expired():
            raise
        with translated(lambda: within.commits_a_write):
            raise error from None


async def repeated(run: Callable[[Sent], Awaitable[T]], *, deadline: float, retry: bool = True) -> T:
    """Run a statement, and once more where that is safe and may help."""
    sent = Sent()
    with translated(may_have_run=lambda: sent.write):
        async with ending_by(deadline):
            try:
                return await run(sent)
            except DATABASE_FAILURES as error:
                # Connecting has attempts of its own.
                if not (retry and sent.connected and is_repeatable(error, may_have_run=sent.write)):
                    raise
            sent.connected = sent.write = False
            observation.get().retries += 1
            await asyncio.sleep(random.uniform(0, REPEAT_AFTER))  # noqa: S311 # no secret
            return await run(sent)


class PostgresExecutor(DatabaseExecutor):
    """Statements by asyncpg itself, on connections of a pool."""

    def __init__(self, pool: Pool, seconds: float) -> None:
        super().__init__(seconds)
        self._pool = pool

    async def exec(self, statement: Executable, *, params: Params | None = None, retry: bool = True) -> Rows:
        """Run one statement: see `DatabaseExecutor`."""
        compiled = _compiled(statement, params)

        async def run(sent: Sent) -> Rows:
            connection = await timed(self._pool.acquire(retry=retry), "waited")
            sent.connected = True
            try:
                result = await _run(connection, compiled, params, sent)
            except BaseException as error:
                self._pool.discard(connection, error)
                raise
            self._pool.release(connection)
            return result

        return await repeated(run, deadline=self._deadline(), retry=retry)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """Run several statements: see `DatabaseExecutor`. BEGIN and COMMIT cost a round trip each."""
        within, deadline = _PostgresTransaction(), self._deadline()
        async with within_deadline(deadline, within):
            connection = within.connection = await repeated(self._begin, deadline=deadline)
            try:
                yield within
                await within.commit()
            except BaseException as error:
                await self._roll_back(connection, error)
                raise
            self._pool.release(connection)

    async def _begin(self, sent: Sent) -> DriverConnection:
        connection = await timed(self._pool.acquire(), "waited")
        sent.connected = True
        try:
            await connection.execute("BEGIN")
        except BaseException as error:
            self._pool.discard(connection, error)
            raise
        return connection

    async def _roll_back(self, connection: DriverConnection, error: BaseException) -> None:
        """Give the connection back. It is kept where the error was of one statement, or none of the database's."""
        if isinstance(error, DatabaseError | IntegrityError) and error.__cause__ is not None:
            error = error.__cause__
        try:
            if can_be_kept(connection, error) and connection.is_in_transaction():
                await connection.execute("ROLLBACK")
        except DATABASE_FAILURES as another:
            error = another
        finally:
            self._pool.discard(connection, error)  # which closes it where it still is in the transaction


class _PostgresTransaction(Transaction):
    connection: DriverConnection

    async def _run(self, statement: Executable, params: Params | None) -> Rows:
        return await _run(self.connection, _compiled(statement, params), params, self.sent)

    async def _commit(self) -> None:
        await self.connection.execute("COMMIT")


async def timed(awaitable: Awaitable[T], name: Literal["database", "waited"]) -> T:
    """Wait, and add the time to this field of the request's observation."""
    started = time.perf_counter()
    try:
        return await awaitable
    finally:
        observed = observation.get()
        setattr(observed, name, getattr(observed, name) + time.perf_counter() - started)


async def _run(connection: DriverConnection, compiled: CompiledStatement, params: Params | None, sent: Sent) -> Rows:
    """Run a statement, and have the request know how long it took, and which process of the server failed to."""
    try:
        return await timed(_prepare_and_fetch(connection, compiled, params, sent), "database")
    except BaseException:
        observation.get().pid = connection.get_server_pid()
        raise


async def _prepare_and_fetch(
    connection: DriverConnection, compiled: CompiledStatement, params: Params | None, sent: Sent
) -> Rows:
    rows = params if isinstance(params, Sequence) else (params or {},)
    if len(rows) > 1 and compiled.metadata is not None:
        raise TypeError("asyncpg returns no rows for a list of parameters: use insert().values([...])")
    forms = [compiled.driver_form(values) for values in rows]
    query = forms[0][0]
    described, known = await connection.types.describe(connection, query)
    sent.write = sent.write or compiled.writes
    fetched: list[Any] = []
    try:
        if len(forms) == 1:
            fetched = await described.fetch(*forms[0][1])
        else:
            await described.executemany([arguments for _, arguments in forms])
    except Exception as error:
        if may_mean_other_types(error):
            connection.types.forget(query)
        if known and is_unreadable(error):
            raise asyncpg.OutdatedSchemaCacheError("a column's type has changed") from error
        raise
    return compiled.result(fetched, described)


def _compiled(statement: Executable, params: Params | None) -> CompiledStatement:
    first = params[0] if isinstance(params, Sequence) else params
    return compile_statement(statement, tuple(first or ()))
