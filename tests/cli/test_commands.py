"""The commands, as an operator types them."""

import json
import re
import socket
import sqlite3
import stat
import sys
from pathlib import Path

import httpx
import pytest

from backend.auth.tokens import mint
from backend.db.migrations import head
from tests.databases import new_postgres_database
from tests.network import free_port
from tests.processes import ROOT, SCRIPT, backend, environment, eventually, run, serving
from tests.settings import SECRET, make_settings, settings_of

COMMANDS = ("dev", "serve", "migrate", "token", "transfer", "openapi", "check")
PYTHON_M = [sys.executable, "-m", "backend"]


@pytest.fixture
def migrated(tmp_path: Path) -> dict[str, str]:
    """Settings of a migrated SQLite file."""
    settings = settings_of(tmp_path)
    result = backend("migrate", cwd=tmp_path, **settings)
    assert result.returncode == 0, result.stderr
    return settings


@pytest.mark.parametrize("program", [PYTHON_M, [SCRIPT]], ids=["python -m backend", "todo-backend"])
def test_the_help_names_every_command(program: list[str], tmp_path: Path) -> None:
    result = run([*program, "--help"], tmp_path)
    assert result.returncode == 0
    assert set(COMMANDS) <= set(result.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_without_settings(command: str, tmp_path: Path) -> None:
    result = backend(command, "--help", cwd=tmp_path, NO_COLOR="1", COLUMNS="200")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Usage:" in result.stdout
    # A sentence of help, not only the frame.
    assert re.search(r"[A-Z][a-z]+ [^\n]+\.", result.stdout.partition("Options")[0])


@pytest.mark.parametrize("arguments", [["nonsense"], ["serve", "--nonsense"], ["serve", "--port", "0"], ["transfer"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], tmp_path: Path) -> None:
    result = backend(*arguments, cwd=tmp_path, **settings_of(tmp_path))
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


# migrate


def test_migrate_makes_the_tables_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        result = backend("migrate", cwd=tmp_path, **settings_of(tmp_path))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout == f"the database is at revision {head()}\n"
    with sqlite3.connect(tmp_path / "todo.db") as file:
        assert file.execute("SELECT count(*) FROM tasks").fetchone() == (0,)
    file.close()


async def test_migrate_takes_a_postgresql_database(postgres_server_url: str, tmp_path: Path) -> None:
    async with new_postgres_database(postgres_server_url) as url:
        settings = settings_of(tmp_path, DATABASE_URL=url)
        migrated = backend("migrate", cwd=tmp_path, **settings)
        assert (migrated.returncode, migrated.stderr) == (0, "")
        checked = backend("check", cwd=tmp_path, **settings)
        assert checked.returncode == 0, checked.stdout
        assert "PostgreSQL" in checked.stdout


def unreachable() -> str:
    return f"postgresql://dave:c4n4ry@127.0.0.1:{free_port()}/db?connect_timeout=1"


@pytest.mark.parametrize("command", ["migrate", "check", "transfer a b"])
def test_where_the_database_cannot_be_reached_commands_fail_and_keep_the_password(command: str, tmp_path: Path) -> None:
    result = backend(*command.split(), cwd=tmp_path, **settings_of(tmp_path, DATABASE_URL=unreachable()))
    assert result.returncode not in {0, 2}
    assert "c4n4ry" not in result.stdout + result.stderr
    assert SECRET not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["migrate", "mcp", "transfer a b", "check"])
@pytest.mark.parametrize(
    ("path", "reason"), [("nowhere/todo.db", "the file's folder does not exist"), ("folder", "names a folder")]
)
def test_a_file_that_cannot_be_opened_is_told_by_its_variable(
    command: str, path: str, reason: str, tmp_path: Path
) -> None:
    (tmp_path / "folder").mkdir()
    settings = settings_of(tmp_path, DATABASE_URL=f"sqlite+aiosqlite:///{tmp_path / path}")
    token = mint(make_settings("sqlite+aiosqlite://"), "alice", 60)
    result = backend(*command.split(), cwd=tmp_path, **settings, MCP_TOKEN=token)
    assert result.returncode == 1
    assert f"DATABASE_URL: {reason}" in (result.stdout if command == "check" else result.stderr)
    assert len(result.stderr.splitlines()) == (command != "check")
    assert "no file yet" not in result.stdout


# check


def levels(output: str) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in output.splitlines()}


