"""Requests made by chance, on one connection: each response belongs to its request, and none is left out in silence.

Their bodies, which hold requests of their own, come with a length or in chunks, whole or cut anywhere. A response that
says `Connection: close` is the last; which one may say so is known.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from backend.auth.tokens import mint
from tests.processes import FORKED, Server, read_to_end, serving
from tests.settings import make_settings, settings_of

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
CONVERSATIONS = 200

METHODS = (b"GET", b"HEAD", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"SETUP", b"get")
TARGETS = (b"/", b"/health", b"/api/tasks", b"/api/tasks/stats", b"/nowhere", b"http://test/api/tasks", b"http://test")
HIDDEN = b"GET /health HTTP/1.1\r\nHost: test\r\nX-Request-ID: hidden\r\n\r\n"
CONTENTS = (b"{}", b'{"title": "by chance"}', HIDDEN, HIDDEN * 50, b"x" * 70_000)
EXTENSIONS = (b"", b"", b";a", b";a=b", b';a="b;c"')
TRAILERS = (b"", b"", b"X-Request-ID: hidden\r\n", b"Connection: close\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n")
UPGRADES = (
    (),
    (),
    (b"Connection: Upgrade", b"Upgrade: h2c"),
    (b"connection: keep-alive, Upgrade", b"upgrade:websocket"),
)


@dataclass(frozen=True)
class Request:
    request_id: bytes
    data: bytes
    is_head: bool
    may_be_last: bool
    """Whether its response may say that it is the last."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("conversations")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings_of(folder, LOG_LEVEL="ERROR")) as server:
        yield server
    assert server.stderr == ""


def in_chunks(content: bytes, random: Random) -> bytes:
    chunks = []
    while content:
        size = random.choice((1, 7, 100, 1000, 30_000))
        chunk, content = content[:size], content[size:]
        chunks.append(b"%x%b\r\n%b\r\n" % (len(chunk), random.choice(EXTENSIONS), chunk))
    return b"".join(chunks) + b"0\r\n" + random.choice(TRAILERS) + b"\r\n"


def a_request(random: Random, token: str, *, last: bool) -> Request:
    request_id = b"%x" % random.getrandbits(64)
    method, framing = random.choice(METHODS), random.choice(("none", "length", "chunks"))
    headers = [b"Host: test", b"X-Request-ID: " + request_id, b"Content-Type: application/json"]
    if random.random() < 0.6:
        headers.append(b"Authorization: Bearer " + token.encode())
    content = b"" if framing == "none" else random.choice(CONTENTS)
    body = in_chunks(content, random) if framing == "chunks" else content
    if framing != "none":
        headers.append(b"Content-Length: %d" % len(body) if framing == "length" else b"Transfer-Encoding: chunked")
    expects = framing != "none" and random.random() < 0.2
    if expects:
        headers.append(b"Expect: 100-continue")
    headers += (b"Connection: close",) if last else random.choice(UPGRADES)
    data = b"\r\n".join((method + b" " + random.choice(TARGETS) + b" HTTP/1.1", *headers, b"", body))
    may_be_last = last or expects or framing == "chunks" or len(content) > 65_536 or method == b"CONNECT"
    return Request(request_id, data, method == b"HEAD", may_be_last)


def exchange(server: Server, data: bytes, random: Random) -> bytes:
    cuts = sorted(random.sample(range(len(data)), random.choice((0, 0, 5, 20))))
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):  # the last response may have come
            for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True):
                connection.sendall(data[start:end])
            if random.random() < 0.5:
                connection.shutdown(socket.SHUT_WR)
        return read_to_end(connection)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_each_response_belongs_to_its_request(server: Server, seed: int) -> None:
    random = Random(seed)
    token = mint(make_settings("sqlite+aiosqlite://"), "talkative", 3600)
    for _ in range(CONVERSATIONS):
        requests = [a_request(random, token, last=number == 5) for number in range(6)]
        received = exchange(server, b"".join(request.data for request in requests), random)
        for request in requests:
            head, _, received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n").partition(b"\r\n\r\n")
            assert b"\r\nx-request-id: %b\r\n" % request.request_id in head + b"\r\n", request.data
            headers = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
            received = received[0 if request.is_head else int(headers.get(b"content-length", b"0")) :]
            if headers.get(b"connection") == b"close":
                assert request.may_be_last, request.data
                break
        assert received == b""
