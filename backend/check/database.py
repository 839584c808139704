"""The database: whether requests can read and write there, and whether the next migration can run.

The first is asked over the address that serves requests, the second over the direct one.
"""

import os
import ssl
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import SQLModel

from backend.check import Finding
from backend.check.issuer import clock
from backend.config import Settings
from backend.db import migrations
from backend.db.connection import DriverConnection, closed_connections, connect
from backend.db.failures import is_lock_timeout, translated
from backend.db.migrating import run_on_schema
from backend.db.session import Database
from backend.db.sqlite import require_file
from backend.db.url import PostgresURL, SQLiteURL, database_url, direct_database_url
from backend.errors import DatabaseError, DatabaseNotMigrated, DatabaseRefused, TodoError
from backend.models.task import TaskCreate, TaskUpdate
from backend.services.executor import RollBack, transaction
from backend.services.tasks import TaskService

_FACTS = """
SELECT current_user::text AS role,
       current_setting('server_encoding') AS encoding,
       current_setting('default_transaction_isolation') AS isolation,
       current_setting('default_transaction_read_only')::boolean AS read_only,
       pg_is_in_recovery() AS replica,
       array_to_string(current_schemas(false), ', ') AS schemas,
       to_regclass('tasks') IS NOT NULL AS has_tasks,
       least(
           current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
           nullif(rolconnlimit, -1), nullif(datconnlimit, -1)
       ) AS connections,
       extract(epoch FROM clock_timestamp())::float8 AS now
FROM pg_roles, pg_database WHERE rolname = current_user AND datname = current_database()
"""

_MISSING_RIGHTS = """
SELECT string_agg(DISTINCT format('%s on %s', privilege, name), ', ')
FROM unnest($1::text[]) AS name, unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS privilege
WHERE to_regclass(name) IS NOT NULL AND NOT has_table_privilege(name, privilege)
"""

_HIDING = """
WITH applied AS (
    SELECT name, command, policy.permissive,
           coalesce(policy.qual, 'true') = 'true' AND coalesce(policy.with_check, 'true') = 'true' AS everything
    FROM unnest($1::text[]) AS name CROSS JOIN unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) AS command
    LEFT JOIN pg_class ON pg_class.oid = to_regclass(name)
    LEFT JOIN pg_policies AS policy
        ON policy.tablename = name AND policy.schemaname = relnamespace::regnamespace::text
        AND policy.cmd IN ('ALL', command)
        AND EXISTS (
            SELECT FROM unnest(policy.roles) AS role
            WHERE CASE role WHEN 'public' THEN true ELSE pg_has_role(role, 'USAGE') END
        )
    WHERE CASE WHEN to_regclass(name) IS NOT NULL THEN row_security_active(name) END
)
SELECT string_agg(DISTINCT name, ', ') FROM (
    SELECT name FROM applied GROUP BY name, command
    HAVING coalesce(bool_or(everything) FILTER (WHERE permissive = 'PERMISSIVE'), false) = false
        OR coalesce(bool_and(everything) FILTER (WHERE permissive = 'RESTRICTIVE'), true) = false
) AS hiding
"""
"""Tables of which row security may hide rows from us, or refuse some: no policy that lets everything through is for us,
or one that restricts is."""

_HOLDERS = """
SELECT string_agg(DISTINCT pid::text, ', ') FROM pg_locks
WHERE granted AND mode = 'AccessExclusiveLock'
AND relation IN (SELECT to_regclass(name) FROM unnest($1::text[]) AS name)
"""

LOCK_TIMEOUT = "2s"
"""How long a look waits for what somebody else has locked."""

_FOREIGN_KEY = "23503"


