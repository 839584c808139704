"""An operator names the cause of a refused, failed or slow request from its one line."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from backend.api import body
from backend.auth.tokens import mint
from backend.db.session import Database, create_db_and_tables
from backend.db.url import PostgresURL, parse_database_url
from tests.api.test_request_line import Lines
from tests.api.test_request_line import lines as lines  # noqa: PLC0414 # a fixture
from tests.applications import client_of, running
from tests.databases import new_postgres_database
from tests.network import free_port
from tests.settings import make_settings

ISSUER = "https://auth.example.com"
LIMIT = 0.3
"""Seconds after which a setting ends an incident: what the line holds is no less, however fast the machine is."""
LASTED = LIMIT * 1000 - 5  # timers may be some milliseconds early
OTHER_SECRET = "another-secret-of-at-least-32-bytes"


def requests(lines: Lines) -> list[dict[str, Any]]:
    """The lines that are requests' own: one each."""
    return [line for line in lines() if line["name"] == "backend.request"]


TOKENS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "expired": ({}, -3600, "token_expired", None),
    "another audience": ({"api_audience": "web"}, 3600, "token_invalid", "wrong audience, expected api"),
    "another issuer": (
        {"better_auth_url": "https://elsewhere.example.com"},
        3600,
        "token_invalid",
        f"wrong issuer, expected {ISSUER}",
    ),
    "another secret": (
        {"better_auth_secret": OTHER_SECRET},
        3600,
        "token_invalid",
        "the signature is not one of the key's: another key or secret, or cut short",
    ),
}


@pytest.mark.parametrize("token", TOKENS)
async def test_a_refused_token_says_which_rule_it_broke(token: str, sqlite_url: str, lines: Lines) -> None:
    changes, lifetime, code, reason = TOKENS[token]
    settings = make_settings(sqlite_url, better_auth_url=ISSUER, api_audience="api")
    minted = mint(
        make_settings(sqlite_url, **{"better_auth_url": ISSUER, "api_audience": "api"} | changes), "a", lifetime
    )
    async with running(settings) as app, client_of(app, settings) as client:
        await client.get("/api/tasks", headers={"Authorization": f"Bearer {minted}"})
    line = requests(lines)[-1]
    assert (line["status"], line["code"], line.get("reason")) == (401, code, reason)


async def test_a_request_that_is_too_much_or_too_slow_says_so(
    sqlite_url: str, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT", LIMIT)
    settings = make_settings(sqlite_url, rate_limit="1/minute")

    async def endless() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.Event().wait()

    async with running(settings) as app, client_of(app, settings, "slow") as client:
        await client.post("/api/tasks", content=endless(), headers={"Content-Type": "application/json"})
        line = requests(lines)[-1]
        assert (line["status"], line["code"]) == (408, "request_timeout")
        assert LASTED <= line["body_ms"] <= line["duration_ms"]
    async with running(settings) as app, client_of(app, settings, "many") as client:
        for _ in range(2):
            await client.get("/api/tasks")
        assert (requests(lines)[-1]["status"], requests(lines)[-1]["code"]) == (429, "too_many_requests")


@asynccontextmanager
async def owner_of(url: str) -> AsyncIterator[asyncpg.Connection]:
    parsed = parse_database_url(url)
    assert isinstance(parsed, PostgresURL)
    connection = await asyncpg.connect(**parsed.connect_arguments())
    try:
        yield connection
    finally:
        await connection.close()


async def test_a_database_that_fails_says_how(postgres_server_url: str, lines: Lines) -> None:
    async with new_postgres_database(postgres_server_url) as url, owner_of(url) as owner:
        database = Database(make_settings(url))
        await create_db_and_tables(database)
        await database.close()

        async def line_of(url: str = url, at_once: int = 1, **changes: object) -> dict[str, Any]:
            """The line of the request that the database has had the least of, of some to an application of its own."""
            settings = make_settings(url, **changes)
            async with running(settings) as app, client_of(app, settings, "alice") as client:
                await asyncio.gather(*(client.get("/api/tasks") for _ in range(at_once)))
            return min(requests(lines)[-at_once:], key=lambda line: line.get("db_ms") or 0)

        async with owner.transaction():
            await owner.execute("LOCK TABLE tasks")
            locked = await line_of(database_command_timeout=LIMIT)
            assert (locked["status"], locked["code"]) == (503, "database_unavailable")
            assert LASTED <= locked["db_ms"] <= locked["duration_ms"]

            await line_of(database_command_timeout=LIMIT, max_concurrent_requests=1, at_once=3)
            assert sorted(line["code"] for line in requests(lines)[-3:]) == [
                "database_unavailable",
                "overloaded",
                "overloaded",
            ]

            limits: dict[str, Any] = {
                "database_pool_size": 1,
                "database_max_overflow": 0,
                "database_pool_timeout": LIMIT,
            }
            exhausted = await line_of(database_command_timeout=2 * LIMIT, at_once=2, **limits)
            assert exhausted["code"] == "database_unavailable"
            assert LASTED <= exhausted["wait_ms"] <= exhausted["duration_ms"]
            assert not exhausted.get("db_ms")

        down = await line_of(f"postgresql://u:p@127.0.0.1:{free_port()}/nowhere", database_connect_timeout=0.4)
        assert (down["code"], down["attempts"] > 1) == ("database_unavailable", True)

        role = f"role_{uuid.uuid4().hex}"
        await owner.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'p'")
        try:
            refused = await line_of(f"{url}&user={role}&password=p")
        finally:
            await owner.execute(f"DROP ROLE {role}")
        assert (refused["code"], refused["sqlstate"]) == ("database_refused", "42501")

        await owner.execute("DROP TABLE tasks CASCADE")
        missing = await line_of()
        assert (missing["code"], missing["sqlstate"]) == ("database_not_migrated", "42P01")
        assert missing["pid"] > 0
