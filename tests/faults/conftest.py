"""Parts that can be broken, and the figures of the tests that break them."""

from collections.abc import AsyncIterator, Callable

import pytest

from backend.db.session import Database, create_db_and_tables
from tests.conftest import make_settings
from tests.faults.load import direct_url
from tests.neon import Neon, neon_like, pgbouncer_program

Report = Callable[[str, object], None]


@pytest.fixture(scope="session")
async def neon() -> AsyncIterator[Neon]:
    """Parts of our own: the other tests' must live."""
    if pgbouncer_program() is None:
        pytest.skip("PgBouncer is not installed")
    async with neon_like(pool_size=5) as neon:
        database = Database(make_settings(direct_url(neon)))
        await create_db_and_tables(database)
        await database.close()
        yield neon


@pytest.fixture
def report(record_property: Report) -> Report:
    """A maker of figures, which are shown at the end where these tests run alone, as `make faults` runs them."""
    return record_property


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the figures."""
    for report in terminalreporter.getreports("passed"):
        if report.user_properties:
            figures = ", ".join(f"{name} {value}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {figures}")
