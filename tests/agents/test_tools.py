"""The tools, by the SDK's own client: in both of the protocol's forms, on both engines."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from mcp import Client, MCPError
from mcp_types import CallToolResult, TextContent

from backend.config import Settings
from backend.models.task import READ_ONLY
from backend.services.tasks import TaskService
from tests.agents.conftest import Agent
from tests.applications import client_of

UserId = Callable[[str], str]
MISSING = "01a1f8c2-1ab9-7056-82ff-74112b383c12"


def text_of(result: CallToolResult) -> str:
    (content,) = result.content
    assert isinstance(content, TextContent)
    return content.text


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that must succeed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert json.loads(text_of(result)) == result.structured_content
    return result.structured_content


async def fail(client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool that must fail, and return what the agent is told."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert result.structured_content is None
    return json.loads(text_of(result))


def titles(result: Any) -> list[str]:
    return [task["title"] for task in result["tasks"]]


async def test_the_five_tools_and_what_they_say_of_themselves(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert client.server_capabilities.prompts is None
        assert client.server_capabilities.resources is None
    hints = {
        name: (each.annotations.read_only_hint, each.annotations.destructive_hint, each.annotations.idempotent_hint)
        for name, each in tools.items()
        if each.annotations is not None
    }
    assert hints == {
        "add_task": (False, False, False),
        "list_tasks": (True, False, True),
        "update_task": (False, True, True),
        "complete_task": (False, False, True),
        "delete_task": (False, True, False),
    }
    for tool in tools.values():
        assert tool.description
        assert READ_ONLY.isdisjoint(tool.input_schema["properties"])  # they would only be noise to an agent
        for schema in (tool.input_schema, tool.output_schema):
            assert schema is not None
            assert schema["type"] == "object"
            assert not {"oneOf", "anyOf", "allOf", "$defs"} & schema.keys()
            assert "default" not in json.dumps(schema) or tool.name == "list_tasks"


async def test_an_agent_plans_a_day(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        added = await call(
            client,
            "add_task",
            tasks=[
                {"title": "Buy milk", "tags": ["shop"], "due_date": "2026-12-01"},
                {"title": "Buy bread", "tags": ["shop"], "priority": "high"},
                {"title": "Water plants", "due_date": "2026-12-01", "recurrence": "FREQ=DAILY"},
            ],
        )
        milk, bread, plants = added["tasks"]
        assert titles(await call(client, "list_tasks", tag=["shop"], sort="title")) == ["Buy bread", "Buy milk"]

        page = await call(client, "list_tasks", sort="title", limit=2)
        assert titles(page) == ["Buy bread", "Buy milk"]
        page = await call(client, "list_tasks", sort="title", limit=2, cursor=page["next_cursor"])
        assert (titles(page), page["next_cursor"]) == (["Water plants"], None)

        changed = await call(client, "update_task", match="BREAD", title="Buy rye bread", priority=None)
        assert [(task["title"], task["priority"]) for task in changed["tasks"]] == [("Buy rye bread", None)]
        completed = await call(client, "complete_task", ids=[milk["id"], plants["id"]])
        assert [task["completed"] for task in completed["tasks"]] == [True, True]
        assert titles(await call(client, "list_tasks", completed=False, search="plants")) == ["Water plants"]

        deleted = await call(client, "delete_task", id=bread["id"])
        assert titles(deleted) == ["Buy rye bread"]
        assert "Buy rye bread" not in titles(await call(client, "list_tasks"))


async def test_what_an_agent_deletes_its_user_brings_back(
    agent: Agent, agent_app: FastAPI, agent_settings: Settings, user_id: UserId
) -> None:
    alice = user_id("alice")
    async with agent(alice) as client, client_of(agent_app, agent_settings, alice) as page:
        task = (await call(client, "add_task", title="keep me"))["tasks"][0]
        await call(client, "delete_task", match="keep")
        assert [each["id"] for each in (await page.get("/api/tasks?deleted=true")).json()] == [task["id"]]
        assert (await page.post(f"/api/tasks/{task['id']}/restore")).status_code == 200


async def test_several_are_changed_or_none(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        refused = await fail(client, "add_task", tasks=[{"title": "a"}, {"title": "b"}, {"title": " "}])
        assert refused["errors"][0]["pointer"] == "/tasks/2/title"
        assert titles(await call(client, "list_tasks")) == []

        task = (await call(client, "add_task", title="a"))["tasks"][0]
        for tool, more in (("complete_task", {}), ("delete_task", {}), ("update_task", {"title": "b"})):
            refused = await fail(client, tool, ids=[task["id"], MISSING], **more)
            assert (refused["code"], refused["errors"][0]["pointer"]) == ("task_not_found", "/ids/1")
            assert (await fail(client, tool, id=MISSING, **more))["errors"][0]["pointer"] == "/id"
            refused = await fail(client, tool, ids=[task["id"], task["id"], MISSING], **more)
            assert refused["errors"][0]["pointer"] == "/ids/2"
        assert (await call(client, "list_tasks"))["tasks"] == [task]

        refused = await fail(client, "update_task", id=task["id"], due_time="09:00")
        assert refused["errors"][0] == {
            "pointer": "/due_time",
            "code": "needs_due_date",
            "detail": "needs a due_date",
        }


async def test_a_call_that_is_repeated_changes_nothing(agent: Agent, user_id: UserId) -> None:
    rule = {"due_date": "2026-12-01", "recurrence": "FREQ=DAILY"}
    async with agent(user_id("alice")) as client:
        one, other = (await call(client, "add_task", tasks=[{"title": "a"}, {"title": "b", **rule}]))["tasks"]
        for tool, more in (
            ("complete_task", {"ids": [one["id"], other["id"]]}),
            ("update_task", {"id": one["id"], "title": "c", "tags": ["x", "y"]}),
            ("update_task", {"id": one["id"], "completed": False}),
            ("update_task", {"id": one["id"], "completed": True, **rule}),  # which makes a successor, once
            ("update_task", {"id": one["id"], "due_date": None}),
        ):
            changed = await call(client, tool, **more)
            stored = await call(client, "list_tasks")
            assert await call(client, tool, **more) == changed
            assert await call(client, "list_tasks") == stored
        assert len(stored["tasks"]) == 4


async def test_a_part_of_a_title_names_a_task_where_it_is_in_no_other(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        tasks = [{"title": "Call Ann"}, {"title": "call bob", "description": "about Zoe"}]
        ann, bob = (await call(client, "add_task", tasks=tasks))["tasks"]

        refused = await fail(client, "complete_task", match="CALL")
        assert refused["code"] == "ambiguous_match"
        assert ann["id"] in refused["detail"]
        assert bob["id"] in refused["detail"]
        for absent in ("Zoe", "call  bob", "%"):  # a description is no title, and a blank counts
            refused = await fail(client, "delete_task", match=absent)
            assert refused["code"] == "task_not_found"
            assert "list_tasks" in refused["detail"]
        assert (await call(client, "list_tasks"))["tasks"] == [bob, ann]
        assert titles(await call(client, "complete_task", match=" l Bo ")) == ["call bob"]


WRONG_ARGUMENTS: list[tuple[str, dict[str, Any], str, str]] = [
    ("add_task", {"title": 7}, "/title", "not_a_string"),
    ("add_task", {"title": "a", "completed": "true"}, "/completed", "not_a_boolean"),
    ("add_task", {"title": "a", "owner": "bob"}, "/owner", "unknown_field"),
    ("add_task", {"title": "a", "tasks": [{"title": "b"}]}, "/title", "unknown_field"),
    ("add_task", {"tasks": []}, "/tasks", "too_short"),
    ("add_task", {"tasks": ["a"]}, "/tasks/0", "not_an_object"),
    ("add_task", {}, "/title", "required"),
    ("list_tasks", {"completed": "true"}, "/completed", "not_a_boolean"),
    ("list_tasks", {"limit": "5"}, "/limit", "not_an_integer"),
    ("list_tasks", {"limit": True}, "/limit", "not_an_integer"),
    ("list_tasks", {"limit": 501}, "/limit", "out_of_range"),
    ("list_tasks", {"search": None}, "/search", "not_a_string"),
    ("list_tasks", {"tag": "home"}, "/tag", "not_a_list"),
    ("list_tasks", {"tag": [1]}, "/tag/0", "not_a_string"),
    ("list_tasks", {"skip": 1}, "/skip", "unknown_field"),
    ("list_tasks", {"x" * 65: 1}, "", "unknown_field"),
    ("list_tasks", {"sort": "owner"}, "/sort", "unknown_order"),
    ("list_tasks", {"cursor": "bad"}, "/cursor", "invalid_cursor"),
    ("update_task", {"title": "a"}, "", "one_of"),
    ("update_task", {"id": MISSING, "match": "a", "title": "b"}, "", "one_of"),
    ("update_task", {"id": "not an id", "title": "b"}, "/id", "not_a_uuid"),
    ("update_task", {"id": MISSING, "skip": 1}, "/skip", "unknown_field"),
    ("complete_task", {"ids": []}, "/ids", "too_short"),
    ("complete_task", {"ids": MISSING}, "/ids", "not_a_list"),
    ("complete_task", {"id": MISSING, "completed": False}, "/completed", "unknown_field"),
    ("delete_task", {"match": " "}, "/match", "blank"),
    ("delete_task", {"match": "\0"}, "/match", "invalid_character"),
    ("delete_task", {"match": 1}, "/match", "not_a_string"),
    ("delete_task", {"id": None}, "/id", "not_a_uuid"),
]


async def test_an_argument_is_taken_as_it_is_or_refused_by_its_place(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        for tool, arguments, pointer, code in WRONG_ARGUMENTS:
            refused = await fail(client, tool, **arguments)
            error = refused["errors"][0]
            assert (refused["code"], error["pointer"], error["code"]) == ("validation_error", pointer, code), arguments
        assert titles(await call(client, "list_tasks")) == []


async def test_a_refusal_speaks_of_arguments(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        for tool in ("add_task", "list_tasks"):
            assert (await fail(client, tool, title="a", id=MISSING))["errors"][-1] == {
                "pointer": "/id",
                "code": "unknown_field",
                "detail": "is not a field of this request",
            }
        refused = await fail(client, "delete_task")
        assert refused["detail"] == "arguments: needs exactly one of id, ids and match"


async def test_a_refusal_does_not_repeat_what_was_wrong(agent: Agent, user_id: UserId) -> None:
    text = "a-text-that-nobody-wants-to-see-again"
    async with agent(user_id("alice")) as client:
        for tool in ("add_task", "list_tasks", "update_task", "complete_task", "delete_task"):
            for name in ("title", "id", "cursor", "sort", "due_date", text):
                result = await client.call_tool(tool, {name: [text]})
                assert result.is_error
                assert text not in text_of(result) or name == text


async def test_two_users_at_once_see_nothing_of_each_other(agent: Agent, user_id: UserId) -> None:
    async def work(name: str) -> set[str]:
        async with agent(user_id(name)) as client:
            for number in range(5):
                await call(client, "add_task", title=f"{name} {number}")
                await call(client, "complete_task", match=f"{name} {number}")
            return {title.split()[0] for title in titles(await call(client, "list_tasks"))}

    assert list(await asyncio.gather(work("alice"), work("bob"))) == [{"alice"}, {"bob"}]


async def test_an_unknown_tool_is_a_protocol_error(agent: Agent, user_id: UserId) -> None:
    async with agent(user_id("alice")) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("drop_table", {})
        assert (raised.value.code, raised.value.message) == (-32602, "Unknown tool")


async def test_a_bug_is_told_without_its_text(
    agent: Agent, user_id: UserId, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("db.internal password=hunter2")

    monkeypatch.setattr(TaskService, "list", broken)
    async with agent(user_id("alice")) as client:
        with pytest.raises(MCPError) as raised:
            await client.call_tool("list_tasks", {})
    assert (raised.value.code, raised.value.message) == (-32603, "Internal error")
    assert any(record.message == "unexpected error" for record in caplog.records)
