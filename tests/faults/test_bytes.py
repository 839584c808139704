"""Hostile bytes against a served process: each gets whole responses or a closed connection, for little work.

Nothing is stored but by a request that was told so. Beside the table in `hostile.py` there are requests made by chance,
from a seed for each of `FAULT_ROUNDS`; `make faults` asks for many.
"""

import contextlib
import json
import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import psutil
import pytest

from backend.auth.tokens import mint
from tests.faults.hostile import KINDS, Hostile, Maker, mutations, table
from tests.processes import FORKED, Server, read_to_end, serving
from tests.settings import make_settings, settings_of

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
MUTATIONS = 500
CPU_TIME = 0.05
"""Seconds of the processor that a request may cost."""
TRIES = 3
"""A tick of its clock, or the collector, can fall into any request: the cheapest of these counts."""


class Victim:
    """A service in a process of its own, a user's requests to it, and what it has stored and used."""

    def __init__(self, server: Server, file: sqlite3.Connection) -> None:
        self.server = server
        self._file = file
        self._process = psutil.Process(server.process.pid)
        token = mint(make_settings("sqlite+aiosqlite://"), "hostile", 86_400)
        with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {token}"}) as client:
            task = client.post("/api/tasks", json={"title": "kept"}).json()
            for path in ("/api/tasks", "/health/db", "/openapi.json", "/docs"):  # what is made once is made now
                assert client.get(path).status_code == 200
        self.make = Maker(token, task["id"])

    def stored(self) -> list[tuple[object, ...]]:
        return self._file.execute("SELECT * FROM tasks ORDER BY user_id, id").fetchall()

    def cpu_time(self) -> float:
        used = self._process.cpu_times()
        return float(used.user + used.system)

    def suffers(self, hostile: Hostile) -> None:
        """Send it, and check everything."""
        costs: list[float] = []
        while not costs or (costs[-1] > CPU_TIME and len(costs) < TRIES):
            stored, before = self.stored(), self.cpu_time()
            statuses = statuses_of(self.exchange(hostile))
            costs.append(self.cpu_time() - before)
            assert all(status < 500 for status in statuses), statuses
            if all(status >= 400 for status in statuses):
                assert self.stored() == stored
            else:
                assert len(self.stored()) <= len(stored) + statuses.count(201)
        assert min(costs) <= CPU_TIME
        assert self.server.responds()

    def exchange(self, hostile: Hostile) -> bytes:
        with self.server.connect() as connection:
            with contextlib.suppress(OSError):  # it is refused before its end
                connection.sendall(hostile.data)
                if hostile.half_closed:
                    connection.shutdown(socket.SHUT_WR)
            return read_to_end(connection)


def statuses_of(received: bytes) -> list[int]:
    """The statuses of the responses, each of which must be whole."""
    statuses = []
    while received:
        head, separator, received = received.partition(b"\r\n\r\n")
        assert separator, head
        line, *lines = head.split(b"\r\n")
        protocol, status = line.split(b" ")[:2]
        assert protocol == b"HTTP/1.1", line
        statuses.append(int(status))
        if statuses[-1] in (100, 204):
            continue
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = int(headers[b"content-length"])
        assert len(received) >= length, head
        body, received = received[:length], received[length:]
        if statuses[-1] >= 400:
            assert headers[b"content-type"] == b"application/problem+json"
            assert json.loads(body)["status"] == statuses[-1]
    return statuses


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder: Path = tmp_path_factory.mktemp("bytes")
    settings = settings_of(folder, LOG_LEVEL="ERROR")
    with (
        pytest.MonkeyPatch.context() as environment,
        closing(sqlite3.connect(folder / "todo.db", isolation_level=None)) as file,
    ):
        environment.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # it costs processor time, which is counted here
        with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
            yield Victim(server, file)
            assert "unexpected error" not in server.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_hostile_bytes_are_refused_cheaply(victim: Victim, kind: str) -> None:
    for hostile in table(victim.make)[kind]:
        victim.suffers(hostile)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_mutated_bytes_are_refused_cheaply(victim: Victim, seed: int) -> None:
    for hostile in mutations(victim.make, MUTATIONS, seed):
        victim.suffers(hostile)


CHUNKS = b"22\r\n%s\r\n0\r\n\r\n"


def test_a_head_that_two_servers_could_read_in_two_ways_is_refused(victim: Victim) -> None:
    make = victim.make
    chunks = CHUNKS % make.good_body
    for data in (
        make.request(b"GET", b"/api/tasks", b"Host: another.example"),
        make.post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=chunks),
        make.request(b"POST", b"/api/tasks", b"Transfer-Encoding: chunked", body=chunks, version=b" HTTP/1.0"),
    ):
        assert statuses_of(victim.exchange(Hostile(data))) == [400]


def test_a_length_may_have_any_number_of_zeros_before_it(victim: Victim) -> None:
    data = victim.make.post(b"Content-Length: " + b"0" * 5000 + b"34")
    assert statuses_of(victim.exchange(Hostile(data))) == [201]


def test_there_are_many() -> None:
    assert sum(len(kind) for kind in table(Maker("a.b.c", "id")).values()) >= 1000
