"""Clients that bend HTTP: what they send is read as nothing else, and what they hold is taken from them."""

import contextlib
import http.client
import json
import re
import signal
import socket
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from backend.auth.tokens import mint
from tests.processes import FORKED, SCRIPT, Server, eventually, read_to_end, serving
from tests.settings import make_settings, settings_of

TITLE = '{"title": "bent"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with two places for requests under way."""
    folder = tmp_path_factory.mktemp("protocol")
    settings = settings_of(folder, MAX_CONCURRENT_REQUESTS="2")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
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
        response = self.server.exchange(self.request("GET", "/api/tasks/stats", "Connection: close"))
        return int(json.loads(response.rpartition(b"\r\n\r\n")[2])["total"])


@pytest.fixture
def user(server: Server) -> User:
    return User(server)


def statuses(response: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", response)]


UPGRADES = {
    "Java": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAM"),
    "a websocket": ("Connection: keep-alive, Upgrade", "upgrade:websocket", "Sec-WebSocket-Version: 13"),
}


@pytest.mark.parametrize("upgrade", UPGRADES.values(), ids=UPGRADES)
def test_an_upgrade_is_ignored(server: Server, user: User, upgrade: tuple[str, ...]) -> None:
    requests = (
        user.request("GET", "/api/tasks", *upgrade),
        user.request("GET", "/api/tasks", *upgrade, "Content-Length: 0"),
        user.create(*upgrade),
        user.request("POST", "/api/tasks", *CHUNKED[:2], *upgrade, body=CHUNKS + "\r\n"),
        user.request("GET", "/api/tasks", "Connection: close"),
    )
    with server.connect() as connection:
        received = b""
        for request in requests:
            connection.sendall(request)
            received += connection.recv(65_536)
        received += read_to_end(connection)
    assert statuses(received) == [200, 200, 201, 201, 200]
    assert user.tasks() == 2


def test_a_body_behind_an_upgrade_is_not_read_as_a_request(server: Server, user: User) -> None:
    hidden = user.create()
    headers = (*UPGRADES["Java"], "Content-Type: application/json", f"Content-Length: {len(hidden)}")
    last = user.request("GET", "/api/tasks", "Connection: close")
    assert statuses(server.exchange(user.request("POST", "/api/tasks", *headers) + hidden + last)) == [400, 200]
    assert user.tasks() == 0


CHUNKED = ("Content-Type: application/json", "Transfer-Encoding: chunked", "Connection: close")
CHUNKS = f"{len(TITLE):x}\r\n{TITLE}\r\n0\r\n"


@pytest.mark.parametrize("blanks", ["\t", " \t "])
def test_blanks_behind_a_header_are_no_part_of_it(server: Server, user: User, blanks: str) -> None:
    headers = [header + blanks for header in CHUNKED]
    response = server.exchange(user.request("POST", "/api/tasks", *headers, body=CHUNKS + "\r\n"))
    assert statuses(response) == [201]
    assert user.tasks() == 1


def test_a_trailer_is_no_header(server: Server, user: User) -> None:
    body = CHUNKS + user.authorization + "\r\n"
    response = server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=body, authorized=False))
    assert statuses(response) == [401]
    response = server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=CHUNKS + "Authorization: x\r\n\r\n"))
    assert statuses(response) == [201]


def test_a_trailer_ends_no_connection(server: Server, user: User) -> None:
    chunked = user.request("POST", "/api/tasks", *CHUNKED[:2], body=CHUNKS + "Connection: close\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(chunked)
        received = connection.recv(65_536)
        connection.sendall(chunked + user.create())
        received += read_to_end(connection)
    assert statuses(received) == [201, 201]
    assert received.count(b"connection: close") == 1
    assert user.tasks() == 2


@pytest.mark.parametrize("authorized", [True, False])
def test_trailers_have_a_limit(server: Server, user: User, authorized: bool) -> None:
    with server.connect() as connection:
        body = CHUNKS + "X: y\r\n"
        connection.sendall(user.request("POST", "/api/tasks", *CHUNKED[:2], body=body, authorized=authorized))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall((b"X: " + b"y" * 4000 + b"\r\n") * 10_000)
    assert user.tasks() == 0


def test_a_request_before_garbage_gets_its_own_response(server: Server, user: User) -> None:
    assert statuses(server.exchange(user.create() + b"\x00\x00\r\n\r\n")) == [201, 400]
    assert user.tasks() == 1


def test_a_client_that_has_closed_its_side_gets_its_response(server: Server, user: User) -> None:
    with server.connect() as connection:
        connection.sendall(user.create())
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_to_end(connection)) == [201]


