"""Sessions are SQLModel's: whatever its documentation and SQLAlchemy's show works, on both engines."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from httpx import ASGITransport, AsyncClient
from sqlalchemy import NullPool, QueuePool, func, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.pool import AsyncAdaptedQueuePool
from sqlmodel import col, delete, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from backend.db import session as session_module
from backend.db.session import Database, check_db_health, create_db_and_tables, get_session, get_session_context
from backend.models.task import Task
from tests.db.conftest import NewDatabase
from tests.db.test_executors import row
from tests.processes import run


@pytest.fixture
def database(migrated_url: str, open_database: NewDatabase) -> Database:
    return open_database(migrated_url)


@pytest.fixture
async def session(database: Database) -> AsyncIterator[AsyncSession]:
    async with database.session_maker() as session:
        yield session


def a_task(owner: str, title: str = "title") -> Task:
    return Task(**row(owner, title))


def of(owner: str) -> Any:
    return select(Task).where(Task.user_id == owner)


async def test_what_is_added_is_found_and_is_the_same_object(session: AsyncSession, owner: str) -> None:
    task = a_task(owner)
    session.add(task)
    assert (await session.exec(of(owner))).one() is task
    assert (await session.exec(of(owner))).one() is task
    assert await session.get(Task, (owner, task.id)) is task


async def test_a_change_is_stored_by_a_commit(database: Database, session: AsyncSession, owner: str) -> None:
    session.add(a_task(owner))
    await session.commit()
    task = (await session.exec(of(owner))).one()
    task.title = "changed"
    await session.commit()
    assert task.title == "changed", "readable after the commit"
    async with database.session_maker() as another:
        assert (await another.exec(of(owner))).one().title == "changed"


async def test_what_is_rolled_back_has_not_happened(database: Database, session: AsyncSession, owner: str) -> None:
    session.add(a_task(owner))
    await session.flush()
    await session.rollback()
    assert (await session.exec(of(owner))).all() == []
    async with database.session_maker() as another:
        another.add(a_task(owner))
        await another.flush()  # and closed without a commit
    assert (await session.exec(of(owner))).all() == []


async def test_what_is_deleted_is_gone_and_what_is_refreshed_is_read_again(
    database: Database, session: AsyncSession, owner: str
) -> None:
    kept, gone = a_task(owner, "kept"), a_task(owner, "gone")
    session.add_all([kept, gone])
    await session.commit()
    await session.delete(gone)
    await session.commit()
    async with get_session_context(database) as another:
        await another.exec(update(Task).where(col(Task.user_id) == owner).values(title="changed elsewhere"))
    await session.refresh(kept)
    assert kept.title == "changed elsewhere"
    assert (await session.exec(of(owner))).all() == [kept]


async def test_a_block_is_committed_when_it_ends_well(database: Database, session: AsyncSession, owner: str) -> None:
    async with session.begin():
        session.add(a_task(owner, "one"))
    with pytest.raises(LookupError):  # noqa: PT012 # it is the whole block that raises
        async with session.begin():
            session.add(a_task(owner, "two"))
            raise LookupError
    async with get_session_context(database) as another:
        another.add(a_task(owner, "three"))
    with pytest.raises(LookupError):  # noqa: PT012 # it is the whole block that raises
        async with get_session_context(database) as another:
            another.add(a_task(owner, "four"))
            raise LookupError
    titles = await session.exec(select(Task.title).where(Task.user_id == owner))
    assert sorted(titles.all()) == ["one", "three"]


async def test_a_savepoint_can_be_rolled_back_alone(session: AsyncSession, owner: str) -> None:
    session.add(a_task(owner, "kept"))
    await session.flush()
    with pytest.raises(IntegrityError):  # noqa: PT012 # as above
        async with session.begin_nested():
            session.add(a_task(owner, ""))
            await session.flush()
    await session.commit()
    assert [task.title for task in (await session.exec(of(owner))).all()] == ["kept"]


async def test_statements_of_the_core_run_too(session: AsyncSession, owner: str) -> None:
    await session.exec(insert(Task), params=[row(owner, str(number)) for number in range(3)])
    changed: Any = await session.exec(update(Task).where(col(Task.user_id) == owner).values(completed=True))
    assert changed.rowcount == 3
    counted = await session.exec(select(func.count()).select_from(Task).where(Task.user_id == owner, Task.completed))
    assert counted.one() == 3
    await session.exec(delete(Task).where(col(Task.user_id) == owner))
    await session.commit()
    assert await session.run_sync(lambda sync: sync.scalars(of(owner)).all()) == []


async def test_a_session_is_a_dependency_of_fastapi(
    database: Database, owner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "default_database", lambda: database)
    app = FastAPI()

    @app.post("/")
    async def create(session: Annotated[AsyncSession, Depends(get_session)]) -> str:
        session.add(a_task(owner))
        await session.commit()
        return str((await session.exec(of(owner))).one().title)

    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert (await client.post("/")).json() == "title"
        assert (await client.get("/openapi.json")).json()["paths"]["/"]["post"].get("parameters") is None


async def test_connections_are_kept_as_the_settings_say(migrated_postgres_url: str, open_database: NewDatabase) -> None:
    assert isinstance(open_database(migrated_postgres_url).engine.pool, NullPool)
    pooled = open_database(migrated_postgres_url, database_pool_size=2, database_max_overflow=1).engine.pool
    assert isinstance(pooled, QueuePool | AsyncAdaptedQueuePool)
    assert pooled.size() == 2


async def test_a_session_and_the_executor_see_the_same_database(
    database: Database, session: AsyncSession, owner: str
) -> None:
    session.add(a_task(owner))
    await session.commit()
    found = await database.executor.exec(
        text("SELECT title FROM tasks WHERE user_id = :owner"), params={"owner": owner}
    )
    assert found.scalars().all() == ["title"]


async def test_a_database_in_memory_is_one_for_all(open_database: NewDatabase, owner: str) -> None:
    database = open_database("sqlite+aiosqlite://")
    await create_db_and_tables(database)
    await database.executor.exec(insert(Task), params=row(owner, "by the executor"))
    async with database.session_maker() as session:
        session.add(a_task(owner, "rolled back"))
        await session.flush()
    async with get_session_context(database) as session:
        session.add(a_task(owner, "by a session"))
    async with database.session_maker() as session:
        titles = await session.exec(select(Task.title).where(Task.user_id == owner))
        assert sorted(titles.all()) == ["by a session", "by the executor"]


# The process's own database


async def test_the_module_has_an_engine_and_a_session_maker_of_the_settings(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", sqlite_url)
    session_module.default_database.cache_clear()
    try:
        await create_db_and_tables()
        await check_db_health()
        async with get_session_context() as session:
            session.add(a_task(owner))
        async for session in get_session():
            assert len((await session.exec(of(owner))).all()) == 1
        async with session_module.session_maker() as session:
            assert len((await session.exec(of(owner))).all()) == 1
        assert session_module.engine is session_module.default_database().engine
    finally:
        await session_module.default_database().close()
        session_module.default_database.cache_clear()


@pytest.mark.process
def test_importing_the_module_neither_reads_settings_nor_connects(tmp_path: Any) -> None:
    import sys

    result = run([sys.executable, "-c", "import backend.db.session"], tmp_path, DATABASE_URL="nonsense")
    assert (result.returncode, result.stderr) == (0, "")


def test_the_module_has_no_other_attribute() -> None:
    with pytest.raises(AttributeError, match="nope"):
        _ = session_module.nope
