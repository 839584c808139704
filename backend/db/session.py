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
import random
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from sqlalchemy import Connection, Executable, Result, Select, literal_column, select, util
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.util.concurrency import greenlet_spawn
from sqlmodel import Session as SyncSession
from sqlmodel.ext.asyncio.session import AsyncSession

from backend.config import Settings, load_settings
from backend.db.connection import closed_connections, connect_timeout, retrying
from backend.db.engine import SQLITE_CONNECTIONS, make_migration_engine, make_postgres_engine, make_sqlite_engine
from backend.db.failures import DATABASE_FAILURES, repeatable, translated
from backend.db.pool import Pool, Turns
from backend.db.statements import ENTITY_SELECTS, compile_statement
from backend.db.url import SQLiteURL, database_url, direct_database_url

T = TypeVar("T")

REPEAT_AFTER = 0.1
"""The longest pause, in seconds, before a statement is run once more."""

_migrating = asyncio.Lock()
"""Alembic keeps its state in a module, so a process runs one migration at a time; the database's lock is for others."""

_PROBE: Select[*tuple[Any, ...]] = select(literal_column("1"))

_BUFFERED = util.immutabledict({"prebuffer_rows": True})


class Session(AsyncSession):
    """A session that borrows a connection for one statement, which commits by itself, and gives it back at once.

    It holds nothing in between, so nobody has to close it, and statements may run at the same time. Its failures are
    those of `errors.DatabaseError`.
    """

    def __init__(self, bind: AsyncEngine, *, pool: Pool | None, turns: Turns, deadline: float, **options: Any) -> None:
        self._options = {"bind": bind, **options}
        self._engine = bind.sync_engine
        self._pool = pool
        self._turns = turns
        self._deadline = deadline

    def __getattr__(self, name: str) -> Any:
        # For what only a whole AsyncSession has. Making one takes as long as a statement, and exec() needs none.
        options = self.__dict__.pop("_options", None)
        if options is None:
            raise AttributeError(name)
        super().__init__(**options)
        return getattr(self, name)

    async def exec(  # type: ignore[override] # one signature instead of SQLModel's overloads with private arguments
        self,
        statement: Executable,
        *,
        params: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        **_options: Any,
    ) -> Result[*tuple[Any, ...]]:
        """Run one statement, commit it, and return its rows, all of them fetched; entities only for SQLModel's select.

        A statement that surely had no effect, because it reads or was rolled back, is run once more where its
        connection was lost or another statement was in its way; a write that may have run never is.

        Raises `DatabaseUnavailable` where it had no effect, `OutcomeUnknown` where a write may have had one,
        `DatabaseNotMigrated`, SQLAlchemy's `IntegrityError`, and for what can only be a mistake in the statement what
        SQLAlchemy or asyncpg raises. Takes no longer than connect timeout and command timeout together.
        """
        pool, compiled = self._pool, None
        values = params if isinstance(params, Mapping) else {}
        if pool is not None and (params is None or values):
            compiled = compile_statement(statement, self._engine.dialect, tuple(values))
        writes = not getattr(statement, "is_select", False)
        connected = sent = False

        async def run() -> Result[*tuple[Any, ...]]:
            nonlocal connected, sent
            connected = sent = False
            if compiled is None or pool is None:
                async with self._turns:
                    return await greenlet_spawn(run_by_sqlalchemy)
            sql, arguments = compiled.driver_form(values)
            connection = await pool.take()
            connected = True
            try:
                prepared = await connection.prepare(sql)
                sent = True
                rows = await prepared.fetch(*arguments)
            except BaseException as error:
                pool.give_up(connection, error)
                raise
            pool.give_back(connection)
            return compiled.result(rows, prepared.get_statusmsg())

        def run_by_sqlalchemy() -> Result[*tuple[Any, ...]]:
            nonlocal connected, sent
            if isinstance(statement, ENTITY_SELECTS):
                with SyncSession(self._engine) as session:
                    return session.exec(statement, params=params, execution_options=_BUFFERED)  # type: ignore[return-value] # a scalar result is used like one
            with self._engine.connect() as connection:
                connected = sent = True
                return connection.execute(statement, params, execution_options=_BUFFERED)

        with translated(may_have_run=lambda: sent and writes):
            async with asyncio.timeout(self._deadline):
                try:
                    return await run()
                except DATABASE_FAILURES as error:
                    # Connecting has its own attempts.
                    if not (connected and retrying.get() and repeatable(error, may_have_run=sent and writes)):
                        raise
                await asyncio.sleep(random.uniform(0, REPEAT_AFTER))  # noqa: S311 # no secret
                return await run()


