"""The end under load, of one process and of several: what was let in is not lost. Workers are replaced under load.

`FAULT_ROUNDS` ends in a test; `make faults` asks for many. What a round took is printed, not judged.
"""

import asyncio
import os
import re
import signal
import socket
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from backend.auth.tokens import mint
from tests.processes import DEADLINE, SCRIPT, Server, eventually, serving
from tests.settings import make_settings, settings_of

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
CLIENTS = 8
LONGER_THAN_THE_TEST = "300"
NEW_SECRET = "the-secret-that-replaces-the-one-before-it"


def headers_of(user: str, **settings: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {mint(make_settings('sqlite+aiosqlite://', **settings), user, 24 * 3600)}"}


HEADERS = headers_of("alice")


@contextmanager
def service(
    folder: Path, workers: int, drain: str = "0", settings: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """The service, with all its workers started."""
    variables = settings or settings_of(folder)
    command = [SCRIPT, "serve", "--host", "127.0.0.1", "--workers", str(workers), "--drain", drain]
    with serving(command, folder, **variables) as server:
        eventually(lambda: len(started(server)) == workers, "all workers have started")
        yield server


def started(server: Server) -> list[int]:
    """The processes that have begun to serve until now."""
    log = server.stderr
    return list(map(int, re.findall(r"Started server process \[(\d+)\]", log)))[: log.count("startup complete")]


class Load:
    """Clients that create tasks one after the other: half of them keep their connections, half open one each time."""

    def __init__(self, url: str, headers: dict[str, str] = HEADERS, clients: int = CLIENTS) -> None:
        self.responses: Counter[int] = Counter()
        self.kept_out = 0
        self.dropped: list[str] = []
        self.stopping = False
        self._moved = asyncio.Condition()
        keep, close = httpx.Limits(), httpx.Limits(max_keepalive_connections=0)
        self._tasks = [
            asyncio.create_task(self._create(url, headers, limits)) for limits in clients // 2 * (keep, close)
        ]

    async def _create(self, url: str, headers: dict[str, str], limits: httpx.Limits) -> None:
        async with httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=DEADLINE) as client:
            while not self.stopping:
                try:
                    response = await client.post("/api/tasks", json={"title": "t"})
                except httpx.ConnectError:
                    self.kept_out += 1  # and knows it
                    return
                except httpx.TransportError as error:
                    self.dropped.append(repr(error))
                    return
                async with self._moved:
                    self.responses[response.status_code] += 1
                    self._moved.notify_all()

    async def served(self, count: int) -> None:
        """Wait for so many responses more."""
        count += self.responses.total()
        async with asyncio.timeout(DEADLINE), self._moved:
            await self._moved.wait_for(lambda: self.responses.total() >= count)

    async def ended(self) -> None:
        """Wait until every client has ended."""
        await asyncio.gather(*self._tasks)


def count_tasks(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "todo.db")) as file:
        count: int = file.execute("SELECT count(*) FROM tasks").fetchone()[0]
        return count


def show(began: float, status: int, load: Load) -> None:
    print(f"ended after {time.monotonic() - began:.2f} s with status {status}; responses: {dict(load.responses)}")


def status_of_a_good_end(workers: int) -> int:
    return -signal.SIGTERM if workers == 1 else 0  # uvicorn's: a server ends by the signal, a supervisor returns


@pytest.mark.parametrize(
    ("workers", "whole_group"), [(1, False), (2, False), (2, True)], ids=["one worker", "two", "two, the whole group"]
)
async def test_sigterm_loses_no_request_of_clients_that_know_of_nothing(
    workers: int, whole_group: bool, tmp_path: Path
) -> None:
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with service(folder, workers) as server:
            load = Load(server.url)
            await load.served(50)
            began = time.monotonic()
            # The supervisor last: told first, it could have ended and buried a worker by its turn.
            for pid in (*(started(server) if whole_group else ()), server.process.pid):
                os.kill(pid, signal.SIGTERM)
            await load.ended()
            status = await asyncio.to_thread(server.process.wait, DEADLINE)
        show(began, status, load)
        assert load.dropped == []
        assert dict(load.responses) == {201: count_tasks(folder)}
        assert status == status_of_a_good_end(workers)


