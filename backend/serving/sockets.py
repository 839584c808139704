"""What a connection asks of its socket: reads of a bounded size, and whether its client reads fast enough."""

import asyncio
import math
import socket
import struct
import sys

if sys.platform != "win32":
    import fcntl
    import termios

READ_SIZE = 16 * 1024
"""Bytes that are read at once. asyncio's and uvloop's 256 KiB are what each request that waits could hold."""
WRITE_TIMEOUT = 10.0
"""Seconds in which a client must have read a response, and one more for each `WRITE_RATE` bytes of it."""
WRITE_RATE = 16 * 1024

_buffer = memoryview(bytearray(READ_SIZE))  # one for all connections: each takes what has come before another reads


class SmallReads(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol, which gets `READ_SIZE` bytes at most at once."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._data_received = protocol.data_received
        self.eof_received = protocol.eof_received  # type: ignore[method-assign] # the protocol's, as all that follow
        self.connection_lost = protocol.connection_lost  # type: ignore[method-assign]
        self.pause_writing = protocol.pause_writing  # type: ignore[method-assign]
        self.resume_writing = protocol.resume_writing  # type: ignore[method-assign]

    def get_buffer(self, sizehint: int) -> memoryview:  # asyncio's hint is a size it would like
        """Return where to put what comes."""
        return _buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand over what has come."""
        self._data_received(bytes(_buffer[:nbytes]))


class Unsent:
    """What a client was sent and has not taken yet, and until when it may take its time."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.written = 0
        """Bytes of all responses so far."""
        self._due = 0  # how many of them the client must have taken by `_due_until`
        self._due_until = math.inf

    def size(self) -> int:
        """Return how many bytes it is: what we hold, and what the kernel holds."""
        return self._transport.get_write_buffer_size() + self._held_by_kernel()

    def is_overdue(self, now: float) -> bool:
        """Tell whether the client was too slow. Once it has taken all that was due, the rest has a new deadline."""
        size = self.size()
        if self.written - size >= self._due:
            self._due, self._due_until = self.written, now + WRITE_TIMEOUT + size / WRITE_RATE
            return False
        return now > self._due_until

    def forget(self) -> None:
        """Have the kernel drop what it holds when the connection is aborted."""
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def _held_by_kernel(self) -> int:
        if sys.platform == "win32":
            return 0  # unknown
        try:
            size = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except OSError:
            return 0
        return int.from_bytes(size, sys.byteorder)
