"""What a connection asks of its socket: reads of a bounded size, and how much the client has not taken."""

import asyncio
import socket
import struct
import sys

if sys.platform != "win32":
    import fcntl
    import termios

READ_SIZE = 16 * 1024
"""Bytes that are read at once. asyncio's and uvloop's 256 KiB are what each request that waits could hold."""

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


def held_by_kernel(transport: asyncio.Transport) -> int:
    """Return how many bytes the client has not taken from the kernel; 0 if unknown."""
    if sys.platform == "win32":
        return 0
    try:
        size = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(size, sys.byteorder)


def forget_unsent(transport: asyncio.Transport) -> None:
    """Have the kernel drop what it holds for the client when the connection is aborted."""
    linger = struct.pack("ii", 1, 0)
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