def test_check_finds_nothing_wrong_with_a_migrated_database(migrated: dict[str, str], tmp_path: Path) -> None:
    result = backend("check", cwd=tmp_path, **migrated)
    assert (result.returncode, result.stderr) == (0, "")
    assert {"settings", "database", "tls", "pooler", "migrations", "jwks"} <= set(levels(result.stdout))
    assert set(levels(result.stdout).values()) == {"ok"}
    assert SECRET not in result.stdout


def test_check_fails_where_there_is_no_file_and_makes_none(tmp_path: Path) -> None:
    result = backend("check", cwd=tmp_path, **settings_of(tmp_path))
    assert result.returncode == 1
    assert {levels(result.stdout)[name] for name in ("database", "migrations")} == {"FAIL"}
    assert not (tmp_path / "todo.db").exists()


def test_check_fails_on_a_database_without_tables(tmp_path: Path) -> None:
    (tmp_path / "todo.db").touch()
    result = backend("check", cwd=tmp_path, **settings_of(tmp_path))
    assert result.returncode == 1
    assert levels(result.stdout)["migrations"] == "FAIL"
    assert levels(result.stdout)["database"] == "ok"


def test_check_fails_where_the_database_cannot_be_reached(tmp_path: Path) -> None:
    result = backend("check", cwd=tmp_path, **settings_of(tmp_path, DATABASE_URL=unreachable()))
    assert result.returncode == 1
    assert {levels(result.stdout)[name] for name in ("database", "migrations")} == {"FAIL"}


def test_check_fails_where_the_issuer_has_no_keys(migrated: dict[str, str], tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = backend("check", cwd=tmp_path, **migrated, BETTER_AUTH_URL=url)
    assert result.returncode == 1
    assert levels(result.stdout)["jwks"] == "FAIL"
    assert levels(result.stdout)["database"] == "ok"


def test_check_warns_of_production_on_a_file(migrated: dict[str, str], tmp_path: Path) -> None:
    result = backend("check", cwd=tmp_path, **migrated, ENVIRONMENT="production")
    assert result.returncode == 0
    assert levels(result.stdout)["settings"] == "warn"


# token


def test_a_token_is_printed_alone_and_is_accepted(migrated: dict[str, str], tmp_path: Path) -> None:
    result = backend("token", "--user", "alice", "--ttl", "60", cwd=tmp_path, **migrated)
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+\n", result.stdout)
    with serving([*PYTHON_M, "serve"], tmp_path, **migrated) as server:
        response = httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {result.stdout.strip()}"})
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("changes", "variable"),
    [
        ({"ENVIRONMENT": "production"}, "ENVIRONMENT"),
        ({"BETTER_AUTH_SECRET": "", "BETTER_AUTH_URL": "https://a.example.com"}, "BETTER_AUTH_SECRET"),
    ],
)
def test_no_token_is_made_in_production_or_without_a_secret(
    changes: dict[str, str], variable: str, tmp_path: Path
) -> None:
    result = backend("token", "--user", "alice", cwd=tmp_path, **settings_of(tmp_path, **changes))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert variable in result.stderr


@pytest.mark.parametrize("ttl", ["0", "-1", "soon", "99999999999"])
def test_a_token_has_a_lifetime_within_limits(ttl: str, tmp_path: Path) -> None:
    result = backend("token", "--user", "alice", "--ttl", ttl, cwd=tmp_path, **settings_of(tmp_path))
    assert result.returncode == 2


