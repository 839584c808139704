"""The doctor behind `todo-backend check`: one line for everything that must be right in production."""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Literal

from sqlalchemy import text

from backend.auth.tokens import LEEWAY, TokenVerifier
from backend.config import Settings
from backend.db.connection import closed_connections, connect
from backend.db.migrating import look
from backend.db.migrations import current, head, missing, revisions
from backend.db.session import Database
from backend.db.url import PostgresURL, SQLiteURL, database_url
from backend.errors import DatabaseNotMigrated, TodoError


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look has found; a warning does not make the check fail."""

    level: Literal["ok", "warn", "FAIL"]
    text: str


Look = Callable[[Settings], Awaitable[Finding]]


async def check_all(settings: Settings) -> bool:
    """Print a line for each look; return whether the service would work."""
    good = True
    for name, examine in _LOOKS.items():
        try:
            finding = await examine(settings)
        except TodoError as error:
            finding = Finding("FAIL", str(error))
        print(f"{finding.level:5} {name:10} {finding.text}")  # noqa: T201 # its purpose is to print
        good = good and finding.level != "FAIL"
    return good


async def _settings(settings: Settings) -> Finding:
    if settings.production and isinstance(database_url(settings), SQLiteURL):
        return Finding("warn", "production on an SQLite file: it is lost with the machine")
    return Finding("ok", f"environment {settings.environment}")


async def _database(settings: Settings) -> Finding:
    _require_file(settings)
    database = Database(settings)
    question = "sqlite_version()" if isinstance(database.url, SQLiteURL) else "current_setting('server_version')"
    try:
        version = (await database.executor.exec(text(f"SELECT {question}"))).scalar_one()
        started = time.perf_counter()
        await database.ping()
        milliseconds = (time.perf_counter() - started) * 1000
    finally:
        await database.close()
    name = "SQLite" if isinstance(database.url, SQLiteURL) else "PostgreSQL"
    return Finding("ok", f"{name} {version}, answers in {milliseconds:.0f} ms")


async def _tls(settings: Settings) -> Finding:
    url = database_url(settings)
    if isinstance(url, SQLiteURL):
        return Finding("ok", "not needed: the database is a file")
    try:
        connection = await connect(url, settings)
    except Exception as error:  # noqa: BLE001 # the line above has said why
        return Finding("FAIL", f"no connection to look at ({type(error).__name__})")
    tls = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001 # asyncpg offers no other way to it
    await connection.close()
    await closed_connections()
    if tls is None:
        return Finding("warn", "not encrypted")
    if url.sslmode == "verify-full":
        return Finding("ok", f"{tls.version()}, certificate and host name verified")
    advice = "sslmode=verify-full keeps an impostor out"
    if url.channel_binding_required:
        advice = f"asyncpg has no channel binding, so channel_binding=require is not kept; {advice}"
    return Finding("ok", f"{tls.version()}, sslmode={url.sslmode}; {advice}")


async def _pooler(settings: Settings) -> Finding:
    url = database_url(settings)
    if not isinstance(url, PostgresURL) or not url.is_neon:
        return Finding("ok", "not on Neon")
    if not url.is_pooled and settings.database_pool_size == 0:
        return Finding("warn", "the host has no -pooler: each request starts a process on the server")
    return Finding("ok", "through Neon's pooler" if url.is_pooled else "direct, with a pool of our own")


def _require_file(settings: Settings) -> None:
    url = database_url(settings)
    if isinstance(url, SQLiteURL) and url.path is not None and not url.path.exists():
        raise DatabaseNotMigrated(
            "there is no file yet: run todo-backend migrate"
        )  # to connect would make an empty one


async def _migrations(settings: Settings) -> Finding:
    _require_file(settings)
    revision, lacking = await look(settings, lambda connection: (current(connection), missing(connection)))
    if lacking:
        raise DatabaseNotMigrated(f"at {revision or 'nothing'}, without {', '.join(lacking)}: run todo-backend migrate")
    if revision is None:
        raise DatabaseNotMigrated("the tables are there, but no revision: run todo-backend migrate")
    if revision not in revisions():
        return Finding("ok", f"at {revision}, which is newer than this version's {head()}")
    if revision != head():
        raise DatabaseNotMigrated(f"at {revision}, not {head()}: run todo-backend migrate")
    return Finding("ok", f"at {revision}, the newest")


async def _jwks(settings: Settings) -> Finding:
    jwks = TokenVerifier(settings).jwks
    if jwks is None:
        return Finding("ok", "not used: tokens are signed with BETTER_AUTH_SECRET")
    await jwks.fetch()
    if not jwks.keys:
        return Finding("FAIL", "the issuer publishes no key that can be used")
    algorithms = sorted({algorithm for _, algorithm in jwks.keys})
    key_ids = {key_id for key_id, _ in jwks.keys}
    keys = f"{len(key_ids)} keys: {', '.join(algorithms)}"
    difference = _seconds_from_now(jwks.date)
    if difference is None:
        return Finding("ok", f"{keys}; the issuer does not tell the time")
    if abs(difference) > LEEWAY:
        direction = "ahead of" if difference > 0 else "behind"
        return Finding("warn", f"{keys}; the issuer's clock is {abs(difference):.0f} s {direction} ours")
    return Finding("ok", f"{keys}; the clocks agree")


def _seconds_from_now(date: str | None) -> float | None:
    try:
        return None if date is None else parsedate_to_datetime(date).timestamp() - time.time()
    except ValueError:
        return None


_LOOKS: dict[str, Look] = {
    "settings": _settings,
    "database": _database,
    "tls": _tls,
    "pooler": _pooler,
    "migrations": _migrations,
    "jwks": _jwks,
}
