"""The guard's limits: places, bodies that take long or never come, lengths that can be read in two ways."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.api import body
from backend.auth.tokens import mint
from backend.config import Settings
from backend.db.session import Database
from backend.services.tasks import TaskService
from tests.api.shared import ABSENT, assert_problem, on_one_engine, tasks_of
from tests.applications import client_of, running
from tests.settings import make_settings

pytestmark = on_one_engine

JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def busy(settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator["Busy"]:
    """An application with two places, whose `stats` waits until it is let go."""
    busy = Busy()

    async def wait(_service: TaskService, *_arguments: Any, **_options: Any) -> tuple[dict[str, int], int]:
        busy.entered.release()
        await busy.gate.wait()
        return {"total": 0, "completed": 0, "active": 0}, 0

    monkeypatch.setattr(TaskService, "stats", wait)
    changed = settings.model_copy(update={"max_concurrent_requests": 2})
    async with running(changed) as app, client_of(app, settings, "alice") as client:
        busy.app, busy.client = app, client
        yield busy
        busy.gate.set()


class Busy:
    """See the fixture."""

    app: FastAPI
    client: httpx.AsyncClient

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.gate = asyncio.Event()

    @asynccontextmanager
    async def full(self) -> AsyncIterator[list["asyncio.Task[httpx.Response]"]]:
        """Both places are taken as long as the block lasts."""
        requests = [asyncio.create_task(self.client.get("/api/tasks/stats")) for _ in range(2)]
        for _ in requests:
            await self.entered.acquire()
        yield requests
        self.gate.set()
        for request in requests:
            assert (await request).status_code == 200


async def test_a_request_without_a_place_is_503_at_once(busy: Busy) -> None:
    async with busy.full() as requests:
        for method, path in (("GET", "/api/tasks"), ("POST", "/api/tasks"), ("GET", "/openapi.json")):
            response = await busy.client.request(method, path, json={"title": "x"} if method == "POST" else None)
            assert_problem(response, 503, "overloaded")
            assert int(response.headers["Retry-After"]) > 0
        assert not any(request.done() for request in requests)
    assert (await busy.client.get("/api/tasks")).status_code == 200


async def test_an_overloaded_service_tells_a_browser_so(busy: Busy) -> None:
    async with busy.full():
        response = await busy.client.get("/api/tasks", headers={"Origin": "http://localhost:3000"})
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:3000"


async def test_the_probes_need_no_place(busy: Busy) -> None:
    async with busy.full():
        assert (await busy.client.get("/health")).json() == {"status": "ok"}
        assert (await busy.client.get("/health/db")).status_code == 200


async def test_a_refusal_for_overload_does_not_look_at_the_token(busy: Busy) -> None:
    async with busy.full():
        response = await busy.client.get("/api/tasks", headers={"Authorization": ""})
    assert_problem(response, 503, "overloaded")


async def test_one_users_flood_leaves_places_for_others(settings: Settings, busy: Busy) -> None:
    changed = settings.model_copy(update={"max_concurrent_requests": 4, "max_concurrent_requests_per_user": 1})
    async with running(changed) as app, client_of(app, settings, "zoe") as zoe, client_of(app, settings, "yan") as yan:
        first = asyncio.create_task(zoe.get("/api/tasks/stats"))
        await busy.entered.acquire()
        waiting = [asyncio.create_task(zoe.get("/api/tasks/stats")) for _ in range(11)]
        refused = await next(asyncio.as_completed(waiting))
        assert_problem(refused, 429, "too_many_requests")
        assert (await yan.get("/api/tasks?limit=1")).status_code == 200
        busy.gate.set()
        assert (await first).status_code == 200
        await asyncio.gather(*waiting)


async def test_a_rate_is_told_and_kept(settings: Settings, user_id: Any) -> None:
    changed = settings.model_copy(update={"rate_limit": (2, 60)})
    zoes, yans = user_id("zoe"), user_id("yan")
    async with running(changed) as app, client_of(app, settings, zoes) as zoe, client_of(app, settings, yans) as yan:
        responses = [await zoe.get("/api/tasks?limit=1") for _ in range(2)]
        refused = asyncio.create_task(zoe.get("/api/tasks?limit=1"))
        assert (await yan.get("/api/tasks?limit=1")).status_code == 200
        assert not refused.done()  # who asks again and again is refused slowly, or would keep the service from others
        assert_problem(await refused, 429, "too_many_requests")
    assert [response.status_code for response in responses] == [200, 200]
    assert responses[0].headers["RateLimit"] == '"user";r=1;t=30'


async def test_who_may_not_even_wait_is_refused_slowly(settings: Settings, busy: Busy) -> None:
    changed = settings.model_copy(update={"max_concurrent_requests": 4, "max_concurrent_requests_per_user": 1})
    async with running(changed) as app, client_of(app, settings, "zoe") as zoe, client_of(app, settings, "yan") as yan:
        requests = [asyncio.create_task(zoe.get("/api/tasks/stats")) for _ in range(50)]
        await busy.entered.acquire()
        assert (await yan.get("/api/tasks?limit=1")).status_code == 200
        assert not any(request.done() for request in requests)
        busy.gate.set()
        assert {response.status_code for response in await asyncio.gather(*requests)} == {200, 429}


@pytest.mark.parametrize("path", ["/health%2fdb", "/health/d%62"])
async def test_a_probe_that_is_written_in_another_way_is_none(busy: Busy, path: str) -> None:
    async with busy.full():
        assert_problem(await busy.client.get(path), 503, "overloaded")


async def test_a_query_that_is_too_long_is_not_parsed(alice: httpx.AsyncClient) -> None:
    response = await alice.get("/api/tasks?" + "a&" * 5000)
    assert_problem(response, 422, "validation_error", ("query", "", "too_long"))
    assert (await alice.get("/health?" + "a&" * 5000)).status_code == 200


async def test_under_a_prefix_tokens_are_asked_for_and_addresses_have_it(
    app: FastAPI, alice: httpx.AsyncClient
) -> None:
    transport = httpx.ASGITransport(app, root_path="/todo", raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/todo/api/tasks")).status_code == 401
        created = await client.post("/todo/api/tasks", json={"title": "x"}, headers=alice.headers)
        assert created.headers["Location"] == f"/todo/api/tasks/{created.json()['id']}"
        await client.post("/todo/api/tasks", json={"title": "y"}, headers=alice.headers)
        page = await client.get("/todo/api/tasks?limit=1", headers=alice.headers)
        assert page.links["next"]["url"].startswith("/todo/api/tasks?")
        assert (await client.get("/todo/health")).status_code == 200
        assert (await client.get("/todo/openapi.json")).json()["servers"][0]["url"] == "/todo"
        assert (await client.get("/todo/")).json()["documentation"] == "/todo/docs"
        page = await client.get("/todo/docs")
        for address in re.findall(r'(?:src|href)="([^"]*)"', page.text):
            assert address.startswith("/todo/docs/")
            assert (await client.get(address)).status_code == 200


async def test_the_document_is_sent_once(anonymous: httpx.AsyncClient) -> None:
    first = await anonymous.get("/openapi.json")
    for known in (first.headers["ETag"], "*"):
        again = await anonymous.get("/openapi.json", headers={"If-None-Match": known})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")


@pytest.mark.parametrize("prefix", ["", "/todo"], ids=["taken off by the proxy", "left by the proxy"])
@pytest.mark.parametrize("said_by", ["the settings", "the server"])
async def test_a_prefix_can_be_taken_off_or_left(
    said_by: str, prefix: str, database_url: str, user_id: Callable[[str], str]
) -> None:
    by_server = said_by == "the server"
    settings = make_settings(database_url, root_path="" if by_server else "/todo")
    async with running(settings) as app:
        transport = httpx.ASGITransport(app, root_path="/todo" if by_server else "")
        headers = {"Authorization": f"Bearer {mint(settings, user_id('alice'), 60)}"}
        alice = httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
        created = await alice.post(f"{prefix}/api/tasks", json={"title": "x"})
        assert created.headers["Location"] == f"/todo/api/tasks/{created.json()['id']}"
        assert (await alice.get(f"{prefix}/health")).status_code == 200
        refused = await alice.get(f"{prefix}/api/tasks", headers={"Authorization": ""})
        assert refused.status_code == 401
        page = await alice.get(f"{prefix}/docs")
        addresses = re.findall(r'(?:src|href)="/todo([^"]*)"', page.text)
        assert len(addresses) >= 3
        for address in addresses:
            assert (await alice.get(f"{prefix}{address}")).status_code == 200


@pytest.mark.parametrize("ending", ["an error", "a bug", "a refusal", "an abort"])
async def test_a_place_is_given_back_however_a_request_ends(
    busy: Busy, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    async def fail(_service: TaskService, _task_id: object) -> None:
        raise RuntimeError

    if ending == "a bug":
        monkeypatch.setattr(TaskService, "get", fail)
    for _ in range(3):
        if ending == "an abort":
            request = asyncio.create_task(busy.client.get("/api/tasks/stats"))
            await busy.entered.acquire()
            request.cancel()
            await asyncio.gather(request, return_exceptions=True)
        else:
            path = "/api/tasks/x" if ending == "a refusal" else f"/api/tasks/{ABSENT}"
            assert (await busy.client.get(path)).status_code in {404, 422, 500}
    async with busy.full():
        pass


async def test_a_body_under_way_takes_no_place_and_those_of_one_user_are_bounded(
    busy: Busy, settings: Settings
) -> None:
    begun, rest = asyncio.Semaphore(0), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"title":'
        begun.release()
        await rest.wait()
        yield b'"slow"}'

    async with client_of(busy.app, settings, "bob") as bob:
        uploads = [asyncio.create_task(bob.post("/api/tasks", content=slow(), headers=JSON)) for _ in range(2)]
        for _ in uploads:
            await begun.acquire()
        async with busy.full():
            pass
        third = await bob.post("/api/tasks", content=slow(), headers=JSON)
        assert_problem(third, 429, "too_many_requests")
        assert begun.locked()  # nothing of its body was read
        uploads[1].cancel()
        rest.set()
        assert (await uploads[0]).status_code == 201


async def test_a_stranger_gets_no_memory_for_bodies(
    alice: httpx.AsyncClient, anonymous: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No address takes a body without a token; those of a thousand strangers would leave nothing for anybody."""
    monkeypatch.setattr(body, "MAX_HELD", 0)
    for path, status in (("/openapi.json", 405), ("/health", 405), ("/nowhere", 404), ("/api/tasks", 401)):
        assert (await anonymous.post(path, json={"title": "x"})).status_code == status
    assert_problem(await alice.post("/api/tasks", json={"title": "x"}), 503, "overloaded")


