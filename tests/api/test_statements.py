"""Round trips are the budget: one SQL statement for a request, none for one that is refused before."""

import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.db.statements import compile_statement
from tests.api.operations import OPERATIONS, Operation, filled
from tests.api.shared import ABSENT, create, token_of
from tests.statements import recorded_statements

every_operation = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
JSON = {"Content-Type": "application/json"}


def own(statements: list[tuple[str, Any]]) -> list[str]:
    """The statements but for those that begin and end a transaction."""
    return [sql for sql, _ in statements if not sql.startswith(("BEGIN", "COMMIT", "ROLLBACK"))]


@every_operation
async def test_an_operation_is_as_few_statements_as_can_be(
    app: FastAPI, alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation
) -> None:
    task = await create(alice, completed=True)
    with recorded_statements(app.state.database) as statements:
        response = await operation.call(alice, task["id"], token_of(bob))
    assert response.status_code == operation.status
    assert len(own(statements)) == operation.statements, statements


async def test_no_statement_is_built_for_a_request(
    app: FastAPI, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    # It would be compiled for it, too, which takes ten times as long as running it (backend/db/statements.py).
    misses = []
    for _ in range(2):
        for operation in OPERATIONS:
            task = await create(alice, completed=True)
            await operation.call(alice, task["id"], token_of(bob))
        misses.append(compile_statement.cache_info().misses)
    assert misses[0] == misses[1]


@pytest.mark.parametrize(
    "operation",
    [each for each in OPERATIONS if each.of_one_task and each.method != "PUT"],
    ids=lambda operation: operation.name,
)
async def test_not_finding_a_task_takes_few_statements_more(
    app: FastAPI, alice: httpx.AsyncClient, operation: Operation
) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await operation.call(alice, ABSENT)
    assert response.status_code == 404
    assert len(own(statements)) <= 3, statements


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        pytest.param("PATCH", "/api/tasks/{id}", {}, id="an empty patch"),
        pytest.param(
            "PATCH", "/api/tasks/{id}", {"title": "x", "description": None, "completed": True}, id="a full one"
        ),
        pytest.param("GET", "/api/tasks?limit=1", None, id="a page"),
        pytest.param("GET", "/api/tasks?completed=false&limit=500&skip=1", None, id="a filtered page"),
        pytest.param("GET", "/api/tasks?search=a%20b&tag=x&sort=due_date,title&count=true", None, id="a sorted one"),
        pytest.param("HEAD", "/api/tasks", None, id="HEAD"),
        pytest.param("POST", "/api/tasks/bulk-complete", {"task_ids": ["{id}"] * 500}, id="500 ids"),
    ],
)
async def test_its_variants_are_one_statement(
    app: FastAPI, alice: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
) -> None:
    task = await create(alice)
    with recorded_statements(app.state.database) as statements:
        response = await alice.request(method, path.replace("{id}", task["id"]), json=filled(body, task["id"]))
    assert response.status_code == 200
    assert len(statements) == 1, statements


@pytest.mark.parametrize(("few", "many"), [(3, 4), (257, 500)])
async def test_few_numbers_of_ids_are_statements_of_their_own(
    app: FastAPI, alice: httpx.AsyncClient, few: int, many: int
) -> None:
    # The types of each statement are asked for first, which is a round trip.
    with recorded_statements(app.state.database) as statements:
        for number in (few, many):
            body = {"task_ids": [str(uuid.uuid4()) for _ in range(number)], "completed": False}
            assert (await alice.post("/api/tasks/bulk-complete", json=body)).json() == {"updated": 0}
    assert len(statements) == 2
    assert len({sql for sql, _ in statements}) == 1


async def test_the_next_page_is_one_statement(app: FastAPI, alice: httpx.AsyncClient) -> None:
    for _ in range(3):
        await create(alice)
    page = (await alice.get("/api/tasks?limit=1")).links["next"]["url"]
    with recorded_statements(app.state.database) as statements:
        assert len((await alice.get(page)).json()) == 1
    assert len(statements) == 1, statements


@every_operation
async def test_without_a_token_the_database_is_not_asked(
    app: FastAPI, anonymous: httpx.AsyncClient, operation: Operation
) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await operation.call(anonymous, ABSENT, "x.y.z")
    assert response.status_code == 401
    assert statements == []


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        pytest.param("POST", "/api/tasks", {"content": b"{", "headers": JSON}, 400, id="malformed JSON"),
        pytest.param("GET", "/api/nowhere", {}, 404, id="unknown path"),
        pytest.param("PUT", "/api/tasks", {}, 405, id="unknown method"),
        pytest.param("POST", "/api/tasks", {"content": b"x" * 70_000}, 413, id="large body"),
        pytest.param("POST", "/api/tasks", {"content": b"x"}, 415, id="no content type"),
        pytest.param("POST", "/api/tasks", {"json": {"title": " "}}, 422, id="blank title"),
        pytest.param("PATCH", f"/api/tasks/{ABSENT}", {"json": {"title": None}}, 422, id="bad patch of no task"),
        pytest.param("GET", "/api/tasks/x", {}, 422, id="malformed id"),
        pytest.param("GET", "/api/tasks?limit=501", {}, 422, id="bad limit"),
        pytest.param("GET", "/api/tasks?cursor=x", {}, 422, id="bad cursor"),
        pytest.param("DELETE", "/api/tasks", {}, 422, id="clearing without the word"),
        pytest.param("POST", "/api/tasks/bulk-complete", {"json": {"task_ids": []}}, 422, id="no ids"),
        pytest.param("POST", "/api/tasks/transfer", {"json": {"from_token": "x.y.z"}}, 422, id="bad token"),
        pytest.param("OPTIONS", "/api/tasks", {}, 405, id="OPTIONS"),
    ],
)
async def test_a_refused_request_asks_no_database(
    app: FastAPI, alice: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await alice.request(method, path, **options)
    assert response.status_code == status
    assert statements == []


async def test_a_transfer_to_oneself_asks_no_database(app: FastAPI, alice: httpx.AsyncClient) -> None:
    with recorded_statements(app.state.database) as statements:
        response = await alice.post("/api/tasks/transfer", json={"from_token": token_of(alice)})
    assert response.status_code == 422
    assert statements == []
