"""Schemathesis reads the service's own OpenAPI document, and holds the service to it with every check that it has.

It makes up requests, good and bad, single and in sequences, and looks at each response. It runs as a program, against a
served process, `FAULT_ROUNDS` times; `make faults` asks for many.
"""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from backend.auth.tokens import mint
from backend.db.session import Database
from tests.processes import FORKED, environment, serving
from tests.settings import SECRET, make_settings

ROUNDS = int(os.environ.get("FAULT_ROUNDS", "1"))
ROOT = Path(__file__).parents[2]
SCHEMATHESIS = str(Path(sys.executable).parent / "schemathesis")
OPERATIONS = 20
EXAMPLES = 30 if "FAULT_ROUNDS" in os.environ else 10
"""Of each operation, in the phase that makes them up at random."""
CASES = 300 * ROUNDS
"""About seven hundred are made in a run; how many exactly is chance."""
PHASES = dict.fromkeys(("examples", "coverage", "fuzzing", "stateful"), "success")
CHECKS = {
    "allow_header_conformance",
    "content_type_conformance",
    "ensure_resource_availability",
    "ignored_auth",
    "missing_required_header",
    "negative_data_rejection",
    "not_a_server_error",
    "object_level_authorization",
    "positive_data_acceptance",
    "response_headers_conformance",
    "response_schema_conformance",
    "status_code_conformance",
    "unsupported_method",
    "use_after_free",
}
"""All that there are, but for a limit of time."""


def write_configuration(folder: Path) -> Path:
    """Write down two users, who must not see each other's tasks, and where the hooks are."""
    settings = make_settings("sqlite+aiosqlite://")
    users = []
    for name in ("alice", "bob"):
        token = mint(settings, f"{name}-{uuid.uuid4()}", 86_400)
        users.append({"name": name, "fixedHeaders": [{"name": "Authorization", "value": f"Bearer {token}"}]})
    (folder / "users.json").write_text(json.dumps({"auth": users}))
    configuration = folder / "schemathesis.toml"
    configuration.write_text(
        'hooks = "tests.faults.schemathesis_hooks"\n'
        # A task that another request has put into the trash meanwhile, or changed: no schema can tell.
        "[checks.positive_data_acceptance]\n"
        "expected-statuses = ['2xx', '3xx', 401, 403, 404, 409, 410, 412, 429, '5xx']\n"
        # What was just created is not in the trash.
        "[[operations]]\ninclude-name = 'POST /api/tasks/{id}/restore'\n"
        "checks.ensure_resource_availability.enabled = false\n"
        "phases.stateful.enabled = false\n"  # or a deleted task would be back, which Schemathesis takes for a leak
        f"[auth.wfc]\npath = {json.dumps(str(folder / 'users.json'))}\npeers = ['alice', 'bob']\n"
    )
    return configuration


def checks_made(events: Path) -> set[str]:
    """The names of all checks that a response has passed or failed."""
    names: set[str] = set()
    for line in events.read_text().splitlines():
        scenario: dict[str, Any] = json.loads(line).get("ScenarioFinished", {})
        for checks in scenario.get("recorder", {}).get("checks", {}).values():
            names |= {check["name"] for check in checks}
    return names


def run_schemathesis(url: str, folder: Path) -> dict[str, Any]:
    """Run all phases with all checks once, on users of their own, and return the report."""
    options = [f"--max-examples={EXAMPLES}", "--continue-on-failure", "--generation-database=none", "--no-color"]
    reports = ["--report=json,ndjson", "--report-json-path=report.json", "--report-ndjson-path=events.ndjson"]
    ended = subprocess.run(
        [SCHEMATHESIS, "--config-file", str(write_configuration(folder)), "run", url, *options, *reports],
        cwd=folder,
        env=environment(PYTHONPATH=str(ROOT), BETTER_AUTH_SECRET=SECRET),
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return report


def test_the_service_does_what_its_document_says(
    database_url: str, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(
        "COVERAGE_PROCESS_CONFIG", raising=False
    )  # in Schemathesis's process it would take twice as long
    variables = {"BETTER_AUTH_SECRET": SECRET, "DATABASE_URL": database_url, "DATABASE_POOL_SIZE": "1"}
    cases = 0
    with serving([FORKED, "serve"], tmp_path, **variables, LOG_LEVEL="ERROR") as server:
        for _ in range(ROUNDS):
            report = run_schemathesis(f"{server.url}/openapi.json", tmp_path)
            assert (report["operations"]["total"], report["operations"]["tested"]) == (OPERATIONS, OPERATIONS)
            assert {name: phase["status"] for name, phase in report["phases"].items()} == PHASES
            assert checks_made(tmp_path / "events.ndjson") == CHECKS
            cases += report["test_cases"]["generated"]
    assert cases >= CASES
