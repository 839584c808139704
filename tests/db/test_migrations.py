"""Migrations: up, down and up again, alone or two at once, from the repository and from an installed wheel."""

import asyncio
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Boolean, Connection, Text, Uuid, column, insert, inspect, table, text
from sqlmodel import SQLModel
from uuid_utils.compat import uuid7

from backend.db import migrations
from backend.db.migrating import migrate
from backend.db.session import Database
from backend.errors import DatabaseNotMigrated, DatabaseUnavailable, OutcomeUnknown
from backend.models.queries import Destination, Order, TaskFilter
from backend.models.task import UTC_DATE_TIME, TaskCreate, TaskUpdate
from backend.services.tasks import TaskService
from tests.databases import connect
from tests.db.conftest import NewDatabase
from tests.neon import until
from tests.processes import backend, run, serving
from tests.settings import SECRET, make_settings

ROOT = Path(__file__).parents[2]


def table_names(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names()) - {migrations.VERSION_TABLE}


def down(connection: Connection) -> None:
    migrations.downgrade(connection, "base")


LIMITS = [
    *("statement_timeout", "lock_timeout", "transaction_timeout"),
    *("idle_in_transaction_session_timeout", "idle_session_timeout"),
]
"""What PostgreSQL has by now; the newer ones are not in every version."""


async def look(url: str, at: Callable[[Connection], Any]) -> Any:
    return await migrate(make_settings(url), at)


async def test_up_down_and_up_again(empty_url: str) -> None:
    assert await look(empty_url, migrations.current) is None
    for _ in range(2):
        await look(empty_url, migrations.upgrade)
        assert await look(empty_url, migrations.current) == migrations.head()
        assert await look(empty_url, table_names) == {"owners", "tasks"}
        await look(empty_url, down)
        assert await look(empty_url, migrations.current) is None
        assert await look(empty_url, table_names) == set()


async def test_a_second_time_changes_nothing(empty_url: str, open_database: NewDatabase) -> None:
    await look(empty_url, migrations.upgrade)
    database = open_database(empty_url)
    values = "('owner', '0192f0c1-2345-7abc-8def-0123456789ab', 'kept', false, '2026-01-02', '2026-01-02')"
    columns = "user_id, id, title, completed, created_at, updated_at"
    await database.executor.exec(text(f"INSERT INTO tasks ({columns}) VALUES {values}"))
    await look(empty_url, migrations.upgrade)
    assert (await database.executor.exec(text("SELECT title FROM tasks"))).scalars().all() == ["kept"]
    await database.close()


async def test_several_at_once_all_succeed(empty_url: str) -> None:
    await asyncio.gather(*(look(empty_url, migrations.upgrade) for _ in range(4)))
    assert await look(empty_url, migrations.current) == migrations.head()


@pytest.mark.process
async def test_two_processes_at_once_both_succeed(empty_url: str, tmp_path: Path) -> None:
    def migrate_in_a_process() -> "subprocess.CompletedProcess[str]":
        return backend("migrate", cwd=tmp_path, DATABASE_URL=empty_url, BETTER_AUTH_SECRET=SECRET)

    results = await asyncio.gather(*(asyncio.to_thread(migrate_in_a_process) for _ in range(2)))
    assert [(result.returncode, result.stderr) for result in results] == [(0, ""), (0, "")]
    assert await look(empty_url, migrations.current) == migrations.head()


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(
        connection,
        opts={"compare_type": True, "compare_server_default": True, "version_table": migrations.VERSION_TABLE},
    )
    return list(compare_metadata(context, SQLModel.metadata))


async def test_the_migrated_schema_is_the_models(empty_url: str) -> None:
    await look(empty_url, migrations.upgrade)
    assert await look(empty_url, differences) == []


