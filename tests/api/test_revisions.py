"""Entity tags, safe writes, the trash, changes and batch: what keeps clients in step."""

import json
import uuid
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from uuid_utils.compat import uuid7

from backend.api.responses import _fitting
from backend.config import Settings
from tests.api.shared import ABSENT, assert_problem, create, on_one_engine, tasks_of, token_of
from tests.applications import client_of, running
from tests.statements import recorded_statements

RULE = "validation_error"
READS = ["/api/tasks", "/api/tasks/stats", "/api/tasks/tags", "/api/tasks/changes"]


def quoted(task: dict[str, Any]) -> str:
    return f'"{task["etag"]}"'


# Entity tags


@pytest.mark.parametrize("path", READS)
async def test_what_is_known_is_304_without_a_body_until_something_changes(
    app: FastAPI, alice: httpx.AsyncClient, path: str
) -> None:
    task = None
    for most in (2, 1):  # of a user who has never written, and of one who has
        first = await alice.get(path)
        assert first.headers["ETag"].startswith('W/"')
        with recorded_statements(app.state.database) as statements:
            again = await alice.get(path, headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["ETag"] == first.headers["ETag"]
        whatever = await alice.get(path, headers={"If-None-Match": "*"})  # RFC 9110, section 13.1.2
        assert (whatever.status_code, whatever.headers["ETag"]) == (304, first.headers["ETag"])
        number, rest = first.headers["ETag"].removeprefix('W/"').split("-", 1)
        newer = f'W/"{int(number) + 1}-{rest}, {first.headers["ETag"]}'  # as of a database that was restored to before
        assert (await alice.get(path, headers={"If-None-Match": newer})).status_code == 304
        assert len(statements) == most
        task = await create(alice)
        assert (await alice.get(path, headers={"If-None-Match": first.headers["ETag"]})).status_code == 200
    assert task is not None
    await alice.post(f"/api/tasks/{task['id']}/toggle")
    assert (await alice.get(path, headers={"If-None-Match": first.headers["ETag"]})).status_code == 200


async def test_a_tag_of_another_page_of_changes_hides_nothing(alice: httpx.AsyncClient) -> None:
    """All have the same one: a client that sends the last it has got is told what comes next, or to start anew."""
    await batch(alice, *({"op": "put", "id": str(uuid7()), "task": {"title": "x"}} for _ in range(3)))
    page = await alice.get("/api/tasks/changes?limit=2")
    known = {"If-None-Match": page.headers["ETag"]}
    rest = await alice.get(f"/api/tasks/changes?since={page.json()['checkpoint']}", headers=known)
    assert (rest.status_code, len(rest.json()["changes"])) == (200, 1)
    task = rest.json()["changes"][0]
    await alice.delete(f"/api/tasks/{task['id']}")
    await alice.delete(f"/api/tasks/{task['id']}?permanent=true")
    known = {"If-None-Match": (await alice.get("/api/tasks")).headers["ETag"]}
    for headers in (known, {"If-None-Match": "*"}):
        expired = await alice.get(f"/api/tasks/changes?since={rest.json()['checkpoint']}", headers=headers)
        assert_problem(expired, 410, "checkpoint_expired")


@pytest.mark.parametrize("path", READS)
async def test_one_users_tag_is_not_anothers(alice: httpx.AsyncClient, bob: httpx.AsyncClient, path: str) -> None:
    await create(alice)
    await create(bob)
    tag = (await alice.get(path)).headers["ETag"]
    number = tag.partition('"')[2].partition("-")[0]
    owner = (await bob.get(path)).headers["ETag"].partition("-")[2]
    for sent in (tag, f'W/"{number}-', f'"{number}"', "garbage", f'W/"{number}0-{owner}'):
        assert (await bob.get(path, headers={"If-None-Match": sent})).status_code == 200


async def test_a_task_has_a_strong_tag_that_its_representation_holds(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    response = await alice.get(f"/api/tasks/{task['id']}")
    assert response.headers["ETag"] == quoted(task)
    newer = await create(alice)
    several = f"{quoted(task)}, {quoted(newer)}"
    for sent in (
        quoted(task),
        f"W/{quoted(task)}",
        f'"x", {quoted(task)}',
        several,
        "*",
        f"x{' ' * 300}{quoted(task)}",
    ):
        assert (await alice.get(f"/api/tasks/{task['id']}", headers={"If-None-Match": sent})).status_code == 304
    for sent in (quoted(newer), "", '"', f'"{task["etag"]}', task["etag"] + "0"):
        assert (await alice.get(f"/api/tasks/{task['id']}", headers={"If-None-Match": sent})).status_code == 200


async def test_an_if_match_that_names_no_tag_is_met_by_none(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    response = await alice.patch(f"/api/tasks/{task['id']}", json={"title": "x"}, headers={"If-Match": ""})
    assert_problem(response, 412, "precondition_failed")


@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("PATCH", "", {"title": "new"}),
        ("PATCH", "", {}),
        ("PATCH", "", {"completed": True}),
        ("PUT", "", {"title": "new"}),
        ("POST", "/toggle", None),
        ("POST", "/move", {"to": "last"}),
        ("DELETE", "", None),
    ],
)
async def test_a_write_of_another_state_is_412_with_the_task_as_it_is(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, method: str, suffix: str, body: dict[str, Any] | None
) -> None:
    old, other = await create(alice, "old"), await create(bob)
    path = f"/api/tasks/{old['id']}"
    now = (await alice.patch(path, json={"description": "changed meanwhile"})).json()
    for sent in (quoted(old), f"W/{quoted(now)}", quoted(other), '"x"', f'"{now["etag"]}x"'):
        response = await alice.request(method, path + suffix, json=body, headers={"If-Match": sent})
        document = assert_problem(response, 412, "precondition_failed")
        assert document["current"] == now
    assert await tasks_of(alice) == [now]
    for form in ('{old}, "{now}"', "*", "{now}"):
        sent = form.format(old=quoted(old), now=now["etag"])
        response = await alice.request(method, path + suffix, json=body, headers={"If-Match": sent})
        assert response.status_code in {200, 204}, response.text
        if method == "DELETE":
            restored = await alice.post(f"{path}/restore")
            assert restored.status_code == 200
        now = (await alice.get(path)).json()
    missing = await alice.request(method, f"/api/tasks/{uuid7()}{suffix}", json=body, headers={"If-Match": "*"})
    assert missing.status_code == (412 if method == "PUT" else 404)
    assert (missing.json()["detail"], "current" in missing.json()) == ("You have no task with this id here.", False)


@on_one_engine
@pytest.mark.parametrize("stale", [{}, {"If-Match": '"x"'}])
@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("PATCH", "", {"title": ""}),
        ("PATCH", "", {"id": ABSENT}),
        ("PATCH", "", {"due_date": None, "due_time": "09:00"}),
        ("PUT", "", {"id": ABSENT}),
        ("PUT", "", {"due_date": None, "recurrence": "FREQ=DAILY"}),
        ("POST", "/move", {"before": "{id}"}),
        ("POST", "/move", {"after": "{ID}"}),
        ("POST", "/toggle?x=1", None),
        ("POST", "/restore?x=1", None),
        ("DELETE", "?permanent=yes", None),
    ],
)
async def test_a_request_that_is_wrong_by_itself_is_422_whatever_the_task_is(
    alice: httpx.AsyncClient, method: str, suffix: str, body: dict[str, str] | None, stale: dict[str, str]
) -> None:
    task, missing, deleted = await create(alice), {"id": str(uuid7())}, await create(alice)
    await alice.delete(f"/api/tasks/{deleted['id']}")
    for each in (task, missing, deleted):
        sent = json.dumps(body).replace("{id}", each["id"]).replace("{ID}", each["id"].upper())
        path = f"/api/tasks/{each['id']}{suffix}"
        response = await alice.request(method, path, json=json.loads(sent), headers=stale)
        assert_problem(response, 422, "validation_error")
    assert await tasks_of(alice) == [task]


