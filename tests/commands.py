"""A command of the service in a process of its own, forked from one that has imported everything already.

To import takes a second and a half, and a hundred tests run commands. `tests/serving` starts the service in every way
that its users do; here only what a command does is of interest.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What commands import late. Not `backend.main`: it makes an application of the settings that it finds.
import alembic.command  # noqa: F401
import uvicorn  # noqa: F401

import backend.api.routers.tasks
import backend.check
import backend.db.migrations
import backend.db.session  # noqa: F401 # as the others
from backend.cli import main

_TEMPLATE = multiprocessing.get_context("forkserver")
_TEMPLATE.set_forkserver_preload([__name__])


def run(
    arguments: list[str], cwd: Path, environment: dict[str, str], timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with tempfile.TemporaryDirectory() as folder:
        output, errors = Path(folder) / "stdout", Path(folder) / "stderr"
        process = _TEMPLATE.Process(target=_run, args=(arguments, cwd, environment, output, errors))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(arguments, timeout)
        return subprocess.CompletedProcess(arguments, process.exitcode, output.read_text(), errors.read_text())


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
