"""The end of a listener, as its clients see it."""

import select
import socket
import sys
from collections.abc import Iterator

import pytest

from backend.serving.listeners import hear, keep_out
from tests.network import need

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can keep clients out")

HOPS = {
    socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL),
    socket.AF_INET6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS),
}


@pytest.fixture(params=["127.0.0.1", "::1"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    need(request.param)
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as made:
        made.setblocking(False)
        yield made


def test_who_asks_to_be_let_in_at_the_end_is_let_in_by_the_next(listener: socket.socket) -> None:
    address = listener.getsockname()
    keep_out([listener])
    with socket.socket(listener.family) as client:
        client.setblocking(False)
        client.connect_ex(address)
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        with socket.create_server(address[:2], family=client.family) as successor:
            assert select.select([], [client], [], 10)[1]
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            successor.accept()[0].close()


def test_who_was_just_let_in_is_heard(listener: socket.socket) -> None:
    keep_out([listener])
    with socket.socket(listener.family) as client:
        client.settimeout(10)
        client.setsockopt(*HOPS[listener.family], 255)  # as if it had asked before
        client.connect(listener.getsockname())
        client.setsockopt(*HOPS[listener.family], 64)
        connection = listener.accept()[0]
        with connection:
            connection.settimeout(10)
            hear(connection)
            client.sendall(b"x")
            assert connection.recv(1) == b"x"
