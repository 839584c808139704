"""The usual recipe: how most FastAPI + SQLModel services on Neon are written, as tutorials have it.

A session for each request from a `yield` dependency, ORM entities, commit and refresh, `response_model`, the token
decoded anew for each request. NullPool, or SQLAlchemy's pool with pre-ping where POOL_SIZE is set.
"""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from jose import JWTError, jwt
from sqlalchemy import BigInteger, DateTime
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import Field, SQLModel, select
from sqlmodel.ext.asyncio.session import AsyncSession

POOL_SIZE = int(os.environ.get("DATABASE_POOL_SIZE", "0"))
SECRET = os.environ["BETTER_AUTH_SECRET"]


class TaskBase(SQLModel):
    title: str = Field(min_length=1, max_length=200)
    description: str | None = Field(default=None, max_length=2000)
    completed: bool = False


class Task(TaskBase, table=True):
    __tablename__ = "tasks"

    id: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    user_id: str = Field(index=True)
    priority: str | None = None
    due_date: str | None = None
    due_time: str | None = None
    remind_at: str | None = None
    tags: str = "[]"
    recurrence: str | None = None
    position: int = Field(default=0, sa_type=BigInteger)
    completed_at: datetime | None = Field(default=None, sa_type=DateTime(timezone=True))
    revision: int = Field(default=1, sa_type=BigInteger)
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC), sa_type=DateTime(timezone=True))
    updated_at: datetime = Field(default_factory=lambda: datetime.now(UTC), sa_type=DateTime(timezone=True))


class TaskUpdate(SQLModel):
    title: str | None = None
    description: str | None = None
    completed: bool | None = None


class TaskRead(TaskBase):
    id: uuid.UUID
    priority: str | None
    due_date: str | None
    due_time: str | None
    remind_at: str | None
    tags: str
    recurrence: str | None
    position: int
    completed_at: datetime | None
    revision: int
    created_at: datetime
    updated_at: datetime


pool: dict[str, Any] = {"pool_size": POOL_SIZE, "pool_pre_ping": True} if POOL_SIZE else {"poolclass": NullPool}
engine = create_async_engine(
    os.environ["BASELINE_DATABASE_URL"],
    connect_args={
        "ssl": os.environ.get("BASELINE_SSL", "require"),
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
    },
    **pool,
)
session_maker = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)


@asynccontextmanager
async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
    yield
    await engine.dispose()


async def get_session() -> AsyncIterator[AsyncSession]:
    async with session_maker() as session:
        yield session


Session = Annotated[AsyncSession, Depends(get_session)]
bearer = HTTPBearer()


def get_user(credentials: Annotated[HTTPAuthorizationCredentials, Depends(bearer)]) -> str:
    try:
        claims = jwt.decode(credentials.credentials, SECRET, algorithms=["HS256"])
    except JWTError:
        raise HTTPException(401, "Invalid token") from None
    return str(claims["sub"])


User = Annotated[str, Depends(get_user)]
app = FastAPI(lifespan=lifespan)


async def find(session: AsyncSession, user: str, task_id: uuid.UUID) -> Task:
    task = (await session.exec(select(Task).where(Task.id == task_id, Task.user_id == user))).first()
    if task is None:
        raise HTTPException(404, "Task not found")
    return task


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/api/tasks", response_model=list[TaskRead])
async def list_tasks(session: Session, user: User, limit: int = 100, skip: int = 0) -> Any:
    statement = select(Task).where(Task.user_id == user).order_by(Task.created_at.desc())  # type: ignore[attr-defined]
    return (await session.exec(statement.offset(skip).limit(limit))).all()


@app.post("/api/tasks", response_model=TaskRead, status_code=201)
async def create_task(session: Session, user: User, body: TaskBase) -> Any:
    task = Task(**body.model_dump(), user_id=user)
    session.add(task)
    await session.commit()
    await session.refresh(task)
    return task


@app.get("/api/tasks/{task_id}", response_model=TaskRead)
async def get_task(session: Session, user: User, task_id: uuid.UUID) -> Any:
    return await find(session, user, task_id)


@app.patch("/api/tasks/{task_id}", response_model=TaskRead)
async def update_task(session: Session, user: User, task_id: uuid.UUID, body: TaskUpdate) -> Any:
    task = await find(session, user, task_id)
    for name, value in body.model_dump(exclude_unset=True).items():
        setattr(task, name, value)
    task.updated_at = datetime.now(UTC)
    session.add(task)
    await session.commit()
    await session.refresh(task)
    return task


@app.post("/api/tasks/{task_id}/toggle", response_model=TaskRead)
async def toggle_task(session: Session, user: User, task_id: uuid.UUID) -> Any:
    task = await find(session, user, task_id)
    task.completed = not task.completed
    task.updated_at = datetime.now(UTC)
    session.add(task)
    await session.commit()
    await session.refresh(task)
    return task


@app.delete("/api/tasks/{task_id}", status_code=204)
async def delete_task(session: Session, user: User, task_id: uuid.UUID) -> None:
    await session.delete(await find(session, user, task_id))
    await session.commit()
