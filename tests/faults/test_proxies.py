"""Behind nginx and HAProxy, which send many clients' requests on one connection: strangers harm nobody else's.

They do what once did: leave responses unread, send requests without waiting, trailers that the service's parser heeds,
and bodies that are refused while they are still arriving.
"""

import asyncio
import contextlib
import os
import socket
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.auth.tokens import mint
from tests.network import free_port
from tests.processes import FORKED, eventually, serving
from tests.programs import needed_program
from tests.settings import make_settings, settings_of

ROUNDS = 5 * int(os.environ.get("FAULT_ROUNDS", "1"))
"""Of the victim's four requests."""
STRANGERS = 4
"""Of each kind, at once."""

# `user`: started by root, nginx would work as a user who may not write into the test's folder, where bodies are kept.
NGINX = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream service {{ server 127.0.0.1:{service}; {reuse} }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://service;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_buffering {buffering}; proxy_request_buffering {buffering};
        }}
    }}
}}
"""

HAPROXY = """
global
    maxconn 512
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    http-reuse {reuse}
frontend clients
    bind 127.0.0.1:{port}
    default_backend service
backend service
    server only 127.0.0.1:{service}
"""

PROXIES: dict[str, tuple[str, str, dict[str, str]]] = {
    "nginx": ("nginx", NGINX, {"buffering": "on", "reuse": "keepalive 4;"}),
    "nginx, a connection for each request": ("nginx", NGINX, {"buffering": "on", "reuse": ""}),
    "nginx without buffering": ("nginx", NGINX, {"buffering": "off", "reuse": "keepalive 4;"}),
    "nginx without buffering, a connection for each request": ("nginx", NGINX, {"buffering": "off", "reuse": ""}),
    "HAProxy": ("haproxy", HAPROXY, {"reuse": "always"}),
    "HAProxy, no connection for two clients": ("haproxy", HAPROXY, {"reuse": "never"}),
}


@contextmanager
def proxy(name: str, service: int, folder: Path) -> Iterator[int]:
    """A proxy in front of the service, and its port."""
    program, template, options = PROXIES[name]
    port = free_port()
    file = folder / "proxy.conf"
    file.write_text(template.format(folder=folder, service=service, port=port, **options))
    command = [needed_program(program), *(("-p", str(folder), "-c") if program == "nginx" else ("-f",)), str(file)]

    def listens() -> bool:
        assert process.poll() is None, (folder / "proxy.log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        return False

    with (folder / "proxy.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            eventually(listens, "the proxy listens")
            yield port
        finally:
            process.terminate()


@asynccontextmanager
async def connected(port: int, buffer: int | None = None) -> AsyncIterator[socket.socket]:
    with socket.socket() as client, contextlib.suppress(ConnectionError):
        client.setblocking(False)
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        yield client


async def leaves_responses_unread(port: int) -> None:
    loop = asyncio.get_running_loop()
    async with connected(port, 2304) as client:
        await loop.sock_sendall(client, 3 * b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n")
        await loop.sock_recv(client, 1)


async def does_not_wait(port: int) -> None:
    loop = asyncio.get_running_loop()
    async with connected(port) as client:
        await loop.sock_sendall(client, 500 * b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await loop.sock_recv(client, 10_000)


async def sends_a_body_that_is_refused(port: int, size: int) -> None:
    loop = asyncio.get_running_loop()
    head = b"POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    async with connected(port) as client:
        await loop.sock_sendall(client, head % size)
        for _ in range(4):  # in several reads of the server
            await loop.sock_sendall(client, b" " * (size // 4))
            await asyncio.sleep(0)
        await loop.sock_recv(client, 10_000)


async def closes_in_a_trailer(port: int) -> None:
    loop = asyncio.get_running_loop()
    async with connected(port) as client:
        head = b"POST /api/tasks HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        await loop.sock_sendall(client, head + b"2\r\n{}\r\n0\r\nConnection: close\r\n\r\n")
        await loop.sock_recv(client, 10_000)


KINDS: list[Callable[[int], Coroutine[Any, Any, None]]] = [
    leaves_responses_unread,
    does_not_wait,
    closes_in_a_trailer,
    lambda port: sends_a_body_that_is_refused(port, 60_000),
    lambda port: sends_a_body_that_is_refused(port, 200_000),
]

REACHED = ("route=/openapi.json status=200", "route=/ status=200", "route=/api/tasks status=401")
"""What the service logs of their requests, if the proxy has not absorbed them."""


@pytest.mark.parametrize("name", PROXIES)
async def test_strangers_cost_no_other_client_a_request(name: str, tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    token = mint(make_settings("sqlite+aiosqlite://"), "victim", 3600)
    seen: Counter[int] = Counter()

    async def stranger(kind: Callable[[int], Coroutine[Any, Any, None]], port: int) -> None:
        while True:
            await kind(port)
            await asyncio.sleep(0)

    with (
        serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server,
        proxy(name, server.port, tmp_path) as port,
    ):
        strangers = [asyncio.create_task(stranger(kind, port)) for kind in KINDS for _ in range(STRANGERS)]
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as victim,
            httpx.AsyncClient(base_url=server.url, timeout=30) as probe,
        ):
            for number in range(ROUNDS):
                created = await victim.post("/api/tasks", json={"title": f"task {number}"})
                address = f"/api/tasks/{created.json()['id']}"
                others = [
                    await victim.get(address),
                    await victim.patch(address, json={"description": "x" * 1000}),
                    await victim.get("/api/tasks?limit=100"),
                    await probe.get("/health"),
                ]
                seen.update(response.status_code for response in (created, *others))
        for task in strangers:
            task.cancel()
        ended = await asyncio.gather(*strangers, return_exceptions=True)
        for line in REACHED:
            assert server.stderr.count(line) > ROUNDS, line
    assert seen == {201: ROUNDS, 200: 4 * ROUNDS}
    assert {type(error) for error in ended} == {asyncio.CancelledError}, ended
