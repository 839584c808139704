"""Nobody sees or touches another user's tasks: every operation as anonymous, as a stranger and as the owner."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from fastapi import FastAPI

from backend.config import Settings
from tests.api.operations import OPERATIONS, Operation
from tests.api.shared import ABSENT, assert_problem, create, tasks_of, token_of
from tests.applications import client_of

ROOT = Path(__file__).parents[2]


def parametrized(operations: list[Operation]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("operation", operations, ids=lambda operation: operation.name)


async def own_tasks(client: httpx.AsyncClient) -> list[dict[str, object]]:
    return [
        await create(client, title, completed=True, description="zebra-canary", tags=["zebra"])
        for title in ("one", "two")
    ]


def without_what_differs(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    document = response.json()
    content = response.content.replace(document["instance"].encode(), b"").replace(document["request_id"].encode(), b"")
    headers = {name: value for name, value in response.headers.items() if name not in {"date", "x-request-id"}}
    return response.status_code, headers, content


@parametrized(OPERATIONS)
async def test_anonymous_is_401(
    anonymous: httpx.AsyncClient, alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation
) -> None:
    tasks = await own_tasks(alice)
    response = await operation.call(anonymous, str(tasks[0]["id"]), token_of(bob))
    assert_problem(response, 401, "token_missing")
    assert await tasks_of(alice) == tasks[::-1]


@parametrized([operation for operation in OPERATIONS if operation.of_one_task and operation.method != "PUT"])
async def test_a_strangers_task_is_404_like_one_that_does_not_exist(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation
) -> None:
    tasks = await own_tasks(alice)
    foreign = await operation.call(bob, str(tasks[0]["id"]))
    assert_problem(foreign, 404, "task_not_found")
    absent = await operation.call(bob, ABSENT)
    assert without_what_differs(foreign) == without_what_differs(absent)
    assert await tasks_of(alice) == tasks[::-1]


@parametrized([operation for operation in OPERATIONS if not operation.of_one_task])
async def test_a_stranger_gets_responses_as_if_there_were_no_other_users(
    alice: httpx.AsyncClient,
    bob: httpx.AsyncClient,
    app: FastAPI,
    settings: Settings,
    user_id: Callable[[str], str],
    operation: Operation,
) -> None:
    tasks = await own_tasks(alice)
    async with client_of(app, settings, user_id("carol")) as carol:
        response = await operation.call(bob, str(tasks[0]["id"]), token_of(carol))
    assert response.status_code == (404 if operation.path.endswith("/batch") else operation.status)
    if operation.path.endswith("/batch"):
        assert await tasks_of(bob) == []
    elif operation.method == "POST" and operation.path == "/api/tasks":
        assert await tasks_of(bob) == [response.json()]
    else:
        zeros = ({"deleted": 0}, {"updated": 0}, {"transferred": 0}, {"total": 0, "completed": 0, "active": 0})
        found = response.json()
        assert found in ([], *zeros) or found.get("changes") == []
        assert await tasks_of(bob) == []
    assert await tasks_of(alice) == tasks[::-1]


@parametrized(OPERATIONS)
async def test_the_owner_is_served(alice: httpx.AsyncClient, bob: httpx.AsyncClient, operation: Operation) -> None:
    tasks = await own_tasks(alice)
    other = await own_tasks(bob)
    response = await operation.call(alice, str(tasks[0]["id"]), token_of(bob))
    assert response.status_code == operation.status
    if operation.method == "GET":
        expected = {
            "/api/tasks": tasks[::-1],
            "/api/tasks/stats": {"total": 2, "completed": 2, "active": 0},
            "/api/tasks/tags": [{"tag": "zebra", "count": 2}],
        }
        found = response.json()
        if operation.path.endswith("/changes"):
            found, expected = found["changes"], {operation.path: tasks}
        assert found == expected.get(operation.path, tasks[0])
    else:
        assert await tasks_of(alice) != tasks[::-1]
    assert await tasks_of(bob) == ([] if operation.path.endswith("/transfer") else other[::-1])


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize("name", ["user_id", "owner", "owner_id", "sub", "revision", "title_folded"])
async def test_what_is_the_servers_alone_cannot_be_sent(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, method: str, name: str
) -> None:
    task = await create(bob)
    path = "/api/tasks" if method == "POST" else f"/api/tasks/{task['id']}"
    response = await bob.request(method, path, json={"title": "x", name: "zebra-canary"})
    assert_problem(response, 422, "validation_error", ("body", f"/{name}", "unknown_field"))
    assert "zebra" not in response.text
    assert await tasks_of(bob) == [task]
    assert await tasks_of(alice) == []


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_task_is_written_at_its_own_address_only(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, method: str
) -> None:
    task, other = await create(bob), await create(alice)
    for wrong in (other["id"], None, 7, "zebra-canary"):
        response = await bob.request(method, f"/api/tasks/{task['id']}", json={"title": "x", "id": wrong})
        assert_problem(response, 422, "validation_error", ("body", "/id", "id_mismatch"))
    same = await bob.request(method, f"/api/tasks/{task['id']}", json={**task, "id": task["id"].upper()})
    assert same.status_code == 200
    response = await bob.post("/api/tasks", json=task)
    assert_problem(response, 422, "validation_error", ("body", "/id", "unknown_field"))
    assert "PUT" in response.json()["detail"]


async def test_put_makes_a_task_of_ones_own_beside_a_strangers_of_the_same_id(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    task = await create(alice)
    response = await bob.put(f"/api/tasks/{task['id']}", json={"title": "mine"})
    assert response.status_code == 201
    assert await tasks_of(alice) == [task]
    assert [each["title"] for each in await tasks_of(bob)] == ["mine"]


async def test_a_header_cannot_name_another_user(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await create(alice)
    headers = {"X-User-Id": "alice", "X-Forwarded-User": "alice", "Cookie": f"token={token_of(alice)}"}
    assert (await bob.get("/api/tasks", headers=headers)).json() == []


async def test_no_response_shows_the_owner(
    app: FastAPI, settings: Settings, user_id: Callable[[str], str], bob: httpx.AsyncClient
) -> None:
    name = user_id("carol")
    async with client_of(app, settings, name) as carol:
        for operation in OPERATIONS:
            task = await create(carol)
            response = await operation.call(carol, task["id"], token_of(bob))
            assert response.status_code == operation.status
            assert name not in response.text + str(response.headers)


@pytest.mark.process
def test_these_tests_fail_when_statements_are_not_narrowed_to_the_owner(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    plugin = ["-p", "tests.api.without_owner_predicate"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "-q", "-k", "sqlite", f"--junitxml={report}", __file__],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    cases = {case.attrib["name"]: case.find("failure") for case in ElementTree.parse(report).iter("testcase")}
    strangers = {name for name in cases if name.startswith(("test_a_stranger", "test_the_owner"))}
    assert len(strangers) == 2 * len(OPERATIONS) - 1, run.stdout  # a PUT of a strangers id makes a task
    survived = {name for name in strangers if cases[name] is None}
    # An INSERT has no predicate to lose.
    assert survived <= {"test_the_owner_is_served[sqlite-POST /api/tasks]"}, run.stdout
