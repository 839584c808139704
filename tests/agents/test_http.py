"""`/mcp` as HTTP: who may ask, and what is refused before the protocol begins."""

import json
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.auth.tokens import mint
from tests.applications import client_of, running
from tests.processes import run
from tests.settings import make_settings, settings_of

CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "list_tasks", "arguments": {}}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def post(client: httpx.AsyncClient, message: Any = CALL, **headers: str) -> httpx.Response:
    content = json.dumps(message)  # unlike httpx it can write a lone surrogate
    return await client.post("/mcp", content=content, headers=ACCEPT | {"Content-Type": "application/json"} | headers)


async def test_a_call_without_a_handshake_or_session(raw: httpx.AsyncClient) -> None:
    response = await post(raw)
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert "mcp-session-id" not in response.headers
    assert response.json()["result"]["structuredContent"] == {"tasks": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("method", "headers", "content", "status", "code"),
    [
        ("GET", {}, b"", 405, "method_not_allowed"),
        ("GET", {"Accept": "text/event-stream"}, b"", 405, "method_not_allowed"),
        ("DELETE", {}, b"", 405, "method_not_allowed"),
        ("POST", {"Origin": "https://evil.example"}, b"{}", 403, "origin_not_allowed"),
        ("POST", {"Accept": "text/event-stream"}, b"{}", 406, "not_acceptable"),
        ("POST", {"Accept": "application/json;q=0"}, b"{}", 406, "not_acceptable"),
        ("POST", {"Accept": ""}, b"{}", 406, "not_acceptable"),
        ("POST", {"Content-Type": "text/plain"}, b"{}", 415, "unsupported_media_type"),
        ("POST", {}, b" " * (1024 * 1024 + 1), 413, "body_too_large"),
    ],
)
async def test_what_is_no_call_is_a_problem(
    method: str, headers: dict[str, str], content: bytes, status: int, code: str, raw: httpx.AsyncClient
) -> None:
    response = await raw.request(
        method, "/mcp", headers=ACCEPT | {"Content-Type": "application/json"} | headers, content=content
    )
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert response.headers["allow"] == "POST"


async def test_pages_of_listed_origins_may_call(raw: httpx.AsyncClient) -> None:
    response = await post(raw, Origin="http://localhost:3000")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://localhost:3000"


SECRET_TEXT = "a-text-that-nobody-wants-to-see-again"


