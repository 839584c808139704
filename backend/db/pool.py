"""The pool: connections that are kept for the next statement, and a queue of those who want one."""

import asyncio
import contextlib
import sys
import time

import asyncpg

from backend.config import Settings
from backend.db.connection import DriverConnection, StatementTypes, connect
from backend.db.failures import DATABASE_FAILURES, NO_CONNECTION, NOT_SENT, is_failover
from backend.db.url import PostgresURL
from backend.errors import DatabaseUnavailable

OVERFLOW_AFTER = 0.05
"""Seconds for which a request waits for a kept connection before it opens one of the overflow."""


class OverflowSemaphore:
    """Admits as many at once as there are connections to keep, first come, first served.

    Who has waited `OVERFLOW_AFTER` adds a permit of the overflow to the queue, which is taken back when nobody waits
    (specs/decisions/0004-neon-connection.md).
    """

    def __init__(self, limit: int, overflow: int, timeout: float) -> None:
        self._limit = limit
        self._max_overflow = overflow
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None
        self.waiting = 0
        """How many wait for a permit."""

    async def acquire(self) -> None:
        """Wait for a permit. Raises `DatabaseUnavailable` where none has come within `DATABASE_POOL_TIMEOUT`."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:  # a serverless adapter may have one for each request; no permit is taken there
            self._loop, self._semaphore = loop, asyncio.Semaphore(self._limit)
            self._overflow, self.waiting = self._max_overflow, 0
        if not self._semaphore.locked():
            await self._semaphore.acquire()
            return
        self.waiting += 1
        timer = loop.call_later(OVERFLOW_AFTER, self._add_overflow)
        try:
            async with asyncio.timeout(self._timeout):
                await self._semaphore.acquire()
        except TimeoutError:
            raise DatabaseUnavailable(NO_CONNECTION) from None
        finally:
            timer.cancel()
            self.waiting -= 1

    def release(self) -> None:
        """Give a permit back."""
        if self._overflow < self._max_overflow and not self.waiting:
            self._overflow += 1
        else:
            self._semaphore.release()

    def _add_overflow(self) -> None:
        if self._overflow:
            self._overflow -= 1
            self._semaphore.release()


def can_be_kept(connection: DriverConnection, error: BaseException) -> bool:
    """Tell whether a connection is of use after an error: the error was of one statement, or none of the database's."""
    of_the_connection = isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)
    lost = of_the_connection or is_failover(error) or connection.is_closed()
    return isinstance(error, Exception) and not lost


class Pool:
    """Connections to one database. `DATABASE_POOL_SIZE` of them are kept; where that is 0, each for one request.

    Whoever acquires a connection releases it, or discards it. SQLAlchemy's own pool costs four times as much for each
    statement (specs/decisions/0014-cost-of-a-request.md).
    """

    def __init__(self, url: PostgresURL, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._size = settings.database_pool_size
        limit = self._size or sys.maxsize
        self._semaphore = OverflowSemaphore(limit, settings.database_max_overflow, settings.database_pool_timeout)
        self._connects, self._connect_seconds = 0, 0.0
        self._types = StatementTypes(settings.database_pool_recycle)
        """Of the statements that were run on any of the connections."""
        self._idle: list[DriverConnection] = []
        self._in_use: set[DriverConnection] = set()
        self._came_back = asyncio.Event()

    def state(self) -> dict[str, float]:
        """Return how many connections are idle and in use, how many requests wait for one, and what connecting took."""
        return {
            "connections_idle": len(self._idle),
            "connections_in_use": len(self._in_use),
            "connections_waited_for": self._semaphore.waiting,
            "connects_total": self._connects,
            "connect_seconds_total": self._connect_seconds,
        }

    async def _connect(self, *, retry: bool) -> DriverConnection:
        begun = time.perf_counter()
        try:
            connection = await connect(self._url, self._settings, retry=retry, pause=self._pause)
            connection.types = self._types
            return connection
        finally:  # those that fail cost the most
            self._connects += 1
            self._connect_seconds += time.perf_counter() - begun

    async def acquire(self, *, retry: bool = True) -> DriverConnection:
        """Return a connection that nobody else has: one that was kept and is alive, or a new one.

        Raises `DatabaseUnavailable` where no permit has come in time, and what connecting raises. Without `retry` it is
        tried once to connect.
        """
        await self._semaphore.acquire()
        try:
            connection = await self._next_idle() or await self._connect(retry=retry)
        except BaseException:
            self._semaphore.release()
            raise
        self._in_use.add(connection)
        return connection

    def release(self, connection: DriverConnection) -> None:
        """Give a connection back that is ready for the next statement.

        It is kept unless enough are idle, of the overflow or not; without a pool until the next turn of the event loop.
        """
        self._in_use.remove(connection)  # raises where it was given back before: two must never have the same one
        enough = self._size and len(self._idle) >= self._size
        if connection.is_closed() or connection.is_in_transaction() or enough:
            connection.close_soon()
        else:
            self._idle.append(connection)
            # Before the permit is released: who tries again to connect has waited longer than the next.
            self._came_back.set()
            self._came_back = asyncio.Event()
            if not self._size:  # the next statement of the same request follows in the same turn of the loop, or never
                asyncio.get_running_loop().call_soon(self._close_if_idle, connection)
        self._semaphore.release()

    def discard(self, connection: DriverConnection, error: BaseException) -> None:
        """Give a connection back after an error. It is kept only if the error says nothing about the connection."""
        if can_be_kept(connection, error) and not connection.is_in_transaction():
            self.release(connection)
            return
        self._in_use.remove(connection)
        lost = connection.is_closed() or NOT_SENT in str(error)
        connection.close_soon()
        self._semaphore.release()
        if lost or isinstance(error, TimeoutError) or is_failover(error):
            self._close_idle()  # what has ended this one will have ended those that were opened before it as well

    def close(self) -> None:
        """Close all connections in the background: now, or when they are given back."""
        self._size = 0
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close_soon()

    def _close_if_idle(self, connection: DriverConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
            connection.close_soon()

    async def _next_idle(self) -> DriverConnection | None:
        while self._idle:
            connection = self._idle.pop()  # the last that came back: those that are not needed grow old
            young = time.monotonic() - connection.opened_at < self._settings.database_pool_recycle
            if young and connection.is_alive and await self._responds(connection):
                return connection
            connection.close_soon()
        return None

    async def _pause(self, seconds: float) -> DriverConnection | None:
        """Wait before connecting is tried again, at most until a kept connection has come back, and return that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    await self._came_back.wait()
                    if (connection := await self._next_idle()) is not None:
                        return connection
        return None

    async def _responds(self, connection: DriverConnection) -> bool:
        if not self._settings.database_pool_pre_ping:
            return True
        try:
            await connection.execute("SELECT 1")
        except DATABASE_FAILURES:
            return False
        except BaseException:
            connection.close_soon()
            raise
        return True
