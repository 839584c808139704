"""The pool: connections that are kept for the next statement, and turns for those who want one."""

import asyncio
import sys
import time
from collections import deque
from dataclasses import dataclass

import asyncpg

from backend.config import Settings
from backend.db.connection import DriverConnection, connect
from backend.db.failures import DATABASE_FAILURES, NOT_SENT
from backend.db.url import PostgresURL
from backend.errors import DatabaseUnavailable

OVERFLOW_AFTER = 0.05
"""Seconds for which a request waits for a kept connection before it opens one of the overflow."""


@dataclass(slots=True, eq=False)
class Waiter:
    """One who waits for a turn."""

    admitted: asyncio.Future[None]
    patient: bool = False
    """Whether it has waited long enough for a connection of the overflow."""


class Turns:
    """Admits as many at once as there are connections to keep, first come, first served.

    SQLAlchemy's queue gives a connection to whoever asks in the moment when it comes back, past all who wait: under
    load some requests would wait until they fail. And it opens an overflow connection, which costs as much as a dozen
    statements, as soon as all kept ones are busy, though one is free again in a moment: here overflow is for those who
    have waited `OVERFLOW_AFTER`.
    """

    def __init__(self, limit: int, overflow: int, timeout: float) -> None:
        self._limit = limit
        self._overflow = overflow
        self._timeout = timeout
        self._taken = 0
        self._waiting: deque[Waiter] = deque()

    async def __aenter__(self) -> None:
        await self.take()

    async def __aexit__(self, *_error: object) -> None:
        self.release()

    async def take(self) -> None:
        """Wait for a turn, `DATABASE_POOL_TIMEOUT` at most.

        Raises `DatabaseUnavailable` where none has come.
        """
        if self._taken < self._limit and not self._waiting:
            self._taken += 1
            return
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        self._waiting.append(waiter)
        timer = loop.call_later(OVERFLOW_AFTER, self._be_patient, waiter)
        try:
            async with asyncio.timeout(self._timeout):
                await waiter.admitted
        except BaseException as error:
            self._leave(waiter)
            if isinstance(error, TimeoutError):
                raise DatabaseUnavailable("no connection of the pool became free in time") from None
            raise
        finally:
            timer.cancel()

    def release(self) -> None:
        """End a turn."""
        self._taken -= 1
        self._admit()

    def _be_patient(self, waiter: Waiter) -> None:
        waiter.patient = True
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            waiter = self._waiting[0]
            if not waiter.admitted.cancelled():
                if self._taken >= self._limit + (self._overflow if waiter.patient else 0):
                    return
                self._taken += 1
                waiter.admitted.set_result(None)
            self._waiting.popleft()

    def _leave(self, waiter: Waiter) -> None:
        if waiter.admitted.cancelled():
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            self._admit()
        else:
            self.release()  # admitted in the moment when it gave up


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
        self._idle: list[DriverConnection] = []
        self._out: set[DriverConnection] = set()

    async def take(self) -> DriverConnection:
        """Return a connection that nobody else has: one that was kept and is alive, or a new one.

        Raises `DatabaseUnavailable` where no turn has come in time, and what connecting raises.
        """
        await self._turns.take()
        try:
            connection = await self._next_idle() or await connect(self._url, self._settings)
        except BaseException:
            self._turns.release()
            raise
        self._out.add(connection)
        return connection

    def give_back(self, connection: DriverConnection) -> None:
        """Give a connection back that is ready for the next statement. It is kept unless as many as may be are idle.

        So one of the overflow stays as long as it is needed: opening it anew for each statement would cost more than
        the wait that it was opened for.
        """
        self._take_back(connection)
        if len(self._idle) < self._size:
            self._idle.append(connection)
        else:
            connection.close_soon()

    def give_up(self, connection: DriverConnection, error: BaseException | None = None) -> None:
        """Give a connection back after an error. It is kept only if the error was the statement's own."""
        lost = connection.is_closed() or NOT_SENT in str(error)
        if not lost and isinstance(error, asyncpg.PostgresError):
            connection.forget()
            self.give_back(connection)
            return
        self._take_back(connection)
        connection.close_soon()
        if lost:
            self._close_idle()  # what has ended this one will have ended those that were opened before it as well

    def _take_back(self, connection: DriverConnection) -> None:
        self._out.remove(connection)  # raises where it was given back before: two must never have the same one
        self._turns.release()

    def close(self) -> None:
        """Close all connections in the background: now, or when they are given back."""
        self._size = 0
        self._close_idle()

    def _close_idle(self) -> None:
        while self._idle:
            self._idle.pop().close_soon()

    async def _next_idle(self) -> DriverConnection | None:
        while self._idle:
            connection = self._idle.pop()  # the last that came back: those that are not needed grow old
            young = time.monotonic() - connection.opened_at < self._settings.database_pool_recycle
            if young and connection.is_alive and await self._answers(connection):
                return connection
            connection.close_soon()
        return None

    async def _answers(self, connection: DriverConnection) -> bool:
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
