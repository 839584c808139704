"""A refusal before a request begins is, byte for byte, what the guard would say."""

import asyncio
from typing import Any

import pytest

from backend.api import limits
from backend.api.limits import ConcurrencyLimit
from backend.api.overload import Overload
from backend.api.problems import Problem
from backend.config import Settings
from backend.observation import Observation
from tests.api.shared import on_one_engine
from tests.applications import client_of, running
from tests.settings import make_settings

SETTINGS = make_settings("sqlite+aiosqlite://")


@on_one_engine
@pytest.mark.parametrize(
    ("method", "path", "headers"),
    [
        ("GET", "/api/tasks", {}),
        ("HEAD", "/api/tasks", {}),
        ("POST", "/api/tasks/%0A%22%25zz", {"Origin": "http://localhost:3000"}),
        ("DELETE", "/api/tasks/x", {"Origin": "https://unknown.example"}),
        ("GET", "/docs", {}),
        ("GET", "/api", {}),
        ("GET", "/apis", {}),
        ("POST", "/mcp", {}),
        ("POST", "/mcp/", {}),
        ("POST", "/mcp/x", {}),
    ],
)
@pytest.mark.parametrize("mcp", [False, True])
async def test_it_is_the_guards_response(
    settings: Settings, method: str, path: str, headers: dict[str, str], *, mcp: bool
) -> None:
    changed = settings.model_copy(update={"max_concurrent_requests": 0, "mcp": mcp})
    headers["X-Request-ID"] = "one-id"
    async with running(changed) as app, client_of(app, settings, "alice") as client:
        expected = await client.request(method, path, headers=headers)
        given = {name.lower().encode(): value.encode() for name, value in headers.items()}
        overload = Overload(ConcurrencyLimit(0), changed)
        response = overload.refusal(method.encode(), path.encode(), given)
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    assert status == "HTTP/1.1 503 Service Unavailable"
    assert sorted(lines) == sorted(f"{name}: {value}" for name, value in expected.headers.items())
    assert (expected.status_code, body) == (503, expected.content)


@pytest.fixture
def long_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have an overload last for as long as a busy machine may pause."""
    monkeypatch.setattr(limits, "OVERLOADED_FOR", 60)


@pytest.mark.usefixtures("long_overload")
async def test_of_those_that_come_together_all_may_begin_unless_one_has_found_no_place_a_moment_ago(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = ConcurrencyLimit(2)
    places.acquire()
    places.acquire()
    assert not places.admit()
    places.release()
    assert [places.admit() for _ in range(2)] == [True, False]
    await asyncio.sleep(0)  # the one that was admitted has begun
    assert [places.admit() for _ in range(2)] == [True, False]
    monkeypatch.setattr(limits, "OVERLOADED_FOR", 0)
    assert all(places.admit() for _ in range(1_000))


@pytest.mark.usefixtures("long_overload")
async def test_that_all_places_are_taken_is_no_overload_before_somebody_needs_one_more() -> None:
    places = full()
    places.release()
    assert not places.is_overloaded
    places.acquire()
    with pytest.raises(Problem, match="overloaded"):
        places.acquire()
    places.release()
    assert places.is_overloaded


@pytest.mark.usefixtures("long_overload")
async def test_who_has_no_token_is_refused_under_overload_and_leaves_the_places_to_users() -> None:
    places = full()
    overload = Overload(places, SETTINGS)
    assert not overload.admits(b"GET", b"/api/tasks", {b"authorization": b"Bearer x"})
    places.release()
    assert not any(overload.admits(b"GET", b"/api/tasks", {}) for _ in range(100))
    assert overload.admits(b"GET", b"/api/tasks", {b"authorization": b"Bearer x"})


PREFLIGHT = {b"origin": b"http://a.example", b"access-control-request-method": b"GET"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "admitted"),
    [
        (b"GET", b"/health", {}, True),
        (b"GET", b"/prefix/health/db", {}, True),
        (b"OPTIONS", b"/api/tasks", PREFLIGHT, True),
        (b"GET", b"/api/tasks/health", {}, False),
        (b"GET", b"/api/tasks", PREFLIGHT, False),
        (b"OPTIONS", b"/api/tasks", {}, False),
        (b"OPTIONS", b"*", {}, False),
    ],
)
async def test_only_probes_and_preflights_need_no_place(
    method: bytes, path: bytes, headers: dict[bytes, bytes], *, admitted: bool
) -> None:
    assert (
        Overload(full(), make_settings("sqlite+aiosqlite://", root_path="/prefix")).admits(method, path, headers)
        is admitted
    )


def full() -> ConcurrencyLimit:
    places = ConcurrencyLimit(1)
    places.acquire()
    return places


async def test_it_is_counted() -> None:
    seen: list[tuple[Any, ...]] = []

    def observe(method: str, route: str | None, status: int | None, seconds: float, found: Observation) -> None:
        seen.append((method, route, status, found.code))

    overload = Overload(full(), SETTINGS, observe)
    for _ in range(3):
        overload.refusal(b"GET", b"/api/tasks", {})
    assert seen == [("GET", None, 503, "overloaded")] * 3
