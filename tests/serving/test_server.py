"""The running server, byte by byte: what a client can send, how the process ends, and what it logs."""

import json
import os
import re
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from backend.auth.tokens import mint
from tests.network import free_port
from tests.processes import (
    DEADLINE,
    FORKED,
    SCRIPT,
    SERVE,
    Server,
    backend,
    environment,
    eventually,
    read_to_end,
    serving,
)
from tests.settings import make_settings, settings_of

LIMIT = 64 * 1024
TOKEN = mint(make_settings("sqlite+aiosqlite://"), "alice", 3600)
AUTHORIZED = f"Host: test\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
JSON = b"Content-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in development, on an SQLite file."""
    folder = tmp_path_factory.mktemp("server")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings_of(folder)) as server:
        yield server


class Response:
    """One response, read from a connection."""

    def __init__(self, connection: socket.socket, *, head: bool = False) -> None:
        file = connection.makefile("rb", buffering=0)  # a buffer would take the beginning of the next response
        self.status = int(file.readline().split()[1])
        self.headers: dict[str, str] = {}
        while (line := file.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            self.headers[name.lower()] = value.strip()
        self.body = b""
        missing = 0 if head else int(self.headers.get("content-length", "0"))
        while missing and (piece := file.read(missing)):
            self.body += piece
            missing -= len(piece)


def closes(connection: socket.socket) -> bool:
    """Tell whether the server closes the connection without another byte."""
    return read_to_end(connection) == b""


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join((AUTHORIZED, JSON, *headers))
    return b"POST /api/tasks HTTP/1.1\r\n" + lines + b"\r\n" + body


def with_length(body: bytes) -> bytes:
    return b"Content-Length: %d\r\n" % len(body)


CHUNKED = b"Transfer-Encoding: chunked\r\n"


def chunks(body: bytes, size: int) -> bytes:
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def titled(title: str) -> bytes:
    return json.dumps({"title": title}).encode()


# Framing


@pytest.mark.parametrize("method", [b"POST", b"GET", b"DELETE"])
def test_a_length_and_chunks_together_are_refused_and_the_connection_is_closed(server: Server, method: bytes) -> None:
    smuggled = b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n"
    body = b"0\r\n\r\n" + smuggled
    with server.connect() as connection:
        connection.sendall(
            method + b" /api/tasks HTTP/1.1\r\n" + AUTHORIZED + JSON + with_length(body) + CHUNKED + b"\r\n" + body
        )
        response = Response(connection)
        assert response.status == 400
        assert closes(connection)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: x\r\n",
        b"Content-Length: -1\r\n",
        b"Content-Length: +5\r\n",
        b"Content-Length: 5, 5\r\n",
        b"Transfer-Encoding: gzip\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
    ],
)
def test_a_length_that_cannot_be_read_is_refused_and_the_connection_is_closed(server: Server, headers: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(post(b"{}   ", headers))
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize("request_line", [b"nonsense", b"GET", b"GET /health HTTP/9.9", b"\x16\x03\x01"])
def test_what_is_no_http_is_refused_and_the_connection_is_closed(server: Server, request_line: bytes) -> None:
    received = server.exchange(request_line + b"\r\nHost: test\r\n\r\n")
    assert received == b"" or received.startswith(b"HTTP/1.1 400 ")
    assert server.responds()


# Bodies


@pytest.mark.parametrize("size", [1000, LIMIT, 7])
def test_a_body_in_chunks_is_a_body(server: Server, size: int) -> None:
    with server.connect() as connection:
        connection.sendall(post(chunks(titled("in chunks"), size), CHUNKED))
        response = Response(connection)
        assert response.status == 201
        assert json.loads(response.body)["title"] == "in chunks"


def padded(size: int) -> bytes:
    body = titled("padded")
    return body + b" " * (size - len(body))


@pytest.mark.parametrize(("size", "status"), [(LIMIT, 201), (LIMIT + 1, 413), (LIMIT * 4, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_at_most_64_kib(server: Server, size: int, status: int, chunked: bool) -> None:
    body = padded(size)
    with server.connect() as connection:
        connection.sendall(post(chunks(body, 4096), CHUNKED) if chunked else post(body, with_length(body)))
        response = Response(connection)
        assert response.status == status
        if status == 413:
            assert response.headers["content-type"] == "application/problem+json"
            assert closes(connection)


def test_a_body_that_is_announced_as_too_large_is_refused_before_it_is_sent(server: Server) -> None:
    with server.connect() as connection:
        connection.sendall(post(b"", b"Content-Length: 99999999\r\nExpect: 100-continue\r\n"))
        assert Response(connection).status == 413


def test_a_body_that_is_asked_for_is_waited_for(server: Server) -> None:
    body = titled("expected")
    with server.connect() as connection:
        connection.sendall(post(b"", with_length(body), b"Expect: 100-continue\r\n"))
        assert Response(connection).status == 100
        connection.sendall(body)
        assert Response(connection).status == 201


def test_an_endless_body_is_not_collected(server: Server) -> None:
    sent = 0
    with server.connect() as connection:
        connection.sendall(post(b"", CHUNKED))
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        try:
            while sent < 500:  # 32 MiB
                connection.sendall(piece)
                sent += 1
        except OSError:
            pass
    assert sent < 500
    assert server.responds()


# Connections


def test_requests_in_one_go_get_their_responses_in_order(server: Server) -> None:
    bodies = [titled(f"pipelined {number}") for number in range(5)]
    with server.connect() as connection:
        connection.sendall(b"".join(post(body, with_length(body)) for body in bodies))
        titles = [json.loads(Response(connection).body)["title"] for _ in bodies]
    assert titles == [f"pipelined {number}" for number in range(5)]


def test_a_connection_is_kept_after_an_error_that_leaves_no_doubt(server: Server) -> None:
    with server.connect() as connection:
        for path, status in ((b"/api/nothing", 404), (b"/api/tasks/x", 422), (b"/health", 200)):
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\n" + AUTHORIZED + b"\r\n")
            assert Response(connection).status == status


@pytest.mark.parametrize("path", [b"/api/tasks", b"/api/tasks/stats", b"/health", b"/health/db", b"/openapi.json"])
def test_head_is_get_without_a_body(server: Server, path: bytes) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET " + path + b" HTTP/1.1\r\n" + AUTHORIZED + b"\r\n")
        get = Response(connection)
        connection.sendall(b"HEAD " + path + b" HTTP/1.1\r\n" + AUTHORIZED + b"\r\n")
        head = Response(connection, head=True)
        # Were there a body, the next response would begin with it.
        connection.sendall(b"GET /health HTTP/1.1\r\n" + AUTHORIZED + b"\r\n")
        assert Response(connection).body == b'{"status":"ok"}'
    varying = {"date", "x-request-id"}
    assert head.status == get.status == 200
    assert {k: v for k, v in head.headers.items() if k not in varying} == {
        k: v for k, v in get.headers.items() if k not in varying
    }


def test_the_server_does_not_say_what_it_is(server: Server) -> None:
    assert "server" not in httpx.get(f"{server.url}/health").headers


FORWARDED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "elsewhere.example",
    "X-Forwarded-Prefix": "/elsewhere",
    "X-Real-IP": "203.0.113.7",
    "Forwarded": "for=203.0.113.7;host=elsewhere.example;proto=https",
}


@pytest.mark.parametrize("options", [[], ["--proxy-headers"]], ids=["as told by nobody", "--proxy-headers"])
def test_what_a_proxy_says_of_a_request_changes_no_response(options: list[str], tmp_path: Path) -> None:
    with (
        serving([FORKED, "serve", "--host", "127.0.0.1", *options], tmp_path, **settings_of(tmp_path)) as server,
        httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        for number in range(2):
            created = client.post("/api/tasks", json={"title": f"forwarded {number}"}, headers=FORWARDED)
            assert created.headers["Location"] == f"/api/tasks/{created.json()['id']}"
        for path in ("/api/tasks?limit=1", "/api/tasks/x", "/openapi.json", "/docs", "/docs/", "/nothing"):
            plain, forwarded = client.get(path), client.get(path, headers=FORWARDED | {"Host": "test"})
            assert plain.status_code == forwarded.status_code
            assert plain.headers.get("Link") == forwarded.headers.get("Link")
            shown = forwarded.text + str(forwarded.headers)
            assert "elsewhere" not in shown
            assert "203.0.113.7" not in shown
        server.stop()
        assert "203.0.113.7" not in server.stderr


@pytest.mark.parametrize("path", [b"/health", b"/api/tasks", b"/nothing"])
def test_who_asks_for_a_websocket_gets_a_response_in_http(server: Server, path: bytes) -> None:
    asked = (
        b"Connection: close, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    received = server.exchange(b"GET " + path + b" HTTP/1.1\r\n" + AUTHORIZED + asked)
    assert received.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 404 "))
    assert b"connection: close" in received.lower()
    assert "Traceback" not in server.stderr


def test_two_authorization_headers_are_refused(server: Server) -> None:
    received = server.exchange(
        b"GET /api/tasks HTTP/1.1\r\n"
        + AUTHORIZED
        + f"Authorization: Bearer {TOKEN}\r\n".encode()
        + b"Connection: close\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 401 ")


def test_a_header_in_latin_1_is_no_failure(server: Server) -> None:
    received = server.exchange(
        b"GET /api/tasks HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
    )
    assert received.startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize("way", SERVE)
def test_every_way_to_start_serves(way: str, tmp_path: Path) -> None:
    with serving(SERVE[way], tmp_path, **settings_of(tmp_path)) as server:
        response = httpx.post(
            f"{server.url}/api/tasks", json={"title": f"served by {way}"}, headers={"Authorization": f"Bearer {TOKEN}"}
        )
        assert (response.status_code, response.json()["title"]) == (201, f"served by {way}")


PREFIXED = {
    "serve --root-path": ([SCRIPT, "serve", "--host", "127.0.0.1", "--root-path", "/todo"], {}),
    "uvicorn --root-path": ([*SERVE["uvicorn"], "--root-path", "/todo"], {}),
    "UVICORN_ROOT_PATH": (SERVE["uvicorn"], {"UVICORN_ROOT_PATH": "/todo"}),
}


@pytest.mark.parametrize("way", PREFIXED)
def test_every_way_to_name_a_prefix_reaches_addresses(way: str, tmp_path: Path) -> None:
    command, variables = PREFIXED[way]
    with serving(command, tmp_path, **settings_of(tmp_path), **variables) as server:
        assert httpx.get(f"{server.url}/openapi.json").json()["servers"][0]["url"] == "/todo"
        assert '"/todo/docs/assets/swagger-ui.css"' in httpx.get(f"{server.url}/docs").text
        for address in (server.url, f"{server.url}/todo"):  # a proxy has taken the prefix off, or has left it
            assert httpx.get(f"{address}/health/db").status_code == 200
            assert httpx.get(f"{address}/docs/assets/swagger-ui.css").status_code == 200
            assert httpx.get(f"{address}/api/tasks").status_code == 401


def test_two_workers_share_a_port_and_end_together(tmp_path: Path) -> None:
    command = [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", "2"]
    with serving(command, tmp_path, **settings_of(tmp_path)) as server:
        eventually(lambda: server.stderr.count("startup complete") >= 2, "both workers have started")
        statuses = {
            httpx.post(
                f"{server.url}/api/tasks", json={"title": "t"}, headers={"Authorization": f"Bearer {TOKEN}"}
            ).status_code
            for _ in range(20)
        }
        assert statuses == {201}
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            server.connect()


# The end


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_a_request_whose_body_is_arriving_finish(tmp_path: Path, sent: signal.Signals) -> None:
    body = titled("finished")
    with serving([SCRIPT, "serve"], tmp_path, **settings_of(tmp_path)) as server:
        with server.connect() as connection:
            connection.sendall(post(body[:5], with_length(body)))
            with server.connect() as idle:
                idle.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
                assert Response(idle).status == 200
                server.process.send_signal(sent)
                assert closes(idle)  # by which the server shows that it has begun to end
            connection.sendall(body[5:])
            response = Response(connection)
            assert (response.status, json.loads(response.body)["title"]) == (201, "finished")
        server.process.wait(DEADLINE)
        with closing(sqlite3.connect(tmp_path / "todo.db")) as file:
            assert file.execute("SELECT title FROM tasks").fetchall() == [("finished",)]


def test_a_signal_lets_a_request_that_waits_for_the_database_finish(tmp_path: Path) -> None:
    body = titled("finished")
    with (
        serving([FORKED, "serve"], tmp_path, **settings_of(tmp_path, LOG_LEVEL="DEBUG")) as server,
        closing(sqlite3.connect(tmp_path / "todo.db", isolation_level=None)) as file,
        server.connect() as connection,
        server.connect() as idle,
    ):
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert Response(idle).status == 200
        file.execute("BEGIN IMMEDIATE")
        connection.sendall(post(body, with_length(body)))
        # One that is sent later on another connection, and has its response, shows that this one has arrived.
        idle.sendall(b"GET /health/db HTTP/1.1\r\nHost: test\r\n\r\n")
        assert Response(idle).status == 200
        server.process.terminate()
        assert closes(idle)
        assert server.process.poll() is None
        file.execute("ROLLBACK")
        assert Response(connection).status == 201
        server.process.wait(DEADLINE)


def test_clients_that_go_in_the_middle_of_their_bodies_do_not_hold_up_the_end(tmp_path: Path) -> None:
    started = (post(b"{", b"Content-Length: 100\r\n"), post(b"64\r\n{", CHUNKED))
    with serving([FORKED, "serve"], tmp_path, **settings_of(tmp_path)) as server, ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(6)]
        for client, request in zip(clients, started * 3, strict=True):
            client.sendall(request)
        idle = stack.enter_context(server.connect())
        idle.sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert Response(idle).status == 200
        server.process.terminate()
        assert closes(idle)
        for client in clients[:2]:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # to be reset
        for client in clients[:4]:
            client.close()
        for client in clients[4:]:
            client.shutdown(socket.SHUT_WR)
        server.process.wait(DEADLINE)
        # None of them was waited for until its time was over, and cut off with a response.
        assert server.stderr.count("method=POST route=/api/tasks duration_ms=") == len(clients)


def test_requests_that_never_end_do_not_keep_the_process(tmp_path: Path) -> None:
    with (
        serving([FORKED, "serve"], tmp_path, **settings_of(tmp_path)) as server,
        server.connect() as connection,
    ):
        connection.sendall(post(b"{", b"Content-Length: 100\r\n"))
        assert server.responds()
        server.process.terminate()
        server.process.wait(DEADLINE)  # by then the limits of a body and of the shutdown, ten seconds, are over


# What is logged


CANARY = "c4n4ry"
CANARY_SECRET = f"{CANARY}-secret-of-more-than-32-bytes"


def make_trouble(server: Server, token: str) -> None:
    """Send canaries in every place of a request, and good and bad requests of every kind."""
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, headers=headers) as client:
        task = {"title": f"{CANARY}-title", "description": f"{CANARY}-description"}
        address = client.post("/api/tasks", json=task).headers["Location"]
        assert client.get(address).json()["title"] == f"{CANARY}-title"
        client.patch(address, json={"description": f"{CANARY}-changed"})
        client.post("/api/tasks", json=task | {CANARY: CANARY})
        client.post("/api/tasks", json={"title": f"{CANARY}\0"})
        client.post("/api/tasks", json={"title": CANARY * 100})
        client.post(
            "/api/tasks", content=f'{{"title": "{CANARY}'.encode(), headers={"Content-Type": "application/json"}
        )
        client.post("/api/tasks/transfer", json={"from_token": f"{CANARY}.{CANARY}.{CANARY}"})
        client.get("/api/tasks", params={CANARY: CANARY, "cursor": CANARY})
        client.get(f"/api/tasks/{CANARY}")
        client.get(f"/{CANARY}%0a%1b[31m")
        client.get("/api/tasks", headers={"Authorization": f"Bearer {CANARY}"})
        client.get("/api/tasks", headers={"Authorization": f"Bearer {token[:-2]}"})
        client.get("/api/tasks", headers={"Authorization": f"Basic {CANARY}"})
        client.get("/api/tasks", headers={"Cookie": CANARY, "User-Agent": CANARY, "Origin": f"https://{CANARY}"})
        client.delete(address)


def canary_token() -> str:
    settings = make_settings("sqlite+aiosqlite://", better_auth_secret=CANARY_SECRET)
    return mint(settings, f"{CANARY}-user", 3600)


@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_line_holds_what_a_user_sent(level: str, log_format: str, tmp_path: Path) -> None:
    token = canary_token()
    settings = settings_of(tmp_path, BETTER_AUTH_SECRET=CANARY_SECRET, LOG_LEVEL=level, LOG_FORMAT=log_format)
    with serving([FORKED, "serve"], tmp_path, **settings) as server:
        make_trouble(server, token)
        # A failing statement, whose parameters the driver knows.
        with closing(sqlite3.connect(tmp_path / "todo.db", isolation_level=None)) as file:
            file.execute("ALTER TABLE tasks RENAME TO elsewhere")
        failed = httpx.post(
            f"{server.url}/api/tasks",
            json={"title": f"{CANARY}-lost", "description": CANARY},
            headers={"Authorization": f"Bearer {token}"},
        )
        assert failed.status_code == 503
        server.stop()
    log = server.stdout + server.stderr
    assert "request" in log
    assert CANARY not in log
    for part in token.split("."):
        assert part not in log
    assert "INSERT" not in log
    assert "\x1b" not in log


def request_lines(server: Server) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    return [line for line in lines if line["logger"] == "backend.request"]


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in production, on a migrated SQLite file."""
    folder = tmp_path_factory.mktemp("production")
    settings = settings_of(folder, ENVIRONMENT="production")
    migrated = backend("migrate", cwd=folder, **settings)
    assert migrated.returncode == 0, migrated.stderr
    with serving([FORKED, "serve"], folder, **settings) as server:
        yield server


def test_production_logs_json_with_a_line_for_each_request(production: Server) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": "the-id"}
    assert httpx.get(f"{production.url}/api/tasks", headers=headers).status_code == 200
    assert httpx.get(f"{production.url}/api/tasks/x", headers=headers).status_code == 422
    lines = eventually(
        lambda: (
            [line for line in request_lines(production) if line["request_id"] == "the-id"][1:]
            and [line for line in request_lines(production) if line["request_id"] == "the-id"]
        ),
        "both requests are logged",
    )
    assert [(line["method"], line["route"], line["status"]) for line in lines] == [
        ("GET", "/api/tasks", 200),
        ("GET", "/api/tasks/{id}", 422),
    ]
    for line in lines:
        assert line["level"] == "INFO"
        assert line["time"].endswith("Z")
        assert line["duration_ms"] > 0


def test_each_request_has_one_line_which_holds_nothing_that_its_client_chose_but_the_id(production: Server) -> None:
    asked = [
        ("GET", "/health", "/health", 200),
        ("GET", "/api/tasks?limit=5&completed=true", "/api/tasks", 200),
        ("POST", "/api/tasks?line=forged", "/api/tasks", 400),
        ("GET", "/nothing%0d%0aforged%1b%5b31m", None, 404),
        ("PUT", "/api/tasks", "/api/tasks", 405),
        ("OPTIONS", "/api/tasks", "/api/tasks", 405),
    ]
    for number, (method, path, _, status) in enumerate(asked):
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-ID": f"line-{number}", "User-Agent": "forged"}
        response = httpx.request(method, f"{production.url}{path}", headers=headers)
        assert response.status_code == status
    lines = eventually(
        lambda: (
            (found := [line for line in request_lines(production) if line["request_id"].startswith("line-")])[5:]
            and found
        ),
        "all requests are logged",
    )
    members = {"time", "level", "logger", "message", "request_id", "method", "route", "status", "duration_ms"}
    assert all(members <= set(line) <= members | {"code", "db_ms", "wait_ms", "body_ms"} for line in lines)
    assert [(line["request_id"], line["method"], line["status"]) for line in lines] == [
        (f"line-{number}", method, status) for number, (method, _, _, status) in enumerate(asked)
    ]
    assert [line["route"] for line in lines][:4] == [route for _, _, route, _ in asked][:4]
    assert "forged" not in production.stderr


def test_production_has_no_docs_page_but_the_document(production: Server) -> None:
    for path in ("/docs", "/docs/assets/swagger-ui-bundle.js", "/redoc"):
        assert httpx.get(f"{production.url}{path}").status_code == 404
    assert httpx.get(f"{production.url}/openapi.json").json()["openapi"].startswith("3.")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_every_line_of_production_is_json_from_the_first_to_the_last(workers: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path, ENVIRONMENT="production", LOG_LEVEL="DEBUG")
    with serving([sys.executable, "-m", "backend", "serve", "--workers", workers], tmp_path, **settings) as server:
        with server.connect() as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            read_to_end(connection)
        # The file has no tables: what the log says of that is JSON, too.
        response = httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {TOKEN}"})
        assert (response.status_code, response.json()["code"]) == (503, "database_not_migrated")
        server.stop()
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert len(lines) > 3
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in lines))
    assert server.stdout == ""


# A log that nobody reads


def test_a_log_that_nobody_reads_holds_up_no_request_and_says_later_what_it_has_dropped(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    # The pipe holds 64 KiB; the service would keep 10,000 lines more, and here 100.
    few = "from backend import cli, log; log.MAX_WAITING = 100; cli.main()"
    port = free_port()
    command = [sys.executable, "-c", few, "serve", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(**settings_of(tmp_path)), stderr=writing)
    os.close(writing)
    server = Server(process, port, tmp_path / "stdout", tmp_path / "stderr")
    try:
        eventually(server.responds, "the server responds")
        with httpx.Client(base_url=server.url) as client:
            for _ in range(1_500):
                assert client.get("/health").status_code == 200
        with open(reading, encoding="utf-8") as log:  # noqa: PTH123 # a pipe has no path
            lines = [next(log) for _ in range(300)]
            process.terminate()
            lines += log.readlines()
        assert process.wait(DEADLINE) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()
    # A machine that is busy drops some before the pipe is full, and says that, too.
    dropped = sum(map(int, re.findall(r"(\d+) lines were dropped", "".join(lines))))
    assert dropped > 0
    assert dropped + sum("backend.request" in line for line in lines) >= 1_500
    assert "Finished server process" in lines[-1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_service_whose_log_nobody_reads_starts_and_ends(tmp_path: Path, workers: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:  # until it is full, as it is for a worker that is started anew
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    port = free_port()
    command = [SCRIPT, "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", workers]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(**settings_of(tmp_path)), stderr=writing)
    os.close(writing)
    server = Server(process, port, tmp_path / "stdout", tmp_path / "stderr")
    (tmp_path / "stderr").touch()
    try:
        eventually(server.responds, "the server responds")
        process.terminate()
        assert process.wait(DEADLINE) == (-signal.SIGTERM if workers == "1" else 0)
    finally:
        process.kill()
        process.wait()
        os.close(reading)


# Supervisor and workers


def test_workers_end_with_their_supervisor_however_it_has_ended(tmp_path: Path) -> None:
    with serving(
        [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", "2"], tmp_path, **settings_of(tmp_path)
    ) as server:
        family = psutil.Process(server.process.pid).children()
        server.process.kill()
        _, alive = psutil.wait_procs(family, DEADLINE)
        assert alive == []


def test_workers_that_start_slowly_are_left_to_start(tmp_path: Path) -> None:
    slow = "import sys, time\nif 'spawn_main' in str(sys.orig_argv): time.sleep(6)\n"  # a busy machine, to each worker
    (tmp_path / "sitecustomize.py").write_text(slow)
    command = [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", "2"]
    with serving(command, tmp_path, **settings_of(tmp_path), PYTHONPATH=str(tmp_path)) as server:
        assert "died" not in server.stderr


WORKERS = [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", "2"]


def workers_of(server: Server) -> list[psutil.Process]:
    eventually(lambda: server.stderr.count("startup complete") >= 2, "both workers have started")
    children = psutil.Process(server.process.pid).children()
    return [each for each in children if "spawn_main" in " ".join(each.cmdline())]


def connected_to_each(server: Server, stack: ExitStack) -> list[socket.socket]:
    """Open connections until each worker has one."""
    workers, clients = workers_of(server), []
    while not all(any(each.status == "ESTABLISHED" for each in worker.net_connections()) for worker in workers):
        clients.append(stack.enter_context(server.connect()))
        clients[-1].sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
        assert Response(clients[-1]).status == 200
    return clients


def test_sighup_to_the_workers_loses_no_request(tmp_path: Path) -> None:
    body = titled("under way")
    with serving(WORKERS, tmp_path, **settings_of(tmp_path)) as server, ExitStack() as stack:
        clients = connected_to_each(server, stack)
        for client in clients:
            client.sendall(post(body[:5], with_length(body)))
        for process in (*workers_of(server), psutil.Process(server.process.pid)):  # as to the whole group
            process.send_signal(signal.SIGHUP)
        for client in clients:
            client.sendall(body[5:])
            assert Response(client).status == 201
        eventually(lambda: server.stderr.count("Finished server process") == 2, "both workers are replaced")
        assert "died" not in server.stderr


@pytest.mark.parametrize("setting", ["KEEP_ALIVE=1", "MAX_CONNECTIONS=1"])
def test_sighup_gives_new_workers_the_limits_of_connections_as_they_are_now(setting: str, tmp_path: Path) -> None:
    with serving(WORKERS, tmp_path, **settings_of(tmp_path)) as server, ExitStack() as stack:
        workers_of(server)
        (tmp_path / ".env").write_text(f"{setting}\n")
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: server.stderr.count("Finished server process") == 2, "both workers are replaced")
        clients = []
        for _ in range(3):  # one of the two workers has two of them
            clients.append(stack.enter_context(server.connect()))
            clients[-1].sendall(b"GET /health HTTP/1.1\r\nHost: test\r\n\r\n")
            assert Response(clients[-1]).status == 200
        closing_first, *_ = select.select(clients, [], [], DEADLINE)[0]
        assert closes(closing_first)


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGTTOU])
def test_an_end_does_not_wait_for_a_worker_that_is_being_replaced(sent: signal.Signals, tmp_path: Path) -> None:
    body = titled("under way")
    # In production a start writes nothing, so it does not wait for the lock.
    settings = settings_of(tmp_path, DATABASE_COMMAND_TIMEOUT="100", ENVIRONMENT="production")
    assert backend("migrate", cwd=tmp_path, **settings).returncode == 0
    with (
        serving(WORKERS, tmp_path, **settings) as server,
        closing(sqlite3.connect(tmp_path / "todo.db", isolation_level=None)) as file,
        ExitStack() as stack,
    ):
        workers, clients = workers_of(server), connected_to_each(server, stack)
        file.execute("BEGIN IMMEDIATE")
        for client in clients:
            client.sendall(post(body, with_length(body)))
        server.process.send_signal(sent)
        eventually(lambda: "Shutting down" in server.stderr, "one is being replaced")
        server.process.terminate()
        all_workers = server.stderr.count("startup complete")
        eventually(lambda: server.stderr.count("Shutting down") == all_workers, "all of them end")
        assert not any(f"Finished server process [{each.pid}]" in server.stderr for each in workers)
        file.execute("ROLLBACK")
        assert {Response(client).status for client in clients} == {201}
        assert server.process.wait(DEADLINE) == 0


def test_a_single_process_ignores_sighup(tmp_path: Path) -> None:
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], tmp_path, **settings_of(tmp_path)) as server:
        server.process.send_signal(signal.SIGHUP)
        assert server.responds()
        assert server.stop() == -signal.SIGTERM
