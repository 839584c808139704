"""Without a lifespan, and with an event loop for each request: what serverless adapters do, and `TestClient(app)`."""

import asyncio
import gc
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from mangum import Mangum

from backend.auth.tokens import mint
from backend.config import Settings
from backend.db.session import Database
from backend.main import create_app
from tests.applications import client_of
from tests.settings import make_settings

# Who ends an event loop without a goodbye leaves its connections to the garbage collector, which says so.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Have it say so here, where it is expected."""
    yield
    gc.collect()


@pytest.fixture(params=[0, 2], ids=["NullPool", "pool"])
def embedded(request: pytest.FixtureRequest, database_url: str, database: Database) -> tuple[FastAPI, Settings]:
    """An application that nobody starts, on a migrated database."""
    settings = make_settings(database_url, database_pool_size=request.param, database_max_overflow=1)
    return create_app(settings), settings


def test_requests_are_served_on_one_event_loop_after_the_other(
    embedded: tuple[FastAPI, Settings], user_id: Callable[[str], str]
) -> None:
    app, settings = embedded

    async def invocation() -> set[int]:
        # Of several users, so that they wait for connections and not for one another.
        clients = [client_of(app, settings, user_id("alice")) for _ in range(8)]
        responses = await asyncio.gather(*(client.post("/api/tasks", json={"title": "x"}) for client in clients))
        responses += [await clients[0].get("/health/db"), await clients[0].get("/health/ready")]
        return {response.status_code for response in responses}

    for _ in range(4):
        assert asyncio.run(invocation()) == {200, 201}


def invoke(app: FastAPI, method: str, headers: dict[str, str], body: str = "") -> dict[str, Any]:
    """The response to one event of AWS Lambda."""
    event: dict[str, Any] = {
        "version": "2.0",
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {"http": {"method": method, "path": "/api/tasks", "sourceIp": "192.0.2.1"}},
        "body": body,
        "isBase64Encoded": False,
    }
    with asyncio.Runner() as runner:  # Mangum runs on the thread's event loop
        asyncio.set_event_loop(runner.get_loop())
        response = Mangum(app, lifespan="off")(event, {})  # type: ignore[arg-type] # a context that nobody reads
        asyncio.set_event_loop(None)
    return response


def test_mangum_serves_it(embedded: tuple[FastAPI, Settings], user_id: Callable[[str], str]) -> None:
    app, settings = embedded
    for _ in range(2):
        response = invoke(app, "GET", {"authorization": f"Bearer {mint(settings, user_id('alice'), 60)}"})
        assert (response["statusCode"], json.loads(response["body"])) == (200, [])


def test_mangum_refuses_a_body_that_is_too_large(
    embedded: tuple[FastAPI, Settings], user_id: Callable[[str], str]
) -> None:
    app, settings = embedded
    headers = {"authorization": f"Bearer {mint(settings, user_id('alice'), 60)}", "content-length": "65537"}
    assert invoke(app, "POST", headers, body="x" * 65_537)["statusCode"] == 413


def test_a_route_that_is_added_is_documented(embedded: tuple[FastAPI, Settings]) -> None:
    app, _ = embedded
    app.get("/added")(lambda: None)
    assert "/added" in app.openapi()["paths"]


def test_a_test_client_needs_no_with(embedded: tuple[FastAPI, Settings], user_id: Callable[[str], str]) -> None:
    app, settings = embedded
    client = TestClient(app, headers={"Authorization": f"Bearer {mint(settings, user_id('alice'), 60)}"})
    created = client.post("/api/tasks", json={"title": "x"})
    assert created.status_code == 201
    assert client.get(f"/api/tasks/{created.json()['id']}").json() == created.json()


@pytest.mark.parametrize("before", ["", "/proxy"])
async def test_another_application_can_mount_it(before: str, settings: Settings, user_id: Callable[[str], str]) -> None:
    outer, inner = FastAPI(), create_app(settings)
    outer.mount("/todo", inner)
    transport = httpx.ASGITransport(outer, root_path=before)  # which a proxy has taken off
    headers = {"Authorization": f"Bearer {mint(settings, user_id('alice'), 60)}"}
    async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as alice:
        created = await alice.post("/todo/api/tasks", json={"title": "x"})
        assert created.headers["Location"] == f"{before}/todo/api/tasks/{created.json()['id']}"
        assert (await alice.get("/todo/health/db")).status_code == 200
        assert f'"{before}/todo/docs/assets/swagger-ui.css"' in (await alice.get("/todo/docs")).text
        assert (await alice.get("/todo/docs/assets/swagger-ui.css")).status_code == 200
        assert (await alice.get("/todo/api/tasks", headers={"Authorization": ""})).status_code == 401
    await inner.state.database.close()