async def test_all_bodies_under_way_have_one_budget_and_give_it_back(
    alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert body.MAX_HELD == 64 * 1024 * 1024
    monkeypatch.setattr(body, "MAX_HELD", 25)
    begun, rest = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b'{"title": '
        begun.set()
        await rest.wait()
        yield b'"slow"}'

    upload = asyncio.create_task(alice.post("/api/tasks", content=slow(), headers=JSON))
    await begun.wait()
    for _ in range(2):
        assert_problem(await alice.post("/api/tasks", json={"title": "too much"}), 503, "overloaded")
    rest.set()
    assert (await upload).status_code == 201
    assert (await alice.post("/api/tasks", json={"title": "enough"})).status_code == 201


async def test_a_body_that_does_not_come_in_time_is_408(
    alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert body.BODY_TIMEOUT == 10
    monkeypatch.setattr(body, "BODY_TIMEOUT", 0.01)

    async def stalled() -> AsyncIterator[bytes]:
        yield b'{"title":'
        await asyncio.Event().wait()

    response = await alice.post("/api/tasks", content=stalled(), headers=JSON)
    assert_problem(response, 408, "request_timeout")
    assert response.headers["Connection"] == "close"
    assert await tasks_of(alice) == []


async def test_a_body_that_trickles_is_408(alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "BODY_TIMEOUT", 0.01)

    async def trickling() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0)

    assert_problem(await alice.post("/api/tasks", content=trickling(), headers=JSON), 408, "request_timeout")


async def test_a_client_that_goes_away_gets_no_response(
    app: FastAPI, settings: Settings, user_id: Callable[[str], str]
) -> None:
    name = user_id("alice")
    messages = [{"type": "http.request", "body": b'{"title": "x"', "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"Authorization": f"Bearer {mint(settings, name, 60)}", "Content-Length": "100", **JSON}
    await app(scope_of("POST", "/api/tasks", headers), receive, send)
    assert (messages, sent) == ([], [])
    async with client_of(app, settings, name) as alice:
        assert await tasks_of(alice) == []


async def test_a_client_without_a_body_that_goes_away_is_no_failure(
    app: FastAPI, settings: Settings, user_id: Callable[[str], str]
) -> None:
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = {"Authorization": f"Bearer {mint(settings, user_id('alice'), 60)}"}
    await app(scope_of("POST", "/api/tasks", headers), receive, send)
    assert sent[0]["status"] == 400


def scope_of(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }


@pytest.mark.parametrize("path", ["/api/tasks", "/health"])
async def test_two_ways_to_tell_the_length_are_400(alice: httpx.AsyncClient, path: str) -> None:
    headers = {"Content-Length": "14", "Transfer-Encoding": "chunked", **JSON}
    response = await alice.post(path, content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 400, "ambiguous_length")
    assert response.headers["Connection"] == "close"
    assert await tasks_of(alice) == []


async def test_the_rest_of_a_body_that_is_too_large_is_not_waited_for(alice: httpx.AsyncClient) -> None:
    async def without_an_end() -> AsyncIterator[bytes]:
        yield b" " * 65_537
        await asyncio.Event().wait()

    assert_problem(await alice.post("/api/tasks", content=without_an_end(), headers=JSON), 413, "body_too_large")


async def test_a_large_body_that_waits_for_leave_is_refused_before_it_is_sent(alice: httpx.AsyncClient) -> None:
    async def unsent() -> AsyncIterator[bytes]:
        pytest.fail("the body was read")
        yield b""

    headers = {"Content-Length": "65537", "Expect": "100-continue", **JSON}
    response = await alice.post("/api/tasks", content=unsent(), headers=headers)
    assert_problem(response, 413, "body_too_large")


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/tasks/stats", "database_unavailable"),
        ("DELETE", f"/api/tasks/{ABSENT}", "outcome_unknown"),
        ("POST", "/api/tasks", "database_unavailable"),  # of which the body has not come
    ],
)
async def test_a_request_that_the_ending_server_cuts_off_is_told_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, method: str, path: str, code: str
) -> None:
    entered = asyncio.Event()

    async def wait(*_arguments: Any, **_parameters: Any) -> Any:
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(TaskService, "_run", wait)
    sent: list[Any] = []

    async def receive() -> Any:
        return await wait() if method == "POST" else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    async with running(settings) as app:
        headers = {"Authorization": f"Bearer {mint(settings, 'alice', 60)}", "X-Request-ID": "cut-off"}
        headers |= {"Content-Length": "9"} if method == "POST" else {}
        request = asyncio.create_task(app(scope_of(method, path, headers), receive, send))
        await entered.wait()
        request.cancel()
        # The end of the application waits for the response: after it the process is gone.
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
    assert (b"x-request-id", b"cut-off") in sent[0]["headers"]
    document = json.loads(sent[1]["body"])
    assert document["code"] == code
    assert not re.search("connection|cannot be reached", document["detail"])  # there is nothing wrong with either
