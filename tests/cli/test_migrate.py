"""`todo-backend migrate` among other people's tables, beside other migrations, and while the service is in use."""

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from subprocess import CompletedProcess

import asyncpg
import pytest

from backend.db.migrations import head
from tests.databases import connect, new_postgres_database
from tests.neon import until
from tests.processes import backend, run
from tests.settings import SECRET

ROOT = Path(__file__).parents[2]

CREATE_INDEX = """
revision, down_revision = "9001", {head!r}
from alembic import op
def upgrade():
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY tasks_title ON tasks (title)")
"""
ADD_COLUMN = """
revision, down_revision = "9001", {head!r}
from alembic import op
def upgrade():
    op.execute("ALTER TABLE tasks ADD COLUMN colour text")
"""
BROKEN = """
revision, down_revision = "9001", {head!r}
from alembic import op
def upgrade():
    op.execute("CREATE TABLE half (id int)")
    op.execute("INSERT INTO tasks (title) SELECT secret FROM nowhere")
"""
BUG = """
revision, down_revision = "9001", {head!r}
def upgrade():
    raise ValueError("what it complains about")
"""


@pytest.fixture
async def url(postgres_server_url: str) -> AsyncIterator[str]:
    async with new_postgres_database(postgres_server_url) as url:
        yield url


@pytest.fixture
async def database(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(url)
    yield connection
    await connection.close()


async def migrate(
    url: str, *arguments: str, cwd: Path | None = None, command: str = "migrate", **variables: str
) -> "CompletedProcess[str]":
    """Run a command; the code is what `cwd` has of it, if it is given."""
    variables = {"DATABASE_URL": url, "BETTER_AUTH_SECRET": SECRET} | variables
    if cwd is None:
        elsewhere = Path(tempfile.gettempdir())
        return await asyncio.to_thread(backend, command, *arguments, cwd=elsewhere, **variables)
    another = [sys.executable, "-m", "backend", command, *arguments]
    return await asyncio.to_thread(run, another, cwd, PYTHONPATH=str(cwd), **variables)


@pytest.fixture
def with_revision(tmp_path: Path) -> Callable[[str], Path]:
    """A maker of copies of the service with one more revision."""

    def make(text: str) -> Path:
        shutil.copytree(ROOT / "backend", tmp_path / "backend")
        (tmp_path / "backend/db/migrations/versions/9001_more.py").write_text(text.format(head=head()))
        return tmp_path

    return make


FOUND = {
    "a table tasks of somebody else's": (
        "CREATE TABLE tasks (id serial, label text)",
        ["tasks that todo-backend did not make", "tasks.title", "rename"],
    ),
    "a table owners of somebody else's": (
        "CREATE TABLE owners (id serial)",
        ["owners that todo-backend did not make", "owners.user_id", "rename"],
    ),
    "a view that is called tasks": ("CREATE VIEW tasks AS SELECT 1 AS id", ["tasks that todo-backend did not make"]),
    "two revisions": (
        "CREATE TABLE todo_backend_version (version_num text); INSERT INTO todo_backend_version VALUES ('0001'), ('7')",
        ["todo_backend_version has 2 rows"],
    ),
    "a table of revisions of somebody else's": (
        "CREATE TABLE todo_backend_version (id int)",
        ["todo_backend_version that todo-backend did not make", "rename"],
    ),
    "a revision without tables": (
        "CREATE TABLE todo_backend_version (version_num text); INSERT INTO todo_backend_version VALUES ('0001')",
        ["todo_backend_version says 0001", "no table tasks"],
    ),
    "an unknown revision without tables": (
        "CREATE TABLE todo_backend_version (version_num text); INSERT INTO todo_backend_version VALUES ('9')",
        ["unknown revision 9", "table tasks"],
    ),
    "tables out of sight": (
        "CREATE SCHEMA app; CREATE TABLE app.tasks (id int); CREATE TABLE app.todo_backend_version (version_num text)",
        ["schema app has the tables", "search_path"],
    ),
    "no schema to make tables in": ("DROP SCHEMA public", ["no schema has been selected"]),
}
FOUND_IN_PART = {
    "tables without a revision": ("DROP TABLE todo_backend_version", ["migrate --adopt"]),
    "a restore of one table alone": (
        "DROP TABLE todo_backend_version; DROP TABLE owners CASCADE",
        ["no table owners", "restore the rest"],
    ),
    "a restore without a table": ("DROP TABLE owners CASCADE", ["no table owners", "restore what is lost"]),
    "a restore without a column": ("ALTER TABLE tasks DROP due_date", ["no column tasks.due_date"]),
    "a column of another type": ("ALTER TABLE tasks ALTER completed TYPE text", ["tasks.completed of type BOOLEAN"]),
    "a function that was lost": ("DROP FUNCTION next_revision", ["no function next_revision"]),
}


@pytest.mark.parametrize("found", [*FOUND, *FOUND_IN_PART])
async def test_what_is_not_ours_is_named_in_one_line(found: str, url: str, database: asyncpg.Connection) -> None:
    if found in FOUND_IN_PART:
        assert (await migrate(url)).returncode == 0
    statements, words = (FOUND | FOUND_IN_PART)[found]
    await database.execute(statements)
    migrated = await migrate(url)
    assert (migrated.returncode, len(migrated.stderr.splitlines())) == (1, 1)
    checked = await migrate(url, command="check")
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("FAIL  migrations")]
    assert (checked.returncode, checked.stderr) == (1, "")
    for word in words:
        assert word in migrated.stderr
        assert word in line or found == "no schema to make tables in"


