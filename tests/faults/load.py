"""Writers under load, who note what they were told of each write, as Jepsen's do: ok, failed or unknown."""

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx

from backend.auth.tokens import mint
from tests.neon import DATABASE, PASSWORD, USER, Neon
from tests.network import free_port
from tests.processes import FORKED, Server, serving
from tests.settings import SECRET, make_settings

LONG = "FAULT_ROUNDS" in os.environ
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
"""How often a fault strikes in one test; `make faults` asks for many, and measures."""

WRITES = 100 if LONG else 0
"""How many writes are acknowledged between two faults, at least."""

WRITERS = 6
NOTHING_WRITTEN = {"database_unavailable", "overloaded"}


def direct_url(neon: Neon) -> str:
    """The address of PostgreSQL itself."""
    return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@/{DATABASE}?host={quote(neon.postgres.socket_folder)}"


def url_at(port: int) -> str:
    """The address of a PgBouncer or of a proxy before it."""
    return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/{DATABASE}?sslmode=disable"


def pooled_url(neon: Neon) -> str:
    """The address of PgBouncer."""
    return url_at(neon.pgbouncer.port)


class Service:
    """The service in a process of its own, which can be killed and started again on the same port."""

    def __init__(
        self,
        folder: Path,
        url: str,
        pool_size: int,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.port = free_port()
        self._folder = folder
        self._command = [*(command or [FORKED]), "serve", "--host", "127.0.0.1"]
        self._variables = {
            "BETTER_AUTH_SECRET": SECRET,
            "DATABASE_URL": url,
            "DATABASE_POOL_SIZE": str(pool_size),
            "LOG_LEVEL": "ERROR",
            "PORT": str(self.port),
            **(settings or {}),
        }
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        """Start it, and wait until it responds."""
        self.server: Server = self._stack.enter_context(serving(self._command, self._folder, **self._variables))

    def kill(self) -> None:
        """Kill it with signal 9."""
        self.server.process.kill()
        self.server.process.wait()

    def stop(self) -> None:
        """End it."""
        self._stack.close()

    def client(self, user: str) -> httpx.AsyncClient:
        """Return a client as a user."""
        url = f"http://127.0.0.1:{self.port}"
        # The service closes a connection that is idle for 5 seconds: the client must not be about to use it then.
        limits = httpx.Limits(max_connections=None, keepalive_expiry=2)
        return httpx.AsyncClient(base_url=url, headers=authorization(user), timeout=60, limits=limits)


def authorization(user: str) -> dict[str, str]:
    """The header that says who is calling."""
    return {"Authorization": f"Bearer {mint(make_settings('sqlite+aiosqlite://'), user, 3600)}"}


@dataclass
class Record:
    """What the writers were told."""

    user: str = field(default_factory=lambda: f"writer-{uuid.uuid4()}")
    ok: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    _noted: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def note(self, outcome: set[str], title: str) -> None:
        """Note what became of a write."""
        async with self._noted:
            outcome.add(title)
            self._noted.notify_all()

    async def until_unknown(self, count: int) -> None:
        """Wait until so many writes have had an unknown outcome."""
        await self._until(lambda: len(self.unknown) >= count)

    async def writes_again(self) -> float:
        """Wait until every writer has had a write acknowledged since now; return after how many seconds."""
        started, before = time.monotonic(), set(self.ok)
        await self._until(lambda: len({title.partition(" ")[0] for title in self.ok - before}) == WRITERS)
        recovery = time.monotonic() - started
        await self._until(lambda: len(self.ok) - len(before) >= WRITES)
        return recovery

    async def _until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60), self._noted:
            await self._noted.wait_for(condition)

    async def compare_with(self, neon: Neon) -> list[str]:
        """Compare the notes with what is stored, and return that."""
        connection = await neon.postgres.admin()
        stored = [row[0] for row in await connection.fetch("SELECT title FROM tasks WHERE user_id = $1", self.user)]
        await connection.close()
        assert len(stored) == len(set(stored)), "a write was stored twice"
        assert self.ok - set(stored) == set(), "an acknowledged write is lost"
        assert self.failed & set(stored) == set(), "a refused write is stored"
        assert set(stored) <= self.ok | self.unknown
        return stored


@asynccontextmanager
async def writers(service: Service) -> AsyncIterator[Record]:
    """Let writers write for as long as the block lasts."""
    record, stop = Record(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for number in range(WRITERS):
            group.create_task(_write(number, service, record, stop))
        await record.writes_again()
        yield record
        stop.set()


async def _write(number: int, service: Service, record: Record, stop: asyncio.Event) -> None:
    """Create tasks one after the other, and note what became of each."""
    async with service.client(record.user) as client:
        count = 0
        while not stop.is_set():
            title, count = f"{number} {count}", count + 1
            try:
                response = await client.post("/api/tasks", json={"title": title})
            except httpx.ConnectError:
                await record.note(record.failed, title)
                await asyncio.sleep(0.02)  # nobody listens; do not spin
                continue
            except httpx.TransportError:
                await record.note(record.unknown, title)
                continue
            if response.status_code == 201:
                await record.note(record.ok, title)
            elif response.status_code == 503:
                code = response.json()["code"]
                await record.note(record.failed if code in NOTHING_WRITTEN else record.unknown, title)
            else:
                raise AssertionError(response.text)
