"""Parts that can be broken."""

from collections.abc import AsyncIterator

import pytest

from backend.db.session import Database, create_db_and_tables
from tests.faults.load import direct_url
from tests.neon import Neon, neon_like
from tests.programs import needed_program
from tests.settings import make_settings


@pytest.fixture(scope="session")
async def neon() -> AsyncIterator[Neon]:
    """Parts of our own: the other tests' must live."""
    needed_program("pgbouncer")
    async with neon_like(pool_size=5) as neon:
        database = Database(make_settings(direct_url(neon)))
        await create_db_and_tables(database)
        await database.close()
        yield neon
