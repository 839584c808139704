"""One connection to PostgreSQL: how it is made, and made again while the server is not ready, and how it is closed.

The reasons and the measurements: specs/decisions/0004-neon-connection.md.
"""

import asyncio
import contextlib
import logging
import random
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from backend import __version__
from backend.config import Settings
from backend.db.failures import in_plain_words, is_transient, may_be_refused_tls
from backend.db.url import DatabaseURL, PostgresURL
from backend.observation import observation

logger = logging.getLogger(__name__)

APPLICATION_NAME = f"todo-backend/{__version__}"
"""Whose sessions these are, in pg_stat_activity and the server's log, where the URL names nobody."""

CLOSE_TIMEOUT = 1.0
"""Seconds that a goodbye to the server may take."""

RETRY_AFTER = 0.05
"""Seconds before the first new attempt to connect; each pause is up to twice the one before, up to the next figure."""
MAX_RETRY_AFTER = 0.5
REFUSED_PATIENCE = 3.0
"""Seconds for which refused connections are taken for a server that restarts."""

MAX_DESCRIBED = 512
"""Statements of which the types of parameters and columns are kept; the server keeps none."""

KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""After 30 idle seconds the other side is asked whether it is there, three times, 10 seconds apart."""

_without_direct_tls: set[tuple[str | None, int]] = set()
"""Hosts and ports where TLS begins at once by default, and was refused: they are asked for it from then on."""

_closing: set[asyncio.Task[None]] = set()


def _is_readable(descriptor: int) -> bool:
    # `selectors` would choose between the two by itself, and take three times as long: 2 µs of each statement's 100.
    if not hasattr(select, "poll"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


class DriverConnection(asyncpg.Connection):
    """A connection whose `close()` returns at once: a goodbye costs a round trip, and no response waits for it."""

    types: "StatementTypes"
    """Of its pool."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.opened_at = time.monotonic()

    @property
    def is_alive(self) -> bool:
        """Whether the idle connection can be used. Costs no round trip: the socket's state is looked at.

        An idle connection has nothing to read. Where there is something, it is the end of the stream or the server's
        notice of it, which the event loop has not handled yet.
        """
        # A serverless platform may run each request on an event loop of its own.
        if self._loop is not asyncio.get_running_loop() or self.is_closed():
            return False
        kept = self._transport.get_extra_info("socket")  # None where TLS was aborted, which is not yet called closed
        return kept is not None and not _is_readable(kept.fileno())

    async def close(self, *, timeout: float | None = None) -> None:
        """Close in the background, within `CLOSE_TIMEOUT`."""
        self.close_soon()

    def close_soon(self) -> None:
        """Close in the background, within `CLOSE_TIMEOUT`."""
        if self._loop.is_closed():  # a script's; nothing can be said any more, and the socket goes with the object
            return
        task = self._loop.create_task(self._say_goodbye())
        _closing.add(task)
        task.add_done_callback(_closing.discard)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Exception):  # a connection that cannot be closed properly is dropped by close() itself
            await super().close(timeout=CLOSE_TIMEOUT)


class StatementTypes:
    """The types of statements' parameters and columns: the database is asked for them once, not by each connection.

    So a statement is one round trip on a new connection as well. A migration can change types under a running service:
    they are asked for anew after `max_age` seconds, and once they were forgotten.
    """

    def __init__(self, max_age: float) -> None:
        self._max_age = max_age
        self._known: dict[str, tuple[Any, float]] = {}

    async def describe(self, connection: DriverConnection, query: str) -> tuple[PreparedStatement, bool]:
        """Return the statement, to be run on this connection, and whether its types were known, and may be outdated.

        The server keeps nothing of it, and is sent its text each time. Sessions do not use this, because SQLAlchemy
        remembers statements in its own way.
        """
        now = time.monotonic()
        state, asked_at = self._known.get(query, (None, now))
        if state is not None and now - asked_at < self._max_age:
            return PreparedStatement(connection, query, state), True
        self.forget(query)
        described = await connection.prepare(query)
        if len(self._known) >= MAX_DESCRIBED:
            del self._known[next(iter(self._known))]
        self._known[query] = described._state, now  # noqa: SLF001 # nothing of a connection is in it, but asyncpg has no name for it
        return described, False

    def forget(self, query: str) -> None:
        """Ask for the types of a statement anew when it is run next."""
        self._known.pop(query, None)


