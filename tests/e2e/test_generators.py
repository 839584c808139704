"""What a frontend developer generates from the OpenAPI document compiles as it is, and works.

Each is made anew from the document, compiled strictly, and run against the service, with and without its database.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.main import app
from tests.e2e.conftest import token_of
from tests.processes import FORKED, Server, serving
from tests.settings import settings_of

HERE = Path(__file__).parent
CLIENTS = (HERE.parents[1] / "specs" / "clients.md").read_text()

PYTHON_GENERATOR = "openapi-python-client==0.29.1"
TYPESCRIPT = {
    "openapi-fetch": "openapi-typescript openapi.json -o openapi-typescript/schema.d.ts",
    "hey-api": "openapi-ts -i openapi.json -o hey-api -p @hey-api/client-fetch @hey-api/typescript @hey-api/sdk zod "
    "@tanstack/react-query",
    "orval": "orval --config orval.config.mjs",
}


@pytest.fixture
def project(node: str, tmp_path: Path) -> Path:
    """A frontend's folder, with the document and the packages."""
    folder = tmp_path / "project"
    shutil.copytree(HERE / "generators", folder)
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    (folder / "openapi.json").write_text(json.dumps(app.openapi()))
    return folder


def run(command: list[str], folder: Path, **environment: str) -> str:
    result = subprocess.run(command, cwd=folder, env=os.environ | environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def npx(command: str, folder: Path, **environment: str) -> str:
    program, *arguments = command.split(" ")
    return run([f"node_modules/.bin/{program}", *arguments], folder, **environment)


def test_the_patterns_are_javascripts_with_either_flag(node: str, tmp_path: Path) -> None:
    """JSON Schema says `u`, and HTML says `v` for the attribute of the same name."""
    (tmp_path / "openapi.json").write_text(json.dumps(app.openapi()))
    compile_all = """
        let count = 0;
        JSON.parse(require("fs").readFileSync("openapi.json"), (key, value) => {
            if (key !== "pattern" || typeof value !== "string") return;
            count += 1;
            for (const flag of ["u", "v"]) new RegExp(value, flag);
        });
        console.log(count);
    """
    assert int(run([node, "-e", compile_all], tmp_path)) > 0


@pytest.fixture(scope="module")
def without_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service where nothing listens at the database's address."""
    folder = tmp_path_factory.mktemp("without-database")
    settings = settings_of(folder, DATABASE_URL="postgresql://ada@127.0.0.1:1/tasks", DATABASE_CONNECT_TIMEOUT="1")
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
        yield server


@pytest.fixture
def environment(server: Server, without_database: Server) -> dict[str, str]:
    """What the clients are told: where the services are, and who somebody new is."""
    return {
        "API_URL": server.url,
        "WITHOUT_DATABASE_URL": without_database.url,
        "TOKEN": token_of(uuid.uuid4().hex),
    }


@pytest.mark.parametrize("tool", TYPESCRIPT)
def test_a_generated_typescript_client_compiles_and_works(
    tool: str, node: str, project: Path, environment: dict[str, str]
):
    npx(TYPESCRIPT[tool], project)
    for other in TYPESCRIPT.keys() - {tool}:
        (project / f"{other}.ts").unlink()
    npx("tsc -p .", project)
    npx(f"esbuild {tool}.ts --bundle --platform=node --format=esm --outfile=main.mjs --log-level=error", project)
    run([node, "main.mjs"], project, **environment)


@pytest.fixture
def python() -> Path:
    """Programs of an environment with the generator: its dependencies are not the service's, and would bind them."""
    environment = HERE / ".venv" / PYTHON_GENERATOR
    if not (environment / "bin" / "openapi-python-client").exists():
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        install = [f"{environment}/bin/python", "-m", "pip", "install", "--quiet", PYTHON_GENERATOR]
        outcome = subprocess.run(install, capture_output=True, text=True)
        if outcome.returncode != 0:
            pytest.skip(f"pip cannot install the generator: {outcome.stderr.strip()}")
    return environment / "bin"


def test_a_generated_python_client_passes_mypy_and_works(python: Path, project: Path, environment: dict[str, str]):
    [command] = re.findall("`(openapi-python-client .*?)`", CLIENTS)
    run([f"{python}/{command.split()[0]}", *command.split()[1:]], project)
    mypy = [sys.executable, "-m", "mypy", "--strict", f"--python-executable={python}/python"]
    run([*mypy, "tasks_api", "python_client.py"], project)
    run([f"{python}/python", "python_client.py"], project, **environment)


def test_the_linters_find_nothing(project: Path):
    assert "Your API description is valid" in npx("redocly lint openapi.json", project)
    assert "No results" in npx("spectral lint openapi.json --ruleset spectral.yaml --fail-severity hint", project)
