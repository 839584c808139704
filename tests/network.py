"""A proxy for tests: between the service and its database, on the service's side a TLS edge like Neon's if wanted.

It counts round trips on the wire, shows which host the client asked for, and misbehaves on demand.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tests.programs import IMPOSSIBLE

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
TLS_HANDSHAKE = b"\x16"
ALPN = "postgresql"


def need(address: str) -> None:
    """Skip the test where there is no such address of this machine: many containers have no IPv6."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        socket.create_server((address, 0), family=family).close()
    except OSError:
        pytest.skip(f"{IMPOSSIBLE}: no {address}")


_kept: deque[socket.socket] = deque()
"""Sockets that are bound and do not listen: who is told of their ports may listen there, and nobody else gets them."""
MOST_KEPT = 100


def free_port() -> int:
    """A port that nobody listens on, and that the system gives to nobody who asks for any."""
    kept = socket.socket()
    if sys.platform == "linux":  # elsewhere nobody could listen beside it
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    kept.bind(("127.0.0.1", 0))
    port: int = kept.getsockname()[1]
    _kept.append(kept)
    if sys.platform != "linux" or len(_kept) > MOST_KEPT:
        _kept.popleft().close()
    return port


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Proxy:
    """Forwards connections to `connect_backend`. Change `mode` and the attributes at any time."""

    connect_backend: Callable[[], Awaitable[Streams]]
    tls: ssl.SSLContext | None = None
    takes_direct_tls: bool = True
    """Whether TLS may begin without being asked for, as it may with Neon and PostgreSQL 17."""
    delay: float = 0.0
    """Seconds that each direction takes longer."""
    port: int = 0
    connections: int = 0
    round_trips: int = 0
    """How often the client has sent something and got something back, since it was last set to zero."""
    bytes_sent: int = 0
    """By clients, since it was last set to zero; where the proxy ends TLS, what was in it."""
    server_names: list[str | None] = field(default_factory=list)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it, and the proxy accepts connections and passes nothing on: a black hole."""
    cut_before: bytes | None = None
    """Once: cut the connection instead of passing on what the client sends with these bytes in it."""
    cut_after: bytes | None = None
    """Once: pass it on, and cut the connection instead of passing back the response."""
    cut_within: bytes | None = None
    """Once: pass it on, pass half of the response back, and cut the connection."""
    slices: int = 0
    """If set, pass responses back in pieces of this many bytes."""

    def __post_init__(self) -> None:
        self.flowing.set()
        if self.tls is not None:
            self.tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
            self.tls.set_alpn_protocols([ALPN])

    async def handle(self, accepted: socket.socket) -> None:
        """Serve a connection until its end."""
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
            direct = self.tls is not None and self.takes_direct_tls and await first_byte(accepted) == TLS_HANDSHAKE
            reader, writer = await streams_of(accepted, self.tls if direct else None)
            self.open.add(writer)
            try:
                if self.tls is None or await (self._began_tls(writer) if direct else self._start_tls(reader, writer)):
                    await self._forward(reader, writer)
            finally:
                self.open.discard(writer)
                writer.transport.abort()

    async def _began_tls(self, writer: asyncio.StreamWriter) -> bool:
        await asyncio.sleep(self.delay * 2)
        self.round_trips += 1
        agreed: str | None = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        return agreed == ALPN  # PostgreSQL: no word to who may have meant another protocol

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self.flowing.wait()
        server_reader, server_writer = await self.connect_backend()
        turn = Turn(self)
        upward = asyncio.create_task(self._pump(reader, server_writer, turn.client_sent, self._send))
        downward = asyncio.create_task(self._pump(server_reader, writer, turn.server_sent, self._send_in_slices))
        try:
            await asyncio.wait({upward, downward}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            upward.cancel()
            downward.cancel()
            reset(server_writer) if turn.cut else server_writer.close()
            if turn.cut or turn.response is not None:
                reset(writer)

    async def _start_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if await reader.readexactly(8) != SSL_REQUEST:
            return False  # Neon: no word without TLS
        await asyncio.sleep(self.delay * 2)
        writer.write(b"S")
        assert self.tls is not None
        await writer.start_tls(self.tls)
        await asyncio.sleep(self.delay * 2)
        self.round_trips += 2
        return True

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        note: Callable[[bytes], bytes],
        send: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.flowing.wait()
                passed = note(data)
                await send(writer, passed)
                if len(passed) < len(data):
                    return

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()

    async def _send_in_slices(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if not self.slices:
            await self._send(writer, data)
            return
        for at in range(0, len(data), self.slices):
            await self._send(writer, data[at : at + self.slices])
            await asyncio.sleep(0)  # or a reader in this process would find several at once

    def cut_all(self) -> None:
        """Reset every open connection."""
        for writer in list(self.open):
            reset(writer)


async def first_byte(accepted: socket.socket) -> bytes:
    """Look at what a connection begins with, and leave it there."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(accepted, readable.set)
    try:
        await readable.wait()
    except asyncio.CancelledError:
        loop.remove_reader(accepted)
        accepted.close()
        raise
    loop.remove_reader(accepted)
    return accepted.recv(1, socket.MSG_PEEK)


async def streams_of(accepted: socket.socket, tls: ssl.SSLContext | None) -> Streams:
    """Return the streams of a connection that a client has opened."""
    loop = asyncio.get_running_loop()
    streams: asyncio.Future[Streams] = loop.create_future()
    protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), lambda *pair: streams.set_result(pair))
    await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=tls)
    return await streams


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection without a goodbye, so that the other side meets an error and not an end."""
    with contextlib.suppress(OSError):  # the other side may have closed it already
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


class Turn:
    """Whose turn it is on one connection, and how it is to be cut."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.waiting = False
        self.cut = False
        self.response: float | None = None
        """How much of the next response goes back before the cut; None where there is to be none."""

    def client_sent(self, data: bytes) -> bytes:
        """Return what to pass on; if that is not all, the connection is at its end."""
        self.waiting = True
        proxy = self.proxy
        proxy.bytes_sent += len(data)
        if proxy.cut_before is not None and proxy.cut_before in data:
            self.cut, proxy.cut_before = True, None
        elif proxy.cut_after is not None and proxy.cut_after in data:
            self.response, proxy.cut_after = 0, None
        elif proxy.cut_within is not None and proxy.cut_within in data:
            self.response, proxy.cut_within = 0.5, None
        return b"" if self.cut else data

    def server_sent(self, data: bytes) -> bytes:
        """Return what to pass on; if that is not all, the connection is at its end."""
        if self.waiting:
            self.waiting = False
            self.proxy.round_trips += 1
        return data if self.response is None else data[: int(len(data) * self.response)]


@asynccontextmanager
async def proxy_to(
    *, path: str | None = None, port: int | None = None, tls: ssl.SSLContext | None = None, delay: float = 0.0
) -> AsyncIterator[Proxy]:
    """Run a proxy to a Unix socket or to a port of this machine for as long as the block lasts."""

    def connect_backend() -> Awaitable[Streams]:
        return asyncio.open_unix_connection(path) if path else asyncio.open_connection("127.0.0.1", port)

    proxy = Proxy(connect_backend, tls, delay=delay)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(listener: socket.socket) -> None:
        while True:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as asyncio's own servers do
            task = asyncio.create_task(proxy.handle(accepted))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        listener.setblocking(False)
        proxy.port = listener.getsockname()[1]
        tasks.add(asyncio.create_task(accept(listener)))
        try:
            yield proxy
        finally:
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
