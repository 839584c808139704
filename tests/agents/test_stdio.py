"""`todo-backend mcp`, as a desktop client starts it."""

import os
import sys
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters

from backend.auth.tokens import LEEWAY, mint
from tests.processes import SCRIPT, run
from tests.settings import make_settings, settings_of

pytestmark = pytest.mark.process

NOT_WHOLE = "not a whole JWT (three parts with dots): cut short, or with `Bearer` or quotes around it"


def token(lifetime: int) -> str:
    return mint(make_settings("sqlite+aiosqlite://"), "alice", lifetime)


async def test_a_desktop_client_works_on_its_users_tasks(tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "MCP_TOKEN": token(3600), **settings_of(tmp_path)}
    async with Client(StdioServerParameters(command=SCRIPT, args=["mcp"], env=environment, cwd=tmp_path)) as client:
        await client.call_tool("add_task", {"title": "from the desktop"})
        listed = await client.call_tool("list_tasks", {})
    assert [task["title"] for task in listed.structured_content["tasks"]] == ["from the desktop"]


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
