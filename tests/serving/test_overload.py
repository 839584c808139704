"""More requests than places: most are refused before they begin, and the connection goes on."""

import http.client
import json
import re
import select
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psutil
import pytest
from uuid_utils.compat import uuid7

from backend.auth.tokens import mint
from tests.processes import DEADLINE, FORKED, Server, eventually, read_to_end, serving
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
    with serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
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


def test_of_many_requests_without_a_place_none_reaches_the_application(busy: Busy) -> None:
    with busy.full(), ExitStack() as stack:
        connections = [stack.enter_context(busy.server.connect()) for _ in range(50)]
        for connection in connections:
            connection.sendall(LIST % busy.authorization)
        assert [statuses(receive(connection)) for connection in connections] == [[503]] * 50
    eventually(lambda: refused_early(busy.server) > 50, "all are in the log")
    assert '"code":"overloaded"' not in busy.server.stderr.replace(" ", "")  # the guard's, with a line for each


def refused_early(server: Server) -> int:
    """How many requests were refused before they began."""
    return sum(int(count) for count in re.findall(r"overloaded: (\d+) ", server.stderr))


def test_strangers_do_not_make_the_service_refuse_its_users(busy: Busy) -> None:
    with ExitStack() as stack:
        strangers = [stack.enter_context(busy.server.connect()) for _ in range(100)]
        user = stack.enter_context(busy.server.connect())
        for path in (b"/", b"/openapi.json", b"/api/tasks"):
            for stranger in strangers:  # their responses are in the way of nobody, read or not
                stranger.sendall(b"GET %b HTTP/1.1\r\nHost: t\r\n\r\n" % path)
            user.sendall(LIST % busy.authorization)
            assert statuses(receive(user)) == [200]
    assert refused_early(busy.server) == 0


@pytest.mark.parametrize("target", [b"http://", b"http://[::1", b"http://h:99999/", b"http://?x", b"http://h:x/y"])
def test_a_target_that_is_no_address_gets_a_response(busy: Busy, target: bytes) -> None:
    received = busy.server.exchange(b"GET %b HTTP/1.1\r\nHost: t\r\n\r\n" % target)
    assert statuses(received) == [400]


def test_what_a_refused_client_sends_in_its_pause_is_not_held_against_it(busy: Busy) -> None:
    head = b"POST /api/tasks/batch HTTP/1.1\r\nHost: t\r\nContent-Length: 200000\r\n\r\n"
    with busy.server.connect() as connection:
        with busy.full():
            connection.sendall(LIST % b"" + head + b" " * 200_000)
            received = receive(connection)
            while len(statuses(received)) < 2:
                received += receive(connection)
        connection.sendall(LIST % busy.authorization)
        assert statuses(received + receive(connection)) == [503, 503, 200]


def is_open(server: Server, port: int) -> bool:
    """Whether the server has a connection from this port."""
    process = psutil.Process(server.process.pid)
    return any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp"))


def test_the_connection_of_a_last_refusal_ends_although_nothing_was_read(busy: Busy) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", busy.server.port))
        connection.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: t\r\n\r\n")
        connection.recv(1, socket.MSG_PEEK)
        with busy.full():
            connection.sendall(b"GET /api/tasks HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
            received = read_to_end(connection)
        assert statuses(received) == [200, 503]
        eventually(lambda: not is_open(busy.server, connection.getsockname()[1]), "the server has closed it")


def test_half_a_head_behind_a_refused_request_has_its_time(busy: Busy) -> None:
    with busy.full(), busy.server.connect() as connection:
        connection.sendall(LIST % b"" + b"G")
        assert statuses(receive(connection)) == [503]
        port = connection.getsockname()[1]
        eventually(lambda: not is_open(busy.server, port), "the server has closed it")


def test_what_waits_to_be_refused_holds_little_of_its_body(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, RATE_LIMIT="1/hour")
    token = mint(make_settings("sqlite+aiosqlite://"), "busy", 3600).encode()
    head = (
        b"POST /api/tasks/batch HTTP/1.1\r\nHost: t\r\nAuthorization: Bearer %b\r\nContent-Length: 1000000\r\n\r\n"
        % token
    )
    with serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server, ExitStack() as stack:
        process = psutil.Process(server.process.pid)
        connections = [stack.enter_context(server.connect()) for _ in range(300)]
        for connection in connections:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            assert statuses(receive(connection)) == [200]
        before = process.memory_info().rss
        connections[0].sendall(head)  # the one request that may begin
        assert server.responds()
        for connection in connections[1:]:
            connection.sendall(head + b" " * 60_000)
        found = [statuses(receive(connection)) for connection in connections[1:]]
        assert found == [[429]] * 299
        assert process.memory_info().rss - before < 12_000_000


def list_of(token: str, query: bytes = b"") -> bytes:
    return (b"GET /api/tasks%b HTTP/1.1\r\nHost: t\r\nConnection: close\r\nAuthorization: Bearer %b\r\n\r\n") % (
        query,
        token.encode(),
    )


@contextmanager
def unread(tmp_path: Path, token: str) -> Iterator[tuple[Server, list[socket.socket]]]:
    """A service that lets a user do two things at once, and two lists of which the user has read a word."""
    settings = settings_of(tmp_path, MAX_CONCURRENT_REQUESTS_PER_USER="2", LOG_FORMAT="json")
    task = {"title": "long", "description": "\U0001f600" * 2000}
    operations = [{"op": "put", "id": str(uuid7()), "task": task} for _ in range(100)]
    body = json.dumps({"operations": operations}, ensure_ascii=False).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server, ExitStack() as stack:
        with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=DEADLINE)) as writing:
            writing.request("POST", "/api/tasks/batch", body, headers)
            assert len(json.loads(writing.getresponse().read())["results"]) == 100
        connections = [stack.enter_context(socket.socket()) for _ in range(2)]
        for connection in connections:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(DEADLINE)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(list_of(token))
            assert connection.recv(12) == b"HTTP/1.1 200"
        yield server, connections


def test_a_user_who_reads_no_response_fills_no_memory_with_them(tmp_path: Path) -> None:
    """They are under way until they have been taken: more of the same user's wait, and nobody else's do."""
    reader, other = (mint(make_settings("sqlite+aiosqlite://"), user, 3600) for user in ("reader", "other"))
    with unread(tmp_path, reader) as (server, connections):
        one = [statuses(server.exchange(list_of(user, b"?limit=1"))) for user in (reader, other)]
        assert one == [[429], [200]]
        assert all(len(read_to_end(connection)) > 800_000 for connection in connections)
        assert statuses(server.exchange(list_of(reader, b"?limit=1"))) == [200]


def test_a_requests_line_does_not_wait_for_its_client_to_read(tmp_path: Path) -> None:
    """Whoever looks into the log now sees what has been responded now, and the metrics count it."""
    with unread(tmp_path, mint(make_settings("sqlite+aiosqlite://"), "reader", 3600)) as (server, connections):
        line = re.compile(r'"method": ?"GET", "route": ?"/api/tasks", "status": ?200')
        eventually(lambda: len(line.findall(server.stderr)) == 2, "both lists have their lines")
        assert all(len(read_to_end(connection)) > 800_000 for connection in connections)  # they were not given up


def test_an_ending_service_says_nothing_wrong_of_responses_that_are_not_read(tmp_path: Path) -> None:
    """They are complete: nothing was unavailable, and no outcome is unknown."""
    with unread(tmp_path, mint(make_settings("sqlite+aiosqlite://"), "reader", 3600)) as (server, _):
        server.stop()
        assert '"code"' not in server.stderr
        assert "ASGI" not in server.stderr
