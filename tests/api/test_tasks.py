"""One task as its owner sees it: created, read, changed, toggled, deleted."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from backend.api.openapi import TASK_EXAMPLE
from backend.models.task import TaskBase, TaskPublic
from tests.api.shared import ABSENT, assert_problem, create, tasks_of

MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
# What Unicode calls white space, and what str.strip() removes beside it.
WHITE_SPACE = "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B)))
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"
GRINNING = "\U0001f600"
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"  # one picture, five code points


def moment(text: str) -> datetime:
    assert MOMENT.fullmatch(text)
    return datetime.fromisoformat(text)


async def test_a_new_task_has_all_fields_and_an_address(alice: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    response = await alice.post("/api/tasks", json={"title": "Buy milk"})
    assert response.status_code == 201
    task = response.json()
    assert list(task) == list(TaskPublic.__annotations__)
    assert (task["title"], task["description"], task["completed"]) == ("Buy milk", None, False)
    assert UUID(task["id"]).version == 7
    assert before <= moment(task["created_at"]) <= datetime.now(UTC)
    assert task["updated_at"] == task["created_at"]
    assert response.headers["Location"] == f"/api/tasks/{task['id']}"
    assert (await alice.get(response.headers["Location"])).json() == task


async def test_a_new_task_may_have_all_that_a_client_can_set(alice: httpx.AsyncClient) -> None:
    sent = {name: TASK_EXAMPLE[name] for name in TaskBase.model_fields}
    task = (await alice.post("/api/tasks", json=sent)).json()
    assert {name: task[name] for name in sent} == sent
    assert (await tasks_of(alice)) == [task]


async def test_ids_grow_with_time(alice: httpx.AsyncClient) -> None:
    ids = [(await create(alice))["id"] for _ in range(20)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(
    ("sent", "stored"),
    [
        pytest.param("  Buy milk\n", "Buy milk", id="spaces around"),
        pytest.param("Buy  \t milk", "Buy  \t milk", id="spaces within"),
        pytest.param(f"{WHITE_SPACE}x{WHITE_SPACE}", "x", id="all of Unicode's white space"),
        pytest.param("\u200bx\u200b", "\u200bx\u200b", id="zero width is no white space"),
        pytest.param("\ufeffx", "\ufeffx", id="a byte order mark is no white space"),
        pytest.param("x" * 200, "x" * 200, id="200 letters"),
        pytest.param(" " * 500 + "x" * 200 + " " * 500, "x" * 200, id="200 letters in a thousand spaces"),
        pytest.param(GRINNING * 200, GRINNING * 200, id="200 emoji"),
        pytest.param(FAMILY * 40, FAMILY * 40, id="40 families of 5"),
        pytest.param("e\u0301" * 100, "e\u0301" * 100, id="100 letters with combining accents"),
        pytest.param("\u202egnp.exe", "\u202egnp.exe", id="right to left"),
        pytest.param("<script>'\"%_\\", "<script>'\"%_\\", id="characters that mean something elsewhere"),
        pytest.param("a\x01\x7f\x9f", "a\x01\x7f\x9f", id="control characters"),
        pytest.param("\uffff\U0010ffff", "\uffff\U0010ffff", id="noncharacters"),
    ],
)
async def test_a_title_is_trimmed_and_otherwise_kept(alice: httpx.AsyncClient, sent: str, stored: str) -> None:
    task = await create(alice, sent)
    assert task["title"] == stored
    patched = await alice.patch(f"/api/tasks/{task['id']}", json={"title": sent})
    assert patched.json()["title"] == stored
    assert (await tasks_of(alice))[0]["title"] == stored


@pytest.mark.parametrize(
    ("title", "code"),
    [
        pytest.param("", "blank", id="empty"),
        pytest.param("   ", "blank", id="spaces"),
        pytest.param(WHITE_SPACE, "blank", id="all of Unicode's white space"),
        pytest.param("x" * 201, "too_long", id="201 letters"),
        pytest.param(GRINNING * 201, "too_long", id="201 emoji"),
        pytest.param("x" * 60_000, "too_long", id="60,000 letters"),
        pytest.param("e\u0301" * 101, "too_long", id="101 letters with combining accents"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_title_out_of_bounds_is_refused(alice: httpx.AsyncClient, method: str, title: str, code: str) -> None:
    task = await create(alice)
    path = "/api/tasks" if method == "POST" else f"/api/tasks/{task['id']}"
    response = await alice.request(method, path, json={"title": title})
    assert_problem(response, 422, "validation_error", ("body", "/title", code))
    assert await tasks_of(alice) == [task]


@pytest.mark.parametrize(
    "description",
    [
        pytest.param("", id="empty"),
        pytest.param("  \n as sent \t", id="spaces around"),
        pytest.param("x" * 2000, id="2000 letters"),
        pytest.param(GRINNING * 2000, id="2000 emoji"),
        pytest.param("\r\n\x01\ufeff\u2028", id="odd characters"),
        pytest.param(None, id="null"),
    ],
)
async def test_a_description_is_stored_as_sent(alice: httpx.AsyncClient, description: str | None) -> None:
    task = await create(alice, description=description)
    assert task["description"] == description
    other = await create(alice, description="other")
    patched = await alice.patch(f"/api/tasks/{other['id']}", json={"description": description})
    assert patched.json()["description"] == description
    assert [each["description"] for each in await tasks_of(alice)] == [description, description]


@pytest.mark.parametrize("description", ["x" * 2001, " " * 2001, GRINNING * 2001], ids=["letters", "spaces", "emoji"])
async def test_a_description_past_2000_characters_is_refused(alice: httpx.AsyncClient, description: str) -> None:
    task = await create(alice)
    for response in (
        await alice.post("/api/tasks", json={"title": "x", "description": description}),
        await alice.patch(f"/api/tasks/{task['id']}", json={"description": description}),
    ):
        assert_problem(response, 422, "validation_error", ("body", "/description", "too_long"))
    assert await tasks_of(alice) == [task]


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"title": "Other"}, id="title"),
        pytest.param({"description": "Other"}, id="description"),
        pytest.param({"description": None}, id="description null"),
        pytest.param({"completed": True}, id="completed"),
        pytest.param({"title": "Other", "completed": True}, id="two"),
        pytest.param({"title": "Other", "description": None, "completed": True}, id="all"),
        pytest.param({"title": "A task", "description": "Some", "completed": False}, id="equal values"),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", "application/merge-patch+json"])
async def test_a_patch_changes_what_it_names_and_moves_updated_at(
    alice: httpx.AsyncClient, patch: dict[str, Any], media_type: str
) -> None:
    task = await create(alice, description="Some")
    response = await alice.patch(f"/api/tasks/{task['id']}", json=patch, headers={"Content-Type": media_type})
    assert response.status_code == 200
    changed = response.json()
    moved = {name: changed[name] for name in ("updated_at", "etag", "completed_at")}
    assert changed == {**task, **patch, **moved}
    assert changed["etag"] != task["etag"]
    assert moment(changed["updated_at"]) > moment(task["updated_at"])
    assert await tasks_of(alice) == [changed]


async def test_an_empty_patch_changes_nothing(alice: httpx.AsyncClient) -> None:
    task = await create(alice, description="Some")
    response = await alice.patch(f"/api/tasks/{task['id']}", json={})
    assert (response.status_code, response.json()) == (200, task)
    assert await tasks_of(alice) == [task]


async def test_an_empty_patch_of_an_absent_task_is_404(alice: httpx.AsyncClient) -> None:
    assert_problem(await alice.patch(f"/api/tasks/{ABSENT}", json={}), 404, "task_not_found")


@pytest.mark.parametrize(("name", "code"), [("title", "not_a_string"), ("completed", "not_a_boolean")])
async def test_null_is_refused_but_for_the_description(alice: httpx.AsyncClient, name: str, code: str) -> None:
    task = await create(alice)
    for response in (
        await alice.post("/api/tasks", json={"title": "x", name: None}),
        await alice.patch(f"/api/tasks/{task['id']}", json={name: None}),
    ):
        assert_problem(response, 422, "validation_error", ("body", f"/{name}", code))
    assert await tasks_of(alice) == [task]


async def test_toggle_turns_completed_over_and_moves_updated_at(alice: httpx.AsyncClient) -> None:
    task = await create(alice, description="Some")
    for completed in (True, False, True):
        response = await alice.post(f"/api/tasks/{task['id']}/toggle")
        assert response.status_code == 200
        toggled = response.json()
        moved = {name: toggled[name] for name in ("updated_at", "etag")}
        completed_at = moved["updated_at"] if completed else None
        assert toggled == {**task, "completed": completed, **moved, "completed_at": completed_at}
        assert moment(toggled["updated_at"]) > moment(task["updated_at"])
        task = toggled
    assert await tasks_of(alice) == [task]


@pytest.mark.parametrize("content", [b"{}", b"not JSON", b"\xff\x00", b"x" * 65_536])
async def test_toggle_ignores_a_body(alice: httpx.AsyncClient, content: bytes) -> None:
    task = await create(alice)
    response = await alice.post(f"/api/tasks/{task['id']}/toggle", content=content)
    assert (response.status_code, response.json()["completed"]) == (200, True)


async def test_a_deleted_task_is_gone(alice: httpx.AsyncClient) -> None:
    gone, kept = await create(alice, "gone"), await create(alice, "kept")
    response = await alice.delete(f"/api/tasks/{gone['id']}")
    assert (response.status_code, response.content) == (204, b"")
    assert "Content-Type" not in response.headers
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/toggle")):
        body = {"title": "x"} if method == "PATCH" else None
        again = await alice.request(method, f"/api/tasks/{gone['id']}{path}", json=body)
        assert_problem(again, 404, "task_not_found")
    assert await tasks_of(alice) == [kept]


async def test_created_at_never_moves(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    assert moment(task["created_at"]) > datetime.now(UTC) - timedelta(minutes=1)
    for change in ({"title": "1"}, {"completed": True}, {"description": "2"}):
        changed = (await alice.patch(f"/api/tasks/{task['id']}", json=change)).json()
        assert changed["created_at"] == task["created_at"]
