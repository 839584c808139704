"""The commands that serve: in development, in production, an agent; and the one that asks whether something does."""

import asyncio
import errno
import logging
import os
import secrets
import socket
import sys
from collections.abc import Callable
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import backend
from backend import __version__
from backend.auth.tokens import TokenVerifier, mint
from backend.check.settings import ENVIRONMENT_ALONE, HS256_IN_PRODUCTION, whole_number
from backend.cli.common import fail, on_database, read_settings
from backend.cli.data import migrate_to
from backend.config import ConfigurationError, Settings, is_loopback, needs_extra
from backend.db.url import SQLiteURL, database_url
from backend.errors import DatabaseError, DatabaseNotMigrated, IssuerUnavailable, TokenError, TokenExpired
from backend.log import logging_in_background

if TYPE_CHECKING:
    from backend.db.session import Database
    from backend.services.tasks import TaskService

PACKAGE = Path(backend.__path__[0])

GRACEFUL_SHUTDOWN = 8
"""Seconds that requests under way have at the end, after one for those on their way; then they are cut off, so that the
exit is within 12 seconds."""

WORKER_SILENCE = 30
"""Seconds for which a worker may give no sign of life. On a busy machine it takes several to start, and one that is
killed meanwhile would never come up."""

DEVELOPMENT_TOKEN_LIFETIME = 7 * 24 * 3600

HEALTH_TIMEOUT = 3.0

EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 # compared
"""Hosts that stand for all addresses of the machine."""

ADDRESS_IN_USE = 3
"""The exit status where the address to listen on cannot be had."""

logger = logging.getLogger(__name__)

Host = Annotated[str, typer.Option(help="The address to listen on.")]


def _number(variable: str) -> Callable[[str], int]:
    """Return a reader of an option that a variable stands for: a wrong variable is told as every wrong setting is."""

    def read(text: str) -> int:
        try:
            return whole_number(variable, str(text))  # typer hands the default over as it is
        except ConfigurationError as error:
            if text == os.environ.get(variable):
                fail(f"wrong setting: {error}")
            raise typer.BadParameter(str(error).removeprefix(f"{variable}: ")) from None

    return read


Port = Annotated[
    int, typer.Option(help="The port to listen on.", metavar="PORT", parser=_number("PORT"), envvar="PORT")
]

Workers = Annotated[
    int,
    typer.Option(
        help="How many processes.", metavar="NUMBER", parser=_number("WEB_CONCURRENCY"), envvar="WEB_CONCURRENCY"
    ),
]


