"""The protocol's own inspector: it finds the tools' schemas portable, and calls each."""

import json
import subprocess
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import HERE, token_of
from tests.processes import FORKED, Server, serving
from tests.settings import settings_of


@pytest.fixture(scope="module")
def agents_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("agents")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, MCP="true", **settings_of(folder)) as server:
        yield server


def test_the_inspector_finds_nothing_and_calls_each_tool(node: str, agents_server: Server) -> None:
    token = token_of(uuid.uuid4().hex)

    def inspect(*arguments: str) -> Any:
        program = HERE / "node_modules" / ".bin" / "mcp-inspector"
        command = [node, str(program), "--cli", f"{agents_server.url}/mcp", "--transport", "http"]
        result = subprocess.run(
            [*command, "--header", f"Authorization: Bearer {token}", *arguments],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (result.returncode, result.stderr) == (0, ""), result.stdout
        return json.loads(result.stdout)

    tools = inspect("--method", "tools/list", "--strict")["tools"]
    for name, *arguments in (
        ("add_task", "title=Buy milk"),
        ("list_tasks", "search=milk", "limit=5"),
        ("update_task", "match=milk", "priority=high"),
        ("complete_task", "match=milk"),
        ("delete_task", "match=milk"),
    ):
        result = inspect("--method", "tools/call", "--tool-name", name, "--tool-arg", *arguments)
        assert [task["title"] for task in result["structuredContent"]["tasks"]] == ["Buy milk"], name
    assert len(tools) == 5