OTHERS = {
    "another project's revision": "INSERT INTO alembic_version VALUES ('0001')",
    "two of another project's": "INSERT INTO alembic_version VALUES ('a'), ('b')",
    "none": "SELECT 1",
}


@pytest.mark.parametrize("other", OTHERS)
async def test_who_else_migrates_with_alembic_keeps_its_table(
    other: str, url: str, database: asyncpg.Connection
) -> None:
    await database.execute("CREATE TABLE alembic_version (version_num varchar(32))")
    await database.execute(OTHERS[other])
    before = await database.fetch("TABLE alembic_version")
    result = await migrate(url)
    assert (result.returncode, result.stderr) == (0, "")
    assert await database.fetch("TABLE alembic_version") == before
    assert await database.fetchval("SELECT version_num FROM todo_backend_version") == head()


async def test_the_table_of_an_earlier_version_is_taken_over(url: str, database: asyncpg.Connection) -> None:
    assert (await migrate(url, "--to", "0001")).returncode == 0
    await database.execute("ALTER TABLE todo_backend_version RENAME TO alembic_version")
    result = await migrate(url)
    assert (result.returncode, result.stdout) == (0, f"the database is at revision {head()}\n")
    assert await database.fetchval("SELECT to_regclass('alembic_version')") is None
    assert (await migrate(url, command="check")).returncode == 0


async def test_equal_tables_are_adopted_when_told_to_and_others_are_not(url: str, database: asyncpg.Connection) -> None:
    await migrate(url)
    await database.execute("DROP TABLE todo_backend_version")
    refused = await migrate(url)
    assert refused.returncode == 1
    assert "migrate --adopt" in refused.stderr
    await database.execute("ALTER TABLE tasks ALTER title TYPE varchar(3)")
    unequal = await migrate(url, "--adopt")
    assert unequal.returncode == 1
    assert "differs" in unequal.stderr
    assert await database.fetchval("SELECT to_regclass('todo_backend_version')") is None
    await database.execute("ALTER TABLE tasks ALTER title TYPE text")
    adopted = await migrate(url, "--adopt")
    assert (adopted.returncode, adopted.stderr) == (0, "")
    assert await database.fetchval("SELECT version_num FROM todo_backend_version") == head()


async def test_a_newer_schema_is_left_as_it_is_and_is_no_failure(
    url: str, with_revision: Callable[[str], Path], database: asyncpg.Connection
) -> None:
    await migrate(url, cwd=with_revision(ADD_COLUMN))
    result = await migrate(url)
    assert result.returncode == 0
    assert (
        result.stdout
        == f"the database is at revision 9001, which is newer than this version's {head()}: nothing was changed\n"
    )
    checked = await migrate(url, command="check")
    assert checked.returncode == 0, checked.stdout
    assert "newer" in checked.stdout


