"""Signal 9 under load, for every part in turn: what was said to be written is there, what was said not to be is not."""

import asyncio
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.load import LONG, ROUNDS, Service, direct_url, pooled_url, writers
from tests.neon import Neon, PgBouncer, Postgres

RECOVERY = 1.5
"""Seconds until every writer succeeds again once all parts are back; the median, and under `make faults` only."""


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
    part, recoveries = parts[victim], []
    try:
        async with writers(service) as record:
            for _ in range(ROUNDS):
                await asyncio.to_thread(part.kill)
                await asyncio.to_thread(part.start)
                recoveries.append(await record.writes_again())  # without a restart of anything else
    finally:
        service.stop()
    await record.compare_with(neon)
    print(f"acknowledged {len(record.ok)}, refused {len(record.failed)}, unknown {len(record.unknown)}", end="; ")
    print(f"lost 0, stored twice 0; recovery {statistics.median(recoveries):.2f} s, at most {max(recoveries):.2f}")
    assert not LONG or statistics.median(recoveries) < RECOVERY
