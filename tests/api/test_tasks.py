"""The routes of tasks, as their owner sees them."""

import httpx


async def test_a_task_is_created_and_read(alice: httpx.AsyncClient) -> None:
    created = await alice.post("/api/tasks", json={"title": "  Buy milk  "})
    assert created.status_code == 201
    task = created.json()
    assert task["title"] == "Buy milk"
    assert created.headers["Location"] == f"/api/tasks/{task['id']}"
    assert (await alice.get(created.headers["Location"])).json() == task
