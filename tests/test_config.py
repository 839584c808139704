"""Settings: what each defaults to, and how the start ends where one is wrong."""

import os
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.routing import Mount, Route

from backend.auth.tokens import issuer
from backend.check.settings import checked_settings
from backend.config import ConfigurationError, Settings, load_settings
from backend.main import create_app
from tests.settings import SECRET, make_settings

CANARY = "c4n4ry"
NOT_A_NUMBER = ("c4n4ry-number", "1,5")
NOT_SECONDS = (*NOT_A_NUMBER, "0", "-1", "301", "nan", "inf", "-inf")

WRONG: dict[str, tuple[str, ...]] = {
    "ENVIRONMENT": ("c4n4ry-staging", "PRODUCTION-c4n4ry"),
    "DATABASE_URL": (
        "c4n4ry",
        "DATABASE_URL=postgresql://user:c4n4ry@host/db",
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
        "`c4n4ry-c4n4ry-c4n4ry-c4n4ry-c4n4ry`",
        "ssh-rsa c4n4ry-c4n4ry-c4n4ry-c4n4ry-c4n4ry",
        "BETTER_AUTH_SECRET=c4n4ry-c4n4ry-c4n4ry-c4n4ry",
    ),
    "BETTER_AUTH_URL": (
        "c4n4ry",
        "ftp://c4n4ry.example.com",
        "https://c4n4ry.example.com/?",
        "https://c4n4ry.example.com/api/auth#",
        "https://",
        "https://user:c4n4ry@auth.example.com",
        "https://auth.example.com?c4n4ry",
        "https://auth.example.com#c4n4ry",
        "https://auth.example.com:c4n4ry",
        "https://auth.example.com:99999",
        "https://[c4n4ry",
        "https://c4n4ry.example.com,https://c4n4ry.example.org",
        "https://*.c4n4ry.example.com",
        "https://${C4N4RY}",
        "https://c4n4ry example.com",
        "https://c4n4ry..example.com",
        "https://...",
        "https://c4n4ry.example.com/a b",
        "https://c4n4ry.example.com\\a",
        "https://1.2.3.c4n4ry.256",
        "https://c4n4ry\udcff.example.com",
        "https://stra\u00dfe.c4n4ry.example",
        "https://c4n4ry.example.com/api/auth/jwks",
        "https://c4n4ry.example.com/auth/.well-known/jwks.json",
        "https://c4n4ry.example.com/.well-known/openid-configuration",
        "https://https://c4n4ry.example.com",
        "https://c4n4ry.example.com:",
        "BETTER_AUTH_URL=https://c4n4ry.example.com",
        "https://c4n4ry.b\u00fccher.example",
        "https://c4n4ry.example.com/auth;script-src*",
    ),
    "BETTER_AUTH_PREVIOUS_SECRET": ("c4n4ry", "x" * 40),
    "BETTER_AUTH_JWKS_URL": ("c4n4ry", "file:///c4n4ry", "https://auth.example.com:c4n4ry", "https://c4n4ry.\u4f8b.jp"),
    "ALLOWED_ORIGINS": (
        "*",
        "c4n4ry",
        "null",
        "https://c4n4ry.example.com/path",
        "https://ok.example.com,https://c4n4ry.*.example.com",
        "http://*.c4n4ry.example.com",
        "https://*.c4n4ry",
        "https://user:c4n4ry@example.com",
        "https://ok.example.com, *",
        "https://ok.example.com;https://c4n4ry.example.com",
        "https://ok.example.com https://c4n4ry.example.com",
        "['https://c4n4ry.example.com']",
        "https://app-*.c4n4ry.example.com",
        "http://127.1",
        "http://0x7f.1:3000",
        "http://[::1",
        "http://localhost:*",
        "app://c4n4ry:\uff18\uff10",
        "tauri://c4n4ry\u212a",
        "https://stra\u00dfe.c4n4ry.example",
    ),
    "MAX_CONCURRENT_REQUESTS": (*NOT_A_NUMBER, "0", "-1", "100001"),
    "MAX_CONCURRENT_REQUESTS_PER_USER": (*NOT_A_NUMBER, "0", "-1", "100001"),
    "MAX_TASKS_PER_USER": (*NOT_A_NUMBER, "0", "-1", "1000001"),
    "TRASH_DAYS": (*NOT_A_NUMBER, "-1", "3651"),
    "RATE_LIMIT": (
        "c4n4ry",
        "300",
        "0/hour",
        "-1/hour",
        "300/c4n4ry",
        "/hour",
        "1.5/hour",
        f"1{'0' * 5000}/hour",
        "1__0/hour",
    ),
    "ALLOWED_HEADERS": ("c4n4ry header", "X-Ok, c4n4ry:"),
    "HEALTH_DB_TTL": (*NOT_A_NUMBER, "-1", "3601", "nan", "inf"),
    "KEEP_ALIVE": (*NOT_A_NUMBER, "0", "-1", "3601", "nan", "inf"),
    "MAX_CONNECTIONS": (*NOT_A_NUMBER, "0", "-1", "1000001"),
    "LOG_LEVEL": ("c4n4ry", "10", "\u0131nfo"),
    "LOG_FORMAT": ("c4n4ry",),
    "LOG_REQUESTS": ("c4n4ry", "none"),
    "LOG_SLOW_MS": (*NOT_A_NUMBER, "-1", "nan", "inf", "3600001"),
    "SERVER_TIMING": ("c4n4ry",),
    "MCP": ("c4n4ry",),
    "MCP_TOKEN": ("'c4n4ry'", " c4n4ry", "Bearer c4n4ry"),
    "ROOT_PATH": ("c4n4ry", "/c4n4ry/..", "/c4n4ry/./x", "/c4n4ry?x", "//c4n4ry", "https://c4n4ry.example.com"),
    "API_AUDIENCE": (
        '["c4n4ry"]',
        "'c4n4ry'",
        "*",
        "https://c4n4ry.example.com https://other.example.com",
        "urn:c4n4ry;urn:other",
        "${c4n4ry}",
        "c4n4ry\u200b",
        "\u201cc4n4ry\u201d",
    ),
    "BETTER_AUTH_ISSUER": ('["c4n4ry"]', '"c4n4ry"', "https://c4n4ry.example.com https://other.example.com"),
    "LOG_USER_KEY": ("c4n4ry\n",),
    "HEALTH_DB_TOKEN": ('"c4n4ry"', "c4n4ry\r"),
    "OTEL_EXPORTER_OTLP_ENDPOINT": ("c4n4ry", "ftp://c4n4ry.example.com"),
    "PUBLIC_URL": ("c4n4ry", "ftp://c4n4ry.example.com", "https://c4n4ry.\u4f8b.jp", 'https://c4n4ry/"x'),
}


