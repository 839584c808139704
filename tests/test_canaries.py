"""The eye on logs and responses sees what it is there for. What it finds here is taken, so that no test fails."""

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from backend.auth.tokens import mint
from tests.canaries import PASSWORD, SECRET, take_leaks
from tests.processes import run
from tests.settings import make_settings

TOKEN = mint(make_settings("sqlite+aiosqlite://"), "alice", 3600)
TITLE = "a title of somebody's"
SECRETS = [SECRET, PASSWORD, quote(PASSWORD, safe=""), TOKEN]


def service(status: int, body: str) -> httpx.Client:
    """A client of a service that responds to everything in the same way."""
    media_type = "application/json" if status == 200 else "application/problem+json"
    response = httpx.Response(status, headers={"X-Request-ID": "x", "Content-Type": media_type}, text=body)
    return httpx.Client(transport=httpx.MockTransport(lambda _: response), base_url="http://test")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("name", ["backend", "uvicorn.error", "some.library"])
def test_a_secret_in_a_log_line_is_seen(secret: str, name: str) -> None:
    logging.getLogger(name).warning("it is %s!", secret)
    assert take_leaks()


@pytest.mark.parametrize("secret", SECRETS)
def test_a_secret_in_a_field_of_a_log_line_is_seen(secret: str) -> None:
    logging.getLogger("backend").warning("request", extra={"route": f"/api/{secret}"})
    assert take_leaks()


def test_a_text_that_was_sent_is_seen_in_a_log_line() -> None:
    with service(200, "{}") as client:
        client.post("/api/tasks", json={"title": TITLE})
    assert take_leaks() == []
    logging.getLogger("backend").warning("cannot store %s", TITLE)
    assert take_leaks()


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("status", [200, 503])
def test_a_secret_in_a_response_is_seen(secret: str, status: int) -> None:
    with service(status, json.dumps({"detail": secret})) as client:
        client.get("/health")
    assert take_leaks()


@pytest.mark.parametrize(
    "part", [{"json": {"title": TITLE}}, {"json": {"deep": [{"er": TITLE}]}}, {"params": {"q": TITLE}}]
)
def test_a_value_that_a_problem_repeats_is_seen(part: dict[str, object]) -> None:
    with service(422, json.dumps({"instance": "/api/tasks", "detail": f"{TITLE} is not valid"})) as client:
        client.request("POST", "/api/tasks", **part)  # type: ignore[arg-type] # one of httpx's many
    assert take_leaks()


def test_what_we_say_ourselves_is_no_leak() -> None:
    with service(422, json.dumps({"type": "about:blank", "instance": "/api/tasks", "detail": "no"})) as client:
        client.post("/api/tasks", json={"title": "about:blank"})
    assert take_leaks() == []


def test_a_task_in_a_response_is_no_leak() -> None:
    with service(200, json.dumps({"title": TITLE})) as client:
        client.post("/api/tasks", json={"title": TITLE})
    assert take_leaks() == []


def test_the_day_that_it_is_is_no_leak() -> None:
    with service(200, "{}") as client:
        client.post("/api/tasks", json={"due_date": datetime.now(UTC).date().isoformat()})
    logging.getLogger("backend").warning("request")
    assert take_leaks() == []


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_secret_that_another_process_prints_is_seen(stream: str, tmp_path: Path) -> None:
    run([sys.executable, "-c", f"import sys; print({SECRET!r}, file=sys.{stream})"], tmp_path)
    assert take_leaks()
