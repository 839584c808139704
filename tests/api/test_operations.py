"""The table of operations is complete, and what holds for every one of them."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from backend.config import Settings
from tests.api.operations import OPERATIONS, RESTORE, Operation
from tests.api.shared import ABSENT, assert_common_headers, assert_problem, create, on_one_engine, token_of
from tests.applications import client_of, running
from tests.contract.document import OPERATIONS as DOCUMENTED

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
PATHS = sorted({operation.path for operation in OPERATIONS})
METHODS = {path: {operation.method for operation in OPERATIONS if operation.path == path} for path in PATHS}
OTHER_METHODS = [
    pytest.param(method, path, id=f"{method} {path}")
    for path in PATHS
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    if method not in METHODS[path] and not (method == "HEAD" and "GET" in METHODS[path])
]


def test_every_route_is_in_the_table(app: FastAPI) -> None:
    listed = {(operation.method, operation.path) for operation in (*OPERATIONS, RESTORE)}
    paths = app.openapi()["paths"].items()
    documented = {(method.upper(), path) for path, methods in paths for method in methods if path.startswith("/api")}
    assert documented == listed
    routes = {
        (method, route.path_format)
        for route in app.routes
        if isinstance(route, APIRoute) and route.path_format.startswith("/api")
        for method in route.methods or ()
    }
    assert routes == listed


@every_operation
async def test_an_operation_succeeds_with_the_headers_of_every_response(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation
) -> None:
    task = await create(alice, completed=True)
    response = await operation.call(alice, task["id"], token_of(bob))
    assert response.status_code == operation.status, response.text
    assert_common_headers(response)
    if operation.status == 204:
        assert response.content == b""
    else:
        assert response.headers["Content-Type"] == "application/json"


@every_operation
async def test_an_operation_refuses_a_query_parameter_that_it_does_not_have(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation
) -> None:
    task = await create(alice, completed=True)
    response = await operation.call(
        alice, task["id"], token_of(bob), params={**operation.query, "user_id": "zebra-canary"}
    )
    assert_problem(response, 422, "validation_error", ("query", "/user_id", "unknown_parameter"))
    assert "zebra-canary" not in response.text
    assert (await alice.get(f"/api/tasks/{task['id']}")).json() == task


@on_one_engine
@pytest.mark.parametrize(
    "task_id",
    [
        "1",
        "not-a-uuid",
        "0192f0c123457abc8def0123456789ab",
        "{0192f0c1-2345-7abc-8def-0123456789ab}",
        "urn:uuid:0192f0c1-2345-7abc-8def-0123456789ab",
        "0192f0c1-2345-7abc-8def-0123456789ab ",
        "0192f0c1-2345-7abc-8def-0123456789a",
        "0192f0c1-2345-7abc-8def-0123456789abc",
        "%00",
        "%F0%9F%98%80",
        "%FF",
        "%0A",
        "0192f0c1-2345-7abc-8def-0123456789ab%0A",
        "9" * 5000,
        "9223372036854775808",
        "-1",
        "null",
        "' OR 1=1 --",
    ],
    ids=lambda task_id: task_id[:40],
)
@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.of_one_task], ids=lambda operation: operation.name
)
async def test_a_malformed_id_is_422(alice: httpx.AsyncClient, operation: Operation, task_id: str) -> None:
    response = await operation.call(alice, task_id)
    assert_problem(response, 422, "validation_error", ("path", "/id", "not_a_uuid"))


BEFORE_A_ROUTE: dict[str, dict[str, Any]] = {
    "a long query": {"params": "x" * 21_000},
    "no token": {"headers": {"Authorization": ""}},
    "a bad token": {"headers": {"Authorization": "Bearer x"}},
    "two lengths": {"headers": {"Content-Length": "2", "Transfer-Encoding": "chunked"}, "content": b"{}"},
    "a large body": {"content": b" " * 2_000_000},
    "no place": {},
}


@on_one_engine
@pytest.mark.parametrize("fault", BEFORE_A_ROUTE)
async def test_what_comes_of_a_request_before_its_route_is_documented(settings: Settings, fault: str) -> None:
    places = {"max_concurrent_requests": 0} if fault == "no place" else {}
    async with running(settings.model_copy(update=places)) as app, client_of(app, settings, "alice") as alice:
        for name, operation in DOCUMENTED.items():
            method, path = name.replace("{id}", ABSENT).split(" ")
            response = await alice.request(method, path, **BEFORE_A_ROUTE[fault])
            assert str(response.status_code) in operation["responses"], name


@on_one_engine
@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 200), ("POST", "/", 405), ("GET", "/nowhere", 404)]
)
async def test_without_a_token_the_address_and_the_method_come_before_the_query(
    anonymous: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    assert (await anonymous.request(method, path, params="x" * 21_000)).status_code == status


async def test_an_id_may_be_written_in_upper_case(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    assert (await alice.get(f"/api/tasks/{task['id'].upper()}")).json() == task


@on_one_engine
@pytest.mark.parametrize(("method", "path"), OTHER_METHODS)
async def test_a_method_that_a_path_does_not_have_is_405_with_all_that_it_has(
    alice: httpx.AsyncClient, method: str, path: str
) -> None:
    response = await alice.request(method, path.replace("{id}", ABSENT))
    if method == "HEAD":
        assert response.status_code == 405
        assert response.content == b""
    else:
        assert_problem(response, 405, "method_not_allowed")
    allowed = METHODS[path] | ({"HEAD"} if "GET" in METHODS[path] else set())
    assert {name.strip() for name in response.headers["Allow"].split(",")} == allowed


@on_one_engine
@pytest.mark.parametrize("path", ["/health", "/health/db", "/openapi.json", "/docs"])
async def test_public_paths_are_405_to_other_methods(anonymous: httpx.AsyncClient, path: str) -> None:
    response = await anonymous.post(path)
    assert_problem(response, 405, "method_not_allowed")
    assert {name.strip() for name in response.headers["Allow"].split(",")} == {"GET", "HEAD"}


@on_one_engine
@pytest.mark.parametrize("name", ["stats", "transfer", "bulk-complete"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
async def test_a_fixed_path_never_passes_for_an_id(alice: httpx.AsyncClient, name: str, method: str) -> None:
    response = await alice.request(method, f"/api/tasks/{name}")
    assert response.status_code == (200 if (method, name) == ("GET", "stats") else 405)


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/stats", "/api/tasks/{id}", "/health", "/health/db"])
async def test_head_is_get_without_the_body(alice: httpx.AsyncClient, path: str) -> None:
    path = path.replace("{id}", (await create(alice))["id"])
    get, head = await alice.get(path), await alice.head(path)
    assert (get.status_code, head.status_code) == (200, 200)
    assert head.content == b""
    changing = {"x-request-id", "date"}
    assert [each for each in head.headers.multi_items() if each[0] not in changing] == [
        each for each in get.headers.multi_items() if each[0] not in changing
    ]


async def test_head_of_an_absent_task_is_404_without_a_body(alice: httpx.AsyncClient) -> None:
    response = await alice.head(f"/api/tasks/{ABSENT}")
    assert response.status_code == 404
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.content == b""


@on_one_engine
@pytest.mark.parametrize(
    "path",
    [
        "/api",
        "/api/",
        "/api//tasks",
        "/api/tasks//",
        "/api/Tasks",
        f"/api/tasks/{ABSENT}/Toggle",
        "/api/users",
        "/health/",
        "/healthz",
        "/redoc",
        "/%2e%2e/etc/passwd",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_path_is_404_and_never_a_redirect(alice: httpx.AsyncClient, method: str, path: str) -> None:
    assert_problem(await alice.request(method, path), 404, "not_found")


@on_one_engine
@pytest.mark.parametrize("path", ["/api/tasks%0A", "/api/tasks/stats%0A", "/api/tasks/stats/toggle"])
async def test_an_address_matches_to_its_end(alice: httpx.AsyncClient, path: str) -> None:
    assert_problem(await alice.get(path), 404, "not_found")


async def test_an_action_matches_to_its_end(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    assert_problem(await alice.post(f"/api/tasks/{task['id']}/toggle%0A"), 404, "not_found")
    assert (await alice.get(f"/api/tasks/{task['id']}")).json() == task


async def test_one_trailing_slash_is_ignored_and_shown_as_it_was_sent(alice: httpx.AsyncClient) -> None:
    created = await alice.post("/api/tasks/", json={"title": "x"})
    path = created.headers["Location"]
    assert (await alice.get(f"{path}/")).json() == created.json()
    assert (await alice.post(f"{path}/toggle/")).status_code == 200
    assert (await alice.get("/api/tasks/stats/")).status_code == 200
    assert_problem(await alice.get(f"/api/tasks/{ABSENT}/"), 404, "task_not_found")
