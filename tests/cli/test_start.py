"""How the program ends at its start where a setting is wrong, and where it takes its settings from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network import free_port
from tests.processes import SCRIPT, SERVE, backend, run
from tests.settings import SECRET, settings_of

CANARY = "c4n4ry"
WRONG = {"BETTER_AUTH_SECRET": SECRET, "DATABASE_POOL_SIZE": CANARY}


def assert_refused(ended: subprocess.CompletedProcess[str], variable: str) -> None:
    """Check that the program ended with one line, which names the variable and does not repeat its value."""
    assert ended.returncode != 0
    assert ended.stdout == ""
    assert ended.stderr.endswith("\n")
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert variable in ended.stderr
    assert CANARY not in ended.stderr


# Every wrong value of every setting: tests/test_config.py. Here each way to start has one.
@pytest.mark.parametrize("way", SERVE)
def test_every_way_to_start_reports_a_wrong_setting(way: str, tmp_path: Path) -> None:
    assert_refused(run(SERVE[way], tmp_path, **WRONG), "DATABASE_POOL_SIZE")


@pytest.mark.parametrize("command", ["dev", "migrate", "token --user u", "transfer a b"])
def test_every_command_reports_a_wrong_setting(command: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("")
    assert_refused(backend(*command.split(), cwd=tmp_path, **WRONG), "DATABASE_POOL_SIZE")


def test_check_reports_a_wrong_setting_as_it_reports_the_rest(tmp_path: Path) -> None:
    ended = backend("check", cwd=tmp_path, **WRONG)
    assert (ended.returncode, ended.stderr, CANARY in ended.stdout) == (1, "", False)
    assert ended.stdout.startswith("FAIL  settings   DATABASE_POOL_SIZE: ")
    document = json.loads(backend("check", "--json", cwd=tmp_path, **WRONG).stdout)
    assert (document["ok"], [each["name"] for each in document["checks"]]) == (False, ["settings"])


@pytest.mark.parametrize("command", ["serve", "dev", "health"])
@pytest.mark.parametrize("value", [CANARY, "0", "65536", "tcp://10.0.0.1:80", " ", "\uff18\uff10"])
def test_a_wrong_port_is_refused_as_other_settings_are(command: str, value: str, tmp_path: Path) -> None:
    ended = backend(command, cwd=tmp_path, BETTER_AUTH_SECRET=SECRET, PORT=value)
    assert_refused(ended, "wrong setting: PORT: must be a whole number from 1 to 65535")
    assert ended.returncode == 1


def test_a_wrong_number_of_workers_is_refused_as_other_settings_are(tmp_path: Path) -> None:
    ended = backend("serve", cwd=tmp_path, BETTER_AUTH_SECRET=SECRET, WEB_CONCURRENCY=CANARY)
    assert_refused(ended, "wrong setting: WEB_CONCURRENCY: must be a whole number from 1 to 256")


@pytest.mark.parametrize("other", [{"BETTER_AUTH_SECRET": SECRET}, WRONG], ids=["alone", "with another"])
def test_check_names_each_number_that_serve_refuses(other: dict[str, str], tmp_path: Path) -> None:
    ended = backend("check", cwd=tmp_path, **other, PORT=CANARY, WEB_CONCURRENCY="0")
    assert (ended.returncode, ended.stderr, CANARY in ended.stdout) == (1, "", False)
    assert "FAIL  settings   PORT: must be a whole number from 1 to 65535\n" in ended.stdout
    assert "FAIL  settings   WEB_CONCURRENCY: must be a whole number from 1 to 256\n" in ended.stdout


def test_without_a_way_to_verify_tokens_the_start_ends(tmp_path: Path) -> None:
    ended = backend("serve", cwd=tmp_path)
    assert_refused(ended, "BETTER_AUTH_SECRET")
    assert "BETTER_AUTH_URL" in ended.stderr


HEAVY = ("fastapi", "starlette", "sqlalchemy", "sqlmodel", "alembic", "asyncpg", "aiosqlite", "httpx")
LOADED = f"print(sorted(set({HEAVY}) & set(sys.modules)))"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", "mysql://user:c4n4ry@host/db"),
        ("DATABASE_URL_DIRECT", "c4n4ry"),
        ("BETTER_AUTH_SECRET", "c4n4ry"),
        ("LOG_LEVEL", "c4n4ry"),
    ],
)
def test_nothing_heavy_is_imported_before_a_wrong_setting_is_found(variable: str, value: str, tmp_path: Path) -> None:
    code = f"import sys\ntry:\n    import backend.main\nexcept SystemExit as end:\n    assert end.code\n    {LOADED}"
    ended = run([sys.executable, "-c", code], tmp_path, **{"BETTER_AUTH_SECRET": SECRET, variable: value})
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_the_command_imports_nothing_heavy_before_a_wrong_setting_is_found(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom backend.cli import main\nsys.argv = ['todo-backend', 'serve']\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert end.code\n    {LOADED}"
    )
    ended = run([sys.executable, "-c", code], tmp_path, DATABASE_POOL_SIZE=CANARY)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_the_check_for_heavy_modules_would_see_them(tmp_path: Path) -> None:
    ended = run([sys.executable, "-c", f"import sys, backend.main\n{LOADED}"], tmp_path, BETTER_AUTH_SECRET=SECRET)
    assert "'fastapi'" in ended.stdout
    assert "'sqlalchemy'" in ended.stdout


def test_settings_are_read_from_the_file_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"# comment\nUNRELATED=1\nBETTER_AUTH_SECRET={SECRET}\nDATABASE_POOL_SIZE={CANARY}\nLOG_LEVEL=\n"
    )
    assert_refused(backend("token", "--user", "u", cwd=tmp_path), "DATABASE_POOL_SIZE")


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"BETTER_AUTH_SECRET={SECRET}\nDATABASE_POOL_SIZE={CANARY}\n")
    ended = backend("token", "--user", "u", cwd=tmp_path, DATABASE_POOL_SIZE="1")
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_file_that_is_no_text_is_reported_on_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"BETTER_AUTH_SECRET=c4n4ry\xff\xfe\n")
    assert_refused(backend("serve", cwd=tmp_path), ".env")


@pytest.mark.parametrize("folder", ["/nonexistent", "/dev/null"])
def test_a_folder_for_metrics_that_cannot_be_used_is_named(folder: str, tmp_path: Path) -> None:
    pytest.importorskip("prometheus_client")
    settings = settings_of(tmp_path, PROMETHEUS_MULTIPROC_DIR=folder)
    result = run([SCRIPT, "serve", "--host", "127.0.0.1", "--port", str(free_port())], tmp_path, **settings)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("todo-backend: wrong setting: PROMETHEUS_MULTIPROC_DIR: ")
