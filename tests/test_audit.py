"""The audit of the pinned dependencies, against a database of the test's own."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.audit import ACCEPTED, audit
from tests.network import free_port

PINS = {"good": "1.0", "bad": "2.0"}


@contextmanager
def database(vulnerable: dict[str, str], *, status: int = 200, body: bytes | None = None) -> Iterator[str]:
    """A database that knows of vulnerabilities in packages, by their ids."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # http.server calls it so
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]
            assert all(query["package"]["ecosystem"] == "PyPI" and query["version"] for query in asked)
            names = [query["package"]["name"] for query in asked]
            results = [{"vulns": [{"id": vulnerable[name]}]} if name in vulnerable else {} for name in names]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps({"results": results}).encode() if body is None else body)

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "requirements.lock"
    path.write_text("".join(f"{name}=={version}\n" for name, version in PINS.items()))
    return path


def test_without_a_vulnerability_the_check_is_good(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with database({}) as url:
        assert audit(lock, url) is None
    assert capsys.readouterr().out == "audit: no known vulnerability in 2 packages\n"


def test_a_vulnerability_fails_the_check_and_is_named(lock: Path) -> None:
    with database({"bad": "CVE-1"}) as url:
        assert audit(lock, url) == "audit: known vulnerabilities in bad 2.0: CVE-1"


@pytest.mark.parametrize("known", sorted(ACCEPTED))
def test_a_vulnerability_that_is_accepted_does_not(lock: Path, known: str) -> None:
    with database({"bad": known}) as url:
        assert audit(lock, url) is None


def nothing_audited(capsys: pytest.CaptureFixture[str]) -> bool:
    return capsys.readouterr().out == "audit: no database of vulnerabilities can be reached; nothing was audited\n"


@pytest.mark.parametrize(("status", "body"), [(503, None), (200, b"<html>"), (200, b"[]"), (200, b"{}")])
def test_what_is_no_response_of_the_database_fails_nothing_and_is_said(
    lock: Path, status: int, body: bytes | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with database({}, status=status, body=body) as url:
        assert audit(lock, url) is None
    assert nothing_audited(capsys)


def test_without_a_network_nothing_fails_and_it_is_said(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(lock, f"http://127.0.0.1:{free_port()}") is None
    assert nothing_audited(capsys)


def test_a_database_that_hangs_is_given_up(lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert audit(lock, f"http://127.0.0.1:{silent.getsockname()[1]}", limit=0.2) is None
    assert nothing_audited(capsys)