@pytest.mark.parametrize(("workers", "second"), [(1, signal.SIGINT), (2, signal.SIGTERM), (2, signal.SIGINT)])
async def test_a_drain_loses_no_request_and_a_second_signal_ends_it(
    workers: int, second: signal.Signals, tmp_path: Path
) -> None:
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        with service(folder, workers, LONGER_THAN_THE_TEST) as server:
            load = Load(server.url)
            await load.served(50)
            for pid in {*started(server), server.process.pid}:  # all at once, as systemd does
                os.kill(pid, signal.SIGTERM)
            async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE) as probe:
                async with asyncio.timeout(DEADLINE):
                    while (response := await probe.get("/health/db")).status_code == 200:
                        pass
                assert (response.status_code, response.json()["code"]) == (503, "database_unavailable")
                assert response.headers["connection"] == "close"
                if workers > 1:
                    await asyncio.to_thread(
                        eventually, lambda: "Terminated child" in server.stderr, "the supervisor acts"
                    )
                await load.served(50)  # the service goes on
                assert (await probe.get("/health")).json() == {"status": "ok"}
            assert "Shutting down" not in server.stderr
            load.stopping = True  # as a load balancer does once it has seen the probe
            await load.ended()
            began = time.monotonic()
            server.process.send_signal(second)
            status = await asyncio.to_thread(server.process.wait, DEADLINE)
        show(began, status, load)
        assert load.dropped == []
        assert dict(load.responses) == {201: count_tasks(folder)}
        assert status == (0 if second == signal.SIGINT else status_of_a_good_end(workers))


def test_a_drain_ends_by_itself(tmp_path: Path) -> None:
    with service(tmp_path, 2, "0.5") as server:
        server.process.terminate()
        assert server.process.wait(DEADLINE) == status_of_a_good_end(2)
        assert server.stderr.count("Shutting down") == 2


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("whole_group", [False, True], ids=["the process", "its group"])
def test_sigint_does_not_drain_and_finishes_what_is_under_way(workers: int, whole_group: bool, tmp_path: Path) -> None:
    body = b'{"title": "finished"}'
    head = f"Host: test\r\nAuthorization: {HEADERS['Authorization']}\r\nContent-Type: application/json\r\n"
    with (
        service(tmp_path, workers, LONGER_THAN_THE_TEST) as server,
        closing(sqlite3.connect(tmp_path / "todo.db", isolation_level=None)) as file,
        server.connect() as connection,
    ):
        file.execute("BEGIN IMMEDIATE")
        connection.sendall(f"POST /api/tasks HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        for pid in {*(started(server) if whole_group else ()), server.process.pid}:
            os.kill(pid, signal.SIGINT)
        eventually(lambda: refuses(server), "nobody is let in")
        file.execute("ROLLBACK")
        assert connection.recv(100).startswith(b"HTTP/1.1 201 Created\r\n")
        assert server.process.wait(DEADLINE) == 0


def test_a_request_under_way_finishes_while_nobody_is_let_in(tmp_path: Path) -> None:
    body = b'{"title": "finished"}'
    head = f"Host: test\r\nAuthorization: {HEADERS['Authorization']}\r\nContent-Type: application/json\r\n"
    with (
        service(tmp_path, 2) as server,
        closing(sqlite3.connect(tmp_path / "todo.db", isolation_level=None)) as file,
        server.connect() as connection,
    ):
        file.execute("BEGIN IMMEDIATE")
        connection.sendall(
            f"POST /api/tasks HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        server.process.terminate()
        eventually(lambda: refuses(server), "nobody is let in")
        assert server.process.poll() is None
        file.execute("ROLLBACK")
        assert connection.recv(100).startswith(b"HTTP/1.1 201 Created\r\n")
        assert server.process.wait(DEADLINE) == status_of_a_good_end(2)
    assert count_tasks(tmp_path) == 1


def refuses(server: Server) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE):
            return False
    except ConnectionRefusedError:
        return True


async def test_sighup_gives_new_workers_the_settings_as_they_are_now_and_fails_no_request(tmp_path: Path) -> None:
    for number in range(ROUNDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = settings_of(folder)
        secret = settings.pop("BETTER_AUTH_SECRET")
        (folder / ".env").write_text(f"BETTER_AUTH_SECRET={secret}\n")
        with service(folder, 2, settings=settings) as server:
            old = Load(server.url, clients=2)  # they must leave new workers the time to start
            await old.served(50)
            (folder / ".env").write_text(f"BETTER_AUTH_SECRET={NEW_SECRET}\nBETTER_AUTH_PREVIOUS_SECRET={secret}\n")
            server.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                eventually, lambda: server.stderr.count("Finished server process") == 2, "all workers were replaced"
            )
            new = Load(server.url, headers_of("bob", better_auth_secret=NEW_SECRET), clients=2)
            await asyncio.gather(old.served(50), new.served(50))
            for load in (old, new):
                load.stopping = True
                await load.ended()
                assert (load.dropped, load.kept_out) == ([], 0)
        assert dict(old.responses + new.responses) == {201: count_tasks(folder)}


def test_a_worker_that_is_killed_is_replaced_and_the_other_goes_on(tmp_path: Path) -> None:
    with service(tmp_path, 2) as server:
        victim, other = started(server)
        os.kill(victim, signal.SIGKILL)
        eventually(lambda: len(started(server)) == 3, "another worker has started")
        assert psutil.Process(other).is_running()
        assert not psutil.pid_exists(victim)
        for _ in range(20):
            assert httpx.get(f"{server.url}/health/db").status_code == 200
        assert server.stop() == status_of_a_good_end(2)
        assert len(started(server)) == 3
