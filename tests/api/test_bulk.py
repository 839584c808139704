"""Many tasks at once: completing by ids, clearing the completed ones, counting."""

from typing import Any

import httpx
import pytest

from tests.api.shared import ABSENT, assert_problem, create, tasks_of

BULK = "/api/tasks/bulk-complete"


async def completed_of(client: httpx.AsyncClient) -> dict[str, bool]:
    return {task["title"]: task["completed"] for task in await tasks_of(client)}


async def test_bulk_complete_counts_the_tasks_whose_state_changed(alice: httpx.AsyncClient) -> None:
    ids = [(await create(alice, title, completed=title == "b"))["id"] for title in "abcd"]
    response = await alice.post(BULK, json={"task_ids": ids[:3]})
    assert (response.status_code, response.json()) == (200, {"updated": 2})
    assert await completed_of(alice) == {"a": True, "b": True, "c": True, "d": False}
    assert (await alice.post(BULK, json={"task_ids": ids[:3]})).json() == {"updated": 0}


async def test_bulk_complete_can_make_tasks_active_again(alice: httpx.AsyncClient) -> None:
    ids = [(await create(alice, title, completed=title != "c"))["id"] for title in "abc"]
    response = await alice.post(BULK, json={"task_ids": ids, "completed": False})
    assert response.json() == {"updated": 2}
    assert await completed_of(alice) == {"a": False, "b": False, "c": False}


async def test_bulk_complete_moves_updated_at_of_what_it_changes_only(alice: httpx.AsyncClient) -> None:
    done, active = await create(alice, "done", completed=True), await create(alice, "active")
    await alice.post(BULK, json={"task_ids": [done["id"], active["id"]]})
    after = {task["title"]: task for task in await tasks_of(alice)}
    assert after["done"] == done
    moved = {name: after["active"][name] for name in ("updated_at", "completed_at", "etag")}
    assert after["active"] == {**active, "completed": True, **moved}
    assert after["active"]["updated_at"] > active["updated_at"]


async def test_bulk_complete_ignores_unknown_and_foreign_ids(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    mine, foreign = await create(alice), await create(bob)
    response = await alice.post(BULK, json={"task_ids": [ABSENT, foreign["id"], mine["id"]]})
    assert response.json() == {"updated": 1}
    assert await tasks_of(bob) == [foreign]


async def test_bulk_complete_counts_an_id_once_however_often_it_is_given(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    ids = [task["id"], task["id"], task["id"].upper()]
    assert (await alice.post(BULK, json={"task_ids": ids})).json() == {"updated": 1}


@pytest.mark.parametrize("count", [1, 499, 500])
async def test_bulk_complete_takes_up_to_500_ids(alice: httpx.AsyncClient, count: int) -> None:
    task = await create(alice)
    ids = [task["id"]] + [f"{number:08x}{ABSENT[8:]}" for number in range(count - 1)]
    response = await alice.post(BULK, json={"task_ids": ids})
    assert (response.status_code, response.json()) == (200, {"updated": 1})


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        pytest.param({}, "/task_ids", "required", id="no ids"),
        pytest.param({"task_ids": []}, "/task_ids", "too_short", id="0 ids"),
        pytest.param({"task_ids": ["{id}"] * 501}, "/task_ids", "too_long", id="501 ids"),
        pytest.param({"task_ids": None}, "/task_ids", "not_a_list", id="null"),
        pytest.param({"task_ids": "{id}"}, "/task_ids", "not_a_list", id="one id"),
        pytest.param({"task_ids": {"0": "{id}"}}, "/task_ids", "not_a_list", id="an object"),
        pytest.param({"task_ids": ["{id}", "zebra-canary"]}, "/task_ids/1", "not_a_uuid", id="not a UUID"),
        pytest.param({"task_ids": ["{id}", None]}, "/task_ids/1", "not_a_uuid", id="a null among them"),
        pytest.param({"task_ids": ["{id}", 2**63]}, "/task_ids/1", "not_a_uuid", id="a number among them"),
        pytest.param({"task_ids": ["{id}", ABSENT + "\0"]}, "/task_ids/1", "not_a_uuid", id="NUL"),
        pytest.param({"task_ids": ["{id}", "0" * 32]}, "/task_ids/1", "not_a_uuid", id="no hyphens"),
        pytest.param({"task_ids": ["{id}"], "completed": None}, "/completed", "not_a_boolean", id="completed null"),
        pytest.param({"task_ids": ["{id}"], "completed": 1}, "/completed", "not_a_boolean", id="completed 1"),
        pytest.param({"task_ids": ["{id}"], "completed": "yes"}, "/completed", "not_a_boolean", id="completed yes"),
        pytest.param({"task_ids": ["{id}"], "user_id": "x"}, "/user_id", "unknown_field", id="an owner"),
    ],
)
async def test_bulk_complete_refuses_what_it_cannot_mean(
    alice: httpx.AsyncClient, body: dict[str, Any], pointer: str, code: str
) -> None:
    task = await create(alice)
    if isinstance(body.get("task_ids"), list):
        body = {**body, "task_ids": [task["id"] if each == "{id}" else each for each in body["task_ids"]]}
    response = await alice.post(BULK, json=body)
    assert_problem(response, 422, "validation_error", ("body", pointer, code))
    assert "zebra" not in response.text
    assert await tasks_of(alice) == [task]


async def test_one_response_points_at_20_mistakes_at_most(alice: httpx.AsyncClient) -> None:
    response = await alice.post(BULK, json={"task_ids": ["x"] * 500})
    assert len(assert_problem(response, 422, "validation_error")["errors"]) == 20


async def test_clearing_deletes_the_completed_tasks_of_the_client(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    for title in "abc":
        await create(alice, title, completed=title != "b")
    foreign = await create(bob, completed=True)
    response = await alice.delete("/api/tasks?completed=true")
    assert (response.status_code, response.json()) == (200, {"deleted": 2})
    assert await completed_of(alice) == {"b": False}
    assert await tasks_of(bob) == [foreign]
    assert (await alice.delete("/api/tasks?completed=true")).json() == {"deleted": 0}


@pytest.mark.parametrize(
    "query",
    [
        "",
        *("?completed", "?completed=", "?completed=false", "?completed=True", "?completed=TRUE", "?completed=1"),
        *("?completed=yes", "?completed=null", "?completed=true%20", "?completed=true%00", "?completed[]=true"),
        *("?Completed=true", "?completed=true&completed=true", "?completed=true&completed=false"),
        *("?completed=true;completed=true", "?completed=true&limit=1", "?completed=true&user_id=x"),
    ],
)
async def test_clearing_needs_exactly_true(alice: httpx.AsyncClient, query: str) -> None:
    task = await create(alice, completed=True)
    assert_problem(await alice.delete(f"/api/tasks{query}"), 422, "validation_error")
    assert await tasks_of(alice) == [task]


async def test_stats_count_the_clients_tasks(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    empty = {"total": 0, "completed": 0, "active": 0}
    assert (await alice.get("/api/tasks/stats")).json() == empty
    for title in "abcde":
        await create(alice, title, completed=title < "c")
    assert (await alice.get("/api/tasks/stats")).json() == {"total": 5, "completed": 2, "active": 3}
    assert (await bob.get("/api/tasks/stats")).json() == empty
