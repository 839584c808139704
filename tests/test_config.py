"""Settings: what each defaults to, and how the start ends where one is wrong."""

import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from backend.auth.tokens import TokenVerifier
from backend.config import ConfigurationError, Settings, load_settings
from backend.db.url import database_url, direct_database_url
from tests.conftest import SECRET
from tests.processes import SERVE, backend, run

CANARY = "c4n4ry"
NOT_A_NUMBER = ("c4n4ry-number", "1,5")
NOT_SECONDS = (*NOT_A_NUMBER, "0", "-1", "301", "nan", "inf", "-inf")

WRONG: dict[str, tuple[str, ...]] = {
    "ENVIRONMENT": ("c4n4ry-staging", "PRODUCTION-c4n4ry"),
    "DATABASE_URL": (
        "c4n4ry",
        "mysql://user:c4n4ry@host/db",
        "sqlite:///c4n4ry.db",
        "sqlite+aiosqlite:///todo.db?mode=c4n4ry",
        "sqlite+aiosqlite://c4n4ry/todo.db",
        "postgresql://user:c4n4ry#1@host/db",
        "postgresql://user:c4n4ry/1@host/db",
        "postgresql://user:c4n4ry?1@host/db",
        "postgresql://user:c4n4ry[1@host/db",
        "postgresql://user:c4n4ry]@host/db",
        "postgresql://user:c4n4ry@host:port/db",
        "postgresql://user:c4n4ry@host:99999/db",
        "postgresql://user:c4n4ry@host:0/db",
        "postgresql://user:c4n4ry@one,two/db",
        "postgresql://user:c4n4ry@host/db?sslmode=c4n4ry",
        "postgresql://user:c4n4ry@host/db?c4n4ry=1",
        "postgresql://user:c4n4ry@host/db?sslmode=require&sslmode=c4n4ry",
        "postgresql://user:c4n4ry@host/db?connect_timeout=c4n4ry",
        "postgresql://user:c4n4ry@host/db?sslrootcert=/c4n4ry.crt",
        "postgresql://user:c4n4ry@ep-cool-1.eu-central-1.aws.neon.tech/db?sslmode=disable",
        "postgresql://user:c4n4ry\t@host/db",
        "postgresql://user:c4n4ry\u2028@host/db",
        "postgresql://user:c4n4ry\u2100@host/db",  # urlsplit's own refusal of it quotes the URL
    ),
    "DATABASE_URL_DIRECT": ("c4n4ry", "postgresql://user:c4n4ry@host:port/db"),
    "DATABASE_POOL_SIZE": (*NOT_A_NUMBER, "-1", "1001"),
    "DATABASE_MAX_OVERFLOW": (*NOT_A_NUMBER, "-1", "1001"),
    "DATABASE_POOL_TIMEOUT": NOT_SECONDS,
    "DATABASE_POOL_RECYCLE": (*NOT_A_NUMBER, "-1", "0", "86401"),
    "DATABASE_POOL_PRE_PING": ("c4n4ry", "2"),
    "DATABASE_CONNECT_TIMEOUT": NOT_SECONDS,
    "DATABASE_COMMAND_TIMEOUT": NOT_SECONDS,
    "BETTER_AUTH_SECRET": (
        "c4n4ry-of-thirty-one-bytes-----",
        "-----BEGIN PUBLIC KEY----- c4n4ry c4n4ry c4n4ry",
        "ssh-rsa c4n4ry-c4n4ry-c4n4ry-c4n4ry-c4n4ry",
    ),
    "BETTER_AUTH_URL": (
        "c4n4ry",
        "ftp://c4n4ry.example.com",
        "https://",
        "https://user:c4n4ry@auth.example.com",
        "https://auth.example.com?c4n4ry",
        "https://auth.example.com#c4n4ry",
        "https://auth.example.com:c4n4ry",
        "https://auth.example.com:99999",
        "https://[c4n4ry",
    ),
    "BETTER_AUTH_JWKS_URL": ("c4n4ry", "file:///c4n4ry", "https://auth.example.com:c4n4ry"),
    "ALLOWED_ORIGINS": (
        "*",
        "c4n4ry",
        "null",
        "https://c4n4ry.example.com/path",
        "https://ok.example.com,https://*.c4n4ry.example.com/",
        "https://user:c4n4ry@example.com",
        "https://ok.example.com, *",
    ),
    "MAX_CONCURRENT_REQUESTS": (*NOT_A_NUMBER, "0", "-1", "100001"),
    "LOG_LEVEL": ("c4n4ry", "10"),
    "LOG_FORMAT": ("c4n4ry",),
    "LOG_REQUESTS": ("c4n4ry", "none"),
    "LOG_SLOW_MS": (*NOT_A_NUMBER, "-1"),
    "SERVER_TIMING": ("c4n4ry",),
}


