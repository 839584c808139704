"""A stand-in for Neon: PostgreSQL with passwords (SCRAM), behind PgBouncer in transaction mode, behind a TLS edge.

PostgreSQL is the wheel's, PgBouncer is Debian's package, the edge is `network.Proxy`. Each part can be killed and
started again.
"""

import asyncio
import datetime
import os
import pwd
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import psutil
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import canaries
from tests.databases import start_postgres
from tests.network import Proxy, free_port, proxy_to
from tests.processes import eventually
from tests.programs import needed_program

USER = "app"
PASSWORD = canaries.PASSWORD
DATABASE = "todo"
HOST = "ep-cool-darkness-a1b2c3d4-pooler.eu-central-1.aws.neon.tech"
"""A name that Neon could give out; a test that uses it has it mean this machine."""


class Postgres:
    """A PostgreSQL of our own, on a Unix socket, where `USER` needs `PASSWORD`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name) / "data"
        self._server = start_postgres(self.folder, None)
        rules = f"local all {USER} scram-sha-256\nlocal all postgres trust\n"
        (self.folder / "pg_hba.conf").write_text(rules)

    @property
    def socket(self) -> str:
        """The path of the socket."""
        return str(next(Path(self.socket_folder).glob(".s.PGSQL.*[0-9]")))

    @property
    def socket_folder(self) -> str:
        """The folder of the socket."""
        return str(self._server.get_uri().rpartition("host=")[2])

    async def admin(self) -> asyncpg.Connection:
        """Connect as the superuser, past everything."""
        return await asyncpg.connect(host=self.socket_folder, user="postgres", database=DATABASE)

    async def set_up(self) -> None:
        """Make the role and the database."""
        connection = await asyncpg.connect(host=self.socket_folder, user="postgres", database="postgres")
        await connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'")
        await connection.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        await connection.execute("SELECT pg_reload_conf()")
        await connection.close()

    def kill(self) -> None:
        """Kill the whole server with signal 9, as a power cut would."""
        server = psutil.Process(self._server.get_pid())
        processes = [server, *server.children()]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in processes:  # as long as one of them lives, its memory keeps a new server from starting
            with suppress(psutil.NoSuchProcess):
                while process.status() != psutil.STATUS_ZOMBIE:
                    time.sleep(0.005)

    def start(self) -> None:
        """Start it again."""
        # What a killed server leaves; where nobody has buried it yet, its number still seems to be in use.
        for lock in (self.folder / "postmaster.pid", *Path(self.socket_folder).glob(".s.PGSQL.*.lock")):
            lock.unlink(missing_ok=True)
        self._server.ensure_postgres_running()

    def stop(self) -> None:
        """End it and remove its files."""
        self._server.stop()
        self._folder.cleanup()


class PgBouncer:
    """PgBouncer in transaction mode with a small pool, on a port of this machine.

    `server_port` is where it finds the server, if not on its socket.
    """

    def __init__(
        self, postgres: Postgres, *, pool_size: int = 2, settings: str = "", server_port: int | None = None
    ) -> None:
        self.port = free_port()
        self._folder = tempfile.TemporaryDirectory(prefix="pgbouncer")
        folder = Path(self._folder.name)
        (folder / "users.txt").write_text(f'"{USER}" "{PASSWORD}"\n')
        server = f"host={postgres.socket_folder}" if server_port is None else f"host=127.0.0.1 port={server_port}"
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{DATABASE} = {server}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\nunix_socket_dir =\n"
            f"listen_port = {self.port}\nauth_type = scram-sha-256\nauth_file = {folder / 'users.txt'}\n"
            f"admin_users = {USER}\n"
            f"pool_mode = transaction\ndefault_pool_size = {pool_size}\nmax_client_conn = 1000\n"
            f"server_login_retry = 1\nlogfile = {folder / 'log'}\n{settings}\n"
        )
        self._command = [needed_program("pgbouncer"), str(folder / "pgbouncer.ini")]
        if os.geteuid() == 0:  # PgBouncer refuses to run as root; the server's user may use the server's socket
            owner = postgres.folder.stat().st_uid
            for path in [folder, *folder.iterdir()]:
                os.chown(path, owner, -1)
            self._command[1:1] = ["-u", pwd.getpwuid(owner).pw_name]
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

        def listens() -> bool:
            assert self._process.poll() is None, "PgBouncer has ended"
            with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
                return True
            return False

        eventually(listens, "PgBouncer listens")

    def kill(self) -> None:
        """Kill it with signal 9."""
        self._process.kill()
        self._process.wait()

    async def order(self, command: str) -> None:
        """Give it a command such as PAUSE, and wait until it is carried out."""
        console = await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, database="pgbouncer", ssl=False
        )
        await console.execute(command)
        await console.close()

    def stop(self) -> None:
        """End it and remove its files."""
        self.kill()
        self._folder.cleanup()


@contextmanager
def certificate_of_localhost() -> Iterator[tuple[ssl.SSLContext, Path]]:
    """Make a certificate for localhost and `HOST`; give a server's context with it, and the file to trust it by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.DNSName(HOST)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    with tempfile.TemporaryDirectory() as folder:
        public, private = Path(folder) / "certificate.pem", Path(folder) / "key.pem"
        public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(public, private)
        yield context, public


@dataclass
class Neon:
    """All the parts, running."""

    postgres: Postgres
    pgbouncer: PgBouncer
    edge: Proxy
    certificate: Path

    def url(self, parameters: str = "sslmode=require&channel_binding=require", host: str = "localhost") -> str:
        """The connection string as the console would show it."""
        return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{host}:{self.edge.port}/{DATABASE}?{parameters}"


@asynccontextmanager
async def neon_like(*, pool_size: int = 2, settings: str = "") -> AsyncIterator[Neon]:
    """Run all the parts for as long as the block lasts, with an unmigrated database."""
    postgres = Postgres()
    await postgres.set_up()
    pgbouncer = PgBouncer(postgres, pool_size=pool_size, settings=settings)
    try:
        with certificate_of_localhost() as (tls, certificate):
            async with proxy_to(port=pgbouncer.port, tls=tls) as edge:
                yield Neon(postgres, pgbouncer, edge, certificate)
    finally:
        pgbouncer.stop()
        postgres.stop()


async def until(condition: Callable[[], Awaitable[Any]], what: str = "it holds") -> Any:
    """Wait until a condition holds, looking often, and return what it gave; fail after a long while."""
    for _ in range(2000):
        if value := await condition():
            return value
        await asyncio.sleep(0.01)  # another process sets no event of ours
    raise AssertionError(f"still not: {what}")
