"""SQLite files that may not be written, or that are somebody else's: what can be read is served, the rest is 503."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.api.shared import assert_problem
from tests.applications import client_of, running
from tests.databases import create_tables, execute
from tests.processes import ROOT, environment
from tests.programs import IMPOSSIBLE, needed_program
from tests.settings import SECRET, make_settings


@pytest.mark.not_root
@pytest.mark.parametrize("journal", ["wal", "delete"])
@pytest.mark.parametrize("environment", ["development", "production"])
@pytest.mark.parametrize(("file", "folder"), [(0o444, 0o755), (0o644, 0o555), (0o444, 0o555)])
async def test_what_may_not_be_written_is_read(
    file: int, folder: int, environment: str, journal: str, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    url = f"sqlite+aiosqlite:///{place / 'todo.db'}"
    await create_tables(url)
    execute(place / "todo.db", f"PRAGMA journal_mode = {journal}")
    (place / "todo.db").chmod(file)
    place.chmod(folder)
    settings = make_settings(url, environment=environment)
    async with running(settings) as app, client_of(app, make_settings(url), "alice") as alice:
        assert (await alice.get("/api/tasks")).json() == []
        assert (await alice.get("/health/db")).status_code == 200
        assert (await alice.post("/api/tasks", json={"title": "x"})).status_code == 503
    place.chmod(0o755)  # for who removes it


async def test_where_there_is_no_file_production_makes_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mistyped.db"
    url = f"sqlite+aiosqlite:///{path}"
    settings = make_settings(url, environment="production")
    async with running(settings) as app, client_of(app, make_settings(url), "alice") as alice:
        assert_problem(await alice.get("/api/tasks"), 503, "database_not_migrated")
        assert_problem(await alice.get("/health/db"), 503, "database_not_migrated")
    assert "DATABASE_URL: there is no such file yet; run todo-backend migrate" in capfd.readouterr().err
    assert not path.exists()


@pytest.mark.not_root
async def test_a_file_that_is_written_by_others_is_read_as_it_is(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    url = f"sqlite+aiosqlite:///{place / 'todo.db'}"
    await create_tables(url)
    with closing(sqlite3.connect(place / "todo.db")) as other:
        other.execute("INSERT INTO owners VALUES ('alice', 1, 0)")
        other.commit()
        place.chmod(0o555)
        async with running(make_settings(url)) as app, client_of(app, make_settings(url), "alice") as alice:
            before = (await alice.get("/api/tasks")).headers["ETag"]
            other.execute("UPDATE owners SET revision = 2")
            other.commit()
            assert (await alice.get("/api/tasks")).headers["ETag"] != before
        place.chmod(0o755)


async def test_another_process_that_reads_and_ends_takes_nothing_away(tmp_path: Path) -> None:
    """It must see that it is not alone: the last to close a file removes the log of what is written."""
    path = tmp_path / "todo.db"
    url = f"sqlite+aiosqlite:///{path}"
    await create_tables(url)
    settings = make_settings(url)
    read = "import sqlite3, sys; print(*sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM tasks').fetchone())"
    async with running(settings) as app, client_of(app, settings, "alice") as alice:
        for at_once in range(1, 5):  # each time one connection more
            responses = await asyncio.gather(*(alice.post("/api/tasks", json={"title": "x"}) for _ in range(at_once)))
            assert [response.status_code for response in responses] == [201] * at_once
            other = await asyncio.create_subprocess_exec(sys.executable, "-c", read, path, stdout=subprocess.PIPE)
            assert (await other.communicate())[0].split() == [b"%d" % (at_once * (at_once + 1) // 2)]
            assert path.with_name("todo.db-wal").exists()


ON_A_SMALL_DISK = """
import asyncio
from pathlib import Path

from tests.applications import client_of, running
from tests.settings import make_settings


async def main() -> None:
    settings = make_settings("sqlite+aiosqlite:///todo.db")
    async with running(settings) as app, client_of(app, settings, "alice") as alice:
        async def look() -> None:
            print((await alice.post("/api/tasks", json={"title": "x"})).status_code, end=" ")
            print((await alice.get("/api/tasks")).status_code, (await alice.get("/health/db")).status_code)

        await look()
        with Path("other").open("wb", buffering=0) as other:
            try:
                while True:
                    other.write(bytes(4096))
            except OSError:
                pass
        await look()
        Path("other").unlink()
        await look()


asyncio.run(main())
"""
MOUNT = 'mount -t tmpfs -o size=2m tmpfs "$0" && cd "$0" && exec "$@"'


def test_a_full_disk_refuses_writes_and_the_probe_says_so(tmp_path: Path) -> None:
    in_namespace = [
        needed_program("util-linux", "unshare"),
        "--user",
        "--map-root-user",
        "--mount",
        "sh",
        "-c",
        MOUNT,
        str(tmp_path),
    ]
    if subprocess.run([*in_namespace, "true"], capture_output=True).returncode:
        pytest.skip(f"{IMPOSSIBLE}: a file system of one's own")
    command = [*in_namespace, sys.executable, "-c", ON_A_SMALL_DISK]
    variables = {"PYTHONPATH": str(ROOT), "BETTER_AUTH_SECRET": SECRET}
    result = subprocess.run(command, env=environment(**variables), capture_output=True, text=True)
    assert result.stdout.splitlines() == ["201 200 200", "503 200 503", "201 200 200"], result.stderr


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a text": lambda path: path.write_text("no database, but a text of some length" * 100),
    "a folder": lambda path: path.mkdir(),
    "another service's": lambda path: execute(path, "CREATE TABLE tasks (id INTEGER PRIMARY KEY, label TEXT)"),
    "an older tool's": lambda path: execute(
        path, "CREATE TABLE alembic_version (version_num); CREATE TABLE tasks (id)"
    ),
}


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_a_file_of_somebody_elses_is_one_line_at_the_start_and_503_at_requests(
    foreign: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    FOREIGN[foreign](tmp_path / "todo.db")
    settings = make_settings(f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}")
    async with running(settings) as app, client_of(app, settings, "alice") as alice:
        for response in (
            await alice.get("/api/tasks"),
            await alice.post("/api/tasks", json={"title": "x"}),
            await alice.get("/health/db"),
        ):
            assert response.status_code == 503
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "backend.main" in line]
    assert "the database cannot be used: " in line
