"""Clients that send or read a byte now and then: `serve` gives each its time and no more, and serves the others."""

import asyncio
import socket
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import psutil
import pytest

from tests.faults.load import LONG, Service, authorization
from tests.processes import eventually

CLIENTS = 1_000 if LONG else 300
SECONDS = 10.0 if LONG else 4.0
"""The service's own limit is 10; a test that has little time lowers it."""
BOUND = SECONDS * 1.5 + 15
PAUSE = SECONDS / 5
LOWERED = f"""
import sys
from backend.api import body
from backend.serving import protocol, sockets
sockets.WRITE_RATE = 2**30
body.BODY_TIMEOUT = protocol.HEAD_TIMEOUT = sockets.WRITE_TIMEOUT = {SECONDS}
from backend.cli import main
sys.argv[0] = "todo-backend"
main()
"""


@pytest.fixture(scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Service]:
    """A service with its limits, or with lower ones."""
    folder = tmp_path_factory.mktemp("slow")
    command = [] if LONG else [sys.executable, "-c", LOWERED]
    service = Service(folder, f"sqlite+aiosqlite:///{folder / 'todo.db'}", 0, command=command)
    yield service
    service.stop()


async def send_slowly(port: int, first: bytes, then: bytes) -> float:
    """Send bytes at once, then one now and then until the service closes; return after how many seconds it has."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.monotonic()

    async def drip() -> None:
        writer.write(first)
        while True:
            await asyncio.sleep(PAUSE)
            writer.write(then)

    dripping = asyncio.create_task(drip())
    try:
        assert await read_to_end(reader) in {b"", b"HTTP/1.1 400", b"HTTP/1.1 408", b"HTTP/1.1 429"}
    finally:
        dripping.cancel()
        writer.transport.abort()
    return time.monotonic() - started


async def read_to_end(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.read())[:12]
    except ConnectionError:
        return b""


async def read_slowly(port: int, request: bytes) -> float:
    """Ask for a lot and read nothing of it; return after how many seconds the service has closed."""
    with socket.socket() as connection:
        connection.setblocking(False)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(connection, ("127.0.0.1", port))
        started = time.monotonic()
        try:
            await loop.sock_sendall(connection, request * 200)
            while True:  # whether the other side has closed is seen by sending
                await asyncio.sleep(PAUSE)
                await loop.sock_sendall(connection, request)
        except ConnectionError:
            return time.monotonic() - started


@asynccontextmanager
async def others(service: Service) -> AsyncIterator[list[float]]:
    """Let other clients work for as long as the block lasts; give the seconds that each of their requests took."""
    seconds: list[float] = []
    stop = asyncio.Event()

    async def work() -> None:
        async with service.client(f"other-{uuid.uuid4()}") as client:
            while not stop.is_set():
                started = time.monotonic()
                assert (await client.post("/api/tasks", json={"title": "x"})).status_code == 201
                seconds.append(time.monotonic() - started)
                await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(work())
        yield seconds
        stop.set()


def p99(seconds: list[float]) -> str:
    return f"{statistics.quantiles(seconds, n=100)[98] * 1000:.0f} ms"


BODY = (
    "POST /api/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n"
    "Authorization: {Authorization}\r\n\r\n".format(**authorization("slow"))
)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        (b"GET /", b"a"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nX: ", b"y"),
        (BODY.encode(), b" "),
        (b"", b"\r\n"),
        (b"", b""),
    ],
    ids=["request line", "head", "body", "empty lines", "silence"],
)
async def test_slow_senders_are_closed_in_time_while_others_are_served(
    service: Service, first: bytes, then: bytes
) -> None:
    async with others(service) as beside, asyncio.timeout(BOUND):
        took = await asyncio.gather(*(send_slowly(service.port, first, then) for _ in range(CLIENTS)))
    assert beside, "others were served"
    print(f"closed after {min(took):.1f} to {max(took):.1f} s")
    if LONG:
        async with others(service) as alone:
            await asyncio.sleep(SECONDS)
        print(f"p99 of others {p99(beside)}, when alone {p99(alone)}")


async def test_clients_that_do_not_read_are_closed_in_time(service: Service) -> None:
    request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with others(service) as beside, asyncio.timeout(BOUND):
        took = await asyncio.gather(*(read_slowly(service.port, request) for _ in range(10)))
    assert beside, "others were served"
    print(f"closed after {min(took):.1f} to {max(took):.1f} s")


def held_by_kernel(port: int) -> int:
    """How many connections there are whose process has closed them, and of which the kernel keeps what is unsent."""
    if sys.platform != "linux":  # elsewhere only root may look
        return 0
    connections = psutil.net_connections("tcp4")
    return sum(each.laddr[1:] == (port,) and each.status == psutil.CONN_FIN_WAIT1 for each in connections)


@pytest.mark.parametrize("last", ["", "Connection: close\r\n"], ids=["kept open", "the last of its connection"])
async def test_clients_that_read_nothing_of_one_response_hold_nothing(service: Service, last: str) -> None:
    process = psutil.Process(service.server.process.pid)
    before = int(process.num_fds())
    with ExitStack() as stack:
        for _ in range(100):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2304)
            connection.connect(("127.0.0.1", service.port))
            connection.sendall(f"GET /openapi.json HTTP/1.1\r\nHost: x\r\n{last}\r\n".encode())
            assert connection.recv(1, socket.MSG_PEEK)  # it has been let in, and its response has begun

        def held() -> int:
            return int(process.num_fds()) - before + held_by_kernel(service.port)

        await asyncio.to_thread(eventually, lambda: held() <= 10, "none has stayed")
