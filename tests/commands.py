"""A command of the service in a process of its own, forked from one that has imported everything already.

To import takes a second and a half, and hundreds of tests run commands or a service. `tests/serving` starts it in every
way that its users do; here only what a command does is of interest.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

# What commands import late. Not `backend.main`: it makes an application of the settings that it finds.
import alembic.command  # noqa: F401
import uvicorn
import uvicorn.loops.uvloop  # noqa: F401

import backend.api.guard
import backend.api.openapi
import backend.api.routers.batch
import backend.api.routers.docs
import backend.api.routers.health
import backend.api.routers.mcp
import backend.api.routers.page
import backend.api.routers.tasks
import backend.check
import backend.db.migrations
import backend.db.session
import backend.serving.protocol
import backend.serving.server  # noqa: F401 # as the others
from backend.cli import main

_TEMPLATE = multiprocessing.get_context("forkserver")
_TEMPLATE.set_forkserver_preload([__name__])


class Process:
    """A command that runs; it is asked and told as `subprocess.Popen` is."""

    def __init__(
        self, arguments: list[str], cwd: Path, environment: dict[str, str], output: Path, errors: Path
    ) -> None:
        self._arguments = arguments
        self._process = _TEMPLATE.Process(target=_run, args=(arguments, cwd, environment, output, errors))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self._arguments, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "stdout", Path(folder) / "stderr"
        process = Process(arguments, cwd, environment, output, errors)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return subprocess.CompletedProcess(arguments, status, output.read_text(), errors.read_text())


def _run(arguments: list[str], cwd: Path, environment: dict[str, str], output: Path, errors: Path) -> None:
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        os.dup2(stdout.fileno(), 1)
        os.dup2(stderr.fileno(), 2)
    sys.stdout = os.fdopen(1, "w")
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = ["todo-backend", *arguments]
    main()  # how it exits, multiprocessing hands on as the interpreter would
