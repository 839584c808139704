"""Every operation under `/api`, once, as an example that succeeds: what the tests that hold for all of them go through.

A new route is not tested by them before it is in this table; `test_operations.py` fails until it is.
"""

from dataclasses import dataclass, field
from typing import Any

import httpx


@dataclass(frozen=True)
class Operation:
    """A method of a path. `{id}` and `{token}` stand for a task's id and another user's token."""

    method: str
    path: str
    status: int
    body: dict[str, Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    statements: int = 1
    """How many it runs on a task that is there, besides those that begin and end a transaction."""

    @property
    def of_one_task(self) -> bool:
        """True where the path names a task."""
        return "{id}" in self.path

    @property
    def name(self) -> str:
        """What the operation is called in a test's id."""
        return f"{self.method} {self.path}"

    async def call(
        self, client: httpx.AsyncClient, task_id: str = "", token: str = "", **options: Any
    ) -> httpx.Response:
        """Send the request as this client."""
        body = filled(self.body, task_id, token)
        path = self.path.replace("{id}", task_id)
        return await client.request(self.method, path, **{"params": self.query or None, "json": body, **options})


def filled(value: Any, task_id: str, token: str = "") -> Any:
    """A body with the id and the token where it says so."""
    if isinstance(value, dict):
        return {name: filled(each, task_id, token) for name, each in value.items()}
    if isinstance(value, list):
        return [filled(each, task_id, token) for each in value]
    return {"{id}": task_id, "{token}": token}.get(value, value) if isinstance(value, str) else value


OPERATIONS = [
    Operation("GET", "/api/tasks", 200),
    Operation("POST", "/api/tasks", 201, {"title": "New"}),
    Operation("DELETE", "/api/tasks", 200, query={"completed": "true"}),
    Operation("GET", "/api/tasks/stats", 200),
    Operation("GET", "/api/tasks/tags", 200),
    Operation("GET", "/api/tasks/changes", 200),
    Operation("POST", "/api/tasks/batch", 200, {"operations": [{"op": "toggle", "id": "{id}"}]}, statements=3),
    Operation("POST", "/api/tasks/bulk-complete", 200, {"task_ids": ["{id}"], "completed": False}),
    Operation("POST", "/api/tasks/transfer", 200, {"from_token": "{token}"}, statements=3),
    Operation("GET", "/api/tasks/{id}", 200),
    Operation("PATCH", "/api/tasks/{id}", 200, {"title": "Changed"}),
    Operation("PUT", "/api/tasks/{id}", 200, {"title": "Put"}, statements=4),
    Operation("POST", "/api/tasks/{id}/move", 200, {"to": "first"}),
    Operation("DELETE", "/api/tasks/{id}", 204),
    Operation("POST", "/api/tasks/{id}/toggle", 200),
]

RESTORE = Operation("POST", "/api/tasks/{id}/restore", 200)
"""Of a task that is in the trash; the other operations are on one that lives."""
