"""More requests than places: most are refused before they begin, and the connection goes on."""

import http.client
import json
import re
import select
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from backend.api.limits import WAITING_PER_REQUEST
from backend.auth.tokens import mint
from tests.processes import DEADLINE, SCRIPT, Server, eventually, read_to_end, serving
from tests.settings import make_settings, settings_of

LIST = b"GET /api/tasks HTTP/1.1\r\nHost: test\r\nAuthorization: %b\r\n\r\n"
TITLE = b'{"title": "late"}'


class Busy:
    """A service with one place, and the request that takes it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self._database = folder / "todo.db"
        self.authorization = f"Bearer {mint(make_settings('sqlite+aiosqlite://'), 'busy', 3600)}".encode()

    @contextmanager
    def full(self) -> Iterator[None]:
        """The place is taken as long as the block lasts, by a write that waits for a lock."""
        with closing(sqlite3.connect(self._database, isolation_level=None)) as lock:
            lock.execute("BEGIN IMMEDIATE")
            writing = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=DEADLINE)
            headers = {"Authorization": self.authorization.decode(), "Content-Type": "application/json"}
            writing.request("POST", "/api/tasks", TITLE, headers)
            eventually(lambda: self.status() == 503, "the place is taken")
            yield
            lock.execute("ROLLBACK")
            assert writing.getresponse().status == 201
            writing.close()

    def status(self) -> int:
        response = self.server.exchange(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        return statuses(response)[0]


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def receive(connection: socket.socket) -> bytes:
    """Return the next response, which comes in one piece, and whatever came with it."""
    return connection.recv(65_536)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Busy]:
    settings = settings_of(tmp_path, MAX_CONCURRENT_REQUESTS="1", LOG_FORMAT="json", DATABASE_COMMAND_TIMEOUT="50")
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
        yield Busy(server, tmp_path)


def test_a_request_that_cannot_begin_is_refused_and_its_connection_goes_on(busy: Busy) -> None:
    body = b"POST http://test/api/tasks?x HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(TITLE)
    with busy.server.connect() as connection:
        with busy.full():
            connection.sendall(body)
            refused = receive(connection)
            head, _, content = refused.partition(b"\r\n\r\n")
            assert statuses(head) == [503]
            assert b"\r\nretry-after: 1" in head
            assert (json.loads(content)["code"], json.loads(content)["instance"]) == ("overloaded", "/api/tasks")
            connection.sendall(TITLE)  # which nobody waits for
            assert statuses(busy.server.exchange(b"GET /health HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")) == [
                200
            ]
        connection.sendall(LIST % busy.authorization)
        assert statuses(receive(connection)) == [200]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/tasks HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        b"GET /api/tasks HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n",
        b"GET /api/tasks HTTP/1.0\r\n\r\n",
    ],
    ids=["chunks", "expectation", "last", "1.0"],
)
def test_where_a_refused_request_ends_is_known_or_it_is_the_last(busy: Busy, request_bytes: bytes) -> None:
    with busy.full(), busy.server.connect() as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        received = read_to_end(connection)
    assert statuses(received) == [503]
    assert b"\r\nconnection: close\r\n" in received


def test_a_refused_client_is_not_heard_for_a_moment(busy: Busy) -> None:
    def is_heard_later() -> bool:
        """Whether a request behind a refused one waits while another client's, which comes later, has its response."""
        with busy.server.connect() as impatient, busy.server.connect() as other:
            impatient.sendall(LIST % b"" * 2)
            first = receive(impatient)
            other.sendall(LIST % b"")
            assert statuses(receive(other)) == [503]
            early = bool(select.select([impatient], [], [], 0)[0])
            while len(statuses(first)) < 2:
                first += receive(impatient)
            return not early and statuses(first) == [503, 503]

    with busy.full():
        assert any(is_heard_later() for _ in range(10))  # where the machine pauses, the moment may be over


def test_of_many_requests_at_once_most_without_a_place_never_reach_the_application(busy: Busy) -> None:
    with ExitStack() as stack:
        connections = [stack.enter_context(busy.server.connect()) for _ in range(50)]
        for connection in connections:  # until they are all accepted
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            assert statuses(receive(connection)) == [200]
        busy.server.process.send_signal(signal.SIGSTOP)
        for connection in connections:
            connection.sendall(LIST % busy.authorization)
        busy.server.process.send_signal(signal.SIGCONT)
        found = [statuses(receive(connection))[0] for connection in connections]
    refused = found.count(503)
    assert (set(found), refused > 0) == ({200, 503}, True)
    eventually(lambda: sum(refusals(busy.server)) == refused, "all are in the log")
    assert refusals(busy.server)[1] <= WAITING_PER_REQUEST


def refusals(server: Server) -> tuple[int, int]:
    """How many were refused before they began, and by the guard, which writes a line for each."""
    early = sum(int(count) for count in re.findall(r"overloaded: (\d+) ", server.stderr))
    return early, server.stderr.replace(" ", "").count('"code":"overloaded"')


def test_probes_and_preflights_need_no_place(busy: Busy) -> None:
    preflight = "OPTIONS /api/tasks HTTP/1.1\r\nHost: t\r\nOrigin: http://localhost:3000\r\n"
    preflight += "Access-Control-Request-Method: GET\r\nConnection: close\r\n\r\n"
    with busy.full():
        for path in ("/health", "/health/ready"):
            received = busy.server.exchange(f"GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n".encode())
            assert b'"overloaded"' not in received
        assert statuses(busy.server.exchange(preflight.encode())) == [204]
