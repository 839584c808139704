"""Sessions whose failures are told in the service's own words, within a deadline.

    get_session          for one statement at a time, each committed by itself: what requests use
    get_session_context  for several statements in one transaction, committed at the end of the block
    create_db_and_tables brings the schema up to date
    check_db_health      asks the database whether it answers

Each takes a `Database`; without one it uses the process's own, made from the settings when it is first needed, so that
scripts need no application: `engine` and `session_maker` of this module are that database's.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Result, text, util
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.util.concurrency import greenlet_spawn
from sqlmodel.ext.asyncio.session import AsyncSession

from backend.config import Settings, load_settings
from backend.db.engine import closed_connections, connect_timeout, make_engine, make_migration_engine
from backend.db.url import SQLiteURL, database_url, direct_database_url
from backend.errors import DatabaseError, DatabaseNotMigrated, DatabaseUnavailable, OutcomeUnknown

T = TypeVar("T")

_BUFFERED = util.immutabledict({"prebuffer_rows": True})


class Session(AsyncSession):
    """A session that borrows a connection for one statement, which commits by itself, and gives it back at once.

    It holds nothing in between, so nobody has to close it. Failures are those of `errors.DatabaseError`.
    """

    def __init__(self, bind: AsyncEngine, *, deadline: float, **options: Any) -> None:
        super().__init__(bind, **options)
        self._deadline = deadline

    async def exec(  # type: ignore[override] # one signature instead of SQLModel's overloads with private arguments
        self,
        statement: Executable,
        *,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> Result[*tuple[Any, ...]]:
        """Run one statement, commit it, and return its rows, all of them fetched.

        Raises `DatabaseUnavailable` where it surely had no effect, `OutcomeUnknown` where a write may have had one,
        and `DatabaseNotMigrated`. Takes no longer than connect timeout and command timeout together.
        """
        sent = False

        def run() -> Result[*tuple[Any, ...]]:
            nonlocal sent
            session = self.sync_session
            try:
                session.connection()
                sent = True
                return session.exec(statement, params=params, execution_options=_BUFFERED, **options)  # type: ignore[call-overload, no-any-return] # as above
            finally:
                session.close()

        try:
            async with asyncio.timeout(self._deadline):
                return await greenlet_spawn(run)
        except (OSError, SQLAlchemyError) as error:
            raise _translate(error, may_have_run=sent and not getattr(statement, "is_select", False)) from error


class Database:
    """An engine and its session makers. Connects when first used; `close()` ends it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = database_url(settings)
        self.engine = make_engine(self.url, settings)
        deadline = connect_timeout(self.url, settings) + settings.database_command_timeout
        self.session_maker = async_sessionmaker(self.engine, class_=Session, deadline=deadline)
        isolation = "SERIALIZABLE" if isinstance(self.url, SQLiteURL) else "READ COMMITTED"
        self.transaction_maker = async_sessionmaker(
            self.engine.execution_options(isolation_level=isolation), class_=AsyncSession, expire_on_commit=False
        )
        self._probe: asyncio.Task[None] | None = None

    async def answers(self) -> None:
        """Return when the database has answered a query. Callers at the same time share one.

        Raises `DatabaseUnavailable`.
        """
        if self._probe is None or self._probe.done():
            self._probe = asyncio.create_task(self._ask())
        await asyncio.shield(self._probe)  # one caller that goes away must not fail the others

    async def _ask(self) -> None:
        await self.session_maker().exec(text("SELECT 1").columns())

    async def close(self) -> None:
        """Close all connections."""
        await self.engine.dispose()
        await closed_connections()


@functools.cache
def default_database() -> Database:
    """Return the database of the process's settings."""
    return Database(load_settings(database_url))


def __getattr__(name: str) -> Any:
    if name in {"engine", "session_maker"}:  # made when asked for: importing a module must not connect or fail
        return getattr(default_database(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def get_session(database: Database | None = None) -> Session:
    """Return a session for single statements; there is nothing to close."""
    return (database or default_database()).session_maker()


@asynccontextmanager
async def get_session_context(database: Database | None = None) -> AsyncIterator[AsyncSession]:
    """Open a transaction: committed when the block ends well, rolled back when it does not.

    Raises `DatabaseUnavailable` where nothing was written, `OutcomeUnknown` where the commit got no answer.
    """
    committing = False
    try:
        async with (database or default_database()).transaction_maker() as session:
            yield session
            committing = True
            await session.commit()
    except (OSError, SQLAlchemyError) as error:
        raise _translate(error, may_have_run=committing) from error


async def create_db_and_tables(database: Database | None = None) -> None:
    """Bring the schema up to date, over the direct address. Raises `DatabaseError`."""
    from backend.db.migrations import upgrade  # Alembic takes long to import, and few processes need it

    await migrate((database or default_database()).settings, upgrade)


async def migrate(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run one of `migrations`' functions over the direct address, in a transaction. Raises `DatabaseError`."""
    engine = make_migration_engine(direct_database_url(settings), settings)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(change)
    except (OSError, SQLAlchemyError) as error:
        raise _translate(error, may_have_run=False) from error
    finally:
        await engine.dispose()
        await closed_connections()


async def check_db_health(database: Database | None = None) -> None:
    """Return when the database has answered a query. Raises `DatabaseUnavailable`."""
    await (database or default_database()).answers()


# SQLSTATE classes and codes (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_NOT_MIGRATED = ("42P01", "42703", "3F000")
_CONNECTION_LOST = ("08", "57P", "XX")
_REFUSED = ("25006", "28", "3D000", "40", "42501", "53", "55", "57014", "58")
_SQLITE_NOT_MIGRATED = ("no such table", "no such column", "has no column named")


def _translate(error: Exception, *, may_have_run: bool) -> Exception:
    """Say in the service's words what happened; return the error itself where it can only be a bug."""
    lost = OutcomeUnknown if may_have_run else DatabaseUnavailable
    if isinstance(error, PoolTimeoutError):
        return DatabaseUnavailable("no connection of the pool became free in time")
    if isinstance(error, OSError):  # DNS, TCP, TLS and time limits reach us as they are, and all are OSErrors
        return lost(f"{type(error).__name__}: {error}")
    if not isinstance(error, DBAPIError) or error.orig is None:
        return error
    sqlstate: str | None = getattr(error.orig, "sqlstate", None)
    reason = _reason(error, sqlstate)
    if sqlstate is not None:
        return _translate_sqlstate(sqlstate, reason, lost) or error
    if isinstance(error, OperationalError):  # SQLite's
        return (DatabaseNotMigrated if any(text in reason for text in _SQLITE_NOT_MIGRATED) else DatabaseUnavailable)(
            reason
        )
    if isinstance(error.driver_exception, ValueError):  # asyncpg could not encode a parameter
        return error
    return lost(reason)


def _translate_sqlstate(sqlstate: str, reason: str, lost: type[DatabaseError]) -> Exception | None:
    if sqlstate.startswith(_NOT_MIGRATED):
        return DatabaseNotMigrated(reason)
    if sqlstate.startswith(_CONNECTION_LOST):
        return lost(reason)
    if sqlstate.startswith(_REFUSED):
        return DatabaseUnavailable(reason)
    return None


def _reason(error: DBAPIError, sqlstate: str | None) -> str:
    # The driver's message alone: its DETAIL and HINT, which str() would add, can hold the values of a row.
    orig = error.orig
    message = orig.args[0] if orig is not None and orig.args else ""
    return f"{type(orig).__name__} {sqlstate or ''} {message}".replace("  ", " ")