def assert_one_line_naming(variable: str, value: str, status: int, stdout: str, stderr: str) -> None:
    assert status != 0
    assert stdout == ""
    assert stderr.endswith("\n")
    assert len(stderr.splitlines()) == 1, stderr
    assert variable in stderr
    assert CANARY not in stderr
    if len(value) > 5:
        assert value not in stderr


def given(variable: str, value: str) -> dict[str, str]:
    settings = {"BETTER_AUTH_SECRET": SECRET, variable: value}
    if variable == "BETTER_AUTH_JWKS_URL":
        settings["BETTER_AUTH_URL"] = "https://auth.example.com"
    return settings


def test_the_defaults_are_those_of_the_contract() -> None:
    settings = Settings(better_auth_secret=SecretStr(SECRET))
    values = settings.model_dump(exclude={"better_auth_secret", "database_url"})
    assert settings.database_url.get_secret_value() == "sqlite+aiosqlite:///./todo.db"
    assert values == {
        "environment": "development",
        "database_url_direct": None,
        "database_url_test": None,
        "database_pool_size": 0,
        "database_max_overflow": 10,
        "database_pool_timeout": 5,
        "database_pool_recycle": 240,
        "database_pool_pre_ping": False,
        "database_connect_timeout": 10,
        "database_command_timeout": 10,
        "better_auth_url": None,
        "better_auth_jwks_url": None,
        "api_audience": (),
        "allowed_origins": ("http://localhost:3000",),
        "max_concurrent_requests": 100,
        "log_level": "INFO",
        "log_format": None,
        "log_requests": "all",
        "log_slow_ms": 1000,
        "log_user_key": None,
        "server_timing": False,
    }


def test_the_table_of_wrong_values_has_every_setting_that_can_be_wrong() -> None:
    free = {"API_AUDIENCE", "LOG_USER_KEY", "DATABASE_URL_TEST"}  # any text; and only the test suite reads the last
    assert {name.upper() for name in Settings.model_fields} - free == set(WRONG)


@pytest.mark.parametrize(("variable", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_ends_the_start_with_one_line_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in given(variable, value).items():
        monkeypatch.setenv(name, text)
    with pytest.raises(SystemExit) as end:
        load_settings(database_url, direct_database_url, TokenVerifier)
    assert isinstance(end.value.code, str)  # which Python prints to standard error, and exits with 1
    assert_one_line_naming(variable, value, 1, "", f"{end.value.code}\n")


@pytest.mark.parametrize("variable", WRONG)
@pytest.mark.parametrize("way", SERVE)
def test_every_way_to_start_reports_a_wrong_setting(way: str, variable: str, tmp_path: Path) -> None:
    value = WRONG[variable][0]
    result = run(SERVE[way], tmp_path, **given(variable, value))
    assert_one_line_naming(variable, value, result.returncode, result.stdout, result.stderr)


@pytest.mark.parametrize("command", ["dev", "migrate", "check", "openapi", "token --user u", "transfer a b"])
def test_every_command_reports_a_wrong_setting(command: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("")
    result = backend(*command.split(), cwd=tmp_path, **given("DATABASE_POOL_SIZE", "c4n4ry"))
    assert_one_line_naming("DATABASE_POOL_SIZE", "c4n4ry", result.returncode, result.stdout, result.stderr)


@pytest.mark.parametrize("way", SERVE)
def test_without_a_way_to_verify_tokens_the_start_ends(way: str, tmp_path: Path) -> None:
    result = run(SERVE[way], tmp_path)
    assert_one_line_naming("BETTER_AUTH_SECRET", CANARY, result.returncode, result.stdout, result.stderr)
    assert "BETTER_AUTH_URL" in result.stderr


def test_an_address_of_keys_without_an_issuer_is_refused(tmp_path: Path) -> None:
    result = backend(
        "serve", cwd=tmp_path, BETTER_AUTH_SECRET=SECRET, BETTER_AUTH_JWKS_URL="https://c4n4ry.example.com/jwks"
    )
    assert_one_line_naming("BETTER_AUTH_JWKS_URL", CANARY, result.returncode, result.stdout, result.stderr)


def test_two_wrong_settings_are_named_on_one_line(tmp_path: Path) -> None:
    result = backend("serve", cwd=tmp_path, BETTER_AUTH_SECRET="c4n4ry", DATABASE_POOL_SIZE="c4n4ry")
    assert_one_line_naming("BETTER_AUTH_SECRET", CANARY, result.returncode, result.stdout, result.stderr)
    assert "DATABASE_POOL_SIZE" in result.stderr


HEAVY = ("fastapi", "starlette", "sqlalchemy", "sqlmodel", "alembic", "asyncpg", "aiosqlite", "httpx")
LOADED = f"print(sorted(set({HEAVY}) & set(sys.modules)))"


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_URL_DIRECT", "BETTER_AUTH_SECRET", "LOG_LEVEL"])
def test_nothing_heavy_is_imported_before_a_wrong_setting_is_found(variable: str, tmp_path: Path) -> None:
    code = f"import sys\ntry:\n    import backend.main\nexcept SystemExit as end:\n    assert end.code\n    {LOADED}"
    result = run([sys.executable, "-c", code], tmp_path, **given(variable, WRONG[variable][0]))
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_command_imports_nothing_heavy_before_a_wrong_setting_is_found(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom backend.cli import main\nsys.argv = ['todo-backend', 'serve']\n"
        f"try:\n    main()\nexcept SystemExit as end:\n    assert end.code\n    {LOADED}"
    )
    result = run([sys.executable, "-c", code], tmp_path, DATABASE_POOL_SIZE="c4n4ry")
    assert (result.stdout, result.stderr) == ("[]\n", "")


def test_the_check_for_heavy_modules_would_see_them(tmp_path: Path) -> None:
    result = run([sys.executable, "-c", f"import sys, backend.main\n{LOADED}"], tmp_path, BETTER_AUTH_SECRET=SECRET)
    assert "'fastapi'" in result.stdout
    assert "'sqlalchemy'" in result.stdout


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "better_auth_secret"])
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name.upper(), "")
    assert getattr(Settings(), name) == Settings.model_fields[name].get_default()