@pytest.mark.parametrize("user", ["", "u" * 256])
def test_no_token_is_made_that_would_not_be_accepted(user: str, tmp_path: Path) -> None:
    result = backend("token", "--user", user, cwd=tmp_path, **settings_of(tmp_path))
    assert result.returncode != 0
    assert result.stdout == ""


# transfer


def add_tasks(file: Path, owner: str, count: int) -> None:
    with sqlite3.connect(file) as connection:
        connection.executemany(
            "INSERT INTO tasks (user_id, id, title, completed, created_at, updated_at) "
            "VALUES (?, ?, 't', 0, '2026-01-02 00:00:00', '2026-01-02 00:00:00')",
            [(owner, f"{number:032x}") for number in range(count)],
        )
    connection.close()


def owners(file: Path) -> list[tuple[str, int]]:
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT user_id, count(*) FROM tasks GROUP BY 1 ORDER BY 1").fetchall()
    connection.close()
    return rows


def test_transfer_moves_every_task_of_one_user(migrated: dict[str, str], tmp_path: Path) -> None:
    add_tasks(tmp_path / "todo.db", "guest", 3)
    result = backend("transfer", "guest", "alice", cwd=tmp_path, **migrated)
    assert (result.returncode, result.stdout, result.stderr) == (0, "transferred 3 tasks\n", "")
    assert owners(tmp_path / "todo.db") == [("alice", 3)]
    again = backend("transfer", "guest", "alice", cwd=tmp_path, **migrated)
    assert (again.returncode, again.stdout) == (0, "transferred 0 tasks\n")


@pytest.mark.parametrize(("giver", "taker"), [("alice", "alice"), ("", "bob"), ("alice", ""), ("alice", "b" * 256)])
def test_a_senseless_transfer_is_refused_and_moves_nothing(
    giver: str, taker: str, migrated: dict[str, str], tmp_path: Path
) -> None:
    add_tasks(tmp_path / "todo.db", "alice", 2)
    result = backend("transfer", giver, taker, cwd=tmp_path, **migrated)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert owners(tmp_path / "todo.db") == [("alice", 2)]


COMMANDS_ON_TABLES = ["transfer a b", "erase a", "export a", "purge", "resync"]


