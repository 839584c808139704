"""Problem documents and the headers of responses: request ids, bugs, databases that are away or empty."""

import asyncio
import io
import json
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI

from backend.config import Settings
from backend.log import JSONFormatter, TextFormatter
from backend.services.tasks import TaskService
from tests.api.operations import OPERATIONS, Operation
from tests.api.shared import ABSENT, assert_common_headers, assert_problem, on_one_engine
from tests.applications import client_of, running
from tests.databases import new_postgres_database
from tests.settings import SECRET, make_settings

ORIGIN = "http://localhost:3000"
TASK = f"/api/tasks/{ABSENT}"


@pytest.fixture(params=[JSONFormatter, TextFormatter], ids=["json", "text"])
def log(request: pytest.FixtureRequest) -> Iterator[io.StringIO]:
    """What the service logs, formatted as it is outside of tests."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(request.param())
    logger = logging.getLogger("backend")
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)


@on_one_engine
@pytest.mark.parametrize("given", ["a", "A-Z.a_z-0.9", "x" * 128, str(UUID(int=7))])
@pytest.mark.parametrize("path", ["/health", "/api/tasks", TASK, "/nowhere"])
async def test_a_request_id_is_given_back(alice: httpx.AsyncClient, given: str, path: str) -> None:
    response = await alice.get(path, headers={"X-Request-ID": given})
    assert response.headers.get_list("X-Request-ID") == [given]
    if response.status_code == 404:
        assert response.json()["request_id"] == given


@on_one_engine
@pytest.mark.parametrize(
    "given",
    ["", " ", "x" * 129, "a b", "a\tb", "a/b", "a:b", "<script>", "\u00e9", "\x1b[31m", "a\r\nb", "a\n"],
    ids=ascii,
)
async def test_another_request_id_is_replaced(alice: httpx.AsyncClient, given: str) -> None:
    response = await alice.get(TASK, headers={b"X-Request-ID": given.encode()})
    assert_problem(response, 404, "task_not_found")
    assert response.headers["X-Request-ID"] not in {given, given.strip()}
    assert response.headers["X-Request-ID"].isalnum()


async def test_every_request_has_an_id_of_its_own(alice: httpx.AsyncClient) -> None:
    ids = {(await alice.get("/health")).headers["X-Request-ID"] for _ in range(20)}
    assert len(ids) == 20


async def test_the_instance_is_the_path_without_the_query(alice: httpx.AsyncClient) -> None:
    response = await alice.get("/api/nowhere/%C3%A9%20%22%0A?secret=zebra-canary")
    document = assert_problem(response, 404, "not_found")
    assert document["instance"] == "/api/nowhere/%C3%A9%20%22%0A"
    assert "zebra" not in response.text


@pytest.mark.parametrize("sent", ["/api/tasks/%41%42c", "/api/tasks/a%2Fb", "/api/tasks/x/", "/api/tasks/%zz"])
async def test_the_instance_is_the_path_as_it_was_sent(alice: httpx.AsyncClient, sent: str) -> None:
    url = httpx.URL("http://test").copy_with(raw_path=sent.encode())
    assert (await alice.request("TRACE", url)).json()["instance"] == sent


@on_one_engine
@pytest.mark.parametrize(
    ("authorization", "code", "challenge"),
    [
        (None, "token_missing", "Bearer"),
        ("", "token_missing", "Bearer"),
        ("Bearer", "token_missing", "Bearer"),
        ("Basic dXNlcjpwYXNz", "token_missing", "Bearer"),
        ("Bearer zebra-canary", "token_invalid", 'Bearer error="invalid_token"'),
    ],
)
async def test_a_401_says_how_to_authenticate(
    anonymous: httpx.AsyncClient, authorization: str | None, code: str, challenge: str
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    response = await anonymous.get("/api/tasks", headers=headers)
    assert_problem(response, 401, code)
    assert response.headers["WWW-Authenticate"] == challenge
    assert "zebra" not in response.text


@on_one_engine
@pytest.mark.parametrize(
    ("method", "path", "options"),
    [
        pytest.param("GET", "/api", {}, id="unknown path"),
        pytest.param("GET", "/api/nowhere", {}, id="unknown path below"),
        pytest.param("PUT", "/api/tasks", {}, id="405"),
        pytest.param("GET", "/api/tasks/transfer", {}, id="405 of a fixed path"),
        pytest.param("OPTIONS", "/api/tasks", {}, id="OPTIONS"),
        pytest.param("GET", "/api/tasks/x", {}, id="malformed id"),
        pytest.param("GET", "/api/tasks?limit=x", {}, id="bad query"),
        pytest.param("POST", "/api/tasks", {"content": b"x" * 70_000}, id="413"),
        pytest.param("POST", "/api/tasks", {"content": b"x"}, id="415"),
        pytest.param("POST", "/api/tasks", {"json": {"title": ""}}, id="422"),
        pytest.param(
            "POST", "/api/tasks", {"content": b"{", "headers": {"Content-Type": "application/json"}}, id="bad JSON"
        ),
    ],
)
async def test_401_comes_before_every_other_response(
    anonymous: httpx.AsyncClient, method: str, path: str, options: dict[str, object]
) -> None:
    assert_problem(await anonymous.request(method, path, **options), 401, "token_missing")  # type: ignore[arg-type]


async def test_a_bug_is_a_500_like_every_other_problem(
    alice: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, log: io.StringIO
) -> None:
    async def fail(_service: TaskService, _task_id: UUID) -> None:
        try:
            raise KeyError("zebra-canary in the cause")
        except KeyError as error:
            raise RuntimeError("zebra-canary in the exception") from error

    monkeypatch.setattr(TaskService, "get", fail)
    response = await alice.get(TASK, headers={"Origin": ORIGIN, "X-Request-ID": "the-one"})
    document = assert_problem(response, 500, "internal_error")
    assert document["request_id"] == "the-one"
    assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert "zebra" not in response.text
    assert "RuntimeError" not in response.text
    written = log.getvalue()
    assert "zebra" not in written
    error, line = written.splitlines()
    assert "unexpected error" in error
    assert "RuntimeError" in error
    assert "KeyError" in error
    assert "the-one" in error
    assert "ERROR" in line
    assert "500" in line


async def test_a_requests_line_tells_the_route_and_nothing_that_was_sent(
    alice: httpx.AsyncClient, log: io.StringIO
) -> None:
    await alice.post("/api/tasks", json={"title": "zebra-canary", "description": "zebra-canary"})
    await alice.post("/api/tasks", json={"title": "", "zebra-canary": 1})
    await alice.get(f"{TASK}?zebra=canary")
    await alice.get("/api/zebra%0Acanary", headers={"Authorization": "Bearer zebra-canary"})
    lines = log.getvalue().splitlines()
    assert "zebra" not in log.getvalue()
    routes = ["/api/tasks", "/api/tasks", "/api/tasks/{id}"]
    assert [route for route, line in zip(routes, lines, strict=False) if route in line] == routes
    if lines[0].startswith("{"):
        first = json.loads(lines[0])
        assert (first["method"], first["route"], first["status"]) == ("POST", "/api/tasks", 201)
        assert first["duration_ms"] >= 0


@asynccontextmanager
async def empty_database(engine: str, postgres_server_url: str, sqlite_url: str) -> AsyncIterator[Settings]:
    if engine == "sqlite":
        yield make_settings(sqlite_url, environment="production")  # where a start does not migrate
    else:
        async with new_postgres_database(postgres_server_url) as url:
            yield make_settings(url)


async def responses_of_all_operations(settings: Settings) -> list[tuple[Operation, httpx.Response]]:
    signing = make_settings("sqlite+aiosqlite://")
    # None waits for another's end, as a user's do past the tenth: after a second it would be refused.
    together = settings.model_copy(update={"max_concurrent_requests_per_user": len(OPERATIONS)})
    async with (
        running(together) as app,
        client_of(app, signing, "alice") as alice,
        client_of(app, signing, "bob") as bob,
    ):
        token = bob.headers["Authorization"].removeprefix("Bearer ")
        responses = await asyncio.gather(*(operation.call(alice, ABSENT, token) for operation in OPERATIONS))
    return list(zip(OPERATIONS, responses, strict=True))


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
async def test_a_database_that_is_not_migrated_is_503(engine: str, postgres_server_url: str, sqlite_url: str) -> None:
    async with empty_database(engine, postgres_server_url, sqlite_url) as settings:
        for _operation, response in await responses_of_all_operations(settings):
            assert_problem(response, 503, "database_not_migrated")
            assert int(response.headers["Retry-After"]) > 0
            assert "tasks" not in response.json()["detail"]


UNREACHABLE = {
    "sqlite": "sqlite+aiosqlite:////nowhere/zebra-canary/todo.db",
    "a closed port": "postgresql://zebra:canary@127.0.0.1:1/zebra",
    "no such host": "postgresql://zebra:canary@zebra.invalid/zebra",
    "no such socket": "postgresql://zebra:canary@/zebra?host=/nowhere/zebra",
}


@pytest.mark.parametrize("place", UNREACHABLE)
async def test_a_database_that_cannot_be_reached_is_503(place: str) -> None:
    settings = make_settings(UNREACHABLE[place], database_connect_timeout=0.2)
    for operation, response in await responses_of_all_operations(settings):
        assert_problem(response, 503, "database_unavailable")
        assert int(response.headers["Retry-After"]) > 0
        shown = response.text.replace(operation.path.replace("{id}", ABSENT), "") + str(response.headers)
        for secret in ("zebra", "canary", "127.0.0.1", "nowhere", "refused", "Error", "SELECT", SECRET):
            assert secret not in shown


async def test_no_database_is_asked_when_the_app_starts(app: FastAPI) -> None:
    settings = make_settings(UNREACHABLE["a closed port"])
    async with running(settings) as other, client_of(other, settings) as anonymous:
        response = await anonymous.get("/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert_common_headers(response)
