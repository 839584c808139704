"""Signal 9 under load, for every part in turn: what was said to be written is there, what was said not to be is not.

Writers note what they were told of each write, as Jepsen's do: ok, failed or unknown. `FAULT_ROUNDS` kills in a test;
`make faults` asks for many.
"""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from backend.auth.tokens import mint
from backend.db.session import Database, create_db_and_tables
from tests.conftest import SECRET, make_settings
from tests.neon import DATABASE, PASSWORD, USER, Neon, PgBouncer, Postgres, free_port, neon_like, pgbouncer_program
from tests.processes import SCRIPT, Server, serving

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "2"))
WRITERS = 6
NOTHING_WRITTEN = {"database_unavailable", "overloaded"}


@pytest.fixture(scope="module")
async def neon() -> AsyncIterator[Neon]:
    """Parts of our own: the other tests' must live."""
    if pgbouncer_program() is None:
        pytest.skip("PgBouncer is not installed")
    async with neon_like(pool_size=5) as neon:
        database = Database(make_settings(direct_url(neon)))
        await create_db_and_tables(database)
        await database.close()
        yield neon


def direct_url(neon: Neon) -> str:
    return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@/{DATABASE}?host={quote(neon.postgres.socket_folder)}"


def pooled_url(neon: Neon) -> str:
    return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{neon.pgbouncer.port}/{DATABASE}"


@dataclass
class Record:
    """What the writers were told."""

    ok: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    acknowledged: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def writes_again(self) -> None:
        """Wait until every writer has had a write acknowledged since now."""
        before = set(self.ok)
        async with asyncio.timeout(60), self.acknowledged:
            await self.acknowledged.wait_for(
                lambda: len({title.partition(" ")[0] for title in self.ok - before}) == WRITERS
            )


class Service:
    """The service in a process of its own, which can be killed and started again on the same port."""

    def __init__(self, folder: Path, url: str, pool_size: int) -> None:
        self.port = free_port()
        self._folder = folder
        self._variables = {
            "BETTER_AUTH_SECRET": SECRET,
            "DATABASE_URL": url,
            "DATABASE_POOL_SIZE": str(pool_size),
            "LOG_LEVEL": "ERROR",
            "PORT": str(self.port),
        }
        self._stack = ExitStack()
        self.start()

    def start(self) -> None:
        command = [SCRIPT, "serve", "--host", "127.0.0.1"]
        self.server: Server = self._stack.enter_context(serving(command, self._folder, **self._variables))

    def kill(self) -> None:
        self.server.process.kill()
        self.server.process.wait()

    def stop(self) -> None:
        self._stack.close()


async def write(number: int, user: str, port: int, record: Record, stop: asyncio.Event) -> None:
    """Create tasks one after the other, and note what became of each."""
    headers = {"Authorization": f"Bearer {mint(make_settings('sqlite+aiosqlite://'), user, 3600)}"}
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=30) as client:
        count = 0
        while not stop.is_set():
            title, count = f"{number} {count}", count + 1
            try:
                answer = await client.post("/api/tasks", json={"title": title})
            except httpx.ConnectError:
                record.failed.add(title)
                await asyncio.sleep(0.02)  # nobody listens; do not spin
                continue
            except httpx.TransportError:
                record.unknown.add(title)
                continue
            if answer.status_code == 201:
                async with record.acknowledged:
                    record.ok.add(title)
                    record.acknowledged.notify_all()
            elif answer.status_code == 503:
                code = answer.json()["code"]
                (record.failed if code in NOTHING_WRITTEN else record.unknown).add(title)
            else:
                raise AssertionError(answer.text)


@pytest.mark.parametrize("pool_size", [0, 5], ids=["NullPool", "pool"])
@pytest.mark.parametrize(
    ("victim", "url"),
    [("postgres", pooled_url), ("postgres", direct_url), ("pgbouncer", pooled_url), ("service", pooled_url)],
    ids=["PostgreSQL behind PgBouncer", "PostgreSQL", "PgBouncer", "the service"],
)
async def test_a_kill_loses_no_acknowledged_write_and_stores_no_refused_one(
    neon: Neon, tmp_path: Path, victim: str, url: Callable[[Neon], str], pool_size: int
) -> None:
    service = Service(tmp_path, url(neon), pool_size)
    parts: dict[str, Postgres | PgBouncer | Service] = {
        "postgres": neon.postgres,
        "pgbouncer": neon.pgbouncer,
        "service": service,
    }
    user, record, stop = f"writer-{uuid.uuid4()}", Record(), asyncio.Event()
    async with AsyncExitStack() as stack:
        stack.callback(service.stop)
        async with asyncio.TaskGroup() as writers:
            for number in range(WRITERS):
                writers.create_task(write(number, user, service.port, record, stop))
            await record.writes_again()
            for _ in range(ROUNDS):
                part = parts[victim]
                await asyncio.to_thread(part.kill)
                await asyncio.to_thread(part.start)
                await record.writes_again()  # whole again, without a restart of anything else
            stop.set()
        connection = await neon.postgres.admin()
        stored = [row[0] for row in await connection.fetch("SELECT title FROM tasks WHERE user_id = $1", user)]
        await connection.close()
    assert len(stored) == len(set(stored)), "a write was stored twice"
    assert record.ok - set(stored) == set(), "an acknowledged write is lost"
    assert record.failed & set(stored) == set(), "a refused write is stored"
    assert set(stored) <= record.ok | record.unknown
