"""One connection to PostgreSQL: how it is made, and made again while the server is not ready, and how it is closed.

The reasons and the measurements: specs/decisions/0004-neon-connection.md.
"""

import asyncio
import contextlib
import select
import time
from contextvars import ContextVar
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from backend.config import Settings
from backend.db.failures import may_pass
from backend.db.url import DatabaseURL, PostgresURL

CLOSE_TIMEOUT = 1.0
"""Seconds that a goodbye to the server may take."""

RETRY_AFTER = 0.05
"""Seconds before the first new attempt to connect; the pauses grow from there, at random, up to the next figure."""
MAX_RETRY_AFTER = 0.5
REFUSED_PATIENCE = 3.0
"""Seconds for which refused connections are taken for a server that restarts."""

MAX_DESCRIBED = 64
"""Statements of which a connection keeps the types of parameters and columns; the server keeps none."""

retrying: ContextVar[bool] = ContextVar("retrying", default=True)
"""Whether failures that may pass are worth another attempt, here and now."""

_closing: set[asyncio.Task[None]] = set()


class DriverConnection(asyncpg.Connection):
    """A connection whose `close()` returns at once: a goodbye costs a round trip, and no answer should wait for it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.opened_at = time.monotonic()
        self._described: dict[str, PreparedStatement] = {}

    async def prepare(self, query: str, **options: Any) -> PreparedStatement:
        """Return the statement with its types, which the server is asked for once.

        It is no prepared statement of the server's: that is sent its text each time, and keeps nothing of it.
        """
        if query not in self._described:
            if len(self._described) >= MAX_DESCRIBED:
                self._described.clear()
            self._described[query] = await super().prepare(query, **options)
        return self._described[query]

    def forget(self) -> None:
        """Ask for the types of every statement anew: a column may have another by now."""
        self._described.clear()

    @property
    def is_alive(self) -> bool:
        """Whether the idle connection can be used. Costs no round trip: the socket's state is looked at.

        An idle connection has nothing to read. Where there is something, it is the end of the stream or the server's
        notice of it, which the event loop has not handled yet.
        """
        # An aborted TLS connection has no socket any more, and is not yet said to be closed.
        socket = None if self.is_closed() else self._transport.get_extra_info("socket")
        if socket is None:
            return False
        poll = select.poll()
        poll.register(socket.fileno(), select.POLLIN)
        return not poll.poll(0)

    async def close(self, *, timeout: float | None = None) -> None:
        """Close in the background, within `CLOSE_TIMEOUT`."""
        self.close_soon()

    def close_soon(self) -> None:
        """Close in the background, within `CLOSE_TIMEOUT`."""
        self._described.clear()  # statements know their connection: it would have to wait for the garbage collector
        if self._loop.is_closed():  # a script's; nothing can be said any more, and the socket goes with the object
            return
        task = self._loop.create_task(self._say_goodbye())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Exception):  # a connection that cannot be closed properly is dropped by close() itself
            await super().close(timeout=CLOSE_TIMEOUT)


async def closed_connections() -> None:
    """Wait until all connections given up so far are closed; at most a little over `CLOSE_TIMEOUT`."""
    if _closing:
        await asyncio.wait(_closing, timeout=CLOSE_TIMEOUT + 0.5)


def connect_timeout(url: DatabaseURL, settings: Settings) -> float:
    """Return the seconds that connecting may take: the URL's own `connect_timeout`, else `DATABASE_CONNECT_TIMEOUT`."""
    own = url.connect_timeout if isinstance(url, PostgresURL) else None
    return settings.database_connect_timeout if own is None else own


async def connect(url: PostgresURL, settings: Settings, *, command_timeout: float | None = None) -> DriverConnection:
    """Connect to PostgreSQL, trying again for as long as the connect timeout lasts where the server is not ready yet.

    Raises what asyncpg and the operating system raise: at once for what will not pass, such as a wrong password.
    """
    failures: list[Exception] = []

    async def attempt() -> DriverConnection:
        try:
            return await _connect_once(url, command_timeout or settings.database_command_timeout)
        except Exception as error:
            failures.append(error)
            raise

    try:
        async with asyncio.timeout(connect_timeout(url, settings)):
            try:
                return await attempt()
            except Exception as error:
                if not (may_pass(error) and retrying.get()):
                    raise
            await asyncio.sleep(RETRY_AFTER)
            again = AsyncRetrying(
                retry=retry_if_exception(may_pass),
                wait=wait_random_exponential(multiplier=RETRY_AFTER, max=MAX_RETRY_AFTER),
                stop=_nobody_listens,
                reraise=True,
            )
            return await again(attempt)
    except TimeoutError as error:
        error.args = (f"after {failures[-1]!r}",) if failures else ()
        raise


def _nobody_listens(state: RetryCallState) -> bool:
    # Neon's proxy always answers. Where nobody does for longer than a restart takes, the caller is better told so.
    refused = state.outcome is not None and isinstance(state.outcome.exception(), OSError)
    return refused and (state.seconds_since_start or 0) > REFUSED_PATIENCE


async def _connect_once(url: PostgresURL, command_timeout: float) -> DriverConnection:
    # `statement_cache_size=0` makes asyncpg send statements without names, which every PgBouncer in transaction mode
    # can pass on. What would cost a second round trip each time, `DriverConnection.prepare` remembers.
    connection: DriverConnection = await asyncpg.connect(
        **url.connect_arguments(),
        command_timeout=command_timeout,
        statement_cache_size=0,
        connection_class=DriverConnection,
    )
    return connection
