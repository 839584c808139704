"""The commands. Heavy modules are imported by the command that needs them, after the settings have been checked."""

import asyncio
import logging
import os
import secrets
import socket
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from http import HTTPStatus
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer

from backend.auth.tokens import MAX_SUBJECT_LENGTH, TokenVerifier, mint, usable_subject
from backend.config import ConfigurationError, Settings, is_loopback, load_settings
from backend.db.url import SQLiteURL, database_url, direct_database_url
from backend.errors import DatabaseError, IssuerUnavailable, OutcomeUnknown, TokenError, TokenExpired, TooManyTasks
from backend.log import configure_logging, logging_in_background

if TYPE_CHECKING:
    from backend.check import Report
    from backend.db.session import Database
    from backend.services.rows import Limits
    from backend.services.tasks import TaskService

GRACEFUL_SHUTDOWN = 8
"""Seconds that requests under way have at the end, after one for those on their way; then they are cut off, so that the
exit is within 12 seconds."""

WORKER_SILENCE = 30
"""Seconds for which a worker may give no sign of life. On a busy machine it takes several to start, and one that is
killed meanwhile would never come up."""

DEVELOPMENT_TOKEN_LIFETIME = 7 * 24 * 3600

HEALTH_TIMEOUT = 3.0

ADDRESS_IN_USE = 3
"""The exit status where the address to listen on cannot be had."""

UNCHANGED = "the database was not brought up to date"

T = TypeVar("T")

logger = logging.getLogger(__name__)

app = typer.Typer(
    help="A tasks API for Neon and Better Auth. Settings come from the environment or .env; see .env.example.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Host = Annotated[str, typer.Option(help="The address to listen on.")]


def _up_to(most: int, variable: str) -> Callable[[str], int]:
    """Return a reader of an option that a variable stands for: a wrong variable is told as every wrong setting is."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = 0
        if 1 <= number <= most:
            return number
        reason = f"must be a whole number from 1 to {most}"
        if text == os.environ.get(variable):
            _fail(f"wrong setting: {variable}: {reason}")
        raise typer.BadParameter(reason)

    return read


MAX_PORT = 65_535
Port = Annotated[
    int,
    typer.Option(help="The port to listen on.", metavar="PORT", parser=_up_to(MAX_PORT, "PORT"), envvar="PORT"),
]
Workers = Annotated[
    int,
    typer.Option(
        help="How many processes.", metavar="NUMBER", parser=_up_to(256, "WEB_CONCURRENCY"), envvar="WEB_CONCURRENCY"
    ),
]


def main() -> None:
    """Run the command that the command line names. What nobody expected is one line, and with --debug a traceback."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]  # wherever it stands
    debug = len(arguments) < len(sys.argv) - 1
    if debug:
        os.environ["LOG_LEVEL"] = "DEBUG"
    try:
        app(arguments)
    except Exception as error:  # noqa: BLE001 # the last place where an error can become a line
        if debug:
            traceback.print_exc()
        _fail(f"unexpected error: {type(error).__name__}; --debug shows where")


def _show_version(value: bool) -> None:
    if value:
        print(f"todo-backend {version('todo-backend')}")
        raise typer.Exit


@app.callback()
def _every_command(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an unexpected error; log at DEBUG.")
    ] = False,
) -> None:
    pass


def _settings() -> Settings:
    settings = load_settings(database_url, direct_database_url, TokenVerifier)
    configure_logging(settings)
    return settings


def _fail(reason: str, cause: Exception | None = None) -> NoReturn:
    """Exit with one line. Where it comes from is in the log, at DEBUG."""
    if cause is not None:
        logger.debug("%s", type(cause).__name__, exc_info=cause)
    sys.exit("todo-backend: " + " ".join(reason.split()))


