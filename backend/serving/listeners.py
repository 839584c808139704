"""A listener's end: nobody new is let in, and who was let in is not lost (specs/decisions/0015-the-end.md)."""

import socket
from collections.abc import Iterable
from contextlib import suppress

# Linux' numbers, which Python does not name: the least time to live of a packet, of IPv4 (ip(7)) and IPv6 (RFC 5082).
_MINIMUM_LIFE = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))


def keep_out(listeners: Iterable[socket.socket]) -> None:
    """Have Linux drop each request for a connection, as if it were lost on its way: the client asks again in a second.

    By then the listeners are closed, and the client is refused, or let in by whoever listens now. It takes no
    privilege: the listeners want packets that no router has touched. Elsewhere it does nothing.
    """
    for listener in listeners:
        _set_minimum_life(listener, 255)


def hear(connection: socket.socket | None) -> None:
    """Take what `keep_out` did to the listener from a connection that was let in after it."""
    if connection is not None:  # uvloop has none for a connection that is closed already
        _set_minimum_life(connection, 0)


def _set_minimum_life(sock: socket.socket, hops: int) -> None:
    for level, option in _MINIMUM_LIFE:
        with suppress(OSError):  # the other family, or another system
            sock.setsockopt(level, option, hops)