@pytest.mark.parametrize("rest", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf"])
def test_who_has_closed_its_side_gets_the_responses_to_all_that_it_has_sent_whole(
    server: Server, user: User, rest: bytes
) -> None:
    body = TITLE.encode() + b" " * 40_000  # of several reads: the end is heard while its request is under way
    head = user.request("POST", "/api/tasks", "Content-Type: application/json", f"Content-Length: {len(body)}")
    with server.connect() as connection:
        connection.sendall(head + body + user.create() * 20 + rest)
        connection.shutdown(socket.SHUT_WR)
        assert statuses(read_to_end(connection)) == [201] * 21
    assert user.tasks() == 21


def test_clients_that_do_not_read_hold_no_place(server: Server, user: User) -> None:
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


def test_a_head_has_at_most_100_headers(server: Server, user: User) -> None:
    headers = ["X: y"] * 97
    assert statuses(server.exchange(user.request("GET", "/api/tasks", "Connection: close", *headers))) == [200]
    assert statuses(server.exchange(user.request("GET", "/api/tasks", *headers, *headers))) == [431]


HOST = b"Host: test\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + HOST,
        b"GET /health HTTP/1.1\r\nHost: a b\r\n",
        b"GET /health HTTP/1.1\r\nHost: a, b\r\n",
        b"GET /health HTTP/1.1\r\nHost: a/b\r\n",
        b"GET /health HTTP/1.1\r\nHost: a@b\r\n",
        b'GET /health HTTP/1.1\r\nHost: a"b\r\n',
        b"GET /health HTTP/1.1\r\nHost: a:b\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1\r\n",
        b"GET /health HTTP/1.1\r\nHost: \xc3\xa4\r\n",
        b"GET /health\r\n" + HOST,
        b"GET /health HTTP/0.9\r\n" + HOST,
        b"GET /health HTTP/2.0\r\n" + HOST,
        b"GET /health RTSP/1.0\r\n" + HOST,
        b"DESCRIBE /health RTSP/1.0\r\n" + HOST,
        b"GET /health#fragment HTTP/1.1\r\n" + HOST,
        b"GET /\xc3\xa4 HTTP/1.1\r\n" + HOST,
        b"CONNECT test:443 HTTP/1.1\r\n" + HOST,
        b"PRI * HTTP/2.0\r\n",
        b"GET /health HTTP/1.1\r\n" + HOST + b"X: y\r\n folded\r\n",
        b"\r\n" * 20_000,
        b"GET /health HTTP/1.1\nHost: test\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 5000 80\r\nGET /health HTTP/1.1\r\n" + HOST,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
    ],
    ids=lambda head: repr(head[:40]),
)
def test_what_is_no_request_of_http_1_is_a_problem(server: Server, head: bytes) -> None:
    received = server.exchange(head + b"\r\n")
    assert statuses(received) == [400]
    assert json.loads(received.rpartition(b"\r\n\r\n")[2])["code"] == "malformed_request"


METHODS = ("BREW", "PROPFIND", "connect", "PRI", "DESCRIBE", "GET_PARAMETER", "SOURCE", "get", "GETX", "X" * 300)