def dev(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve for development: makes .env and the SQLite file if missing, reloads when the code or .env changes."""
    env_file = Path(".env")
    if not env_file.exists():
        try:
            env_file.touch(mode=0o600)
            env_file.write_text(
                "# Made by `todo-backend dev`; .env.example has every setting.\n"
                f"BETTER_AUTH_SECRET={secrets.token_urlsafe(48)}\n",
                "utf-8",
            )
        except OSError as error:
            fail(f".env: cannot be made in this folder: {error.strerror}", error)
        print("made .env with a random BETTER_AUTH_SECRET")
    settings = read_settings()
    print("starting todo-backend for development …", flush=True)
    sockets = _bind(host, port)
    if isinstance(database_url(settings), SQLiteURL):
        migrate_to(settings)
    url = f"http://{_name_of(host)}:{port}"
    print(f"\nSee it: {url}/\n\nRead it: {url}/docs\n", flush=True)
    if settings.better_auth_secret is not None and not settings.production:
        token = mint(settings, "alice", DEVELOPMENT_TOKEN_LIFETIME)
        print(
            f"Try it:\n\n  curl -H 'Authorization: Bearer {token}' {url}/api/tasks\n\n"
            f"See it, signed in: {url}/#token={token}\n",
            flush=True,
        )
    if not isinstance(database_url(settings), SQLiteURL):
        asyncio.run(_hint_at_migrate(settings))
    from backend.serving.server import Config, run_with_reload

    options = _server_options(host, port)
    config = Config(**options, reload=True, reload_dirs=[str(PACKAGE)])
    run_with_reload(config, sockets, env_file.resolve())


async def _hint_at_migrate(settings: Settings) -> None:
    """Say so where the database lacks tables. One that does not respond in time may do so later."""
    from backend.db.session import Database
    from backend.models import task  # noqa: F401 # whose tables are asked for

    database = Database(settings)
    try:
        async with asyncio.timeout(settings.database_connect_timeout):
            await database.ping()
    except DatabaseNotMigrated:
        print("The database is not migrated: run todo-backend migrate\n", flush=True)
    except (DatabaseError, TimeoutError) as error:
        logger.debug("%s", type(error).__name__, exc_info=error)
    finally:
        await database.close()


def _name_of(host: str) -> str:
    """Return what a browser on this machine calls the host."""
    if host in EVERYWHERE:
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _bind(host: str, port: int) -> list[socket.socket]:
    from backend.serving.listeners import bind

    try:
        return bind(host, port)
    except OSError as error:
        reason = error.strerror or "no such address"
        if error.errno == errno.EADDRINUSE:
            reason += "; choose another by PORT or --port, such as 8001"
        print(f"todo-backend: cannot listen on {host}, port {port}: {reason}", file=sys.stderr)
        sys.exit(ADDRESS_IN_USE)


def serve(
    host: Host = "0.0.0.0",  # noqa: S104 # in production it is for others to reach
    port: Port = 8000,
    workers: Workers = 1,
    proxy_headers: Annotated[bool, typer.Option(help="Trust X-Forwarded-* of FORWARDED_ALLOW_IPS.")] = False,
    drain: Annotated[
        float,
        typer.Option(
            help="Seconds between SIGTERM and the end, with /health/ready and /health/db at 503.", min=0, max=300
        ),
    ] = 0,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds for which an idle connection stays open.", min=1, max=3600)
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="The path in front of /api, which a proxy takes off or leaves.")
    ] = None,
    admin_port: Annotated[
        int | None,
        typer.Option(help="A port for /metrics and probes, for the operator.", min=1, max=ENVIRONMENT_ALONE["PORT"]),
    ] = None,
    admin_host: Annotated[str, typer.Option(help="The address of the admin port.")] = "127.0.0.1",
) -> None:
    """Serve for production. On SIGTERM it drains, if told to; then requests under way finish, within 9 seconds."""
    if root_path is not None:
        os.environ["ROOT_PATH"] = root_path  # for the workers, too, which read the settings anew
    settings = read_settings()
    sockets = _bind(host, port)
    if admin_port is not None:
        _start_admin_server(admin_host, admin_port, ("127.0.0.1" if host in EVERYWHERE else host, port))
    from backend.serving.server import Config, run

    options = _server_options(host, port) | {"proxy_headers": proxy_headers}
    config = Config(**options, workers=workers, drain=drain, keep_alive=keep_alive)
    with logging_in_background():
        _announce(settings, workers)
        if workers > 1:
            run(config, sockets)
            return
    run(config, sockets)  # a process that serves sees to its log itself


def _announce(settings: Settings, workers: int) -> None:
    """Log what serves: in a log of many deployments it says which one the lines after it are of."""
    url = database_url(settings)
    place = "an SQLite file" if isinstance(url, SQLiteURL) else f"the database on {url.host or 'a local socket'}"
    migrations = (PACKAGE / "db/migrations/versions").glob("[0-9]*.py")
    schema = max(path.name.partition("_")[0] for path in migrations)  # Alembic would take long to import
    if settings.production and settings.better_auth_secret is not None:
        logger.warning(HS256_IN_PRODUCTION)
    logger.info("todo-backend %s, schema %s, workers: %d, %s", __version__, schema, workers, place)


def _start_admin_server(host: str, port: int, service: tuple[str, int]) -> None:
    from backend.serving.admin import prepare_metrics, start_admin_server

    if not is_loopback(host):
        logger.warning("the admin port listens on %s: whoever reaches it can read the metrics", host)
    try:
        prepare_metrics()
        start_admin_server(host, port, service)
    except ImportError:
        fail(f"--admin-port {needs_extra('metrics')}")
    except OSError as error:
        fail(f"--admin-port {port}: {error.strerror or type(error).__name__}", error)


def _server_options(host: str, port: int) -> dict[str, Any]:
    return {
        "app": "backend.main:app",
        "host": host,
        "port": port,
        "http": "backend.serving.protocol:LimitedProtocol",
        "ws": "none",
        "lifespan": "on",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": GRACEFUL_SHUTDOWN,
        "timeout_worker_healthcheck": WORKER_SILENCE,
    }


def mcp() -> None:
    """Serve the tools of /mcp over standard input and output, to a desktop client, for the user of MCP_TOKEN."""
    settings = read_settings()
    if find_spec("mcp") is None:
        fail(needs_extra("mcp"))
    if settings.mcp_token is None:
        fail("MCP_TOKEN: is required, a token of the user")
    token = settings.mcp_token.get_secret_value()
    on_database(settings, lambda database: _serve_agent(database, TokenVerifier(settings), token), "it ended")


async def _serve_agent(database: "Database", verifier: TokenVerifier, token: str) -> None:
    from backend.agents.server import serve_stdio
    from backend.api.deps import tasks_of_user
    from backend.db.session import create_db_and_tables

    try:
        await verifier.verify(token)
    except (TokenError, IssuerUnavailable) as error:
        fail(_why_refused(error), error)
    if isinstance(database.url, SQLiteURL) and not database.settings.production:
        await create_db_and_tables(database)

    async def tasks_of_call(_request: object) -> "TaskService":
        try:
            identity = await verifier.verify(token)
        except TokenError as error:
            # Another thread waits for input, and would keep the process until there is some.
            print(f"todo-backend: {_why_refused(error)}", file=sys.stderr, flush=True)
            os._exit(1)
        return tasks_of_user(database, identity.user_id)

    await serve_stdio(tasks_of_call, GRACEFUL_SHUTDOWN)
    await database.close()
    # asyncio would wait at its end for what a call that was cancelled twice may have left: aiosqlite's close(), which
    # waits for a thread that has ended.
    os._exit(0)


def _why_refused(error: TokenError | IssuerUnavailable) -> str:
    if isinstance(error, TokenExpired):
        return "MCP_TOKEN: has expired; get a new one"
    return f"MCP_TOKEN: cannot be used: {str(error) or type(error).__name__}"


def health(port: Port = 8000) -> None:
    """Ask the service on this machine whether it is alive: for a container's HEALTHCHECK. Needs no setting but PORT."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except ConnectionRefusedError as error:
        fail(f"nothing listens on 127.0.0.1, port {port}: does the service run, and on this port?", error)
    except (OSError, http.client.HTTPException) as error:
        fail(f"what listens on 127.0.0.1, port {port}, does not respond as the service does, or not in time", error)
    if status != HTTPStatus.OK:
        fail(f"/health on port {port} responds with {status}")