@on_one_engine
async def test_a_query_that_is_wrong_is_refused_also_to_who_knows_the_list(alice: httpx.AsyncClient) -> None:
    await create(alice)
    known = {"If-None-Match": (await alice.get("/api/tasks")).headers["ETag"]}
    for query in (
        "?cursor=x",
        "?order=asc,desc",
        "?deleted=true&sort=title",
        "?x",
        "/stats?limit=1",
        "/tags?x",
        "/changes?x",
    ):
        assert_problem(await alice.get(f"/api/tasks{query}", headers=known), 422, "validation_error")
    assert_problem(await alice.get("/api/tasks/changes?since=x", headers=known), 410, "checkpoint_expired")


# PUT


async def test_put_creates_changes_and_repeats(alice: httpx.AsyncClient) -> None:
    path = f"/api/tasks/{uuid7()}"
    created = await alice.put(path, json={"title": "one", "tags": ["a"]})
    assert (created.status_code, created.headers["Location"]) == (201, path)
    again = await alice.put(path, json={"title": "one", "tags": ["a"]})
    assert (again.status_code, again.json()) == (200, created.json())
    changed = await alice.put(path, json={"priority": "high"})
    assert changed.status_code == 200
    assert {name: changed.json()[name] for name in ("title", "tags", "priority")} == {
        "title": "one",
        "tags": ["a"],
        "priority": "high",
    }
    assert changed.json()["etag"] != created.json()["etag"]
    assert await tasks_of(alice) == [changed.json()]