@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25", None])
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (f"[{SECRET_TEXT}", -32700),
        (f'{{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "{SECRET_TEXT}"}}', -32700),
        (f'{{"jsonrpc": "2.0", "id": NaN, "method": "{SECRET_TEXT}"}}', -32700),
        (json.dumps([CALL | {"id": SECRET_TEXT}]), -32600),
        (f'"{SECRET_TEXT}"', -32600),
        (json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"a": SECRET_TEXT}}), -32600),
        (json.dumps(CALL | {"params": SECRET_TEXT}), -32600),
        (json.dumps(CALL | {"id": [SECRET_TEXT]}), -32600),
        (json.dumps(CALL | {"jsonrpc": SECRET_TEXT}), -32600),
    ],
)
async def test_what_is_no_message_is_told_as_json_rpc(
    content: str, code: int, version: str | None, raw: httpx.AsyncClient
) -> None:
    headers = ACCEPT | {"Content-Type": "application/json"} | ({"Mcp-Protocol-Version": version} if version else {})
    response = await raw.post("/mcp", content=content, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert SECRET_TEXT not in response.text


async def test_a_token_is_asked_for_where_tokens_are_to_be_had() -> None:
    settings = make_settings("sqlite+aiosqlite://", mcp=True, better_auth_url="https://app.example.com")
    async with running(settings) as app, client_of(app, settings) as nobody:
        for headers, begins in (
            ({}, "Bearer resource_metadata="),
            ({"Authorization": "Bearer x"}, 'Bearer error="invalid_token", resource_metadata='),
        ):
            response = await nobody.post("/mcp", headers=headers)
            challenge = response.headers["www-authenticate"]
            assert response.status_code == 401
            assert challenge.startswith(begins)
            address = challenge.partition('resource_metadata="')[2].rstrip('"')
            assert address == "http://test/.well-known/oauth-protected-resource/mcp"
            document = (await nobody.get(address)).json()
            assert document == {
                "resource": "http://test/mcp",
                "bearer_methods_supported": ["header"],
                "authorization_servers": ["https://app.example.com/api/auth"],
            }
        assert (await nobody.get("/.well-known/oauth-protected-resource")).json() == document
        for other in ("/mcp/", "/mcp%0A", "/mcp/x"):
            assert (await nobody.post(other)).status_code in {401, 404}
        assert "resource_metadata" not in (await nobody.get("/api/tasks")).headers["www-authenticate"]


async def test_clients_bring_their_token_where_nobody_issues_any() -> None:
    settings = make_settings("sqlite+aiosqlite://", mcp=True, public_url="https://api.example.com/todo/")
    async with running(settings) as app, client_of(app, settings) as nobody:
        document = (await nobody.get("/.well-known/oauth-protected-resource/mcp")).json()
        assert document == {"resource": "https://api.example.com/todo/mcp", "bearer_methods_supported": ["header"]}


async def test_an_expired_token_ends_it(raw: httpx.AsyncClient) -> None:
    assert (await post(raw)).status_code == 200
    expired = mint(make_settings("sqlite+aiosqlite://"), "alice", -3600)
    response = await post(raw, Authorization=f"Bearer {expired}")
    assert (response.status_code, response.json()["code"]) == (401, "token_expired")


async def test_without_the_setting_there_is_nothing(anonymous: httpx.AsyncClient) -> None:
    assert (await anonymous.post("/mcp")).status_code == 404
    assert (await anonymous.get("/.well-known/oauth-protected-resource")).status_code == 404


@pytest.mark.process
def test_without_the_setting_nothing_is_imported(tmp_path: Path) -> None:
    program = "import backend.main, sys; print({name.partition('.')[0] for name in sys.modules} & {'mcp', 'mcp_types'})"
    result = run([sys.executable, "-c", program], tmp_path, **settings_of(tmp_path))
    assert result.stdout == "set()\n", result.stderr


@pytest.mark.process
def test_without_the_extra_the_setting_stops_the_start(tmp_path: Path) -> None:
    program = "import sys; sys.modules['mcp'] = None; import backend.main"
    result = run([sys.executable, "-c", program], tmp_path, **settings_of(tmp_path, MCP="true"))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(
        "todo-backend: wrong setting: MCP: needs the extra `mcp`: in the clone, "
        "pip install -c requirements.lock -e '.[mcp]'"
    )


HOSTILE: list[Any] = [
    None, True, -1, 10**400, 1e308, "", "\0", "\ud800", "x" * 100_000, [], ["\0"] * 200, {}, {"title": "a"},
    "' OR 1=1 --", [[[[[[]]]]]], "__class__", "../../etc/passwd", "\u202e", ["a"] * 1000, {"$gt": ""},
]  # fmt: skip


async def test_hostile_calls_are_refused_and_store_nothing(raw: httpx.AsyncClient) -> None:
    tools = (await post(raw, CALL | {"method": "tools/list", "params": {}})).json()["result"]["tools"]
    asked = 0
    for tool in tools:
        for name in (*tool["inputSchema"]["properties"], "owner", "user_id"):
            for value in HOSTILE:
                response = await post(raw, CALL | {"params": {"name": tool["name"], "arguments": {name: value}}})
                assert response.status_code in {200, 400}, (tool["name"], name)
                code = response.json().get("error", {}).get("code")
                assert code in {None, -32700 if value == "\ud800" else None}, (tool["name"], name, value)
                asked += 1
    for params in ({}, {"name": 1}, {"name": "add_task", "arguments": []}, {"name": None, "arguments": {"title": "a"}}):
        response = await post(raw, CALL | {"params": params})
        assert response.json()["error"]["code"] == -32602, params
    assert asked > 500
    stored = (await post(raw)).json()["result"]["structuredContent"]["tasks"]
    assert {task["title"] for task in stored} <= {"' OR 1=1 --", "__class__", "../../etc/passwd", "a"}


async def test_an_unavailable_database_is_a_tools_failure() -> None:
    settings = make_settings("postgresql://u:p@127.0.0.1:1/db", mcp=True, database_connect_timeout=0.1)
    async with running(settings) as app, client_of(app, settings, "alice") as alice:
        result = (await post(alice)).json()["result"]
    assert result["isError"]
    assert json.loads(result["content"][0]["text"])["code"] == "database_unavailable"
    assert "structuredContent" not in result


async def test_the_limits_of_the_api_hold_for_agents() -> None:
    settings = make_settings("sqlite+aiosqlite://", mcp=True, rate_limit="1/hour")
    async with running(settings) as app, client_of(app, settings, "alice") as alice:
        assert (await post(alice)).status_code == 200
        refused = await post(alice)
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_requests")
    assert "retry-after" in refused.headers