@app.command()
def dev(host: Host = "127.0.0.1", port: Port = 8000) -> None:
    """Serve for development: makes .env and the SQLite file where there are none, and reloads when either changes."""
    env_file = Path(".env")
    if not env_file.exists():
        try:
            env_file.touch(mode=0o600)
            env_file.write_text(
                "# Made by `todo-backend dev`; .env.example has every setting.\n"
                f"BETTER_AUTH_SECRET={secrets.token_urlsafe(48)}\n"
            )
        except OSError as error:
            _fail(f".env: cannot be made in this folder: {error.strerror}", error)
        print("made .env with a random BETTER_AUTH_SECRET")
    settings = _settings()
    print("starting todo-backend for development …", flush=True)
    sockets = _bind(host, port)
    if isinstance(database_url(settings), SQLiteURL):
        _migrate(settings)
    url = f"http://{_name_of(host)}:{port}"
    print(f"\nSee it: {url}/\n\nRead it: {url}/docs\n", flush=True)
    if settings.better_auth_secret is not None and not settings.production:
        token = mint(settings, "dev-user", DEVELOPMENT_TOKEN_LIFETIME)
        print(
            f"Try it:\n\n  curl -H 'Authorization: Bearer {token}' {url}/api/tasks\n\n"
            f"See it, signed in: {url}/#token={token}\n",
            flush=True,
        )
    from backend.serving.server import Config, run_with_reload

    options = _server_options(settings, host, port)
    config = Config(**options, reload=True, reload_dirs=[str(Path(__file__).parent)])
    run_with_reload(config, sockets, env_file.resolve())


def _name_of(host: str) -> str:
    """Return what a browser on this machine calls the host."""
    if host in {"0.0.0.0", "::"}:  # noqa: S104 # compared
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _bind(host: str, port: int) -> list[socket.socket]:
    from backend.serving.listeners import bind

    try:
        return bind(host, port)
    except OSError as error:
        print(
            f"todo-backend: cannot listen on {host}, port {port}: {error.strerror or 'no such address'}",
            file=sys.stderr,
        )
        sys.exit(ADDRESS_IN_USE)


@app.command()
def serve(
    host: Host = "0.0.0.0",  # noqa: S104 # in production it is for others to reach
    port: Port = 8000,
    workers: Workers = 1,
    proxy_headers: Annotated[bool, typer.Option(help="Trust X-Forwarded-* of FORWARDED_ALLOW_IPS.")] = False,
    drain: Annotated[
        float, typer.Option(help="Seconds between SIGTERM and the end, with /health/db at 503.", min=0, max=300)
    ] = 0,
    keep_alive: Annotated[
        float | None, typer.Option(help="Seconds for which an idle connection stays open.", min=1, max=3600)
    ] = None,
    root_path: Annotated[
        str | None, typer.Option(help="The path in front of /api, which a proxy takes off or leaves.")
    ] = None,
    admin_port: Annotated[
        int | None, typer.Option(help="A port for /metrics and probes, for the operator.", min=1, max=MAX_PORT)
    ] = None,
    admin_host: Annotated[str, typer.Option(help="The address of the admin port.")] = "127.0.0.1",
) -> None:
    """Serve for production. On SIGTERM it drains, if told to; then requests under way finish, within 9 seconds."""
    if root_path is not None:
        os.environ["ROOT_PATH"] = root_path  # for the workers, too, which read the settings anew
    settings = _settings()
    sockets = _bind(host, port)
    if admin_port is not None:
        _start_admin_server(admin_host, admin_port, ("127.0.0.1" if host in {"0.0.0.0", "::"} else host, port))  # noqa: S104 # compared
    from backend.serving.server import Config, run

    options = _server_options(settings, host, port) | {"proxy_headers": proxy_headers}
    if keep_alive is not None:
        options["timeout_keep_alive"] = keep_alive
    _announce(settings, workers)
    with nullcontext() if workers == 1 else logging_in_background():  # a process that serves sees to it itself
        run(Config(**options, workers=workers, drain=drain), sockets)


def _announce(settings: Settings, workers: int) -> None:
    """Log what serves: in a log of many deployments it says which one the lines after it are of."""
    url = database_url(settings)
    place = "an SQLite file" if isinstance(url, SQLiteURL) else f"the database on {url.host or 'a local socket'}"
    migrations = (Path(__file__).parent / "db/migrations/versions").glob("[0-9]*.py")
    schema = max(path.name.partition("_")[0] for path in migrations)  # Alembic would take long to import
    if settings.production and settings.better_auth_secret is not None:
        logger.warning("BETTER_AUTH_SECRET verifies tokens (HS256): whoever reads it can be anybody")
    logger.info("todo-backend %s, schema %s, workers: %d, %s", version("todo-backend"), schema, workers, place)


def _start_admin_server(host: str, port: int, service: tuple[str, int]) -> None:
    from backend.serving.admin import prepare_metrics, start_admin_server

    if not is_loopback(host):
        logger.warning("the admin port listens on %s: whoever reaches it can read the metrics", host)
    try:
        prepare_metrics()
        start_admin_server(host, port, service)
    except ImportError:
        _fail("--admin-port needs the extra `metrics`: in the clone, pip install '.[metrics]'")
    except OSError as error:
        _fail(f"--admin-port {port}: {error.strerror or type(error).__name__}", error)