@pytest.mark.parametrize("command", COMMANDS_ON_TABLES)
def test_without_tables_a_command_says_what_makes_them(command: str, tmp_path: Path) -> None:
    (tmp_path / "todo.db").touch()
    result = backend(*command.split(), cwd=tmp_path, **settings_of(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert re.fullmatch(r"todo-backend: [^\n]+; run todo-backend migrate\n", result.stderr)


@pytest.mark.parametrize("command", [*COMMANDS_ON_TABLES, "migrate --sql", "mcp"])
def test_without_a_file_a_command_says_so_and_makes_none(command: str, tmp_path: Path) -> None:
    token = mint(make_settings("sqlite+aiosqlite://"), "alice", 60)
    result = backend(*command.split(), cwd=tmp_path, **settings_of(tmp_path), MCP_TOKEN=token)
    assert (result.returncode, result.stdout) == (1, "")
    reason = "DATABASE_URL: there is no such file yet; run todo-backend migrate"
    assert re.fullmatch(rf"todo-backend: [^\n:]+: {reason}\n", result.stderr)
    assert list(tmp_path.iterdir()) == []


# standard output


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["openapi", "token --user alice"])  # one is longer than the buffer
def test_output_that_finds_no_room_is_one_line(command: str, unbuffered: str, tmp_path: Path) -> None:
    script = f"exec {sys.executable} -m backend {command} > /dev/full"
    result = run(["sh", "-c", script], tmp_path, **settings_of(tmp_path, PYTHONUNBUFFERED=unbuffered))
    assert result.returncode == 1
    assert result.stderr == "todo-backend: No space left on device; --debug shows where\n"


# openapi


def test_openapi_prints_the_document_and_nothing_else_whatever_is_set(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BETTER_AUTH_URL=not a URL\nROOT_PATH=/todo\n")
    variables = {"ENVIRONMENT": "production", "BETTER_AUTH_SECRET_FILE": "missing", "LOG_LEVEL": "loud"}
    result = backend("openapi", cwd=tmp_path, **variables)
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == json.loads((ROOT / "specs/openapi.json").read_text("utf-8"))


# serve


def test_serve_listens_on_the_port_of_the_environment(migrated: dict[str, str], tmp_path: Path) -> None:
    with serving([SCRIPT, "serve", "--host", "127.0.0.1"], tmp_path, **migrated, PORT=str(free_port())) as server:
        assert server.responds()
    assert server.stdout == ""


# dev


def test_dev_makes_all_that_is_missing_and_serves(tmp_path: Path) -> None:
    with serving([*PYTHON_M, "dev"], tmp_path) as server:
        printed = eventually(lambda: "curl" in server.stdout and server.stdout, "the command is printed")
        token = re.search(r"Bearer ([\w.-]+)'", printed)
        assert token is not None
        assert f"http://127.0.0.1:{server.port}/api/tasks" in printed
        response = httpx.get(f"{server.url}/api/tasks", headers={"Authorization": f"Bearer {token[1]}"})
        assert (response.status_code, response.json()) == (200, [])
        assert httpx.get(f"{server.url}/docs").status_code == 200
    assert (tmp_path / "todo.db").exists()
    file = tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    secret = re.search(r"^BETTER_AUTH_SECRET=(.+)$", file.read_text(), re.MULTILINE)
    assert secret is not None
    assert len(secret[1]) >= 32
    assert secret[1] not in server.stdout + server.stderr


@pytest.mark.not_root
def test_dev_says_where_it_can_make_no_file(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir(0o555)
    result = backend("dev", cwd=tmp_path / "place")
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert ".env: cannot be made" in result.stderr


def test_dev_never_changes_a_file_that_exists(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"BETTER_AUTH_SECRET={SECRET}\n")
    (tmp_path / ".env").chmod(0o640)
    with serving([*PYTHON_M, "dev"], tmp_path) as server:
        assert "made .env" not in server.stdout
    assert (tmp_path / ".env").read_text() == f"BETTER_AUTH_SECRET={SECRET}\n"
    assert stat.S_IMODE((tmp_path / ".env").stat().st_mode) == 0o640


async def test_dev_says_what_an_unmigrated_database_needs(postgres_server_url: str, tmp_path: Path) -> None:
    async with new_postgres_database(postgres_server_url) as url:
        settings = settings_of(tmp_path, DATABASE_URL=url)
        with serving([*PYTHON_M, "dev"], tmp_path, **settings) as server:
            assert "run todo-backend migrate" in server.stdout
        assert backend("migrate", cwd=tmp_path, **settings).returncode == 0
        with serving([*PYTHON_M, "dev"], tmp_path, **settings) as server:
            assert "migrate" not in server.stdout


def test_dev_starts_though_the_database_does_not_respond(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, DATABASE_URL=unreachable(), DATABASE_CONNECT_TIMEOUT="1")
    with serving([*PYTHON_M, "dev"], tmp_path, **settings) as server:
        assert "curl" in server.stdout
        assert "migrate" not in server.stdout
    assert "Traceback" not in server.stderr


def test_dev_says_how_to_take_another_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = backend("dev", cwd=tmp_path, PORT=str(taken.getsockname()[1]))
    assert result.returncode == 3
    assert "choose another by PORT or --port, such as 8001" in result.stderr


def test_dev_makes_another_secret_each_time(tmp_path: Path) -> None:
    secrets = set()
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so it goes no further
        for name in ("one", "two"):
            folder = tmp_path / name
            folder.mkdir()
            backend("dev", cwd=folder, PORT=str(taken.getsockname()[1]))
            secrets.add((folder / ".env").read_text())
    assert len(secrets) == 2


def test_the_environment_of_these_tests_holds_no_setting() -> None:
    assert not {name for name in environment() if name.startswith(("DATABASE_", "BETTER_AUTH_"))}