def constraints(connection: Connection) -> dict[str, str]:
    """The CHECK constraints and the primary key, which Alembic does not compare, in the engine's own words."""
    inspector = inspect(connection)
    checks = {str(check["name"]): check["sqltext"] for check in inspector.get_check_constraints("tasks")}
    key = inspector.get_pk_constraint("tasks")
    return checks | {str(key["name"]): ", ".join(key["constrained_columns"])}


async def test_the_migrated_constraints_are_the_models(empty_url: str) -> None:
    await look(empty_url, migrations.upgrade)
    migrated = await look(empty_url, constraints)
    await look(empty_url, down)
    await look(empty_url, SQLModel.metadata.create_all)
    assert await look(empty_url, constraints) == migrated
    assert migrated["tasks_pkey"] == "user_id, id"
    assert len(migrated) == 4


async def test_there_are_two_indexes_beside_the_primary_key(empty_url: str) -> None:
    await look(empty_url, migrations.upgrade)
    indexes = await look(empty_url, lambda connection: inspect(connection).get_indexes("tasks"))
    assert sorted((index["name"], index["column_names"]) for index in indexes) == [
        ("tasks_revision", ["user_id", "revision", "id"]),
        ("tasks_trash", ["user_id", "deleted_at", "id"]),
    ]


FIRST = table(
    "tasks",
    *(column(name, Text()) for name in ("user_id", "title", "description")),
    column("id", Uuid()),
    column("completed", Boolean()),
    column("created_at", UTC_DATE_TIME),
    column("updated_at", UTC_DATE_TIME),
)
"""The table as processes of the first version know it."""


async def insert_as_before(database: Database, user_id: str, title: str, description: str | None = None) -> UUID:
    """Insert a task as processes of the first version do."""
    task_id, moment = uuid7(), datetime.now(UTC)
    values = {"user_id": user_id, "id": task_id, "title": title, "description": description, "completed": False}
    await database.executor.exec(insert(FIRST), params={**values, "created_at": moment, "updated_at": moment})
    return task_id


async def test_rows_of_the_first_version_are_as_good_as_new_ones(empty_url: str, open_database: NewDatabase) -> None:
    """Those that were there, and those that old processes write while a deployment lasts."""
    await look(empty_url, lambda connection: migrations.upgrade(connection, "0001"))
    database = open_database(empty_url)
    first = await insert_as_before(database, "alice", "\u00c9CLAIR", "Stra\u00dfe")
    second = await insert_as_before(database, "alice", "Buy MILK 100%")
    await insert_as_before(database, "bob", "\u00c9CLAIR")
    await look(empty_url, migrations.upgrade)
    third = await insert_as_before(database, "alice", "milk AFTER")
    alice = TaskService(database.executor, "alice")

    async def found(words: str = "", **options: Any) -> list[UUID]:
        page = await alice.list(TaskFilter(words=tuple(words.casefold().split())), limit=10, **options)
        return [task["id"] for task in page.tasks]

    assert await found() == [third, second, first]
    assert await found("\u00e9clair STRASSE") == [first]
    assert await found("Milk") == [third, second]
    assert await found("100%") == [second]
    assert await found(order=(Order("title", descending=False),)) == [second, third, first]
    assert await found(order=(Order("position", descending=False),)) == [first, second, third]
    task = await alice.get(second)
    assert (task["tags"], task["position"], task["priority"], task["completed_at"]) == ([], 0, None, None)
    await alice.move(first, Destination("after", second))
    new = await alice.create(TaskCreate(title="new"))
    assert await found(order=(Order("position", descending=False),)) == [new["id"], second, first, third]
    changed = (await alice.update(second, TaskUpdate(title="\u00c9clair", tags=["a"]))).task
    assert changed["etag"] != task["etag"]
    assert await found("\u00e9CLAIR") == [second, first]
    changes = await alice.changes(None, limit=10)
    assert {change["id"] for change in changes.changes} == {first, second, third, new["id"]}
    await alice.delete(third)
    await look(empty_url, lambda connection: migrations.downgrade(connection, "0001"))
    rows = await database.executor.exec(text("SELECT title FROM tasks WHERE user_id = 'alice' ORDER BY title"))
    assert set(rows.scalars()) == {"new", "\u00c9CLAIR", "\u00c9clair"}  # and the deleted one stays away
    await look(empty_url, migrations.upgrade)
    assert await found("\u00e9clair") == [second, first]
    await database.close()