async def test_put_creates_only_where_it_says_so(alice: httpx.AsyncClient) -> None:
    task = await create(alice, "one")
    path, headers = f"/api/tasks/{task['id']}", {"If-None-Match": "*"}
    assert (await alice.put(path, json={"title": "one"}, headers=headers)).json() == task
    response = await alice.put(path, json={"title": "two"}, headers=headers)
    assert assert_problem(response, 412, "precondition_failed")["current"] == task
    assert (await alice.put(f"/api/tasks/{uuid7()}", json={"title": "x"}, headers=headers)).status_code == 201


async def test_put_of_a_new_task_needs_a_title_and_a_version_7(alice: httpx.AsyncClient) -> None:
    response = await alice.put(f"/api/tasks/{uuid7()}", json={"priority": "low"})
    assert_problem(response, 422, "validation_error", ("body", "/title", "required"))
    response = await alice.put(f"/api/tasks/{uuid7()}", json={"title": "x", "due_time": "09:00"})
    assert_problem(response, 422, "validation_error", ("body", "/due_time", "needs_due_date"))
    response = await alice.put(f"/api/tasks/{uuid.uuid4()}", json={"title": "x"})
    assert_problem(response, 422, "validation_error", ("path", "/id", "not_a_uuid7"))


# The trash


