"""The offline-first examples that people copy, against the service, over connections that are cut."""

import os
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import HERE, token_of
from tests.processes import FORKED, Server, serving
from tests.settings import settings_of


@pytest.fixture
def small_server(tmp_path: Path) -> Iterator[Server]:
    """The service with room for two tasks of a user."""
    settings = settings_of(tmp_path, MAX_TASKS_PER_USER="2")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], tmp_path, **settings) as server:
        yield server


def test_the_examples_lose_nothing_and_send_nothing_as_somebody_else(
    node: str, server: Server, small_server: Server, tmp_path: Path
):
    bundle = tmp_path / "offline.test.mjs"
    bundling = ["--bundle", "--platform=node", "--format=esm", f"--outfile={bundle}", "--log-level=error"]
    environment = {
        **os.environ,
        "API_URL": server.url,
        "SMALL_API_URL": small_server.url,
        "TOKENS": " ".join(token_of(uuid.uuid4().hex) for _ in range(13)),
    }
    for command in (
        ["node_modules/.bin/tsc", "-p", "offline"],
        ["node_modules/.bin/esbuild", "offline/offline.test.ts", *bundling],
        [node, "--test-force-exit", "--test", str(bundle)],
    ):
        result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
