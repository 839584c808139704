"""Parts that can be broken."""

from collections.abc import AsyncIterator

import pytest

from tests.databases import create_tables
from tests.faults.load import direct_url
from tests.neon import Neon, neon_like
from tests.programs import needed_program


@pytest.fixture(scope="session")
async def neon() -> AsyncIterator[Neon]:
    """Parts of our own: the other tests' must live."""
    needed_program("pgbouncer")
    async with neon_like(pool_size=5) as neon:
        await create_tables(direct_url(neon))
        yield neon