async def test_an_index_that_was_cut_off_is_made_anew(empty_postgres_url: str) -> None:
    def cut_off(connection: Connection) -> None:
        migrations.upgrade(connection, "0002")
        connection.execute(text("CREATE INDEX tasks_revision ON tasks (user_id)"))
        connection.commit()

    await look(empty_postgres_url, cut_off)
    await look(empty_postgres_url, migrations.upgrade)
    assert await look(empty_postgres_url, differences) == []


async def test_a_migration_waits_for_no_lock_for_long(empty_postgres_url: str) -> None:
    def limits(connection: Connection) -> tuple[str, str]:
        migrations.upgrade(connection)
        names = ("lock_timeout", "statement_timeout")
        first, second = (connection.execute(text(f"SHOW {name}")).scalar_one() for name in names)
        return first, second

    assert await look(empty_postgres_url, limits) == ("2s", "1min")


WAITING = "FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE INDEX%' AND state = 'active'"


@pytest.fixture
async def writer(empty_postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Somebody in the middle of a transaction, for whose end the next revision's indexes wait."""
    await look(empty_postgres_url, lambda connection: migrations.upgrade(connection, "0002"))
    connection = await connect(empty_postgres_url)
    await connection.execute("BEGIN; LOCK TABLE tasks IN ROW EXCLUSIVE MODE")
    yield connection
    await connection.close()


async def test_a_migration_has_no_limits_of_its_role_or_database(
    empty_postgres_url: str, writer: asyncpg.Connection
) -> None:
    watcher = await connect(empty_postgres_url)
    database = await watcher.fetchval("SELECT current_database()")
    for limit in await watcher.fetch("SELECT name FROM pg_settings WHERE name = ANY($1)", LIMITS):
        await watcher.execute(f"ALTER DATABASE {database} SET {limit['name']} = '300ms'")
    migration = asyncio.create_task(look(empty_postgres_url, migrations.upgrade))
    longer = f"SELECT count(*) {WAITING} AND clock_timestamp() - query_start > '600ms'"
    await until(lambda: watcher.fetchval(longer), "the migration waits")
    await writer.execute("COMMIT")
    assert await migration == migrations.head()
    await watcher.close()


HOLDER = "FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE datname = current_database() AND locktype = 'advisory'"


@pytest.mark.parametrize(
    ("lost", "error", "reason"),
    [(WAITING, DatabaseUnavailable, "terminating connection"), (HOLDER, OutcomeUnknown, "lock of migrations was lost")],
)
async def test_a_migration_ends_where_one_of_its_connections_is_lost(
    empty_postgres_url: str, writer: asyncpg.Connection, lost: str, error: type[Exception], reason: str
) -> None:
    watcher = await connect(empty_postgres_url)
    migration = asyncio.create_task(look(empty_postgres_url, migrations.upgrade))
    await until(lambda: watcher.fetchval(f"SELECT count(*) {WAITING}"), "the migration waits")
    await watcher.execute(f"SELECT pg_terminate_backend(pid) {lost}")
    with pytest.raises(error, match=reason):
        await migration
    await until(lambda: watcher.fetchval(f"SELECT count(*) = 0 {WAITING}"), "it has ended on the server, too")
    await writer.execute("COMMIT")
    assert await look(empty_postgres_url, migrations.upgrade) == migrations.head()
    await watcher.close()


async def test_a_revision_that_this_version_does_not_know_is_newer_and_left_alone(empty_url: str) -> None:
    await look(empty_url, migrations.upgrade)
    await look(empty_url, lambda c: c.execute(text("UPDATE todo_backend_version SET version_num = 'later'")) and None)
    assert await look(empty_url, migrations.upgrade) == "later"
    await look(empty_url, lambda c: c.execute(text("ALTER TABLE tasks RENAME description TO notes")) and None)
    with pytest.raises(DatabaseNotMigrated, match=r"later.*tasks\.description"):
        await look(empty_url, migrations.upgrade)


async def test_migrations_take_the_direct_address(tmp_path: Path) -> None:
    direct = f"sqlite+aiosqlite:///{tmp_path / 'direct.db'}"
    settings = make_settings(f"sqlite+aiosqlite:///{tmp_path / 'pooled.db'}", database_url_direct=direct)
    await migrate(settings, migrations.upgrade)
    assert await look(direct, table_names) == {"owners", "tasks"}
    assert not (tmp_path / "pooled.db").exists()


async def test_migrations_end_where_the_database_is_not(tmp_path: Path) -> None:
    settings = make_settings(f"sqlite+aiosqlite:///{tmp_path / 'no' / 'folder.db'}")
    with pytest.raises(DatabaseUnavailable):
        await migrate(settings, migrations.upgrade)


@pytest.mark.process
def test_alembics_own_command_line_works_in_the_repository(sqlite_url: str, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "backend"):
        (tmp_path / name).symlink_to(ROOT / name)  # the repository, but for the .env that may be there
    command = [sys.executable, "-m", "alembic"]
    settings = {"DATABASE_URL": sqlite_url, "BETTER_AUTH_SECRET": SECRET}
    upgraded = run([*command, "upgrade", "head"], tmp_path, **settings)
    assert upgraded.returncode == 0, upgraded.stderr
    checked = run([*command, "check"], tmp_path, **settings)
    assert checked.returncode == 0, checked.stderr
    assert "No new upgrade operations detected" in checked.stdout


def test_the_history_is_a_line_with_one_head_and_a_way_back_from_everywhere() -> None:
    from alembic.script import ScriptDirectory

    script = ScriptDirectory(str(ROOT / "backend/db/migrations"))
    assert script.get_heads() == [migrations.head()]
    for revision in script.walk_revisions():
        assert callable(revision.module.downgrade)


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the project's wheel is installed, and nothing else of it."""
    folder = tmp_path_factory.mktemp("wheel")
    code = f"import os; from flit_core.buildapi import build_wheel; print(build_wheel({str(folder)!r}))"
    built = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(folder / built.stdout.strip()) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_holds_all_that_migrating_needs(installed_wheel: Path) -> None:
    source, installed = ROOT / "backend", installed_wheel / "backend"
    expected = {
        path.relative_to(source)
        for path in source.rglob("*")
        if path.is_file() and path.suffix in {".py", ".mako"} and "__pycache__" not in path.parts
    }
    assert {Path("db/migrations") / name for name in ("env.py", "script.py.mako", "versions/0001_tasks.py")} <= expected
    assert expected <= {path.relative_to(installed) for path in installed.rglob("*")}


@pytest.mark.process
async def test_an_installed_wheel_migrates_and_serves(installed_wheel: Path, empty_url: str, tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(installed_wheel)!r}); import backend; "
        f"assert backend.__file__.startswith({str(installed_wheel)!r}); from backend.cli import main; main()"
    )
    command = [sys.executable, "-c", code]
    settings = {"DATABASE_URL": empty_url, "BETTER_AUTH_SECRET": SECRET}
    result = await asyncio.to_thread(run, [*command, "migrate"], tmp_path, **settings)
    assert (result.returncode, result.stderr) == (0, "")
    assert await look(empty_url, table_names) == {"owners", "tasks"}

    def serve() -> list[int]:
        with serving([*command, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
            return [httpx.get(f"{server.url}{path}").status_code for path in ("/health/db", "/docs", "/static/app.js")]

    assert await asyncio.to_thread(serve) == [200, 200, 200]
