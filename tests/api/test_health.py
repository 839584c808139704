"""The probes: alive without a database, healthy with one, and never a reason."""

import asyncio

import httpx
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.types import Receive, Scope, Send

from backend.config import Settings
from backend.db.session import create_db_and_tables
from tests.api.shared import assert_common_headers, assert_problem
from tests.applications import client_of, running
from tests.settings import make_settings
from tests.statements import recorded_statements

UNREACHABLE = {
    "sqlite": "sqlite+aiosqlite:////nowhere/zebra-canary/todo.db",
    "a closed port": "postgresql://zebra:canary@127.0.0.1:1/zebra",
    "no such host": "postgresql://zebra:canary@zebra.invalid/zebra",
}


async def test_alive_asks_no_database(app: FastAPI, anonymous: httpx.AsyncClient) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await anonymous.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert_common_headers(response)
    assert statements == []


async def test_healthy_asks_the_database(app: FastAPI, anonymous: httpx.AsyncClient) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await anonymous.get("/health/db")
    assert (response.status_code, response.json()) == (200, {"status": "healthy", "database": "connected"})
    assert_common_headers(response)
    assert len(statements) == 1


async def test_probes_at_the_same_time_share_one_query(app: FastAPI, anonymous: httpx.AsyncClient) -> None:
    with recorded_statements(app.state.database) as statements:
        responses = await asyncio.gather(*(anonymous.get("/health/db") for _ in range(20)))
    assert [response.status_code for response in responses] == [200] * 20
    assert len(statements) == 1


@pytest.mark.parametrize(("ttl", "asked"), [(0, 3), (60, 1)])
async def test_an_outcome_is_kept_as_long_as_the_setting_says(settings: Settings, ttl: float, asked: int) -> None:
    changed = settings.model_copy(update={"health_db_ttl": ttl})
    async with running(changed) as app, client_of(app, settings) as anonymous:
        with recorded_statements(app.state.database) as statements:
            for _ in range(3):
                assert (await anonymous.get("/health/db")).status_code == 200
        assert len(statements) == asked
        assert (await anonymous.get("/health/ready")).json() == {"status": "ready"}


@pytest.mark.parametrize("token", ["a-token-of-the-platform", "ключ-от-проб"])
async def test_a_token_hides_the_probe_from_everybody_else(token: str, settings: Settings) -> None:
    changed = settings.model_copy(update={"health_db_token": SecretStr(token)})
    async with running(changed) as app, client_of(app, settings) as anonymous:
        assert_problem(await anonymous.get("/health/db"), 404, "not_found")
        for sent, status in ((b"Bearer another", 404), (f"bearer {token}".encode(), 200)):
            response = await anonymous.get("/health/db", headers={b"Authorization": sent})
            assert response.status_code == status
            response = await anonymous.post("/health/db", headers={b"Authorization": sent})
            assert (response.status_code, "Allow" in response.headers) == (
                (404, False) if status == 404 else (405, True)
            )


@pytest.mark.parametrize("path", ["/health/ready", "/health/db"])
async def test_a_probe_says_that_the_service_is_about_to_end(app: FastAPI, path: str) -> None:
    async def draining(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": {"draining": True}}, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(draining), base_url="http://test") as client:
        document = assert_problem(await client.get(path), 503, "database_unavailable")
    assert document["detail"] == "The service is about to end; nothing was written."


async def test_ready_asks_until_the_database_has_responded_once(sqlite_url: str) -> None:
    settings = make_settings(sqlite_url, environment="production", health_db_ttl=0)
    async with running(settings) as app, client_of(app, settings) as anonymous:
        assert_problem(await anonymous.get("/health/ready"), 503, "database_not_migrated")
        await create_db_and_tables(app.state.database)
        with recorded_statements(app.state.database) as statements:
            for _ in range(3):
                assert (await anonymous.get("/health/ready")).status_code == 200
        assert len(statements) == 1


async def test_a_probe_that_is_given_up_does_not_fail_the_others(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings) as app, client_of(app, settings) as anonymous:
        await _give_one_up(app, anonymous, monkeypatch)


async def _give_one_up(app: FastAPI, anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    database = app.state.database
    asking, gate = asyncio.Event(), asyncio.Event()
    ask = database._ask

    async def ask_later() -> None:
        asking.set()
        await gate.wait()
        await ask()

    monkeypatch.setattr(database, "_ask", ask_later)
    probes = [asyncio.create_task(anonymous.get("/health/db")) for _ in range(3)]
    await asking.wait()
    probes[0].cancel()
    await asyncio.gather(probes[0], return_exceptions=True)
    gate.set()
    assert [(await probe).status_code for probe in probes[1:]] == [200, 200]


@pytest.mark.parametrize("place", UNREACHABLE)
async def test_without_a_database_the_process_is_alive_and_not_healthy(place: str) -> None:
    settings = make_settings(UNREACHABLE[place], database_connect_timeout=0.2)
    async with running(settings) as app, client_of(app, settings) as anonymous:
        assert (await anonymous.get("/health")).json() == {"status": "ok"}
        responses = await asyncio.gather(*(anonymous.get("/health/db") for _ in range(5)))
    for response in responses:
        assert_problem(response, 503, "database_unavailable")
        shown = response.text + str(response.headers)
        for secret in ("zebra", "canary", "nowhere", "127.0.0.1", "SELECT", "Error", "refused"):
            assert secret not in shown


@pytest.mark.parametrize("path", ["/health", "/health/db"])
async def test_a_probe_may_carry_anything(alice: httpx.AsyncClient, anonymous: httpx.AsyncClient, path: str) -> None:
    for client, headers in (
        (alice, {}),
        (anonymous, {"Authorization": "Bearer x"}),
        (anonymous, {"Authorization": ""}),
    ):
        response = await client.get(f"{path}?verbose=1", headers=headers)
        assert response.status_code == 200
        assert "WWW-Authenticate" not in response.headers