async def look_at_database(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what a request would meet."""
    url = database_url(settings)
    if isinstance(url, SQLiteURL):
        require_file(url)
        async for finding in _look_at_file(settings):
            yield finding
        return
    yield _pooler(settings, url)
    started = time.perf_counter()
    with translated():
        connection = await connect(url, settings)
    try:
        with translated():
            version = await connection.fetchval("SELECT current_setting('server_version')")
            milliseconds = (time.perf_counter() - started) * 1000
            yield Finding("database", "ok", f"PostgreSQL {version}, connected and responded in {milliseconds:.0f} ms")
            yield _tls(connection, url)
            facts = await connection.fetchrow(_FACTS)
            yield clock("the database's clock", facts["now"] - time.time())
            findings = [*_find(settings, url, facts), *await _find_tables(settings, connection, facts)]
        for finding in findings:
            yield finding
        if not any(finding.level == "FAIL" for finding in findings):
            yield await _try_to_write(settings, connection)
    finally:
        connection.terminate()


async def look_at_migrations(settings: Settings) -> AsyncIterator[Finding]:
    """Yield what the next migration would meet, over the direct address."""
    url = direct_database_url(settings)
    if isinstance(url, SQLiteURL):
        require_file(url)
    revision, owns = await run_on_schema(settings, _examine_schema)
    if migrations.is_newer(revision):
        yield Finding("migrations", "ok", f"at {revision}, which is newer than this version's {migrations.head()}")
        return
    if revision != migrations.head():
        remedy = "run todo-backend migrate" if owns else "todo-backend migrate needs the role that owns the tables"
        raise DatabaseNotMigrated(f"at {revision or 'no revision'}, not {migrations.head()}: {remedy}")
    yield Finding("migrations", "ok", f"at {revision}, the newest")
    if not owns:
        yield Finding(
            "migrations", "warn", "this role does not own the tables: the next migration needs the one that does"
        )


def _examine_schema(connection: Connection) -> tuple[str | None, bool]:
    owns = True
    if connection.dialect.name == "postgresql":
        query = "SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('tasks')"
        owner = connection.scalar(text(query))
        creates = connection.scalar(text("SELECT has_schema_privilege(current_schema(), 'CREATE')"))
        owns = bool(creates) if owner is None else bool(owner)
    return migrations.examine(connection), owns


async def _look_at_file(settings: Settings) -> AsyncIterator[Finding]:
    database = Database(settings)
    try:
        version = (await database.executor.exec(text("SELECT sqlite_version()"))).scalar_one()
        started = time.perf_counter()
        await database.executor.exec(text("SELECT count(*) FROM sqlite_master"))
        milliseconds = (time.perf_counter() - started) * 1000
        yield Finding("database", "ok", f"SQLite {version}, responds in {milliseconds:.0f} ms")
    finally:
        await database.close()
    yield Finding("tls", "ok", "not needed: the database is a file")
    yield Finding("pooler", "ok", "not on Neon")
    yield await _try_to_write(settings, None)


def _pooler(settings: Settings, url: PostgresURL) -> Finding:
    if not url.is_neon:
        return Finding("pooler", "ok", "not on Neon")
    if not url.is_pooled and settings.database_pool_size == 0:
        return Finding("pooler", "warn", "the host has no -pooler: each request starts a process on the server")
    return Finding("pooler", "ok", "through Neon's pooler" if url.is_pooled else "direct, with a pool of our own")


def _tls(connection: DriverConnection, url: PostgresURL) -> Finding:
    tls = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001 # asyncpg offers no other way to it
    if tls is None:
        return Finding("tls", "warn", "not encrypted")
    if isinstance(url.tls, ssl.SSLContext) and url.tls.check_hostname:
        return Finding("tls", "ok", f"{tls.version()}, certificate and host name verified")
    advice = "sslmode=verify-full keeps an impostor out"
    if url.channel_binding_required:
        advice = f"asyncpg has no channel binding, so channel_binding=require is not kept; {advice}"
    return Finding("tls", "ok", f"{tls.version()}, sslmode={url.sslmode}; {advice}")


def _find(settings: Settings, url: PostgresURL, facts: Any) -> list[Finding]:
    found = []
    if facts["encoding"] != "UTF8":
        found.append(Finding("encoding", "FAIL", f"the database is in {facts['encoding']}: it must be in UTF8"))
    if facts["isolation"] != "read committed":
        advice = f"ALTER ROLE {facts['role']} SET default_transaction_isolation TO 'read committed'"
        found.append(Finding("isolation", "FAIL", f"transactions are {facts['isolation']}: {advice}"))
    if facts["replica"]:
        found.append(Finding("writes", "FAIL", "this is a read replica, or a server that recovers: it takes no write"))
    elif facts["read_only"]:
        found.append(Finding("writes", "FAIL", "default_transaction_read_only is on, so every write fails"))
    return found + _find_connections(settings, url, facts["connections"])


def _find_connections(settings: Settings, url: PostgresURL, available: int) -> list[Finding]:
    if url.is_pooled:
        return []
    workers = os.environ.get("WEB_CONCURRENCY", "1")
    pool = settings.database_pool_size
    each = pool + settings.database_max_overflow if pool else settings.max_concurrent_requests
    needed = each * (int(workers) if workers.isdecimal() else 1)
    if needed <= available:
        return [Finding("connections", "ok", f"the server allows {available}, and {needed} may be needed")]
    return [
        Finding(
            "connections",
            "warn",
            f"the server allows {available}, but {needed} may be needed at once: bound them by DATABASE_POOL_SIZE",
        )
    ]


async def _find_tables(settings: Settings, connection: DriverConnection, facts: Any) -> list[Finding]:
    tables = list(SQLModel.metadata.tables)
    if not facts["has_tasks"]:
        hint = "run todo-backend migrate"
        with suppress(DatabaseError, DBAPIError):
            if schema := await run_on_schema(settings, migrations.elsewhere):
                hint = f"they are in schema {schema}"
        return [Finding("tables", "FAIL", f"there is no table tasks on the search_path ({facts['schemas']}): {hint}")]
    if hiding := await connection.fetchval(_HIDING, tables):
        advice = f"give role {facts['role']} BYPASSRLS, or a policy that lets it see and write every row"
        return [Finding("rows", "FAIL", f"row security hides rows of {hiding} or refuses writes: {advice}")]
    return await _find_older(settings)


async def _find_older(settings: Settings) -> list[Finding]:
    """Tell where requests find older tables than migrations do."""
    if settings.database_url_direct is None:
        return []
    with suppress(DatabaseError):  # the role may have no right to read it
        revision = await run_on_schema(settings, migrations.current, database_url(settings))
        if revision != (head := migrations.head()) and revision in migrations.revisions():
            text = f"DATABASE_URL has revision {revision}, not {head}: is DATABASE_URL_DIRECT another database?"
            return [Finding("tables", "FAIL", text)]
    return []


async def _try_to_write(settings: Settings, connection: DriverConnection | None) -> Finding:
    """Do in a transaction what requests do, as a user that nobody is, and roll it back."""
    database = Database(settings)
    tables = list(SQLModel.metadata.tables)
    try:
        if connection is None:
            await database.ping()  # on PostgreSQL the tables were looked at
        async with transaction(database.executor) as within:
            if connection is not None:
                await within.exec(text(f"SELECT set_config('lock_timeout', '{LOCK_TIMEOUT}', true)"))
            service = TaskService(within, f"check-{uuid.uuid4()}")
            task = await service.create(TaskCreate(title="todo-backend check"))
            await service.list(limit=1)
            await service.stats()
            await service.toggle(task["id"])
            await service.update(task["id"], TaskUpdate(completed=True))
            await service.delete(task["id"])
            await service.delete_all()
            raise RollBack
    except DatabaseRefused as error:
        rights = None if connection is None else await connection.fetchval(_MISSING_RIGHTS, tables)
        return Finding("writes", "FAIL", f"the role has no right of {rights}" if rights else str(error))
    except IntegrityError as error:
        if _FOREIGN_KEY not in str(error.orig):
            return Finding("writes", "FAIL", str(error.orig))
        return Finding("writes", "warn", "a foreign key wants users to exist, so no write could be tried")
    except TodoError as error:
        if connection is not None and is_lock_timeout(error):
            holders = await connection.fetchval(_HOLDERS, tables)
            return Finding(
                "writes", "FAIL", f"the table is locked{f' by the server process {holders}' if holders else ''}"
            )
        return Finding("writes", "FAIL", str(error))
    finally:
        await database.close()
        await closed_connections()
    return Finding("writes", "ok", "a task was made, changed, deleted and erased, and all of that rolled back")