@pytest.mark.parametrize("method", [*METHODS, "!#$%&'*+-.^_`|~09Az"])
def test_a_method_that_no_address_has_is_refused_as_such(server: Server, user: User, method: str) -> None:
    requests = (
        user.request(method, "/api/tasks", "Content-Length: 2", authorized=False, body="{}"),
        user.request(method, "/api/tasks", "Content-Length: 2", body="{}"),
        user.request("GET", "/api/tasks", "Connection: close"),
    )
    received = server.exchange(b"".join(requests))
    assert statuses(received) == [401, 405, 200]
    assert b"\r\nallow: DELETE, GET, HEAD, POST\r\n" in received


@pytest.mark.parametrize("authorized", [True, False])
def test_what_is_meant_for_a_tunnel_is_no_request(server: Server, user: User, authorized: bool) -> None:
    tunnel = user.request("CONNECT", "/api/tasks", "Connection: keep-alive", authorized=authorized)
    received = server.exchange(tunnel + user.create())
    assert statuses(received) == [405 if authorized else 401]
    assert b"\r\nconnection: close\r\n" in received
    assert user.tasks() == 0


@pytest.mark.parametrize(
    "head",
    [
        b"GET http://todo.example.com/health HTTP/1.1\r\nHost: todo.example.com\r\n",
        b"GET /health HTTP/1.1\r\nHost:\r\n",
        b"GET /health HTTP/1.1\r\nHost: [::1]:8000 \r\n",
        b"GET /health HTTP/1.1\r\nHost: todo_1.example.com.:8000\r\n",
        b"GET /health HTTP/1.1\r\nHost: %C3%A4:\t\r\n",
        b"GET /health HTTP/1.1\r\nHost:\tx\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nX-Name: J\xc3\xb6rg\r\nX-Empty:\r\n",
        b"GET /health?q={a|b} HTTP/1.1\r\nHost: x\r\n",
        b"GET http://todo.example.com HTTP/1.1\r\nHost: todo.example.com\r\n",
        b"GET HTTPS://todo.example.com:8443?empty=path HTTP/1.1\r\nHost: todo.example.com:8443\r\n",
    ],
)
def test_what_proxies_and_browsers_write_is_taken(server: Server, head: bytes) -> None:
    assert statuses(server.exchange(head + b"Connection: close\r\n\r\n")) == [200]


def test_white_space_around_a_value_is_none_of_it(server: Server, user: User) -> None:
    request = user.create("X-Request-ID: \t mine \t", "Connection: close\t", "Expect: 100-continue ")
    head, _, body = request.replace(b"\r\nContent-Type", b" \t\r\nContent-Type", 1).partition(b"\r\n\r\n")
    with server.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert statuses(connection.recv(65_536)) == [100]
        connection.sendall(body)
        received = read_to_end(connection)
    assert statuses(received) == [201]
    assert b"\r\nx-request-id: mine\r\n" in received


def test_http_1_0_needs_no_host_and_an_empty_line_may_come_first(server: Server) -> None:
    assert statuses(server.exchange(b"\r\nGET /health HTTP/1.0\r\n\r\n")) == [200]