async def test_a_failing_revision_is_one_line_and_leaves_nothing_of_itself(
    url: str, with_revision: Callable[[str], Path], database: asyncpg.Connection
) -> None:
    cwd = with_revision(BROKEN)
    result = await migrate(url, cwd=cwd)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert 'relation "nowhere" does not exist' in result.stderr
    assert await database.fetchval("SELECT to_regclass('half')") is None
    assert await database.fetchval("SELECT version_num FROM todo_backend_version") == head()
    at_debug = await migrate(url, cwd=cwd, LOG_LEVEL="DEBUG")
    assert "9001_more.py" in at_debug.stderr


async def test_a_bug_is_one_line_and_a_traceback_where_it_is_asked_for(
    url: str, with_revision: Callable[[str], Path]
) -> None:
    cwd = with_revision(BUG)
    result = await migrate(url, cwd=cwd)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert "ValueError" in result.stderr
    assert "Traceback" in (await migrate(url, "--debug", cwd=cwd)).stderr


async def test_an_index_is_made_without_stopping_writes(
    url: str, with_revision: Callable[[str], Path], database: asyncpg.Connection
) -> None:
    results = await asyncio.gather(*(migrate(url, cwd=cwd) for cwd in [with_revision(CREATE_INDEX)] * 2))
    assert [(result.returncode, result.stderr) for result in results] == [(0, ""), (0, "")]
    assert await database.fetchval("SELECT indisvalid FROM pg_index WHERE indexrelid = 'tasks_title'::regclass")


async def test_requests_pass_a_migration_that_waits_for_a_long_query(
    url: str, with_revision: Callable[[str], Path], database: asyncpg.Connection
) -> None:
    await migrate(url)
    holder = await connect(url)
    await holder.execute("BEGIN")
    await holder.execute("SELECT FROM tasks")
    task = asyncio.create_task(migrate(url, cwd=with_revision(ADD_COLUMN)))
    waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'tasks'::regclass AND NOT granted"
    await until(lambda: database.fetchval(waiting), "the migration waits")
    await database.fetch("SELECT FROM tasks")  # stands behind ALTER TABLE, and is let go although the holder stays
    assert not task.done()
    await holder.close()
    result = await task
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("engine", ["postgres", "sqlite"])
async def test_the_statements_can_be_printed_and_run_by_hand(engine: str, url: str, tmp_path: Path) -> None:
    (tmp_path / "todo.db").touch()
    url = url if engine == "postgres" else f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
    printed = await migrate(url, "--sql")
    assert (printed.returncode, printed.stderr) == (0, "")
    assert "CREATE TABLE tasks" in printed.stdout
    assert "-- Afterwards run: todo-backend resync." in printed.stdout  # no SQL folds texts as Python does
    if engine == "postgres":
        connection = await connect(url)
        for statement in (
            printed.stdout.rstrip().removesuffix(";").split(";\n\n")
        ):  # one by one, as psql does: some must be in no transaction
            await connection.execute(statement)
        await connection.close()
        assert "is at revision" in (await migrate(url)).stdout
        assert (await migrate(url, command="check")).returncode == 0


async def test_a_revision_that_does_not_exist_is_refused(url: str) -> None:
    result = await migrate(url, "--to", "7")
    assert result.returncode == 1
    assert "0001" in result.stderr


async def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
    for _ in range(3):  # what a thread says after the end is said now and then
        (tmp_path / "todo.db").write_bytes(b"no database" * 1000)
        result = await migrate(url)
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)


async def test_an_older_revision_is_reached_already(
    url: str, with_revision: Callable[[str], Path], database: asyncpg.Connection
) -> None:
    cwd = with_revision(ADD_COLUMN)
    await migrate(url, cwd=cwd)
    result = await migrate(url, "--to", "0001", cwd=cwd)
    assert (result.returncode, result.stdout) == (0, "the database is at revision 9001\n")