class Database:
    """An engine and its session makers. Connects when first used; `close()` ends it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.url = database_url(settings)
        self.pool: Pool | None = None
        if isinstance(self.url, SQLiteURL):
            self.engine = make_sqlite_engine(self.url, settings)
            # A statement that waits for a lock cannot be given up, so both waits together must fit into the deadline.
            patience = min(settings.database_pool_timeout, settings.database_connect_timeout)
            turns = Turns(SQLITE_CONNECTIONS, 0, patience)
        else:
            turns = Turns(sys.maxsize, 0, 0)  # the pool has its own
            self.pool = Pool(self.url, settings)
            self.engine = make_postgres_engine(self.pool)
        deadline = connect_timeout(self.url, settings) + settings.database_command_timeout
        self.session_maker = async_sessionmaker(
            self.engine, class_=Session, pool=self.pool, turns=turns, deadline=deadline
        )
        isolation = "SERIALIZABLE" if isinstance(self.url, SQLiteURL) else "READ COMMITTED"
        self.transaction_maker = async_sessionmaker(
            self.engine.execution_options(isolation_level=isolation), class_=TransactionSession, expire_on_commit=False
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
        retrying.set(False)  # a probe is to tell how things are; this task's context is its own
        await self.session_maker().exec(_PROBE)

    async def close(self) -> None:
        """Close all connections."""
        if self.pool is not None:
            self.pool.close()
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


class TransactionSession(AsyncSession):
    """A session for several statements, with failures in the service's words."""

    async def exec(self, *args: Any, **options: Any) -> Any:
        """Run a statement. Raises `DatabaseError`; until the commit nothing is written."""
        with translated():
            return await super().exec(*args, **options)


@asynccontextmanager
async def get_session_context(database: Database | None = None) -> AsyncIterator[AsyncSession]:
    """Open a transaction: committed when the block ends well, rolled back when it does not.

    Raises `DatabaseUnavailable` where nothing was written, `OutcomeUnknown` where the commit got no answer.
    """
    async with (database or default_database()).transaction_maker() as session:
        yield session
        with translated(may_have_run=lambda: True):
            await session.commit()


async def create_db_and_tables(database: Database | None = None) -> None:
    """Bring the schema up to date, over the direct address. Raises `DatabaseError`."""
    from backend.db.migrations import upgrade  # Alembic takes long to import, and few processes need it

    database = database or default_database()
    if isinstance(database.url, SQLiteURL) and database.url.path is None:  # in memory: another engine would be another
        async with _migrating, database.engine.connect() as connection:
            await connection.run_sync(upgrade)
        return
    await migrate(database.settings, upgrade)


async def migrate(settings: Settings, change: Callable[[Connection], T]) -> T:
    """Run one of `migrations`' functions over the direct address, in a transaction. Raises `DatabaseError`."""
    engine = make_migration_engine(direct_database_url(settings), settings)
    changed = False
    async with _migrating:
        try:
            with translated(may_have_run=lambda: changed):
                async with engine.begin() as connection:
                    result = await connection.run_sync(change)
                    changed = True  # but for the commit, whose answer can be lost
                return result
        finally:
            await engine.dispose()
            await closed_connections()


async def check_db_health(database: Database | None = None) -> None:
    """Return when the database has answered a query. Raises `DatabaseUnavailable`."""
    await (database or default_database()).answers()