def test_a_client_of_http_1_0_is_not_told_to_go_on(server: Server, user: User) -> None:
    request = user.create("Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert statuses(server.exchange(request)) == [201]


def test_a_head_may_come_byte_by_byte(server: Server) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(2):
            for byte in request:
                connection.sendall(bytes([byte]))
            assert statuses(connection.recv(65_536)) == [200]


def test_an_endless_head_is_cut_off(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nX: ")
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"y" * 50_000_000)


def test_a_refusal_below_http_is_a_problem_with_the_clients_request_id(server: Server, user: User) -> None:
    response = server.exchange(user.request("GET", "/api/tasks", "X-Request-ID: mine", "X: " + "y" * 32_768))
    head, _, body = response.partition(b"\r\n\r\n")
    assert b"Content-Type: application/problem+json" in head
    assert b"\r\nx-request-id: mine\r\n" in head
    assert b"\r\ncache-control: no-store\r\n" in head
    assert json.loads(body)["code"] == "head_too_large"
    assert json.loads(body)["request_id"] == "mine"


LISTED = "Origin: http://localhost:3000"


@pytest.mark.parametrize(
    ("lines", "status", "allowed"),
    [
        ([LISTED, *["X: y"] * 101], 431, True),
        ([LISTED, "X: " + "y" * 33_000], 431, True),
        (["X: " + "y" * 33_000, LISTED], 431, False),  # behind what is still read
        ([f"origin: \t{LISTED[8:]} ", "Host: another"], 400, True),
        (["Origin: https://evil.example", LISTED, "Host: another"], 400, True),
        ([LISTED, "Origin: https://evil.example", "Host: another"], 400, False),
        ([f"X-{LISTED}", "Host: another"], 400, False),
        (["Origin: http://localhost:3000.evil.example", "Host: another"], 400, False),
        (["Host: another"], 400, False),
    ],
)
def test_a_page_of_an_allowed_origin_can_read_a_refusal_below_http(
    server: Server, user: User, lines: list[str], status: int, *, allowed: bool
) -> None:
    received = server.exchange(user.request("GET", "/api/tasks", *lines))
    assert statuses(received) == [status]
    origins = re.findall(rb"\r\naccess-control-allow-origin: (.*?)\r\n", received)
    assert origins == ([LISTED[8:].encode()] if allowed else [])
    assert (b"\r\naccess-control-expose-headers: " in received) == allowed


def test_a_page_can_read_the_refusal_of_a_body_that_is_no_body(server: Server, user: User) -> None:
    received = server.exchange(user.request("POST", "/api/tasks", *CHUNKED, LISTED, body="no chunk\r\n"))
    assert statuses(received) == [400]
    assert received.count(b"\r\naccess-control-allow-origin: http://localhost:3000\r\n") == 1


def test_a_refused_head_has_no_content_where_a_response_has_none(server: Server) -> None:
    received = server.exchange(b"HEAD /health HTTP/1.1\r\n\r\n")
    assert statuses(received) == [400]
    assert received.endswith(b"\r\n\r\n")


def test_a_value_that_has_not_arrived_whole_is_not_read(server: Server) -> None:
    begun = b"GET /health#fragment HTTP/1.1\r\nHost: x\r\n"
    assert b"id-1" not in server.exchange(begun + b"X-Request-ID: id-1")
    assert b"access-control" not in server.exchange(begun + LISTED.encode())


def test_a_body_that_is_refused_before_its_request_begins_fails_nothing(server: Server, user: User) -> None:
    headers = (*CHUNKED[:2], "Expect: 100-continue", "X-Request-ID: unexpecting")
    assert statuses(server.exchange(user.request("POST", "/api/tasks", *headers, body="no chunk\r\n"))) == [400]
    eventually(lambda: "request_id=unexpecting method=POST" in server.stderr, "the request is logged")
    assert "unexpected error" not in server.stderr


def test_who_sends_on_behind_the_last_request_is_not_reset(server: Server, user: User) -> None:
    with server.connect() as connection:
        connection.sendall(user.request("GET", "/health", "Connection: close") + user.request("GET", "/health") * 300)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    assert statuses(received) == [200]


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


def test_the_rest_of_a_refused_body_is_no_request_and_gets_no_response(server: Server, user: User) -> None:
    hidden = user.create()
    body = hidden * 300
    refused = user.request("POST", "/api/tasks", f"Content-Length: {len(body)}", authorized=False)
    with server.connect() as connection:
        connection.sendall(refused)
        received = connection.recv(65_536)
        for start in range(0, len(body), 7_000):
            connection.sendall(body[start : start + 7_000])
        connection.sendall(user.request("GET", "/api/tasks", "Connection: close"))
        received += read_to_end(connection)
    assert statuses(received) == [401, 200]
    assert user.tasks() == 0


def test_a_client_that_sends_on_gets_its_refusal_before_the_connection_closes(server: Server, user: User) -> None:
    length = "Content-Length: 100000000"
    with server.connect() as connection:
        connection.sendall(user.request("POST", "/api/tasks", "Connection: close", length, authorized=False))
        connection.sendall(b"x" * 1_500_000)
        assert statuses(read_to_end(connection)) == [401]
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"x" * 50_000_000)


