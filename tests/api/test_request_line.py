"""The line that a request leaves in the log: why it was slow, refused or failed."""

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from backend.config import Settings
from backend.db.session import Database
from tests.applications import client_of, running

TASK = "0192f0c1-2345-7abc-8def-0123456789ab"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Records(logging.Handler):
    """Keeps what is logged. Unlike caplog it stays when an application sets its logs up."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """What was logged until now, as fields: by us alone, and nothing is but requests."""
    handler = Records()
    logger = logging.getLogger("backend")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lambda: [vars(record) for record in handler.records]
    logger.removeHandler(handler)
    logger.setLevel(level)


Lines = Callable[[], list[dict[str, Any]]]


async def test_a_good_request_says_how_long_the_database_took(alice: httpx.AsyncClient, lines: Lines) -> None:
    await alice.post("/api/tasks", json={"title": "a"}, headers={"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"})
    (line,) = lines()
    assert (line["route"], line["status"], line["trace_id"]) == ("/api/tasks", 201, TRACE)
    assert 0 < line["db_ms"] <= line["duration_ms"]
    assert not {"code", "reason", "sqlstate", "constraint", "pid", "attempts", "user"} & line.keys()


@pytest.mark.parametrize("traceparent", ["", "00", f"00-{TRACE}", f"00-{TRACE.upper()}-b7ad6b7169203331-01", "x" * 55])
async def test_a_trace_that_cannot_be_read_is_left_out(
    traceparent: str, alice: httpx.AsyncClient, lines: Lines
) -> None:
    await alice.get("/api/tasks", headers={"traceparent": traceparent})
    assert "trace_id" not in lines()[0]


REFUSED: dict[str, tuple[str, str, dict[str, str], str, str | None]] = {
    "no token": ("GET", "/api/tasks", {}, "token_missing", "/api/tasks"),
    "a bad token": ("GET", "/api/tasks/stats", {"Authorization": "Bearer x"}, "token_invalid", "/api/tasks/stats"),
    "a bad token for one task": (
        "GET",
        f"/api/tasks/{TASK}",
        {"Authorization": "Bearer x"},
        "token_invalid",
        "/api/tasks/{id}",
    ),
    "an address that is nowhere": ("GET", "/nowhere", {}, "not_found", None),
    "a method that is not": ("DELETE", "/health", {}, "method_not_allowed", "/health"),
}


@pytest.mark.parametrize("refused", REFUSED)
async def test_what_is_refused_says_the_code_and_the_route_in_one_line(
    refused: str, anonymous: httpx.AsyncClient, lines: Lines
) -> None:
    method, path, headers, code, route = REFUSED[refused]
    await anonymous.request(method, path, headers=headers)
    (line,) = lines()
    assert (line["code"], line["route"]) == (code, route)
    assert bool(line.get("reason")) is (code == "token_invalid")


async def test_a_statement_that_fails_says_its_state_and_the_servers_process(
    app: FastAPI, alice: httpx.AsyncClient, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    database: Database = app.state.database
    execute = database.executor.exec

    async def fail(*_arguments: Any, **_options: Any) -> Any:
        return await execute(text("SELECT * FROM nowhere"))

    monkeypatch.setattr(database.executor, "exec", fail)
    await alice.get("/api/tasks")
    line = lines()[-1]
    assert line["code"] == "database_not_migrated"
    if database.settings.database_url.get_secret_value().startswith("postgres"):
        assert line["sqlstate"] == "42P01"
        assert line["pid"] > 0


async def test_a_user_is_a_keyed_hash_where_there_is_a_key(settings: Settings, app: FastAPI, lines: Lines) -> None:
    with_key = settings.model_copy(update={"log_user_key": settings.better_auth_secret})
    async with running(with_key) as another, client_of(another, with_key, "somebody") as client:
        await client.get("/api/tasks")
    assert settings.better_auth_secret is not None
    key = settings.better_auth_secret.get_secret_value().encode()
    assert lines()[0]["user"] == hmac.new(key, b"somebody", hashlib.sha256).hexdigest()[:16]


@pytest.mark.parametrize(
    ("which", "slow_ms", "logged"),
    [("all", 1e6, [200, 422, 401]), ("errors", 0, [401]), ("slow", 1e6, [401]), ("slow", 0, [200, 422, 401])],
)
async def test_which_requests_are_logged_is_a_setting(
    which: str, slow_ms: float, logged: list[int], settings: Settings, app: FastAPI, lines: Lines
) -> None:
    changed = settings.model_copy(update={"log_requests": which, "log_slow_ms": slow_ms})
    async with running(changed) as another, client_of(another, changed, "somebody") as client:
        await client.get("/api/tasks")
        await client.get("/api/tasks?limit=0")
        await client.get("/api/tasks", headers={"Authorization": "Bearer x"})
    assert [line["status"] for line in lines()] == logged


async def test_browsers_are_told_the_databases_time_where_that_is_wanted(settings: Settings, app: FastAPI) -> None:
    changed = settings.model_copy(update={"server_timing": True})
    async with running(changed) as another, client_of(another, changed, "somebody") as client:
        response = await client.get("/api/tasks")
    assert response.headers["Server-Timing"].startswith("db;dur=")


async def test_requests_at_once_do_not_mix(alice: httpx.AsyncClient, lines: Lines) -> None:
    await asyncio.gather(*(alice.get("/api/tasks") for _ in range(5)), *(alice.get("/nowhere") for _ in range(5)))
    assert [bool(line.get("db_ms")) for line in lines()] == [line["status"] == 200 for line in lines()]
