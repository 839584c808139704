"""The client that people copy: compiled as strictly as any frontend may, and run against the service."""

import os
import re
import subprocess
from pathlib import Path

from tests.e2e.conftest import token_of
from tests.processes import Server

HERE = Path(__file__).parent
STATIC = HERE.parents[1] / "backend" / "static"


def compile_strictly(node: str, *arguments: str) -> None:
    compiler = HERE / "node_modules" / "typescript" / "bin" / "tsc"
    result = subprocess.run([node, compiler, *arguments], cwd=HERE, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_the_compiled_client_is_what_its_source_says(node: str, tmp_path: Path):
    """To compile it anew: tests/e2e/node_modules/.bin/tsc -p tests/e2e --outDir backend/static."""
    compile_strictly(node, "-p", ".", "--outDir", str(tmp_path))
    assert (tmp_path / "tasks.js").read_text() == (STATIC / "tasks.js").read_text()


def test_the_client_keeps_what_it_promises(node: str, server: Server):
    tokens = {name: token_of(name) for name in ("ALICE", "BOB")}
    environment = {**os.environ, **tokens, "API_URL": server.url}
    result = subprocess.run(
        [node, "--test", "client.test.mjs"], cwd=HERE, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stdout


def test_the_client_is_as_small_as_its_document_says():
    document = (HERE.parents[1] / "specs" / "clients.md").read_text()
    client, page = (int(figure.replace(",", "")) for figure in re.findall(r"fewer than ([\d,]+) lines", document))
    assert len((STATIC / "tasks.ts").read_text().splitlines()) < client
    others = (file for file in STATIC.iterdir() if file.stem != "tasks")
    assert sum(len(file.read_text().splitlines()) for file in others) < page