async def closed_connections() -> None:
    """Wait until all connections given up so far are closed; at most a little over `CLOSE_TIMEOUT`."""
    await asyncio.sleep(0)  # one that was given up in this turn of the loop is closed in the next
    if _closing:
        await asyncio.wait(_closing, timeout=CLOSE_TIMEOUT + 0.5)


def connect_timeout(url: DatabaseURL, settings: Settings) -> float:
    """Return the seconds that connecting may take: the URL's own `connect_timeout`, else `DATABASE_CONNECT_TIMEOUT`."""
    own = url.connect_timeout if isinstance(url, PostgresURL) else None
    return settings.database_connect_timeout if own is None else own


async def connect(
    url: PostgresURL,
    settings: Settings,
    *,
    command_timeout: float | None = None,
    retry: bool = True,
    pause: Callable[[float], Awaitable[DriverConnection | None]] = asyncio.sleep,
) -> DriverConnection:
    """Connect to PostgreSQL, trying again for as long as the connect timeout lasts where the server is not ready yet.

    `pause` waits so many seconds before the next attempt; it may return a connection that has come free meanwhile.
    Raises what asyncpg and the operating system raise: at once for what will not pass, such as a wrong password, or
    where `retry` is false.
    """
    started = time.monotonic()
    retry_after = RETRY_AFTER
    failure: Exception | None = None
    where = f"{url.host or 'the local socket'}, port {url.port}"
    try:
        async with asyncio.timeout(connect_timeout(url, settings)):
            while True:
                try:
                    return await _connect_once(url, command_timeout or settings.database_command_timeout)
                except Exception as error:
                    failure = error
                    # Neon's proxy always responds. Where nobody does for longer than a restart takes, waiting is vain.
                    refused = isinstance(error, OSError) and time.monotonic() - started > REFUSED_PATIENCE
                    if not retry or refused or not is_transient(error):
                        raise
                observation.get().retries += 1
                another = await pause(random.uniform(retry_after / 2, retry_after))  # noqa: S311 # no secret
                if another is not None:
                    return another
                retry_after = min(2 * retry_after, MAX_RETRY_AFTER)
    except TimeoutError as error:
        error.add_note(where)
        if failure is not None and failure is not error:
            failure.add_note(where)
            error.args = (in_plain_words(failure),)
        raise
    except OSError as error:
        error.add_note(where)
        raise


async def _connect_once(url: PostgresURL, command_timeout: float) -> DriverConnection:
    address = (url.host, url.port)
    if url.sslnegotiation is not None or not url.direct_tls:
        return await _open(url, command_timeout, direct_tls=url.direct_tls)
    if address not in _without_direct_tls:
        try:
            return await _open(url, command_timeout, direct_tls=True)
        except OSError as error:
            if not may_be_refused_tls(error):
                raise
    connection = await _open(url, command_timeout, direct_tls=False)
    if address not in _without_direct_tls:
        _without_direct_tls.add(address)
        logger.warning("the database takes TLS only when asked for it: each connection takes a round trip more")
    return connection


async def _open(url: PostgresURL, command_timeout: float, *, direct_tls: bool) -> DriverConnection:
    # `statement_cache_size=0` makes asyncpg send statements without names, which every PgBouncer in transaction mode
    # can pass on. What would cost a second round trip each time, `StatementTypes` remembers.
    arguments = url.connect_arguments() | {"direct_tls": direct_tls}
    arguments["server_settings"] = {"application_name": APPLICATION_NAME} | arguments["server_settings"]
    connection: DriverConnection = await asyncpg.connect(
        **arguments,
        command_timeout=command_timeout,
        statement_cache_size=0,
        connection_class=DriverConnection,
    )
    _keep_alive(connection, command_timeout)
    return connection


def _keep_alive(connection: DriverConnection, command_timeout: float) -> None:
    """Have the kernel find out where a firewall has forgotten the connection, and nobody will ever say so."""
    kept = connection._transport.get_extra_info("socket")  # noqa: SLF001 # asyncpg offers no other way to it
    if kept is None or kept.family not in {socket.AF_INET, socket.AF_INET6}:
        return
    kept.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            kept.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    if sys.platform == "linux":  # what was sent is acknowledged in time, or the connection is lost
        kept.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(command_timeout * 1000))
