"""A refusal before a request begins is, byte for byte, what the guard would say."""

import asyncio
from typing import Any

import pytest

from backend.api.cors import CORS
from backend.api.limits import OVERLOADED_FOR, ConcurrencyLimit
from backend.api.overload import Overload
from backend.config import Settings
from backend.observation import Observation
from tests.api.shared import on_one_engine
from tests.applications import client_of, running


@on_one_engine
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/tasks", {}),
        ("HEAD", "/api/tasks", {}),
        ("POST", "/api/tasks/%0A%22%25zz", {"Origin": "http://localhost:3000"}),
        ("DELETE", "/api/tasks/x", {"Origin": "https://unknown.example"}),
        ("GET", "/docs", {}),
    ],
)
async def test_it_is_the_guards_response(settings: Settings, method: str, path: str, headers: dict[str, str]) -> None:
    changed = settings.model_copy(update={"max_concurrent_requests": 0})
    headers["X-Request-ID"] = "one-id"
    async with running(changed) as app, client_of(app, settings, "alice") as client:
        expected = await client.request(method, path, headers=headers)
        given = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        overload = Overload(ConcurrencyLimit(0), CORS(settings.allowed_origins))
        response = overload.refusal(method.encode(), path.encode(), given)
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert sorted(lines) == sorted(f"{name}: {value}" for name, value in expected.headers.items())
    assert (expected.status_code, body) == (503, expected.content)


async def test_of_those_that_come_together_more_may_begin_unless_all_places_were_taken_a_moment_ago() -> None:
    places = ConcurrencyLimit(2)
    places.acquire()
    assert [places.admit() for _ in range(12)] == [True] * 11 + [False]
    places.acquire()
    assert not places.admit()
    places.release()
    await asyncio.sleep(0)  # those that were admitted have begun
    assert [places.admit() for _ in range(2)] == [True, False]
    await asyncio.sleep(0)
    await asyncio.sleep(OVERLOADED_FOR)
    assert [places.admit() for _ in range(2)] == [True, True]


async def test_it_is_counted() -> None:
    seen: list[tuple[Any, ...]] = []

    def observe(method: str, route: str | None, status: int | None, seconds: float, found: Observation) -> None:
        seen.append((method, route, status, found.code))

    overload = Overload(ConcurrencyLimit(0), CORS(()), observe)
    for _ in range(3):
        assert not overload.admits(b"GET", b"/api/tasks")
        overload.refusal(b"GET", b"/api/tasks", [])
    assert seen == [("GET", None, 503, "overloaded")] * 3
