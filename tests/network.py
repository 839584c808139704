"""A proxy for tests: between the service and its database, on the service's side a TLS edge like Neon's if wanted.

It counts round trips on the wire, shows which host the client asked for, and misbehaves on demand.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

SSL_REQUEST = struct.pack("!ii", 8, 80877103)


@dataclass
class Proxy:
    """Forwards connections to `connect_backend`. Change `mode` and the attributes at any time."""

    connect_backend: Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]
    tls: ssl.SSLContext | None = None
    delay: float = 0.0
    """Seconds that each direction takes longer."""
    port: int = 0
    connections: int = 0
    round_trips: int = 0
    """How often the client has sent something and got something back, since it was last set to zero."""
    server_names: list[str | None] = field(default_factory=list)
    open: set[asyncio.StreamWriter] = field(default_factory=set)
    flowing: asyncio.Event = field(default_factory=asyncio.Event)
    """Clear it, and the proxy accepts connections and passes nothing on: a black hole."""
    cut_before: bytes | None = None
    """Once: cut the connection instead of passing on what the client sends with these bytes in it."""
    cut_after: bytes | None = None
    """Once: pass it on, and cut the connection instead of passing back the answer."""
    cut_within: bytes | None = None
    """Once: pass it on, pass half of the answer back, and cut the connection."""
    slices: int = 0
    """If set, pass answers back in pieces of this many bytes."""

    def __post_init__(self) -> None:
        self.flowing.set()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                if self.tls is None or await self._start_tls(reader, writer):
                    await self._forward(reader, writer)
        finally:
            self.open.discard(writer)
            writer.transport.abort()

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
            if turn.cut or turn.answer is not None:
                reset(writer)

    async def _start_tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        if await reader.readexactly(8) != SSL_REQUEST:
            return False  # Neon: no word without TLS
        await asyncio.sleep(self.delay * 2)
        writer.write(b"S")
        assert self.tls is not None
        self.tls.sni_callback = lambda _socket, name, _context: self.server_names.append(name)
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
        self.answer: float | None = None
        """How much of the next answer goes back before the cut; None where there is to be none."""

    def client_sent(self, data: bytes) -> bytes:
        """Return what to pass on; if that is not all, the connection is at its end."""
        self.waiting = True
        proxy = self.proxy
        if proxy.cut_before is not None and proxy.cut_before in data:
            self.cut, proxy.cut_before = True, None
        elif proxy.cut_after is not None and proxy.cut_after in data:
            self.answer, proxy.cut_after = 0, None
        elif proxy.cut_within is not None and proxy.cut_within in data:
            self.answer, proxy.cut_within = 0.5, None
        return b"" if self.cut else data

    def server_sent(self, data: bytes) -> bytes:
        """Return what to pass on; if that is not all, the connection is at its end."""
        if self.waiting:
            self.waiting = False
            self.proxy.round_trips += 1
        return data if self.answer is None else data[: int(len(data) * self.answer)]


@asynccontextmanager
async def proxy_to(
    *, path: str | None = None, port: int | None = None, tls: ssl.SSLContext | None = None, delay: float = 0.0
) -> AsyncIterator[Proxy]:
    """Run a proxy to a Unix socket or to a port of this machine for as long as the block lasts."""

    def connect_backend() -> Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return asyncio.open_unix_connection(path) if path else asyncio.open_connection("127.0.0.1", port)

    proxy = Proxy(connect_backend, tls, delay)
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