def test_a_client_that_was_not_told_to_go_on_finds_the_connection_closed(server: Server, user: User) -> None:
    expecting = user.request("POST", "/api/tasks", "Content-Length: 9", "Expect: 100-continue", authorized=False)
    with server.connect() as connection:
        connection.sendall(expecting)
        received = connection.recv(1)
        connection.sendall(user.create())
        received += read_to_end(connection)
    assert statuses(received) == [401]
    assert b"connection: close" in received
    assert user.tasks() == 0


def test_pipelined_requests_are_served_in_order_and_held_as_bytes(server: Server, user: User) -> None:
    process = psutil.Process(server.process.pid)
    one = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"
    before = process.memory_info().rss
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(server.connect())
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError, ConnectionError):
                for _ in range(32):
                    connection.sendall(one * (65_536 // len(one)))
        assert user.tasks() == 0
        assert process.memory_info().rss - before < 12_000_000
    requests = [user.create() if number % 2 else user.request("GET", "/health") for number in range(20)]
    last = user.request("GET", "/health", "Connection: close")
    assert statuses(server.exchange(b"".join(requests) + last)) == [200, 201] * 10 + [200]


def test_a_request_behind_a_body_in_chunks_is_not_served_and_its_client_knows(server: Server, user: User) -> None:
    chunked = user.request("POST", "/api/tasks", *CHUNKED[:2], body=CHUNKS + "\r\n")
    received = server.exchange(chunked + user.create())
    assert statuses(received) == [201]
    assert b"connection: close" in received
    assert user.tasks() == 1


@pytest.mark.parametrize("end", range(1, len(CHUNKS) + 1))
def test_a_body_in_chunks_may_be_cut_anywhere(server: Server, user: User, end: int) -> None:
    with server.connect() as connection:
        connection.sendall(user.request("POST", "/api/tasks", *CHUNKED))
        for piece in (CHUNKS[:end], CHUNKS[end:] + "\r\n"):
            user.tasks()  # the server has read what came before: it has served another connection meanwhile
            connection.sendall(piece.encode())
        assert statuses(read_to_end(connection)) == [201]


def test_a_body_may_come_in_small_chunks_but_not_in_very_many(server: Server, user: User) -> None:
    small = "".join(f"1\r\n{character}\r\n" for character in TITLE + " " * 5_000)
    assert statuses(server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=small + "0\r\n\r\n"))) == [201]
    many = "5\r\n     \r\n" * 100_000
    assert statuses(server.exchange(user.request("POST", "/api/tasks", *CHUNKED, body=many))) == [431]


def test_a_refused_body_in_chunks_that_has_not_ended_is_the_last_and_its_client_knows(
    server: Server, user: User
) -> None:
    half = user.request("POST", "/api/tasks", *CHUNKED[:2], body=CHUNKS, authorized=False)
    received = server.exchange(half)
    assert statuses(received) == [401]
    assert b"connection: close" in received
    with server.connect() as connection:
        connection.sendall(half + b"\r\n")
        received = connection.recv(65_536)
        connection.sendall(user.request("GET", "/health", "Connection: close"))
        assert statuses(received + read_to_end(connection)) == [401, 200]


def test_what_is_no_content_of_a_body_in_chunks_has_a_limit(server: Server, user: User) -> None:
    with server.connect() as connection:
        connection.sendall(user.request("POST", "/api/tasks", *CHUNKED[:2]))
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            connection.sendall(b"1;" + b"x" * 50_000_000)


FEW = ["sh", "-c", f'ulimit -n 100; exec {SCRIPT} serve --host 127.0.0.1 "$@"', "sh"]


def test_a_client_that_goes_away_in_its_body_is_let_go_although_it_has_not_read(server: Server, user: User) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        unread = user.request("GET", "/openapi.json")
        connection.sendall(unread + user.create("X-Request-ID: gone")[: -len(TITLE)])
        connection.shutdown(socket.SHUT_WR)
        line = eventually(lambda: re.search(r".* request_id=gone .*", server.stderr), "its request has ended")
    assert "status" not in line[0]  # a request that waits for the rest of its body ends with 408, and keeps the process


