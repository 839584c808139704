"""The offline-first examples that people copy, against the service, over connections that are cut."""

import os
import subprocess
import uuid
from pathlib import Path

from tests.e2e.conftest import HERE, token_of
from tests.processes import Server


def test_the_examples_lose_nothing_and_send_nothing_as_somebody_else(node: str, server: Server, tmp_path: Path):
    bundle = tmp_path / "offline.test.mjs"
    bundling = ["--bundle", "--platform=node", "--format=esm", f"--outfile={bundle}", "--log-level=error"]
    environment = {
        **os.environ,
        "API_URL": server.url,
        "TOKENS": " ".join(token_of(uuid.uuid4().hex) for _ in range(10)),
    }
    for command in (
        ["node_modules/.bin/tsc", "-p", "offline"],
        ["node_modules/.bin/esbuild", "offline/offline.test.ts", *bundling],
        [node, "--test-force-exit", "--test", str(bundle)],
    ):
        result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout + result.stderr
