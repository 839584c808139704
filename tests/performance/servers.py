"""What the measurements run against: PostgreSQL with TLS and passwords, PgBouncer with TLS, and the services."""

import getpass
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from backend.auth.tokens import mint
from backend.config import Settings
from tests.neon import certificate_of_localhost
from tests.network import free_port
from tests.programs import NODE, install_packages, needed_program

SECRET = "a-secret-for-measurements-of-enough-length"
PASSWORD = "measure"
BIN = Path(sys.executable).parent


def postgres_programs() -> Path | None:
    """The folder of Debian's PostgreSQL programs, None where they are not installed. The tests' own has no TLS."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


def _as_unprivileged(folder: Path) -> list[str | Path]:
    # Neither server runs as root. Where the measurements do, their folder goes to the package's own user.
    if getpass.getuser() != "root":
        return []
    shutil.chown(folder, "postgres")
    return ["runuser", "-u", "postgres", "--"]


@contextmanager
def postgres() -> Iterator[int]:
    """Run PostgreSQL, TLS and SCRAM required, with a role and a database `bench`; give its port."""
    programs = postgres_programs()
    assert programs is not None
    with tempfile.TemporaryDirectory() as name, certificate_of_localhost() as (_, certificate):
        folder, port = Path(name), free_port()
        user = _as_unprivileged(folder)
        (folder / "password").write_text(PASSWORD)
        (folder / "password").chmod(0o644)
        data = folder / "data"
        initdb: list[str | Path] = [programs / "initdb", "-D", data, "-U", "bench", "-A", "scram-sha-256"]
        initdb.append(f"--pwfile={folder}/password")
        subprocess.run([*user, *initdb], check=True, stdout=subprocess.DEVNULL)
        for source, target in ((certificate, "server.crt"), (certificate.parent / "key.pem", "server.key")):
            shutil.copy(source, data / target)
            (data / target).chmod(0o600)
            if user:
                shutil.chown(data / target, "postgres")
        options = f"-p {port} -c ssl=on -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        server = subprocess.Popen(
            [*user, programs / "postgres", "-D", data, *options.split()],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        create: list[str | Path] = [programs / "psql", "-h", "127.0.0.1", "-p", str(port), "-U", "bench", "postgres"]
        while subprocess.run(
            [*create, "-qc", "CREATE DATABASE bench"], env=environment, stderr=subprocess.DEVNULL
        ).returncode:
            time.sleep(0.1)
        try:
            yield port
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait()


@contextmanager
def pgbouncer(postgres_port: int) -> Iterator[int]:
    """Run PgBouncer in transaction mode, TLS and SCRAM required, before a PostgreSQL; give its port."""
    with tempfile.TemporaryDirectory() as name, certificate_of_localhost() as (_, certificate):
        folder, port = Path(name), free_port()
        user = _as_unprivileged(folder)
        shutil.copy(certificate, folder / "server.crt")
        shutil.copy(certificate.parent / "key.pem", folder / "server.key")
        (folder / "users").write_text(f'"bench" "{PASSWORD}"\n')
        (folder / "ini").write_text(
            f"[databases]\nbench = host=127.0.0.1 port={postgres_port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {folder}/users\n"
            "pool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 1000\nserver_tls_sslmode = require\n"
            f"client_tls_sslmode = require\nclient_tls_cert_file = {folder}/server.crt\n"
            f"client_tls_key_file = {folder}/server.key\nlogfile = {folder}/log\n"
        )
        if user:
            for path in folder.iterdir():
                shutil.chown(path, "postgres")
        server = subprocess.Popen(
            [*user, needed_program("pgbouncer"), "-q", str(folder / "ini")],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield port
        finally:
            os.killpg(server.pid, signal.SIGINT)
            server.wait()


@dataclass
class Service:
    """A service under measurement."""

    name: str
    port: int
    process: psutil.Process

    def cpu(self) -> float:
        """Seconds of CPU that it has used so far, all its processes together."""
        return sum(self.cpus())

    def cpus(self) -> list[float]:
        """The same for each of its processes; what watches over workers comes first."""
        return [sum(process.cpu_times()[:2]) for process in self._processes()]

    def memory(self) -> int:
        """Bytes of memory that are its own."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """Make one request as the user `bench`; return what the response holds."""
        return json.loads(self.respond(Request(method, path, body))[1] or b"null")

    def respond(self, request: "Request") -> tuple[http.client.HTTPMessage, bytes]:
        """Make a request; return the headers and the content of the response, which must be the expected one."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            body = json.dumps(request.body) if request.body is not None else None
            connection.request(request.method, request.path, body, request.headers())
            response = connection.getresponse()
            content = response.read()
        expected = (request.status,) if request.status else (200, 201, 204)
        assert response.status in expected, f"{self.name}: {request.path} gave {response.status}"
        return response.headers, content


