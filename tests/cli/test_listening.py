"""What `serve` and `dev` listen on, and what they say where they cannot."""

import re
import socket
import sys
from pathlib import Path

import httpx
import pytest

from tests.network import free_port, need
from tests.processes import SCRIPT, backend, eventually, serving
from tests.settings import SECRET, settings_of


@pytest.mark.parametrize("command", [["serve"], ["serve", "--workers", "2"], ["dev"]])
def test_a_port_in_use_is_one_line_and_status_3(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        arguments = [*command, "--host", "127.0.0.1", "--port", str(port)]
        result = backend(*arguments, cwd=tmp_path, **settings_of(tmp_path))
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)
    assert str(port) in result.stderr
    assert "curl" not in result.stdout


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("host", ["localhost", "::"])
def test_every_address_of_a_name_is_served(host: str, workers: str, tmp_path: Path) -> None:
    need("::1")
    command = [SCRIPT, "serve", "--keep-alive", "1", "--host", host, "--workers", workers]
    with serving(command, tmp_path, **settings_of(tmp_path)) as server:
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, server.port), timeout=10):
                pass


@pytest.mark.parametrize("host", ["localhost", "::"])
def test_a_port_that_is_in_use_for_one_family_is_in_use(host: str, tmp_path: Path) -> None:
    need("::1")
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        result = backend("dev", "--host", host, "--port", str(port), cwd=tmp_path, **settings_of(tmp_path))
    assert (result.returncode, len(result.stderr.splitlines())) == (3, 1)


def test_dev_starts_anew_when_the_settings_change(tmp_path: Path) -> None:
    with serving([sys.executable, "-m", "backend", "dev"], tmp_path) as server:
        printed = eventually(lambda: "curl" in server.stdout and server.stdout, "the command is printed")
        assert "starting " in printed
        assert f"See it: http://127.0.0.1:{server.port}/\n" in printed
        (token,) = re.findall(r"Bearer ([\w.-]+)'", printed)
        headers = {"Authorization": f"Bearer {token}"}
        assert httpx.get(f"{server.url}/api/tasks", headers=headers).status_code == 200
        (tmp_path / ".env").write_text(f"BETTER_AUTH_SECRET={SECRET}\n")

        def refused() -> bool:
            try:
                return httpx.get(f"{server.url}/api/tasks", headers=headers).status_code == 401
            except httpx.TransportError:
                return False

        assert eventually(refused, "the new secret is in use")


def test_dev_takes_the_port_of_the_environment(tmp_path: Path) -> None:
    port = free_port()
    with serving([sys.executable, "-m", "backend", "dev"], tmp_path, PORT=str(port)) as server:
        assert f":{port}/api/tasks" in server.stdout


def test_serve_says_what_it_is_and_keeps_connections_as_told(tmp_path: Path) -> None:
    url = f"postgresql://dave:c4n4ry@127.0.0.1:{free_port()}/db"
    settings = settings_of(tmp_path, DATABASE_URL=url, KEEP_ALIVE="60")
    with serving([SCRIPT, "serve", "--keep-alive", "1", "--host", "127.0.0.1"], tmp_path, **settings) as server:
        assert re.search(r"todo-backend [\d.]+, schema \d{4}, workers: 1, the database on 127\.0\.0\.1", server.stderr)
        assert "c4n4ry" not in server.stderr
        # It ends where the server closes the connection: nobody asked for that, and nothing more.
        response = server.exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 200")