def refusal(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """The one line with which the start ends; Python prints it to standard error and exits with 1."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as end:
        checked_settings()
    line = end.value.code
    assert isinstance(line, str)
    assert len(line.splitlines()) == 1, line
    assert CANARY not in line
    return line


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
        "better_auth_previous_secret": None,
        "better_auth_issuer": (),
        "better_auth_url": None,
        "better_auth_jwks_url": None,
        "api_audience": (),
        "allowed_origins": ("http://localhost:3000",),
        "allowed_headers": (),
        "health_db_ttl": 10,
        "health_db_token": None,
        "max_concurrent_requests_per_user": None,
        "rate_limit": None,
        "max_tasks_per_user": 10_000,
        "trash_days": 30,
        "max_concurrent_requests": 100,
        "keep_alive": 75,
        "max_connections": None,
        "mcp": False,
        "mcp_token": None,
        "root_path": "",
        "public_url": None,
        "otel_exporter_otlp_endpoint": None,
        "log_level": "INFO",
        "log_format": None,
        "log_requests": "all",
        "log_slow_ms": 1000,
        "log_user_key": None,
        "server_timing": False,
    }


def test_the_table_of_wrong_values_has_every_setting_that_can_be_wrong() -> None:
    free = {"DATABASE_URL_TEST"}  # only the test suite reads it
    assert {name.upper() for name in Settings.model_fields} - free == set(WRONG)


@pytest.mark.parametrize(("variable", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_ends_the_start_with_one_line_that_names_the_variable(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refusal(monkeypatch, **given(variable, value))
    assert variable in line
    if len(value) > 5:
        assert value not in line


def test_an_address_of_keys_without_an_issuer_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "BETTER_AUTH_JWKS_URL" in refusal(
        monkeypatch, BETTER_AUTH_SECRET=SECRET, BETTER_AUTH_JWKS_URL="https://c4n4ry.example.com/jwks"
    )


def test_two_wrong_settings_are_named_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal(monkeypatch, BETTER_AUTH_SECRET="c4n4ry", DATABASE_POOL_SIZE="c4n4ry")
    assert "BETTER_AUTH_SECRET" in line
    assert "DATABASE_POOL_SIZE" in line


def test_an_empty_secret_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    line = refusal(monkeypatch, BETTER_AUTH_SECRET="", BETTER_AUTH_URL="")
    assert line.endswith("one of them is required, and there is no .env in this folder")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("ENVIRONMENT", "staging", "must be development or production"),
        ("ENVIRONMENT", '"production"', "must have no quotes around it"),
        ("MAX_TASKS_PER_USER", "10,000", "must be a whole number"),
        ("MAX_TASKS_PER_USER", "0", "must be greater than or equal to 1"),
        ("KEEP_ALIVE", "long", "must be a number"),
        ("MCP", "perhaps", "must be true or false"),
        ("BETTER_AUTH_URL", "'https://auth.example.com'", "must have no quotes around it"),
        ("PUBLIC_URL", "https://\u4f8b.jp", "must be an http or https URL of ASCII letters"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(
    variable: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"{variable}: {words}" in refusal(monkeypatch, **{"BETTER_AUTH_SECRET": SECRET, variable: value})


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name != "better_auth_secret"])
def test_an_empty_variable_counts_as_unset(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name.upper(), "")
    assert getattr(Settings(), name) == Settings.model_fields[name].get_default()


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", " https://App.example.com/ ,http://localhost:3000,")
    monkeypatch.setenv("API_AUDIENCE", "one, two")
    settings = Settings()
    assert settings.allowed_origins == ("https://app.example.com", "http://localhost:3000")
    assert settings.api_audience == ("one", "two")


@pytest.mark.parametrize(
    ("given", "compared"),
    [
        ("http://LOCALHOST:3000", "http://localhost:3000"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("http://[0:0:0:0:0:0:0:1]:3000", "http://[::1]:3000"),
        ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ("https://app.example.com:443/", "https://app.example.com"),
        ("http://app.example.com:08080", "http://app.example.com:8080"),
        ("https://B\u00fccher.example", "https://xn--bcher-kva.example"),
        ("https://*.example.com:8443", "https://*.example.com:8443"),
        ("capacitor://localhost/", "capacitor://localhost"),
        ("tauri://localhost", "tauri://localhost"),
        ("app://obsidian.md", "app://obsidian.md"),
        ("chrome-extension://ABCDEFGHIJ", "chrome-extension://abcdefghij"),
    ],
)
def test_an_origin_is_compared_as_browsers_write_it(given: str, compared: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLOWED_ORIGINS", f" {given} ,")
    assert Settings().allowed_origins == (compared,)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("HTTPS://App.Example.com:443/auth/", "https://app.example.com"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ("http://better_auth:3000", "http://better_auth:3000"),  # as Docker Compose names hosts
    ],
)
def test_the_issuer_is_the_origin_as_better_auth_writes_it(
    url: str, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BETTER_AUTH_URL", f" {url}\n")
    assert issuer(Settings()) == origin


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
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite://")
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


@pytest.mark.parametrize(
    ("variable", "value", "field", "read"),
    [
        ("ENVIRONMENT", " Production ", "environment", "production"),
        ("LOG_LEVEL", "warn", "log_level", "WARNING"),
        ("LOG_FORMAT", "JSON ", "log_format", "json"),
        ("LOG_REQUESTS", "Errors", "log_requests", "errors"),
        ("SERVER_TIMING", " True", "server_timing", True),
        ("DATABASE_POOL_SIZE", " 5 ", "database_pool_size", 5),
        ("ROOT_PATH", "/todo/", "root_path", "/todo"),
        ("ROOT_PATH", "/api/todo", "root_path", "/api/todo"),
        ("RATE_LIMIT", "300 / Minute", "rate_limit", (300, 60)),
        ("RATE_LIMIT", "1_000/hour", "rate_limit", (1000, 3600)),
        ("RATE_LIMIT", "0300/minute", "rate_limit", (300, 60)),
        ("API_AUDIENCE", "my tasks, its;api", "api_audience", ("my tasks", "its;api")),
        ("BETTER_AUTH_URL", "https://example.com//auth", "better_auth_url", "https://example.com//auth"),
        ("LOG_SLOW_MS", "1_000", "log_slow_ms", 1000),
    ],
)
def test_words_are_taken_in_either_case_and_with_blanks_around_them(
    variable: str, value: str, field: str, read: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite://")
    monkeypatch.setenv(variable, value)
    assert getattr(Settings(), field) == read


def test_a_prefix_that_would_hide_an_address_is_refused() -> None:
    settings = make_settings("sqlite+aiosqlite://", mcp=True)
    addresses = [route.path for route in create_app(settings).routes if isinstance(route, Route | Mount)]
    assert "/api/tasks/stats" in addresses
    for address in addresses:
        for prefix in ("/" + address.split("/")[1], address.partition("{")[0]):
            if prefix.strip("/"):
                with pytest.raises(ValueError, match="an address of the service"):
                    make_settings("sqlite+aiosqlite://", root_path=prefix)


SECRETS = ("DATABASE_URL", "BETTER_AUTH_SECRET", "HEALTH_DB_TOKEN", "LOG_USER_KEY", "MCP_TOKEN")


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_can_come_from_a_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    value = f"sqlite+aiosqlite:///{CANARY}-{'x' * 32}y"
    monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(f"{name}_FILE", str(tmp_path / "secret"))
    for mark in ("", "\ufeff"):  # editors on Windows begin a file with it
        (tmp_path / "secret").write_text(f"{mark}{value} \n")
        assert getattr(Settings(), name.lower()).get_secret_value() == value


def test_a_file_for_what_is_no_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "API_AUDIENCE_FILE: is not read" in refusal(monkeypatch, API_AUDIENCE_FILE="c4n4ry")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("BETTER_AUTH_SECRET", "c4n4ry"),
        ("BETTER_AUTH_SECRET", "better-auth-secret-c4n4ry-12345678901234567890"),
        ("DATABASE_URL", "mysql://c4n4ry"),
        ("DATABASE_URL_DIRECT", "mysql://c4n4ry"),
    ],
)
def test_a_refusal_of_what_a_file_holds_names_the_files_variable(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite://")
    monkeypatch.delenv(name, raising=False)
    (tmp_path / "secret").write_text(content)
    assert f" {name}_FILE: " in refusal(monkeypatch, **{f"{name}_FILE": str(tmp_path / "secret")})
    assert f" {name}: " in refusal(monkeypatch, **{f"{name}_FILE": "", name: content})


@pytest.mark.parametrize("name", SECRETS)
def test_a_secrets_file_that_cannot_be_meant_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name, raising=False)
    file = tmp_path / f"{CANARY}"
    for content, reason in ((None, "cannot be read"), (b" \n", "empty"), (b"\xff\xfe", "cannot be read")):
        if content is not None:
            file.write_bytes(content)
        line = refusal(monkeypatch, **{f"{name}_FILE": str(file)})
        assert f"{name}_FILE" in line
        assert reason in line
    file.write_bytes(b"xy" * 40_000)
    os.mkfifo(tmp_path / "pipe")
    for odd in (file, tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        assert f"{name}_FILE: must name a regular file" in refusal(monkeypatch, **{f"{name}_FILE": str(odd)})
    file.write_text("x" * 20 + "y" * 20)
    monkeypatch.setenv(f"{name}_FILE", str(file))
    assert "one of them is too many" in refusal(monkeypatch, **{name: SECRET})


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({}, "DATABASE_URL: is required in production"),
        ({"POSTGRES_URL": "postgresql://u:c4n4ry@host/db"}, "DATABASE_URL: is required in production"),
        ({"BETTER_AUTH_URL": "http://auth.example.com"}, "BETTER_AUTH_URL: must be https"),
        ({"BETTER_AUTH_URL": "HTTP://auth.example.com"}, "BETTER_AUTH_URL: must be https"),
        (
            {"BETTER_AUTH_URL": "https://auth.example.com", "BETTER_AUTH_JWKS_URL": "http://auth.example.com/jwks"},
            "BETTER_AUTH_JWKS_URL: must be https",
        ),
        ({"BETTER_AUTH_SECRET": "better-auth-secret-12345678901234567890"}, "BETTER_AUTH_SECRET: is from a template"),
        ({"BETTER_AUTH_SECRET": "your-super-secret-key-change-me-please"}, "BETTER_AUTH_SECRET: is from a template"),
    ],
)
def test_production_refuses_what_only_development_may_have(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = {"DATABASE_URL": "sqlite+aiosqlite://"} if "DATABASE_URL" not in reason else {}
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert reason in refusal(monkeypatch, ENVIRONMENT="production", **needed, **variables)


@pytest.mark.parametrize("url", ["http://localhost:3000", "http://127.0.0.1:3000", "http://[::1]:3000"])
def test_an_issuer_on_this_machine_may_be_http_in_production(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite+aiosqlite://")
    monkeypatch.setenv("ENVIRONMENT", "production")
    monkeypatch.setenv("BETTER_AUTH_URL", url)
    assert Settings().better_auth_url == url


def test_traces_without_the_extra_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "opentelemetry.exporter", raising=False)
    line = refusal(monkeypatch, OTEL_EXPORTER_OTLP_ENDPOINT="http://c4n4ry.example.com")
    assert "OTEL_EXPORTER_OTLP_ENDPOINT: needs the extra" in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Bearer c4n4ry"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=b,c4n4ry"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=c4n4ry%0ab"),  # the failed export would say what is wrong with it
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=c4n4ry%d0%ba"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=c4n4ry;b"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=b,c4n4ry"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/c4n4ry"),
        ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/c4n4ry"),
    ],
)
def test_what_opentelemetry_could_not_read_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("opentelemetry.exporter")
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318", variable: value}
    assert f" {variable}: " in refusal(monkeypatch, **given)
    assert CANARY not in capfd.readouterr().err


def test_what_opentelemetry_can_read_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", " Authorization=Bearer a==, x=%20b%2C,")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test,")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", __file__)
    checked_settings()


@pytest.mark.parametrize(
    "content", [b'BETTER_AUTH_SECRET="c4n4ry\nLOG_LEVEL=INFO\n', b"LOG_LEVEL='INFO\n", b"\xff\xfe"]
)
def test_a_settings_file_that_cannot_be_read_whole_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_bytes(content)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert ".env: " in refusal(monkeypatch)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffLOG_LEVEL=debug\r\nLOG_FORMAT='json'\r\n",
        "export LOG_LEVEL = DEBUG # as long as it is new\nLOG_FORMAT=json",
        'log_level="debug"\nUNKNOWN=1\nLOG_FORMAT="json"\n',
    ],
)
def test_a_settings_file_is_read_as_editors_and_shells_write_it(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_bytes(content.encode())
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    settings = load_settings()
    assert (settings.log_level, settings.log_format) == ("DEBUG", "json")


def test_a_value_of_the_settings_file_is_what_stands_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BETTER_AUTH_SECRET")
    secret = f"{SECRET}$HOME-${{HOME}}"
    (tmp_path / ".env").write_text(f"BETTER_AUTH_SECRET={secret}\n")
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    found = load_settings().better_auth_secret
    assert found is not None
    assert found.get_secret_value() == secret


@pytest.mark.not_root
def test_a_settings_file_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").touch(0o000)
    monkeypatch.setitem(Settings.model_config, "env_file", tmp_path / ".env")
    assert ".env: cannot be read" in refusal(monkeypatch)
