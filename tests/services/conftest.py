"""Users' tasks without HTTP, on both engines."""

from collections.abc import Callable
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from backend.db.session import Database
from backend.models.task import TaskCreate, TaskPublic
from backend.services.batch import Operation, Written
from backend.services.executor import Executor
from backend.services.lists import Page
from backend.services.tasks import TaskService

ServiceOf = Callable[[str], TaskService]


@pytest.fixture
def executor(database: Database) -> Executor:
    """What the services run on: what requests use."""
    return database.executor


@pytest.fixture
def service_of(executor: Executor, user_id: Callable[[str], str]) -> ServiceOf:
    """A maker of services, one for each request; a name is the same user for as long as the test lasts."""
    names: dict[str, str] = {}
    return lambda name: TaskService(executor, names.setdefault(name, user_id(name)))


@pytest.fixture
def alice(service_of: ServiceOf) -> TaskService:
    """A user's tasks: none yet."""
    return service_of("alice")


@pytest.fixture
def bob(service_of: ServiceOf) -> TaskService:
    """Another user's tasks: none yet."""
    return service_of("bob")


async def page_of(service: TaskService, *arguments: Any, **options: Any) -> Page:
    """Return a page of a user's list; of 500 tasks unless told."""
    return await service.list(*arguments, **{"limit": 500, **options})


async def all_of(service: TaskService, *arguments: Any, **options: Any) -> list[TaskPublic]:
    """Return a user's tasks, of whom no test makes more than 500."""
    return (await page_of(service, *arguments, **options)).tasks


async def make(service: TaskService, title: str = "A task", **fields: Any) -> TaskPublic:
    """Create a task."""
    return await service.create(TaskCreate.model_validate({"title": title, **fields}))


async def batch_of(service: TaskService, *operations: Operation, **options: Any) -> list[Written]:
    """Run a batch of which nothing fails."""
    outcomes = await service.batch(operations, **options)
    written = [outcome for outcome in outcomes if isinstance(outcome, Written)]
    assert len(written) == len(operations)
    return written


def new(fields: dict[str, Any]) -> Operation:
    """Return the operation that makes a task, for a batch: many at once are quick."""
    return Operation("put", uuid7(), TaskCreate.model_validate(fields).changes())
