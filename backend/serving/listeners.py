"""The sockets that the service listens on: how they begin, and how they end without losing whom they have let in.

They are bound before anything else is done, so that a port in use is found out at once. Their end is explained in
specs/decisions/0015-the-end.md.
"""

import errno
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

SEND_BUFFER = 128 * 1024
"""Bytes of a connection's responses that the system keeps for a client that does not read; on Linux twice as many.
Without a bound it is 4 MiB, and a thousand such clients, who need no token, fill the memory of the machine."""
# Linux' numbers, which Python does not name: the least time to live of a packet, of IPv4 (ip(7)) and IPv6 (RFC 5082).
_MINIMUM_LIFE = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))


def bind(host: str, port: int) -> list[socket.socket]:
    """Bind a socket for each address of the host: `localhost` and `::` are IPv4 and IPv6. Raises `OSError`.

    They listen only once the service is ready: until then connections are refused.
    """
    sockets: list[socket.socket] = []
    failure: OSError | None = None
    for family, address in _addresses(host, port):
        listener = socket.socket(family)
        try:
            if sys.platform != "win32":  # where it would let two processes have the same port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # the system's default differs
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            listener.bind(address)
            listener.set_inheritable(True)  # for workers
        except OSError as error:
            listener.close()
            failure = error
            if error.errno == errno.EADDRINUSE:
                break
        else:
            sockets.append(listener)
    if failure is not None and (failure.errno == errno.EADDRINUSE or not sockets):
        for listener in sockets:
            listener.close()
        raise failure
    return sockets  # of localhost maybe one: not every machine has both families


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    # Browsers and Node.js take either for localhost, whatever the system's list of hosts says.
    names = ("127.0.0.1", "::1") if host == "localhost" else (host,)
    found = [
        each
        for name in names
        for each in socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    ]
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def keep_out(listeners: Iterable[socket.socket]) -> None:
    """Have Linux drop each request for a connection, as if it were lost on its way: the client asks again in a second.

    By then the listeners are closed, and the client is refused, or let in by whoever listens now. It takes no
    privilege: the listeners want packets that no router has touched. Elsewhere it does nothing.
    """
    for listener in listeners:
        _set_minimum_life(listener, 255)


def hear(connection: socket.socket | None) -> None:
    """Undo `keep_out` for a connection: one that was let in after it has the listener's options."""
    if connection is not None:  # uvloop has none for a connection that is closed already
        _set_minimum_life(connection, 0)


def _set_minimum_life(sock: socket.socket, hops: int) -> None:
    for level, option in _MINIMUM_LIFE:
        with suppress(OSError):  # the other family, or another system
            sock.setsockopt(level, option, hops)