def token_of(user_id: str) -> str:
    """A token for a user of all the services."""
    return mint(Settings(_env_file=None, better_auth_secret=SECRET), user_id, 24 * 3600)


@dataclass(frozen=True)
class Request:
    """A request that is made over and over, by one user or in turns by several."""

    method: str
    path: str
    body: Any = None
    users: tuple[str, ...] = ("bench",)
    known: str | None = None
    """The entity tag that the client has."""
    status: int | None = None
    """Of the response, if it is not any good one."""

    def headers(self) -> dict[str, str]:
        """Its headers, with the token of the first user."""
        headers = {"Authorization": f"Bearer {token_of(self.users[0])}"}
        if self.body is not None:
            headers["Content-Type"] = "application/json"
        return headers | ({"If-None-Match": self.known} if self.known else {})


def database_url(port: int) -> str:
    """The address of `bench` behind a port."""
    return f"postgresql://bench:{PASSWORD}@127.0.0.1:{port}/bench?sslmode=require"


def environment(port: int, pool_size: int) -> dict[str, str]:
    """The settings of all the services."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {
        **inherited,  # without what would have the service alone compile its modules at each start
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "BETTER_AUTH_SECRET": SECRET,
        "DATABASE_URL": database_url(port),
        "DATABASE_POOL_SIZE": str(pool_size),
        "MAX_CONCURRENT_REQUESTS": "1000",
        "ENVIRONMENT": "development",
        "BASELINE_DATABASE_URL": database_url(port).replace("postgresql", "postgresql+asyncpg").partition("?")[0],
        "FLOOR_DATABASE_URL": database_url(port).partition("?")[0],
    }


PEER = Path(__file__).parent / "peer"
COMMANDS = {
    "floor": [str(BIN / "uvicorn"), "tests.performance.floor:app", "--no-access-log"],
    "framework": [str(BIN / "uvicorn"), "tests.performance.framework:app", "--no-access-log"],
    "service": [str(BIN / "todo-backend"), "serve", "--host", "127.0.0.1"],
    "peer": [NODE, str(PEER / "server.mjs")],
    "recipe": [str(BIN / "uvicorn"), "tests.performance.baseline:app", "--no-access-log"],
}
ONLY_POOLED = frozenset({"floor", "framework", "peer"})
"""Those that always keep connections."""


def why_no_peer() -> str | None:
    """Make the peer ready; return why it cannot be measured, if so."""
    try:
        install_packages(PEER)
    except pytest.skip.Exception as skipped:
        return str(skipped).splitlines()[0]  # the rest has paths and addresses, and results.json is published
    return None


@contextmanager
def databases() -> Iterator[tuple[int, int]]:
    """Run both servers, with an empty table; give the port of PostgreSQL and that of PgBouncer."""
    with postgres() as direct, pgbouncer(direct) as pooled, tempfile.TemporaryDirectory() as folder:
        migrate = [COMMANDS["service"][0], "migrate"]
        subprocess.run(migrate, env=environment(direct, 0), cwd=folder, check=True, stdout=subprocess.DEVNULL)
        yield direct, pooled


def database_cpu(port: int) -> float:
    """Seconds of CPU that the PostgreSQL of this port has used so far, but for connections that have ended."""
    server = next(
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres" and ["-p", str(port)] == (process.info["cmdline"] or [])[3:5]
    )
    ended = sum(server.cpu_times()[2:4])  # or a process that ends meanwhile would take its time away
    return float(ended + sum(sum(process.cpu_times()[:2]) for process in server.children()))


@contextmanager
def core_apart() -> Iterator[int]:
    """Keep one core free of this process and of all that it starts; give its number."""
    cores = os.sched_getaffinity(0)
    assert len(cores) > 1, "the service needs a core of its own"
    apart = min(cores)
    os.sched_setaffinity(0, cores - {apart})
    try:
        yield apart
    finally:
        os.sched_setaffinity(0, cores)


@contextmanager
def service(
    name: str, database_port: int, pool_size: int, *options: str, core: int | None = None, **settings: str
) -> Iterator[Service]:
    """Run one of them, as it is run in production, for as long as the block lasts; if asked to, on one core."""
    port = free_port()
    pinned = [] if core is None else ["taskset", "--cpu-list", str(core)]
    with tempfile.TemporaryDirectory() as folder:  # in the repository it would read the developer's .env
        process = psutil.Popen(
            [*pinned, *COMMANDS[name], "--port", str(port), *options],
            env=environment(database_port, pool_size) | settings,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        running = Service(name, port, process)
        while True:
            with suppress(OSError):
                running.respond(Request("GET", "/health"))
                break
            assert process.poll() is None, f"{name} has ended"
            time.sleep(0.01)
        try:
            yield running
        finally:
            process.terminate()
            process.wait()
