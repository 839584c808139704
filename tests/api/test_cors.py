"""CORS: listed origins, and nobody else, read responses in a browser; the errors too."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.config import Settings
from tests.api.shared import ABSENT, on_one_engine
from tests.applications import client_of, running
from tests.settings import make_settings

pytestmark = on_one_engine

ORIGIN = "http://localhost:3000"
EXPOSED = {
    *("www-authenticate", "location", "link", "etag", "retry-after", "ratelimit"),
    *("x-next-cursor", "x-total-count", "x-successor", "x-request-id"),
}
ALLOWED = {
    *(
        "authorization",
        "content-type",
        "x-request-id",
        "if-match",
        "if-none-match",
        "cache-control",
        "x-requested-with",
    ),
    *("traceparent", "tracestate", "baggage", "sentry-trace", "mcp-protocol-version", "mcp-method", "mcp-name"),
}
STRANGERS = [
    "http://localhost:3001",
    "http://localhost",
    "https://localhost:3000",
    "http://localhost:30000",
    "http://localhost:3000.evil.example",
    "http://localhost:3000@evil.example",
    "http://evil.example/http://localhost:3000",
    "http://evillocalhost:3000",
    "http://sub.localhost:3000",
    "http://localhost:3000/",
    "http://LOCALHOST:3000",
    "http://localhost:3000 http://evil.example",
    "http://localhost:3000, http://evil.example",
    "http://localhost:300",
    "null",
    "*",
    "",
]

strangers = pytest.mark.parametrize("origin", STRANGERS, ids=lambda origin: origin or "empty")


def cors_headers(response: httpx.Response) -> set[str]:
    return {name for name in response.headers if name.startswith("access-control-")}


def listed(value: str) -> set[str]:
    return {part.strip().lower() for part in value.split(",")}


def preflight(origin: str, method: str = "PATCH") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }


@pytest.mark.parametrize("path", ["/api/tasks", f"/api/tasks/{ABSENT}", "/api/nowhere", "/health"])
async def test_a_preflight_of_a_listed_origin_is_allowed_without_a_token(
    anonymous: httpx.AsyncClient, path: str
) -> None:
    response = await anonymous.options(path, headers=preflight(ORIGIN))
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]
    assert listed(response.headers["Access-Control-Allow-Methods"]) >= {"get", "head", "post", "put", "patch", "delete"}
    assert listed(response.headers["Access-Control-Allow-Headers"]) == ALLOWED
    assert int(response.headers["Access-Control-Max-Age"]) > 0
    assert response.headers["Access-Control-Allow-Credentials"] == "true"
    assert "Origin" in response.headers["Vary"]


@strangers
async def test_a_preflight_of_another_origin_has_no_cors_header(anonymous: httpx.AsyncClient, origin: str) -> None:
    response = await anonymous.options("/api/tasks", headers=preflight(origin))
    assert cors_headers(response) == set()
    assert "Origin" in response.headers["Vary"]


@strangers
async def test_a_response_to_another_origin_has_no_cors_header(alice: httpx.AsyncClient, origin: str) -> None:
    for path in ("/api/tasks", f"/api/tasks/{ABSENT}", "/health"):
        response = await alice.get(path, headers={"Origin": origin})
        assert cors_headers(response) == set()
        assert "Origin" in response.headers["Vary"]


async def test_a_response_without_an_origin_has_no_cors_header(alice: httpx.AsyncClient) -> None:
    assert cors_headers(await alice.get("/api/tasks")) == set()


async def test_two_origins_that_are_not_listed_get_nothing(alice: httpx.AsyncClient) -> None:
    headers = [("Origin", ORIGIN), ("Origin", "http://evil.example")]
    assert cors_headers(await alice.get("/api/tasks", headers=headers)) == set()


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/api/tasks", {}, 200),
        ("HEAD", "/api/tasks", {}, 200),
        ("POST", "/api/tasks", {"json": {"title": "x"}}, 201),
        ("POST", "/api/tasks", {"content": b"{", "headers": {"Content-Type": "application/json"}}, 400),
        ("GET", "/api/tasks", {"headers": {"Authorization": "Bearer x"}}, 401),
        ("GET", f"/api/tasks/{ABSENT}", {}, 404),
        ("GET", "/nowhere", {}, 404),
        ("PUT", "/api/tasks", {}, 405),
        ("OPTIONS", "/api/tasks", {}, 405),
        ("POST", "/api/tasks", {"content": b"x" * 70_000}, 413),
        ("POST", "/api/tasks", {"content": b"x"}, 415),
        ("POST", "/api/tasks", {"json": {}}, 422),
        ("GET", "/health", {}, 200),
        ("GET", "/health/db", {}, 200),
    ],
)
async def test_every_response_to_a_listed_origin_can_be_read(
    alice: httpx.AsyncClient, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    alice.headers["Origin"] = ORIGIN
    response = await alice.request(method, path, **options)
    assert response.status_code == status
    assert response.headers.get_list("Access-Control-Allow-Origin") == [ORIGIN]
    assert listed(response.headers["Access-Control-Expose-Headers"]) == EXPOSED
    assert response.headers["Access-Control-Allow-Credentials"] == "true"


async def test_each_of_several_origins_is_named_alone(app: FastAPI) -> None:
    origins = ["https://app.example.com", "https://other.example.com:8443"]
    settings = make_settings("sqlite+aiosqlite://", allowed_origins=",".join(origins))
    async with running(settings) as other, client_of(other, settings) as anonymous:
        for origin in origins:
            response = await anonymous.get("/health", headers={"Origin": origin})
            assert response.headers.get_list("Access-Control-Allow-Origin") == [origin]
        assert cors_headers(await anonymous.get("/health", headers={"Origin": ORIGIN})) == set()


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("https://a.example.com", True),
        ("https://preview-12.example.com", True),
        ("https://a.b.example.com", False),
        ("https://example.com", False),
        ("http://a.example.com", False),
        ("https://a.example.com.evil.test", False),
        ("https://a.example.com:8443", False),
    ],
)
async def test_a_pattern_allows_one_label_and_no_credentials(settings: Settings, origin: str, allowed: bool) -> None:
    changed = settings.model_copy(update={"allowed_origins": ("https://*.example.com",)})
    async with running(changed) as app, client_of(app, settings) as client:
        response = await client.get("/health", headers={"Origin": origin})
    assert (response.headers.get("Access-Control-Allow-Origin") == origin) is allowed
    assert "Access-Control-Allow-Credentials" not in response.headers


async def test_more_headers_can_be_allowed(settings: Settings) -> None:
    changed = settings.model_copy(update={"allowed_headers": ("X-Tenant", "X-Trace")})
    async with running(changed) as app, client_of(app, settings) as client:
        response = await client.options("/api/tasks", headers=preflight(ORIGIN))
    assert listed(response.headers["Access-Control-Allow-Headers"]) == ALLOWED | {"x-tenant", "x-trace"}


@pytest.mark.parametrize("origin", ["capacitor://localhost", "https://xn--bcher-kva.example", "http://[::1]:3000"])
async def test_an_origin_is_allowed_as_browsers_write_it(settings: Settings, origin: str) -> None:
    origins = "Capacitor://localhost/, https://b\u00fccher.example, http://[::1]:3000/"
    other = make_settings("sqlite+aiosqlite://", allowed_origins=origins)
    async with running(other) as app, client_of(app, settings) as client:
        response = await client.get("/health", headers={"Origin": origin})
    assert response.headers["Access-Control-Allow-Origin"] == origin
