"""What Todo-Backend's public specification asks of any service, through an adapter of its names."""

from typing import Any

import httpx
import pytest


class TodoBackend:
    """Their names for ours: `order` is `position`, `url` is the address, and the root is the list."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client

    async def request(self, method: str, url: str = "/api/tasks", **body: Any) -> Any:
        """Send a request, which must succeed, and return the todo or todos of its response."""
        if method == "DELETE" and url == "/api/tasks":
            url = "/api/tasks?all=true"
        if "order" in body:
            body["position"] = body.pop("order")
        response = await self.client.request(method, url, json=body or None)
        assert response.is_success, response.text
        if method == "DELETE":
            return None
        value = response.json()
        return [todo_of(task) for task in value] if isinstance(value, list) else todo_of(value)


def todo_of(task: dict[str, Any]) -> dict[str, Any]:
    """Return a task by their names."""
    return {**task, "order": task["position"], "url": f"/api/tasks/{task['id']}"}


@pytest.fixture
def todos(alice: httpx.AsyncClient) -> TodoBackend:
    """A user's todos: none yet."""
    return TodoBackend(alice)


async def test_the_list_is_read_filled_and_emptied(todos: TodoBackend) -> None:
    assert await todos.request("GET") == []
    todo = await todos.request("POST", title="a todo")
    assert todo["title"] == "a todo"
    assert await todos.request("GET") == [todo]
    await todos.request("DELETE")
    assert await todos.request("GET") == []


async def test_a_new_todo_is_active_and_has_an_address(todos: TodoBackend) -> None:
    todo = await todos.request("POST", title="a todo")
    assert todo["completed"] is False
    assert await todos.request("GET", todo["url"]) == todo
    (listed,) = await todos.request("GET")
    assert await todos.request("GET", listed["url"]) == todo


@pytest.mark.parametrize("change", [{"title": "another"}, {"completed": True}, {"order": 95}], ids=str)
async def test_a_change_is_returned_and_kept(todos: TodoBackend, change: dict[str, Any]) -> None:
    todo = await todos.request("POST", title="a todo", order=10)
    assert todo["order"] == 10
    changed = await todos.request("PATCH", todo["url"], **change)
    assert changed == {**changed, **change}
    assert await todos.request("GET", todo["url"]) == changed
    assert await todos.request("GET") == [changed]


async def test_a_todo_is_deleted(todos: TodoBackend) -> None:
    todo = await todos.request("POST", title="a todo")
    await todos.request("DELETE", todo["url"])
    assert await todos.request("GET") == []