def test_a_refused_client_that_goes_in_the_middle_of_its_chunks_is_let_go_at_once(server: Server, user: User) -> None:
    process = psutil.Process(server.process.pid)
    with server.connect() as kept, server.connect() as gone:  # the server is willing to drop the rest of either's body
        kept.sendall(user.request("POST", "/api/tasks", "Content-Length: 9", "Connection: close", authorized=False))
        assert statuses(kept.recv(65_536)) == [401]
        gone.sendall(user.request("GET", "/health"))
        assert statuses(gone.recv(65_536)) == [200]
        both = process.num_fds()
        gone.sendall(user.request("POST", "/api/tasks", *CHUNKED, body="zz\r\n"))
        assert statuses(read_to_end(gone)) == [400]
        gone.shutdown(socket.SHUT_WR)
        eventually(lambda: process.num_fds() < both, "the server has closed it")
        still_open = {each.raddr.port for each in process.net_connections("tcp") if each.raddr}
        assert kept.getsockname()[1] in still_open  # whose time, which began earlier, is not over


def test_past_the_most_connections_those_that_wait_the_longest_are_closed(tmp_path: Path) -> None:
    with serving(FEW, tmp_path, **settings_of(tmp_path)) as server, ExitStack() as stack:
        working = stack.enter_context(contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)))
        idle = [stack.enter_context(server.connect()) for _ in range(300)]
        for _ in range(3):
            working.request("GET", "/health")
            assert working.getresponse().read() == b'{"status":"ok"}'
            idle += [stack.enter_context(server.connect()) for _ in range(20)]
        assert read_to_end(idle[0]) == b""
        eventually(lambda: "those that wait the longest are closed" in server.stderr, "a line says so")
    assert server.stderr.count("those that wait the longest are closed") == 1


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n",
        b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 50,
    ],
    ids=["a body that does not come", "a refused one", "responses that are not read"],
)
def test_who_waits_with_half_a_request_keeps_nobody_out(tmp_path: Path, sent: bytes) -> None:
    with serving(FEW, tmp_path, **settings_of(tmp_path)) as server, ExitStack() as stack:
        for _ in range(150):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            connection.connect(("127.0.0.1", server.port))
            with contextlib.suppress(ConnectionError):
                connection.sendall(sent)
        for _ in range(20):
            received = server.exchange(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert statuses(received) == [200]


class Flooded:
    """A service to which two hundred connections send thirty requests each, all at once."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        self._stack = stack
        self._floods = [self.connect() for _ in range(100)]
        for flood in self._floods:
            flood.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert statuses(flood.recv(65_536)) == [200]

    def connect(self) -> socket.socket:
        return self._stack.enter_context(self.server.connect())

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What is sent in the block, the flood too, arrives in the same moment."""
        self.server.process.send_signal(signal.SIGSTOP)
        for flood in self._floods:
            flood.sendall(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 300)
        yield
        self.server.process.send_signal(signal.SIGCONT)

    def served_before(self, request_id: str, times: int) -> int:
        """How many requests of the flood ended before the last of so many with this id."""
        eventually(lambda: self.server.stderr.count(f"={request_id} ") == times, "all of them are logged")
        return self.server.stderr.rpartition(f"={request_id} ")[0].count("status=404")


@pytest.fixture
def flooded(tmp_path: Path) -> Iterator[Flooded]:
    with (
        serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings_of(tmp_path)) as server,
        ExitStack() as stack,
    ):
        yield Flooded(server, stack)


def test_newcomers_do_not_wait_for_each_other(flooded: Flooded) -> None:
    with flooded.stopped():
        newcomers = [flooded.connect() for _ in range(200)]
        for connection in newcomers:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-ID: new\r\nConnection: close\r\n\r\n")
    for connection in newcomers:
        assert statuses(read_to_end(connection)) == [200]
    assert flooded.served_before("new", 200) < 10_000  # a turn of the event loop for each would be 20,000, and more
