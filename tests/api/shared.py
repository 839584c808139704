"""What the tests of the API share: what every problem document has, and counting the SQL statements of a request."""

from typing import Any
from urllib.parse import unquote

import httpx
import pytest

ABSENT = "0192f0c1-2345-7abc-8def-0123456789ab"
"""An id that no task has."""

on_one_engine = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True, scope="session")
"""For requests that are refused before a database is asked: another engine would show nothing new."""

# Written out a second time: titles taken from the service would agree with whatever it says.
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    410: "Gone",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_MEMBERS = {"type", "title", "status", "detail", "instance", "code", "request_id"}


def assert_problem(
    response: httpx.Response, status: int, code: str, *errors: tuple[str, str, str] | None
) -> dict[str, Any]:
    """Check all that every problem has; `errors` are the (source, pointer, code) that a 422 must point at."""
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert _MEMBERS <= set(document) <= _MEMBERS | {"errors", "current"}
    assert ("errors" in document) == (status == 422)
    assert document["type"] == "about:blank"
    assert document["title"] == _TITLES[status]
    assert document["status"] == status
    assert document["code"] == code
    assert document["detail"]
    assert unquote(document["instance"]) == response.request.url.path
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert ("Retry-After" in response.headers) == (status in {429, 503})
    assert ("WWW-Authenticate" in response.headers) == (status == 401)
    assert ("Allow" in response.headers) == (status == 405)
    assert_common_headers(response)
    for error in document.get("errors", ()):
        assert set(error) == {"source", "pointer", "code", "detail"}
        assert error["source"] in {"body", "query", "path", "header"}
        assert error["detail"]
    if errors:
        assert [(each["source"], each["pointer"], each["code"]) for each in document["errors"]] == list(errors)
    return document


def assert_common_headers(response: httpx.Response) -> None:
    """Check the headers that every response has."""
    assert response.headers["X-Request-ID"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    if response.request.url.path.startswith("/api"):
        assert response.headers["Cache-Control"] == ("private, no-cache" if response.is_success else "no-store")
        assert response.headers["Vary"] == "Authorization, Origin"


async def create(client: httpx.AsyncClient, title: str = "A task", **fields: Any) -> dict[str, Any]:
    """Create a task."""
    response = await client.post("/api/tasks", json={"title": title, **fields})
    assert response.status_code == 201, response.text
    task: dict[str, Any] = response.json()
    return task


async def tasks_of(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """Return all of a user's tasks, of whom no test makes more than 500."""
    response = await client.get("/api/tasks?limit=500")
    assert response.status_code == 200, response.text
    tasks: list[dict[str, Any]] = response.json()
    return tasks


def token_of(client: httpx.AsyncClient) -> str:
    """Return the client's token."""
    return client.headers["Authorization"].removeprefix("Bearer ")
