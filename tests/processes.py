"""The program as its users start it: in a process of its own, with an environment of its own."""

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from backend.config import Settings
from tests import canaries, commands
from tests.network import free_port

ROOT = Path(__file__).parents[1]
SCRIPT = str(Path(sys.executable).parent / "todo-backend")
SERVE: dict[str, list[str]] = {
    "uvicorn": [sys.executable, "-m", "uvicorn", "backend.main:app"],
    "todo-backend": [SCRIPT, "serve"],
    "python -m backend": [sys.executable, "-m", "backend", "serve"],
}
"""The ways to start the service."""
FORKED = "todo-backend, forked"
"""The program of a command that serves, where nothing depends on how it is started: that takes a third of the time."""

DEADLINE = 120.0
"""Seconds after which a process that does not do what it should has failed: no measure of how fast it must be."""


def environment(**variables: str) -> dict[str, str]:
    """The environment of this process without a setting of the service but those given."""
    settings = {name.upper() for name in Settings.model_fields} | {"PORT", "WEB_CONCURRENCY"}
    kept = {name: value for name, value in os.environ.items() if name.removesuffix("_FILE") not in settings}
    return kept | {"PYTHONUNBUFFERED": "1"} | variables


def run(command: list[str], cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    assert cwd != ROOT, "the developer's .env is there"
    result = subprocess.run(
        command, cwd=cwd, env=environment(**variables), capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    canaries.look_at_output(result.stdout)
    canaries.look_at_log(result.stderr)
    return result


def backend(*arguments: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the service to its end."""
    assert cwd != ROOT, "the developer's .env is there"
    result = commands.run(list(arguments), cwd, environment(**variables), DEADLINE)
    canaries.look_at_output(result.stdout)
    canaries.look_at_log(result.stderr)
    return result


def eventually(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, and return what it gave."""
    end = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE} s: {what}"
        time.sleep(0.02)
    return value


class Server:
    """A service that runs in another process."""

    def __init__(
        self, process: subprocess.Popen[bytes] | commands.Process, port: int, output: Path, errors: Path
    ) -> None:
        self.process = process
        self.port = port
        self.stdout_file = output
        self._errors = errors

    @property
    def url(self) -> str:
        """Where it responds."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def stdout(self) -> str:
        """What it has printed until now."""
        return self.stdout_file.read_text()

    @property
    def stderr(self) -> str:
        """What it has logged until now."""
        return self._errors.read_text()

    def connect(self) -> socket.socket:
        """Open a connection for bytes of the test's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=DEADLINE)

    def exchange(self, request: bytes) -> bytes:
        """Send bytes, and return all that comes back until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_to_end(connection)

    def responds(self) -> bool:
        """Tell whether `/health` responds."""
        status = self.process.poll()
        assert status is None, f"the server has ended with {status}: {self.stderr}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=DEADLINE)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> int:
        """Ask it to end, wait until it has, and return its status."""
        self.process.terminate()
        return self.process.wait(DEADLINE)


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    received = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while chunk := connection.recv(65_536):
            received += chunk
    canaries.look_at_response(received.decode("latin-1"))
    return bytes(received)


@contextmanager
def serving(command: list[str], cwd: Path, **variables: str) -> Iterator[Server]:
    """Run a service, from its first response to the end of the block; on a free port, if PORT does not say which."""
    port = int(variables["PORT"]) if "PORT" in variables else free_port()
    command = command if "PORT" in variables else [*command, "--port", str(port)]
    output, errors = cwd / "stdout", cwd / "stderr"
    process: subprocess.Popen[bytes] | commands.Process
    if command[0] == FORKED:
        assert cwd != ROOT, "the developer's .env is there"
        output.touch()
        errors.touch()
        process = commands.Process(command[1:], cwd, environment(**variables), output, errors)
    else:
        with output.open("wb") as stdout, errors.open("wb") as stderr:
            process = subprocess.Popen(command, cwd=cwd, env=environment(**variables), stdout=stdout, stderr=stderr)
    server = Server(process, port, output, errors)
    try:
        eventually(server.responds, "the server responds")
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        canaries.look_at_output(server.stdout)
        canaries.look_at_log(server.stderr)