def test_an_empty_secret_counts_as_none(tmp_path: Path) -> None:
    result = backend("serve", cwd=tmp_path, BETTER_AUTH_SECRET="", BETTER_AUTH_URL="")
    assert "one of them is required" in result.stderr


def test_settings_are_read_from_the_file_of_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"# comment\nUNRELATED=1\nBETTER_AUTH_SECRET={SECRET}\nDATABASE_POOL_SIZE=c4n4ry\nLOG_LEVEL=\n"
    )
    result = backend("token", "--user", "u", cwd=tmp_path)
    assert_one_line_naming("DATABASE_POOL_SIZE", CANARY, result.returncode, result.stdout, result.stderr)


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"BETTER_AUTH_SECRET={SECRET}\nDATABASE_POOL_SIZE=c4n4ry\n")
    result = backend("token", "--user", "u", cwd=tmp_path, DATABASE_POOL_SIZE="1")
    assert (result.returncode, result.stderr) == (0, "")


def test_a_file_that_is_no_text_is_reported_on_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"BETTER_AUTH_SECRET=c4n4ry\xff\xfe\n")
    result = backend("serve", cwd=tmp_path)
    assert_one_line_naming(".env", CANARY, result.returncode, result.stdout, result.stderr)


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", " https://App.example.com/ ,http://localhost:3000,")
    monkeypatch.setenv("API_AUDIENCE", "one, two")
    settings = Settings()
    assert settings.allowed_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.api_audience == ("one", "two")


def test_a_trailing_slash_of_the_issuer_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BETTER_AUTH_URL", "https://auth.example.com/")
    assert Settings().better_auth_url == "https://auth.example.com"


@pytest.mark.parametrize(
    ("environment", "log_format", "json_logs"),
    [
        ("development", None, False),
        ("development", "json", True),
        ("production", None, True),
        ("production", "text", False),
    ],
)
def test_logs_are_json_in_production_unless_told_otherwise(
    environment: str, log_format: str | None, json_logs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", environment)
    monkeypatch.setenv("LOG_FORMAT", log_format or "")
    assert Settings().json_logs is json_logs


@pytest.mark.parametrize("level", ["debug", "Info", "WARNING", "error", "critical"])
def test_the_log_level_may_be_written_in_any_case(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_LEVEL", level)
    assert Settings().log_level == level.upper()


def test_settings_cannot_be_changed_and_do_not_show_secrets() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://user:c4n4ry@host/db"), better_auth_secret=SecretStr("c4n4ry" * 6)
    )
    assert CANARY not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.log_level = "DEBUG"  # type: ignore[misc] # which is what this is about


def test_a_configuration_error_names_its_variable() -> None:
    assert str(ConfigurationError("NAME", "reason")) == "NAME: reason"