def _server_options(settings: Settings, host: str, port: int) -> dict[str, Any]:
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
        "timeout_keep_alive": settings.keep_alive,
        "timeout_worker_healthcheck": WORKER_SILENCE,
        "max_connections": settings.max_connections,
    }


@app.command()
def migrate(
    to: Annotated[str, typer.Option(help="The revision to go up to.")] = "head",
    adopt: Annotated[
        bool, typer.Option(help="Take over tables that are equal to this version's, but have no revision.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
) -> None:
    """Bring the database up to date, over the direct address: a pooler would not do. Safe to repeat."""
    settings = _settings()
    if sql:
        from backend.db import migrating, migrations

        statements = migrating.run_on_schema(settings, lambda connection: migrations.sql(connection, to))
        print(_run(statements, UNCHANGED), end="")
    else:
        _migrate(settings, to, adopt=adopt)


def _migrate(settings: Settings, to: str = "head", *, adopt: bool = False) -> None:
    from backend.db import migrating, migrations

    change = migrating.migrate(settings, lambda connection: migrations.upgrade(connection, to, adopt=adopt))
    revision = _run(change, UNCHANGED)
    newer = revision not in migrations.revisions()
    note = f", which is newer than this version's {migrations.head()}: nothing was changed" if newer else ""
    print(f"the database is at revision {revision}{note}")


def _run(work: Coroutine[Any, Any, T], nothing_done: str) -> T:
    """Run work on the database. Exits with one line where it fails: `nothing_done` and why, if that is sure."""
    try:
        return asyncio.run(work)
    except OutcomeUnknown as error:
        _fail(f"nobody knows whether it was done; run it again: {error}", error)
    except DatabaseError as error:
        _fail(f"{nothing_done}: {error}", error)


@app.command()
def token(
    user: Annotated[str, typer.Option(help="The user's id: the token's `sub`.")],
    ttl: Annotated[int, typer.Option(help="Seconds for which it is good.", min=1, max=366 * 24 * 3600)] = 3600,
) -> None:
    """Print a token for a user, signed with BETTER_AUTH_SECRET. In development only."""
    _check_user(user)
    try:
        print(mint(_settings(), user, ttl))
    except ConfigurationError as error:
        _fail(str(error))


@app.command()
def transfer(
    giver: Annotated[str, typer.Argument(metavar="FROM", help="Whose tasks.")],
    taker: Annotated[str, typer.Argument(metavar="TO", help="Who gets them.")],
) -> None:
    """Give all tasks of one user to another, in one transaction."""
    settings = _settings()
    _check_user(giver)
    _check_user(taker)
    if giver == taker:
        _fail("FROM and TO are the same user")
    nothing_done = "no task was transferred"
    try:
        moved = _on_database(settings, lambda database: _tasks(database, giver).transfer_to(taker), nothing_done)
    except TooManyTasks:
        _fail(f"{nothing_done}: TO would have more than MAX_TASKS_PER_USER allows")
    print(f"transferred {moved} tasks")


def _check_user(user_id: str) -> None:
    if not usable_subject(user_id):
        _fail(f"a user's id has 1 to {MAX_SUBJECT_LENGTH} characters, in UTF-8")


def _on_database(settings: Settings, work: Callable[["Database"], Awaitable[T]], nothing_done: str) -> T:
    """Run work on the database that requests use: see `_run`."""
    from backend.db.session import Database

    async def run() -> T:
        database = Database(settings)
        try:
            return await work(database)
        finally:
            await database.close()

    return _run(run(), nothing_done)


def _limits(settings: Settings) -> "Limits":
    from backend.services.rows import Limits

    return Limits(settings.max_tasks_per_user, settings.trash_days)


def _tasks(database: "Database", user_id: str) -> "TaskService":
    from backend.services.tasks import TaskService

    return TaskService(database.executor, user_id, _limits(database.settings))


@app.command()
def purge() -> None:
    """Erase the tasks that have been in the trash for TRASH_DAYS."""
    settings = _settings()
    from backend.services import maintenance

    limits = _limits(settings)
    erased = _on_database(
        settings, lambda database: maintenance.purge(database.executor, limits), "nothing more was erased"
    )
    print(f"erased {erased} tasks")


@app.command()
def resync() -> None:
    """Have every follower start anew: after a restore to an earlier time, or a rolling upgrade."""
    settings = _settings()
    from backend.services import maintenance

    users = _on_database(settings, lambda database: maintenance.resync(database.executor), "nothing was changed")
    print(f"the followers of {users} users start anew")


User = Annotated[str, typer.Argument(metavar="USER", help="The user's id: the token's `sub`.")]


@app.command()
def export(user: User) -> None:
    """Print all of a user's tasks, those in the trash too, as JSON lines."""
    settings = _settings()
    _check_user(user)
    from pydantic_core import to_json

    from backend.services import maintenance

    async def write(database: "Database") -> None:
        async for task in maintenance.export(database.executor, user):
            sys.stdout.write(to_json(task).decode() + "\n")

    _on_database(settings, write, "not all was printed")


@app.command()
def erase(user: User) -> None:
    """Erase all that there is of a user, for good."""
    settings = _settings()
    _check_user(user)
    erased = _on_database(settings, lambda database: _tasks(database, user).delete_all(), "nothing was erased")
    print(f"erased {erased} tasks")


@app.command()
def mcp() -> None:
    """Serve the tools of /mcp over standard input and output, to a desktop client, for the user of MCP_TOKEN."""
    settings = _settings()
    if find_spec("mcp") is None:
        _fail("needs the extra `mcp`: in the clone, pip install '.[mcp]'")
    if settings.mcp_token is None:
        _fail("MCP_TOKEN: is required, a token of the user")
    token = settings.mcp_token.get_secret_value()
    _on_database(settings, lambda database: _serve_agent(database, TokenVerifier(settings), token), "it ended")


async def _serve_agent(database: "Database", verifier: TokenVerifier, token: str) -> None:
    from backend.agents.server import serve_stdio
    from backend.db.session import create_db_and_tables

    try:
        await verifier.verify(token)
    except (TokenError, IssuerUnavailable) as error:
        _fail(_why_refused(error), error)
    if isinstance(database.url, SQLiteURL) and not database.settings.production:
        await create_db_and_tables(database)

    async def tasks_of_call(_request: object) -> "TaskService":
        try:
            identity = await verifier.verify(token)
        except TokenError as error:
            # Another thread waits for input, and would keep the process until there is some.
            print(f"todo-backend: {_why_refused(error)}", file=sys.stderr, flush=True)
            os._exit(1)
        return _tasks(database, identity.user_id)

    await serve_stdio(tasks_of_call)


def _why_refused(error: TokenError | IssuerUnavailable) -> str:
    if isinstance(error, TokenExpired):
        return "MCP_TOKEN: has expired; get a new one"
    return f"MCP_TOKEN: cannot be used: {str(error) or type(error).__name__}"


@app.command()
def health(port: Port = 8000) -> None:
    """Ask the service on this machine whether it is alive: for a container's HEALTHCHECK. Needs no setting but PORT."""
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HEALTH_TIMEOUT)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        _fail(f"nothing listens on 127.0.0.1, port {port} ({type(error).__name__})")
    if status != HTTPStatus.OK:
        _fail(f"/health on port {port} responds with {status}")


@app.command()
def openapi() -> None:
    """Print the API's OpenAPI document."""
    import json

    if not os.environ.get("BETTER_AUTH_SECRET"):
        os.environ["BETTER_AUTH_SECRET"] = "the document is the same for every secret"  # noqa: S105 # and this is none
    from backend.main import app as application

    json.dump(application.openapi(), sys.stdout, indent=2)
    print()


@app.command()
def check(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    token_from: Annotated[
        typer.FileText | None, typer.Option("--token", help="Check the token in this file alone; - is standard input.")
    ] = None,
) -> None:
    """Look at everything that must be right in production, one line each. Fails where the service would not work."""
    settings = _settings()
    logging.getLogger("backend").setLevel(logging.CRITICAL)  # the report says it
    from backend.check import check_all, check_token

    if token_from is not None:
        report = asyncio.run(check_token(settings, token_from.read().strip()))
        _print_report(report, as_json=as_json)
        sys.exit(not report.ok)

    async def run() -> None:
        report = await check_all(settings)
        _print_report(report, as_json=as_json)
        sys.stdout.flush()
        if report.hung:  # nothing can stop a thread that looks up a name, and the interpreter would wait for it
            os._exit(1)
        sys.exit(not report.ok)

    asyncio.run(run())


def _print_report(report: "Report", *, as_json: bool) -> None:
    print(report.document() if as_json else report.lines())
