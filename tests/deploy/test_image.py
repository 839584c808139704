"""The image, built and run as an operator would, on a base made here from Debian's packages: no image is pulled.

It runs in namespaces of its own, with nothing but what is in it: its program is process 1, its root cannot be written,
and its user is one that it has never heard of.
"""

import contextlib
import json
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests import canaries
from tests.network import free_port
from tests.programs import IMPOSSIBLE, needed_program
from tests.settings import SECRET

ROOT = Path(__file__).parents[2]
PROGRAMS = ("buildah", "mmdebstrap")
LIMIT = 300.0

pytestmark = pytest.mark.root  # who makes namespaces and mounts

ENTER = """
root=$1 volume=$2 && shift 2 && mount --bind "$root" "$root" && mount -o remount,bind,ro "$root" &&
mount -t proc proc "$root/proc" && mount --bind "$volume" "$root/mnt" && exec chroot --userspec=54321:0 "$root" "$@"
"""


@dataclass
class Image:
    """A built image: its files, a volume for /mnt, and what it says about itself."""

    root: Path
    volume: Path
    config: dict[str, Any]

    def command(self, *arguments: str, **variables: str) -> list[str]:
        """What runs it: its entry point, with its environment and these variables, and no other."""
        environment = [*self.config["Env"], *(f"{name}={value}" for name, value in variables.items())]
        inside = ["/usr/bin/env", "-i", *environment, *self.config["Entrypoint"], *arguments]
        namespaces = ["unshare", "--mount", "--pid", "--fork", "--kill-child=KILL"]
        return [*namespaces, "sh", "-c", ENTER, "sh", str(self.root), str(self.volume), *inside]

    def run(self, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
        result = subprocess.run(
            self.command(*arguments, **variables), capture_output=True, text=True, timeout=60, check=False
        )
        canaries.look_at_output(result.stdout)
        canaries.look_at_log(result.stderr)
        return result


def call(*command: str) -> str:
    """Run a tool of the host; skip where it cannot do its work here."""
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT, check=False)
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no word"])[-1]
        pytest.skip(f"{Path(command[0]).name} does not work here: {last}")
    return result.stdout


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """The image of the Dockerfile."""
    for program in PROGRAMS:
        needed_program(program)
    if subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True).returncode:
        pytest.skip(f"{IMPOSSIBLE}: not even root may make namespaces")
    folder = tmp_path_factory.mktemp("image")
    base, wheels = folder / "base.tar", folder / "wheels"
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "stable")  # whose keys the host has
    call("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", suite, str(base))
    store = ["--root", str(folder / "store"), "--runroot", str(folder / "run"), "--storage-driver", "vfs"]
    buildah = ["buildah", *store]
    container = call(*buildah, "from", "scratch").strip()
    call(*buildah, "add", container, str(base), "/")
    call(*buildah, "commit", "--format", "docker", container, "localhost/base")
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    python = call(*buildah, "run", "--isolation", "chroot", container, "python3", "-c", code).strip()
    # The host knows where packages come from; what is in the container need not.
    pip = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--require-hashes",
    ]
    call(*pip, "--python-version", python, "--dest", str(wheels), "-r", "requirements-runtime.lock")
    build = ["bud", "--isolation", "chroot", "--format", "docker", "--pull-never", "--volume", f"{wheels}:/wheels:ro"]
    arguments = ["BASE=localhost/base", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels"]
    options = [part for argument in arguments for part in ("--build-arg", argument)]
    built = subprocess.run([*buildah, *build, *options, "-t", "localhost/todo", "."], cwd=ROOT, capture_output=True)
    assert built.returncode == 0, built.stderr.decode()[-2000:]
    config = json.loads(call(*buildah, "inspect", "--type", "image", "localhost/todo"))["Docker"]["config"]
    service = call(*buildah, "from", "localhost/todo").strip()
    volume = folder / "volume"
    volume.mkdir()
    volume.chmod(0o777)
    yield Image(Path(call(*buildah, "mount", service).strip()), volume, config)
    call(*buildah, "rm", "--all")
    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def serving(image: Image, **variables: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Run the image's own command; yield its address, and the process that is 1 to itself."""
    port = free_port()
    command = image.command(*image.config["Cmd"], PORT=str(port), **variables)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 30
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                while time.monotonic() < end and process.poll() is None:
                    with contextlib.suppress(httpx.TransportError):
                        assert client.get("/health").status_code == 200
                        break
                    time.sleep(0.05)
            assert process.poll() is None, process.stderr and process.stderr.read()
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


def it_says_how_it_is_run(image: Image) -> None:
    config = image.config
    assert config["Entrypoint"] == ["todo-backend"]  # no shell, so signals reach it
    assert config["Cmd"] == ["serve"]
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"] == ["CMD", "todo-backend", "health"]
    assert "ENVIRONMENT=production" in config["Env"]
    assert not any("SECRET" in variable or "PIP_" in variable for variable in config["Env"])


def it_holds_the_service_and_no_tool(image: Image) -> None:
    app = image.root / "app"
    assert list(app.glob("lib/*/site-packages/backend/main.py"))
    assert not list(app.rglob("CLAUDE.md"))
    for name in ("pip", "flit_core", "pytest"):
        assert not list(app.glob(f"lib/*/site-packages/{name}"))
    assert not (image.root / "build").exists()


def it_migrates_checks_serves_and_ends(image: Image) -> None:
    settings = {"BETTER_AUTH_SECRET": SECRET, "DATABASE_URL": "sqlite+aiosqlite:////mnt/todo.db"}
    unmigrated = image.run("check", **settings)
    assert unmigrated.returncode == 1
    assert "Traceback" not in unmigrated.stderr
    migrated = image.run("migrate", **settings)
    assert (migrated.returncode, migrated.stderr) == (0, "")
    with serving(image, **settings) as (url, process):
        assert httpx.get(f"{url}/api/tasks").status_code == 401
        port = url.rpartition(":")[2]
        assert image.run("health", PORT=port).returncode == 0
        (first,) = psutil.Process(process.pid).children()
        assert first.uids().real == 54321
        first.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert image.run("health", PORT=port).returncode == 1


def test_the_image(image: Image) -> None:
    # One test, because to build the image takes a minute, and each of several workers would.
    it_says_how_it_is_run(image)
    it_holds_the_service_and_no_tool(image)
    it_migrates_checks_serves_and_ends(image)
