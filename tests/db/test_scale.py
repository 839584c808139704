"""A user with very many tasks: every statement of the service finds its rows by the one index, however deep the page.

What a statement touches is counted in PostgreSQL's own buffers, not in time.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from backend.db.session import Database, create_db_and_tables
from backend.models.queries import Cursor, TaskFilter
from backend.models.task import TaskUpdate
from backend.services.tasks import TaskService
from tests.databases import connect, new_postgres_database
from tests.settings import make_settings
from tests.statements import recorded_statements

MANY = 200_000
FEW = 10
OTHERS = 50
ALONE = 10_000
A_FEW_BUFFERS = 100
"""Pages of 8 KiB: the index's depth, a page of it, and the rows of one response."""

SEED = """
INSERT INTO tasks (user_id, id, title, completed, created_at, updated_at)
SELECT $1, (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-' || lpad(to_hex($3::int), 12, '0'))::uuid,
       'Task ' || n, n % 2 = 0, now(), now()
FROM generate_series(1, $2) AS n
"""

PLAN = """UPDATE tasks SET tags = '["home"]', tags_folded = 'home', priority = 'high' WHERE title LIKE '%5'"""
"""Every tenth task gets what a filter can ask for."""


Opened = tuple[Database, asyncpg.Connection]


@asynccontextmanager
async def migrated_database(server_url: str) -> AsyncIterator[Opened]:
    async with new_postgres_database(server_url) as address:
        database = Database(make_settings(address))
        await create_db_and_tables(database)
        connection = await connect(address)
        yield database, connection
        await connection.close()
        await database.close()


@pytest.fixture(scope="module")
async def crowded(postgres_server_url: str) -> AsyncIterator[Opened]:
    """A database with one user of many tasks, one of few, and others around them."""
    async with migrated_database(postgres_server_url) as (database, connection):
        await connection.execute(SEED, "many", MANY, 1)
        await connection.execute(SEED, "few", FEW, 2)
        for number in range(OTHERS):
            await connection.execute(SEED, f"other {number}", 200, 3 + number)
        await connection.execute("VACUUM ANALYZE tasks")
        yield database, connection


@pytest.fixture(scope="module")
async def alone(postgres_server_url: str) -> AsyncIterator[Opened]:
    """A database with one user, of whose tasks some have tags and a priority: to read all of the table is cheap."""
    async with migrated_database(postgres_server_url) as (database, connection):
        await connection.execute(SEED, "alone", ALONE, 1)
        await connection.execute(PLAN)
        for statement in ("CLUSTER tasks USING tasks_pkey", "VACUUM ANALYZE tasks"):  # as if they had been made so
            await connection.execute(statement)
        yield database, connection


class Recorder:
    """Runs a service's method and asks PostgreSQL how it would carry out the statement that the method has run."""

    def __init__(self, database: Database, connection: asyncpg.Connection, statements: list[tuple[str, Any]]) -> None:
        self.database = database
        self.connection = connection
        self.statements = statements

    def service(self, user: str) -> TaskService:
        return TaskService(self.database.executor, user)

    async def plan(self) -> dict[str, Any]:
        """The plan of the last statement, carried out once more and undone."""
        statement, parameters = self.statements[-1]
        transaction = self.connection.transaction()
        await transaction.start()
        # A connection's first call of the function reads the catalog, too: that is not the statement's.
        await self.connection.execute("SELECT next_revision('nobody')")
        explained = await self.connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *parameters)
        await transaction.rollback()
        plan: dict[str, Any] = json.loads(explained)[0]["Plan"]
        return plan


def nodes(plan: dict[str, Any]) -> list[str]:
    """All kinds of nodes of a plan."""
    return [plan["Node Type"], *(kind for child in plan.get("Plans", []) for kind in nodes(child))]


def scanned(plan: dict[str, Any]) -> set[str]:
    """The tables that are read from end to end."""
    own = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return own.union(*(scanned(child) for child in plan.get("Plans", [])))


def buffers(plan: dict[str, Any]) -> int:
    """How many buffers a plan has touched."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.fixture
def recorder(crowded: Opened) -> Iterator[Recorder]:
    with recorded_statements(crowded[0]) as statements:
        yield Recorder(*crowded, statements)


def task_id(number: int, user: int) -> UUID:
    return UUID(f"{number:08x}-0000-7000-8000-{user:012x}")


@pytest.mark.parametrize(("user", "tag", "depth"), [("few", 2, FEW // 2), ("many", 1, MANY // 2)])
async def test_one_task_costs_the_same_among_many_and_among_few(
    recorder: Recorder, user: str, tag: int, depth: int
) -> None:
    service, wanted = recorder.service(user), task_id(depth, tag)
    for run in (
        lambda: service.get(wanted),
        lambda: service.toggle(wanted),
        lambda: service.update(wanted, TaskUpdate(title="new")),
        lambda: service.complete([wanted], completed=True),
        lambda: service.delete(wanted),
    ):
        await run()
        plan = await recorder.plan()
        assert "tasks" not in scanned(plan)
        assert buffers(plan) < A_FEW_BUFFERS


@pytest.mark.parametrize("completed", [None, True, False])
async def test_the_last_page_costs_what_the_first_costs(recorder: Recorder, completed: bool | None) -> None:
    service = recorder.service("many")
    costs = []
    for number in (MANY + 1, MANY // 2, 150):
        after = Cursor((), task_id(number, 1))
        page = await service.list(TaskFilter(completed=completed), limit=20, after=after)
        assert len(page.tasks) == 20
        plan = await recorder.plan()
        assert "tasks" not in scanned(plan)
        costs.append(buffers(plan))
    assert max(costs) < A_FEW_BUFFERS


@pytest.mark.parametrize(
    "wanted",
    [
        TaskFilter(tags=("home",)),
        TaskFilter(any_tags=("home", "work")),
        TaskFilter(priorities=("high",)),
        TaskFilter(priorities=("high", "urgent"), tags=("home",), completed=False),
        TaskFilter(words=("5",)),
    ],
    ids=["tag", "tags", "priority", "all", "search"],
)
async def test_a_page_under_a_filter_is_read_in_order_until_it_is_full(alone: Opened, wanted: TaskFilter) -> None:
    with recorded_statements(alone[0]) as statements:
        recorder = Recorder(*alone, statements)
        page = await recorder.service("alone").list(wanted, limit=100)
        assert page.more
        plan = await recorder.plan()
    assert "tasks" not in scanned(plan)
    assert buffers(plan) < A_FEW_BUFFERS


async def test_counting_reads_one_users_part_of_the_index(recorder: Recorder) -> None:
    await recorder.service("few").stats()
    plan = await recorder.plan()
    assert "tasks" not in scanned(plan)
    assert buffers(plan) < A_FEW_BUFFERS