async def test_a_deleted_task_can_be_restored_and_a_late_put_does_not(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    path = f"/api/tasks/{task['id']}"
    assert (await alice.delete(path)).status_code == 204
    assert_problem(await alice.get(path), 404, "task_not_found")
    for body in ({"title": "x"}, {}):
        for headers in ({}, {"If-Match": "*"}):
            assert_problem(await alice.put(path, json=body, headers=headers), 410, "task_deleted")
    (trashed,) = (await alice.get("/api/tasks?deleted=true")).json()
    assert trashed["deleted_at"]
    restored = (await alice.post(f"{path}/restore")).json()
    assert {**restored, "etag": task["etag"], "updated_at": task["updated_at"]} == task
    assert_problem(await alice.post(f"{path}/restore"), 404, "task_not_found")
    assert_problem(await alice.delete(f"{path}?permanent=true"), 404, "task_not_found")
    await alice.delete(path)
    assert (await alice.delete(f"{path}?permanent=true")).status_code == 204
    assert (await alice.get("/api/tasks?deleted=true")).json() == []
    assert_problem(await alice.post(f"{path}/restore"), 404, "task_not_found")


async def test_the_trash_lists_the_latest_deletion_first_and_pages(alice: httpx.AsyncClient) -> None:
    tasks = [await create(alice, title) for title in "abc"]
    for task in (tasks[1], tasks[0], tasks[2]):
        await alice.delete(f"/api/tasks/{task['id']}")
    page = await alice.get("/api/tasks?deleted=true&limit=2&count=true")
    assert ([task["title"] for task in page.json()], page.headers["X-Total-Count"]) == (["c", "a"], "3")
    rest = await alice.get(page.links["next"]["url"])
    assert [task["title"] for task in rest.json()] == ["b"]
    response = await alice.get("/api/tasks?deleted=true&completed=true")
    assert_problem(response, 422, "validation_error", ("query", "/completed", "conflict"))


async def test_everything_is_erased_where_exactly_that_is_said(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    kept = await create(bob)
    checkpoint = (await alice.get("/api/tasks/changes")).json()["checkpoint"]
    first, second = await create(alice), await create(alice)
    late = (await alice.get("/api/tasks/changes")).json()["checkpoint"]
    await alice.delete(f"/api/tasks/{first['id']}")
    for query in ("all=false", "all=true&completed=true", "all=1", ""):
        assert_problem(await alice.delete(f"/api/tasks?{query}"), 422, "validation_error")
    assert "all=true" in (await alice.delete("/api/tasks")).json()["detail"]
    assert [task["id"] for task in await tasks_of(alice)] == [second["id"]]
    assert (await alice.delete("/api/tasks?all=true")).json() == {"deleted": 2}
    assert await tasks_of(alice) == (await alice.get("/api/tasks?deleted=true")).json() == []
    new = await create(alice)
    assert_problem(await alice.get(f"/api/tasks/changes?since={late}"), 410, "checkpoint_expired")
    page = await alice.get(f"/api/tasks/changes?since={checkpoint}")
    assert page.json()["changes"] == [new], "who has seen nothing has nothing to forget"
    assert await tasks_of(bob) == [kept]


# Following


async def follow(client: httpx.AsyncClient, replica: dict[str, Any], checkpoint: str | None, limit: int = 2) -> str:
    """Apply changes until there are no more."""
    more = True
    while more:
        query = f"limit={limit}" + (f"&since={checkpoint}" if checkpoint else "")
        page = (await client.get(f"/api/tasks/changes?{query}")).json()
        for change in page["changes"]:
            if change.get("deleted"):
                replica.pop(change["id"], None)
            else:
                replica[change["id"]] = change
        checkpoint, more = page["checkpoint"], page["more"]
    assert checkpoint is not None
    return checkpoint


async def test_a_replica_equals_the_list(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    replica: dict[str, Any] = {}
    tasks = [await create(alice, title) for title in "abcde"]
    checkpoint = await follow(alice, replica, None)
    assert replica == {task["id"]: task for task in await tasks_of(alice)}
    await alice.delete(f"/api/tasks/{tasks[0]['id']}")
    await alice.post(f"/api/tasks/{tasks[1]['id']}/toggle")
    await alice.post("/api/tasks/bulk-complete", json={"task_ids": [task["id"] for task in tasks[2:]]})
    await create(bob)
    await alice.post("/api/tasks/transfer", json={"from_token": token_of(bob)})
    checkpoint = await follow(alice, replica, checkpoint)
    assert replica == {task["id"]: task for task in await tasks_of(alice)}
    await alice.delete("/api/tasks?completed=true")
    await alice.post(f"/api/tasks/{tasks[0]['id']}/restore")
    await follow(alice, replica, checkpoint)
    assert replica == {task["id"]: task for task in await tasks_of(alice)}


@pytest.mark.parametrize("sent", ["", "x", "A" * 52, "é" * 20, "A" * 5000])
async def test_what_is_no_checkpoint_of_the_user_has_expired(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, sent: str
) -> None:
    await create(alice)
    checkpoint = (await alice.get("/api/tasks/changes")).json()["checkpoint"]
    for client, text in ((alice, sent), (bob, checkpoint), (alice, checkpoint[:-1]), (alice, f"{checkpoint}A")):
        response = await client.get("/api/tasks/changes", params={"since": text})
        assert_problem(response, 410, "checkpoint_expired")


async def test_a_page_of_changes_ends_at_a_mebibyte(alice: httpx.AsyncClient) -> None:
    description = "\U0001f600" * 2000
    for _ in range(2):
        operations = [
            {"op": "put", "id": str(uuid7()), "task": {"title": "x", "description": description}} for _ in range(100)
        ]
        await batch(alice, *operations)
    seen: set[str] = set()
    since: dict[str, str] = {}
    pages = 0
    while True:
        response = await alice.get("/api/tasks/changes", params={"limit": 500, **since})
        assert len(response.content) <= 1024 * 1024
        page = response.json()
        seen |= {task["id"] for task in page["changes"]}
        since, pages = {"since": page["checkpoint"]}, pages + 1
        if not page["more"]:
            break
    assert (len(seen), pages) == (200, 2)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1022, 1023, 1024])
def test_no_content_is_a_byte_over_its_limit(size: int) -> None:
    values = [f"{number % 10}" * (size - 1) for number in range(1000)]  # with quotes and a comma: size + 2 bytes each
    for limit in range(size + 3, 5 * (size + 2), max(1, size // 50)):
        content, shown = _fitting(TypeAdapter(list[str]), values, limit)
        assert json.loads(content) == values[:shown]
        assert len(content) <= limit < len(content) + size + 2


async def test_a_giver_of_tasks_starts_anew(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await create(bob)
    checkpoint = (await bob.get("/api/tasks/changes")).json()["checkpoint"]
    await alice.post("/api/tasks/transfer", json={"from_token": token_of(bob)})
    assert_problem(await bob.get(f"/api/tasks/changes?since={checkpoint}"), 410, "checkpoint_expired")


async def test_what_was_erased_expires_older_checkpoints_only(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    before = (await alice.get("/api/tasks/changes")).json()["checkpoint"]
    await alice.delete(f"/api/tasks/{task['id']}")
    after = (await alice.get("/api/tasks/changes")).json()["checkpoint"]
    await alice.delete(f"/api/tasks/{task['id']}?permanent=true")
    assert_problem(await alice.get(f"/api/tasks/changes?since={before}"), 410, "checkpoint_expired")
    assert (await alice.get(f"/api/tasks/changes?since={after}")).json()["changes"] == []


# Batch


async def batch(client: httpx.AsyncClient, *operations: Any, **options: Any) -> httpx.Response:
    return await client.post("/api/tasks/batch", json={"operations": list(operations), **options})


async def test_a_batch_does_each_operation_in_order(app: FastAPI, alice: httpx.AsyncClient) -> None:
    old, gone = await create(alice, "old"), await create(alice, "gone")
    await alice.delete(f"/api/tasks/{gone['id']}")
    new = str(uuid7())
    with recorded_statements(app.state.database) as statements:
        response = await batch(
            alice,
            {"op": "put", "id": new, "task": {"title": "new"}},
            {"op": "patch", "id": new, "task": {"priority": "high"}},
            {"op": "toggle", "id": old["id"], "if_match": old["etag"]},
            {"op": "restore", "id": gone["id"]},
            {"op": "delete", "id": new},
        )
    assert response.status_code == 200, response.text
    results = response.json()["results"]
    assert [result["status"] for result in results] == [201, 200, 200, 200, 204]
    assert results[1]["task"]["priority"] == "high"
    assert results[2]["task"] == (await alice.get(f"/api/tasks/{old['id']}")).json()
    assert {task["id"] for task in await tasks_of(alice)} == {old["id"], gone["id"]}
    assert len(statements) <= 7, "lock, read, update, insert, and what begins and ends the transaction"


@pytest.mark.parametrize(
    ("operation", "status", "code", "pointer"),
    [
        ({"op": "patch", "id": ABSENT, "task": {}}, 404, "task_not_found", "/operations/1"),
        ({"op": "put", "id": "{gone}", "task": {"title": "x"}}, 410, "task_deleted", "/operations/1"),
        ({"op": "toggle", "id": "{old}", "if_match": "1-x"}, 412, "precondition_failed", "/operations/1"),
        (
            {"op": "patch", "id": "{old}", "task": {"due_time": "09:00"}},
            422,
            "validation_error",
            "/operations/1/task/due_time",
        ),
        ({"op": "patch", "id": "{old}", "task": {"title": " "}}, 422, RULE, "/operations/1/task/title"),
        ({"op": "fly", "id": "{old}"}, 422, RULE, "/operations/1"),
        ({"op": "toggle", "id": "{old}", "task": {}}, 422, RULE, "/operations/1/task"),
        ({"op": "put", "id": ABSENT.replace("-7", "-4"), "task": {}}, 422, RULE, "/operations/1/id"),
    ],
)
async def test_a_batch_that_fails_has_done_nothing(
    alice: httpx.AsyncClient, operation: dict[str, Any], status: int, code: str, pointer: str
) -> None:
    old, gone = await create(alice, "old"), await create(alice, "gone")
    await alice.delete(f"/api/tasks/{gone['id']}")
    ids = {"{old}": old["id"], "{gone}": gone["id"]}
    operation = operation | {"id": ids.get(operation["id"], operation["id"])}
    before = (await alice.get("/api/tasks")).headers["ETag"]
    response = await batch(alice, {"op": "toggle", "id": old["id"]}, operation)
    assert response.status_code == status, response.text
    document = response.json()
    assert (document["code"], document["errors"][0]["pointer"]) == (code, pointer)
    if status == 412:
        assert document["current"] == old, "what is stored, not what the batch would have made of it"
    assert await tasks_of(alice) == [old]
    assert (await alice.get("/api/tasks")).headers["ETag"] == before


async def test_of_a_batch_that_fails_nothing_is_said_of_a_task_that_was_not_written(alice: httpx.AsyncClient) -> None:
    old, new = await create(alice, "old"), str(uuid7())
    task = f"/api/tasks/{old['id']}"
    deleted = {"op": "delete", "id": old["id"]}
    toggled = {"op": "toggle", "id": old["id"], "if_match": old["etag"]}
    made = {"op": "put", "id": new, "task": {"title": "new"}}
    for status, operations in (
        (410, [deleted, {"op": "put", "id": old["id"], "task": {"title": "x"}}]),
        (404, [deleted, {"op": "toggle", "id": old["id"]}]),
        (412, [toggled, toggled]),
        (412, [made, {"op": "toggle", "id": new, "if_match": "1-x"}]),
    ):
        response = await batch(alice, *operations)
        document = response.json()
        assert response.status_code == status
        details = {document["detail"], document["errors"][0]["detail"]}
        assert details == {"An operation before this one changes the task; nothing was written."}
    untouched = await batch(alice, {"op": "toggle", "id": old["id"]}, {"op": "toggle", "id": ABSENT})
    assert untouched.json()["detail"] == "You have no task with this id here."
    assert (await alice.get(task)).json() == old


async def test_each_operation_stands_alone_where_that_is_said(alice: httpx.AsyncClient) -> None:
    old = await create(alice)
    response = await batch(
        alice,
        {"op": "patch", "id": ABSENT, "task": {"title": "x"}},
        {"op": "toggle", "id": old["id"]},
        {"op": "patch", "id": old["id"], "task": {"title": " "}},
        {"op": "fly"},
        7,
        atomic=False,
    )
    first, second, third, fourth, fifth = response.json()["results"]
    assert (third["id"], third["status"]) == (old["id"], 422)
    assert third["problem"]["errors"][0]["pointer"] == "/operations/2/task/title"
    assert [(each["id"], each["status"]) for each in (fourth, fifth)] == [(None, 422)] * 2
    assert (first["status"], first["problem"]["code"]) == (404, "task_not_found")
    assert (second["status"], second["task"]["completed"]) == (200, True)
    assert await tasks_of(alice) == [second["task"]]


async def test_a_dry_run_changes_nothing(alice: httpx.AsyncClient) -> None:
    old = await create(alice)
    response = await batch(alice, {"op": "toggle", "id": old["id"]}, dry_run=True)
    assert response.json()["results"][0]["task"]["completed"] is True
    assert await tasks_of(alice) == [old]
    response = await batch(alice, {"op": "toggle", "id": old["id"]}, dry_run=True, atomic=False)
    assert_problem(response, 422, "validation_error")


# Limits


async def test_a_user_has_as_many_tasks_as_may_be(settings: Settings, user_id: Any) -> None:
    changed = settings.model_copy(update={"max_tasks_per_user": 2})
    async with running(changed) as app, client_of(app, settings, user_id("carol")) as carol:
        task = await create(carol)
        await create(carol)
        assert_problem(await carol.post("/api/tasks", json={"title": "x"}), 409, "too_many_tasks")
        assert_problem(await carol.put(f"/api/tasks/{uuid7()}", json={"title": "x"}), 409, "too_many_tasks")
        response = await batch(carol, {"op": "put", "id": str(uuid7()), "task": {"title": "x"}})
        assert response.json()["code"] == "too_many_tasks"
        for write in (  # what is wrong with it as such comes first
            carol.post("/api/tasks", json={"title": "x", "due_time": "09:00"}),
            carol.put(f"/api/tasks/{uuid7()}", json={"title": "x", "due_time": "09:00"}),
            batch(carol, {"op": "put", "id": str(uuid7()), "task": {"title": "x", "due_time": "09:00"}}),
        ):
            assert_problem(await write, 422, "validation_error")
        await carol.delete(f"/api/tasks/{task['id']}")
        assert_problem(await carol.post("/api/tasks", json={"title": "x"}), 409, "too_many_tasks")
        await carol.delete(f"/api/tasks/{task['id']}?permanent=true")
        await create(carol)
