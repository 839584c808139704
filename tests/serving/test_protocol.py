"""Callers that bend HTTP: what they send is read as nothing else, and what they hold is taken from them."""

import json
import re
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from backend.auth.tokens import mint
from tests.processes import SCRIPT, Server, read_to_end, serving
from tests.settings import make_settings, settings_of

TITLE = '{"title": "bent"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two places for requests under way."""
    folder = tmp_path_factory.mktemp("protocol")
    settings = settings_of(folder, MAX_CONCURRENT_REQUESTS="2")
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
        yield server


class User:
    """A user with a name of its own, and the bytes of its requests."""

    def __init__(self, server: Server) -> None:
        self.server = server
        token = mint(make_settings("sqlite+aiosqlite://"), f"bender-{uuid.uuid4()}", 3600)
        self.authorization = f"Authorization: Bearer {token}\r\n"

    def request(self, method: str, path: str, *headers: str, body: str = "", authorized: bool = True) -> bytes:
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\n" + (self.authorization if authorized else "")
        lines = "".join(f"{header}\r\n" for header in headers)
        return f"{head}{lines}\r\n{body}".encode()

    def create(self, *headers: str, authorized: bool = True) -> bytes:
        length = f"Content-Length: {len(TITLE)}"
        return self.request(
            "POST", "/api/tasks", "Content-Type: application/json", length, *headers, body=TITLE, authorized=authorized
        )

    def tasks(self) -> int:
        answer = self.server.exchange(self.request("GET", "/api/tasks/stats", "Connection: close"))
        return int(json.loads(answer.rpartition(b"\r\n\r\n")[2])["total"])


@pytest.fixture
def user(server: Server) -> User:
    return User(server)


def statuses(answer: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM")


def test_a_body_behind_an_upgrade_is_not_read_as_a_request(server: Server, user: User) -> None:
    hidden = user.create()
    headers = (*UPGRADE, "Content-Type: application/json", f"Content-Length: {len(hidden)}")
    with server.connect() as connection:
        connection.sendall(user.request("POST", "/api/tasks", *headers) + hidden)
        assert statuses(read_to_end(connection)) == [400]
    assert user.tasks() == 0


def test_an_upgrade_without_a_body_is_ignored(server: Server, user: User) -> None:
    assert statuses(server.exchange(user.request("GET", "/api/tasks", *UPGRADE))) == [200]


CHUNKED = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
CHUNKS = f"{len(TITLE):x}\r\n{TITLE}\r\n0\r\n"


def test_a_trailer_is_no_header(server: Server, user: User) -> None:
    body = CHUNKS + user.authorization + "\r\n"
    answer = server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=body, authorized=False))
    assert statuses(answer) == [401]
    answer = server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=CHUNKS + "Authorization: x\r\n\r\n"))
    assert statuses(answer) == [201]


@pytest.mark.parametrize("authorized", [True, False])
def test_trailers_have_a_limit(server: Server, user: User, authorized: bool) -> None:
    with server.connect() as connection:
        body = CHUNKS + "X: y\r\n"
        connection.sendall(user.request("POST", "/api/tasks", *CHUNKED[:2], body=body, authorized=authorized))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall((b"X: " + b"y" * 4000 + b"\r\n") * 10_000)
    assert user.tasks() == 0


def test_a_request_before_garbage_gets_its_own_answer(server: Server, user: User) -> None:
    assert statuses(server.exchange(user.create() + b"\x00\x00\r\n\r\n")) == [201]
    assert user.tasks() == 1


def test_a_caller_that_has_closed_its_side_gets_its_answer(server: Server, user: User) -> None:
    with server.connect() as connection:
        connection.sendall(user.create())
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_to_end(connection)) == [201]


def test_callers_that_do_not_read_hold_no_place(server: Server, user: User) -> None:
    with ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", server.port))
            connection.sendall(user.request("GET", "/openapi.json") * 200)
        # Each of them has filled all buffers when its first bytes have been read and no more are sent.
        assert user.tasks() == 0
        for _ in range(20):
            assert statuses(server.exchange(user.request("GET", "/api/tasks", "Connection: close"))) == [200]


def test_a_head_has_at_most_32_kib(server: Server, user: User) -> None:
    assert statuses(server.exchange(user.request("GET", "/api/tasks", "Connection: close", "X: " + "y" * 30_000))) == [
        200
    ]
    assert statuses(server.exchange(user.request("GET", "/api/tasks", "X: " + "y" * 32_768))) == [431]
    assert statuses(server.exchange(user.request("GET", "/api/tasks?" + "y" * 32_768))) == [431]


def test_an_endless_head_is_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"y" * 50_000_000)


def test_a_refusal_below_http_is_a_problem_with_the_callers_request_id(server: Server, user: User) -> None:
    answer = server.exchange(user.request("GET", "/api/tasks", "X-Request-ID: mine", "X: " + "y" * 32_768))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert b"X-Request-ID: mine" in head
    assert json.loads(body)["code"] == "head_too_large"
    assert json.loads(body)["request_id"] == "mine"


def test_a_body_does_not_count_as_the_next_requests_head(server: Server) -> None:
    body = TITLE.encode() + b" " * 50_000
    token = mint(make_settings("sqlite+aiosqlite://"), "bent", 3600)
    head = f"POST /api/tasks HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
    with server.connect() as connection:
        for start in range(0, len(request), 10_000):
            connection.sendall(request[start : start + 10_000])
        received = connection.recv(65_536)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received += read_to_end(connection)
    assert re.findall(rb"HTTP/1\.1 (\d{3})", received) == [b"201", b"200"]
