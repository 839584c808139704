"""The pool: connections that are kept for the next statement, and turns for those who want one."""

import asyncio
import contextlib
import sys
import time

import asyncpg

from backend.config import Settings
from backend.db.connection import Connection, connect
from backend.db.failures import DATABASE_FAILURES, NOT_SENT
from backend.db.url import PostgresURL
from backend.errors import DatabaseUnavailable

OVERFLOW_AFTER = 0.05
"""Seconds for which a request waits for a kept connection before it opens one of the overflow."""


class Turns:
    """Admits as many at once as the pool keeps connections, first come, first served.

    The pool's own queue gives a connection to whoever asks in the moment when it comes back, past all who wait: under
    load some requests would wait until they fail. And it opens an overflow connection, which costs as much as a dozen
    statements, as soon as all kept ones are busy, though one is free again in a moment: here overflow is for those who
    have waited `OVERFLOW_AFTER`.
    """

    def __init__(self, kept: int, overflow: int, timeout: float) -> None:
        self._kept = asyncio.Semaphore(kept)
        self._overflow = asyncio.Semaphore(overflow)
        self._patience: tuple[tuple[asyncio.Semaphore, float], ...] = ((self._kept, timeout),)
        if overflow and timeout > OVERFLOW_AFTER:
            self._patience = ((self._kept, OVERFLOW_AFTER), (self._overflow, timeout - OVERFLOW_AFTER))

    async def take(self) -> asyncio.Semaphore:
        """Wait for a turn, `DATABASE_POOL_TIMEOUT` at most; return what has to be released after it.

        Raises `DatabaseUnavailable` where none has come.
        """
        if not self._kept.locked():
            await self._kept.acquire()
            return self._kept
        for places, seconds in self._patience:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await places.acquire()
                return places
        raise DatabaseUnavailable("no connection of the pool became free in time")


class Pool:
    """Connections to one database. `DATABASE_POOL_SIZE` of them are kept; where that is 0, each is used once.

    Whoever takes a connection gives it back, or gives it up. SQLAlchemy's own pool costs four times as much for each
    statement (specs/decisions/0014-cost-of-a-request.md); its engine takes its connections from here.
    """

    def __init__(self, url: PostgresURL, settings: Settings) -> None:
        self._url = url
        self._settings = settings
        self._size = settings.database_pool_size
        self._turns = Turns(
            self._size or sys.maxsize,
            settings.database_max_overflow if self._size else 0,
            settings.database_pool_timeout,
        )
        self._idle: list[Connection] = []
        self._taken: dict[Connection, asyncio.Semaphore] = {}

    async def take(self) -> Connection:
        """Return a connection that nobody else has: one that was kept and is alive, or a new one.

        Raises `DatabaseUnavailable` where no turn has come in time, and what connecting raises.
        """
        turn = await self._turns.take()
        try:
            connection = await self._kept() or await connect(self._url, self._settings)
        except BaseException:
            turn.release()
            raise
        self._taken[connection] = turn
        return connection

    def give_back(self, connection: Connection) -> None:
        """Give a connection back that is ready for the next statement. It is kept unless as many as may be are idle.

        So one of the overflow stays as long as it is needed: opening it anew for each statement would cost more than
        the wait that it was opened for.
        """
        self._taken.pop(connection).release()
        if len(self._idle) < self._size:
            self._idle.append(connection)
        else:
            connection.close_soon()

    def give_up(self, connection: Connection, error: BaseException | None = None) -> None:
        """Give a connection back after an error. It is kept only if the error was the statement's own."""
        lost = connection.is_closed() or NOT_SENT in str(error)
        if not lost and isinstance(error, asyncpg.PostgresError):
            self.give_back(connection)
            return
        self._taken.pop(connection).release()
        connection.close_soon()
        if lost:
            self._close_idle()  # what has ended this one will have ended those that were opened before it as well

    def close(self) -> None:
        """Close all connections in the background: now, or when they are given back."""
        self._size = 0
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close_soon()

    async def _kept(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()  # the last that came back: those that are not needed grow old
            young = time.monotonic() - connection.opened_at < self._settings.database_pool_recycle
            if young and connection.is_alive and await self._answers(connection):
                return connection
            connection.close_soon()
        return None

    async def _answers(self, connection: Connection) -> bool:
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
