"""Connections cut around a write, by a proxy that reads along: none is acknowledged and lost, none repeated."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest

from tests.faults.load import ROUNDS, Service, pooled_url, url_at, writers
from tests.neon import Neon, PgBouncer
from tests.network import Proxy, proxy_to
from tests.processes import backend
from tests.settings import SECRET

KINDS = ("cut_before", "cut_after", "cut_within")
CUTS = max(ROUNDS, len(KINDS))
Side = Literal["service", "PostgreSQL"]


@asynccontextmanager
async def proxied(neon: Neon, side: Side) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy on one side of PgBouncer, and the database's address through both."""
    if side == "service":
        async with proxy_to(port=neon.pgbouncer.port) as proxy:
            yield proxy, url_at(proxy.port)
        return
    async with proxy_to(path=neon.postgres.socket) as proxy:
        pgbouncer = PgBouncer(neon.postgres, pool_size=5, server_port=proxy.port)
        try:
            yield proxy, url_at(pgbouncer.port)
        finally:
            pgbouncer.stop()


@pytest.mark.parametrize("pool_size", [0, 5], ids=["NullPool", "pool"])
@pytest.mark.parametrize("side", ["service", "PostgreSQL"])
async def test_a_cut_write_is_of_unknown_outcome_and_no_other_write_suffers(
    neon: Neon, tmp_path: Path, side: Side, pool_size: int
) -> None:
    async with proxied(neon, side) as (proxy, url):
        service = Service(tmp_path, url, pool_size)
        try:
            async with writers(service) as record:
                for cut in range(CUTS):
                    # The owner's name is in the message that runs the INSERT, and in no other.
                    setattr(proxy, KINDS[cut % len(KINDS)], record.user.encode())
                    await record.until_unknown(cut + 1)
                    await record.writes_again()
        finally:
            service.stop()
    stored = await record.compare_with(neon)
    assert len(record.unknown) == CUTS
    assert len(record.unknown & set(stored)) == sum(KINDS[cut % len(KINDS)] != "cut_before" for cut in range(CUTS))
    assert record.failed == set()
    print(f"acknowledged {len(record.ok)}, cut {CUTS}, lost 0, stored twice 0")


@pytest.mark.parametrize(("cut", "moved"), [("cut_before", 0), ("cut_after", 3)])
async def test_a_transfer_whose_commit_is_cut_says_that_nobody_knows_and_can_be_repeated(
    neon: Neon, tmp_path: Path, cut: str, moved: int
) -> None:
    guest, user = f"guest-{uuid.uuid4()}", f"user-{uuid.uuid4()}"
    admin = await neon.postgres.admin()
    await admin.execute(
        "INSERT INTO tasks (user_id, id, title, completed, created_at, updated_at) "
        "SELECT $1, gen_random_uuid(), 'x', false, now(), now() FROM generate_series(1, 3)",
        guest,
    )
    count = "SELECT count(*) FROM tasks WHERE user_id = $1"
    async with proxy_to(port=neon.pgbouncer.port) as proxy:
        setattr(proxy, cut, b"COMMIT\0")
        settings = {"BETTER_AUTH_SECRET": SECRET, "DATABASE_URL": url_at(proxy.port)}
        result = await asyncio.to_thread(backend, "transfer", guest, user, cwd=tmp_path, **settings)
    assert result.returncode == 1
    assert result.stderr.startswith("todo-backend: nobody knows whether it was done")
    assert (await admin.fetchval(count, guest), await admin.fetchval(count, user)) == (3 - moved, moved)
    settings["DATABASE_URL"] = pooled_url(neon)
    again = await asyncio.to_thread(backend, "transfer", guest, user, cwd=tmp_path, **settings)
    assert again.stdout == f"transferred {3 - moved} tasks\n"
    assert await admin.fetchval(count, user) == 3
    await admin.close()
