"""`todo-backend mcp`, as a desktop client starts it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from backend.auth.tokens import LEEWAY, mint
from tests.databases import create_tables
from tests.processes import DEADLINE, SCRIPT, environment, run
from tests.settings import make_settings, settings_of

pytestmark = pytest.mark.process

NOT_WHOLE = "not a whole JWT (three parts with dots): cut short, or with `Bearer` or quotes around it"


def token(lifetime: int) -> str:
    return mint(make_settings("sqlite+aiosqlite://"), "alice", lifetime)


@pytest.fixture(autouse=True)
async def _file(tmp_path: Path) -> None:
    await create_tables(settings_of(tmp_path)["DATABASE_URL"])


async def test_a_desktop_client_works_on_its_users_tasks(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "MCP_TOKEN": token(3600), **settings_of(tmp_path)}
    async with Client(StdioServerParameters(command=SCRIPT, args=["mcp"], env=environment, cwd=tmp_path)) as client:
        await client.call_tool("add_task", {"title": "from the desktop"})
        listed = await client.call_tool("list_tasks", {})
    assert [task["title"] for task in listed.structured_content["tasks"]] == ["from the desktop"]


CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add_task","arguments":{"title":%s}}}\n'


NO_MESSAGES = {
    "text": (b"not JSON\n", -32700),
    "bytes": (CALL % b'"not \xff UTF-8"', -32700),
    "twice": (CALL % b'"twice","title":"named"', -32700),
    "NaN": (CALL % b'"no number","position":NaN', -32700),
    "surrogate": (CALL % b'"a lone surrogate \\ud800"', -32700),
    "digits": (CALL % (b'"long","position":' + b"9" * 6_000), -32700),
    "levels": (CALL % (b"[" * 20_000 + b"]" * 20_000), -32700),
    "batch": (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]\n', -32600),
}


def test_a_line_that_is_no_message_has_a_response(tmp_path: Path) -> None:
    ping = b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n'
    variables = environment(**settings_of(tmp_path, MCP_TOKEN=token(3600)))
    with subprocess.Popen(
        [SCRIPT, "mcp"], cwd=tmp_path, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for name, (line, code) in NO_MESSAGES.items():
            process.stdin.write(line + ping)
            process.stdin.flush()
            refused = json.loads(process.stdout.readline())
            assert (name, refused["id"], refused.get("error", {}).get("code")) == (name, None, code)
            assert json.loads(process.stdout.readline())["id"] == 2
        process.stdin.close()
        assert process.wait(DEADLINE) == 0


def test_calls_under_way_when_the_input_ends_are_answered(tmp_path: Path) -> None:
    lines = [CALL.replace(b'"id":1', b'"id":%d' % number) % b'"kept"' for number in range(5)]
    cancelled = b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":%s}}\n'
    handshake = (
        b'{"jsonrpc":"2.0","id":"first","method":"initialize","params":{"protocolVersion":"2025-11-25",'
        b'"capabilities":{},"clientInfo":{"name":"t","version":"1"}}}\n'
        b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n'
    )
    ends = {
        "calls": lines,
        "one cancelled, which is answered or not": [*lines, CALL % b'"dropped"', cancelled % b"1"],
        "cancelled by what is no id": [*lines, cancelled % b"[]"],
    }
    for name, messages in ends.items():
        result = subprocess.run(
            [SCRIPT, "mcp"],
            cwd=tmp_path,
            env=environment(**settings_of(tmp_path, MCP_TOKEN=token(3600))),
            input=handshake + b"".join(messages),
            capture_output=True,
            timeout=DEADLINE,
            check=False,
        )
        answered = {each["id"] for each in map(json.loads, result.stdout.splitlines()) if "result" in each}
        assert (name, result.returncode, answered - {1}) == (name, 0, {"first", 0, 2, 3, 4})


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({}, "todo-backend: MCP_TOKEN: is required, a token of the user\n"),
        ({"MCP_TOKEN": "x"}, f"todo-backend: MCP_TOKEN: cannot be used: {NOT_WHOLE}\n"),
        ({"MCP_TOKEN": token(-3600)}, "todo-backend: MCP_TOKEN: has expired; get a new one\n"),
    ],
    ids=["none", "malformed", "expired"],
)
def test_a_bad_token_is_one_line(variables: dict[str, str], line: str, tmp_path: Path) -> None:
    result = run([sys.executable, "-m", "backend", "mcp"], tmp_path, **settings_of(tmp_path, **variables))
    assert (result.returncode, result.stdout, result.stderr) == (1, "", line)


async def test_a_token_that_ends_in_the_middle_ends_it(tmp_path: Path) -> None:
    errors = tmp_path / "stderr"
    environment = {"PATH": os.environ["PATH"], "MCP_TOKEN": token(4 - LEEWAY), **settings_of(tmp_path)}
    command = f"exec {SCRIPT} mcp 2> {errors}"
    with pytest.raises(Exception):  # noqa: B017, PT011, PT012 # the client's own, of a server that has gone
        async with Client(
            StdioServerParameters(command="/bin/sh", args=["-c", command], env=environment, cwd=tmp_path),
            read_timeout_seconds=30,
        ) as client:
            while not (await client.call_tool("list_tasks", {})).is_error:
                pass
    assert errors.read_text().endswith("todo-backend: MCP_TOKEN: has expired; get a new one\n")
