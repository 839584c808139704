"""The task service itself: every rule about tasks, without HTTP."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID, uuid4

import pytest

from backend.db.session import Database, get_session_context
from backend.errors import SameUser, TaskNotFound
from backend.models.queries import Cursor, TaskFilter
from backend.models.task import TaskCreate, TaskUpdate
from backend.services.executor import Executor, Params, transaction
from backend.services.tasks import TaskService
from tests.services.conftest import all_of, page_of


class SessionForEach:
    """An executor on plain sessions: one for each statement, or for a transaction, and committed by itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def exec(self, statement: Any, *, params: Params | None = None) -> Any:
        async with get_session_context(self._database) as session:
            return await session.exec(statement, params=params)

    def transaction(self) -> AbstractAsyncContextManager[Executor]:
        return get_session_context(self._database)


@pytest.fixture(params=["executor", "session"])
def executor(database: Database, request: pytest.FixtureRequest) -> Executor:
    """What a service can run on: what requests use, and what a script does."""
    return database.executor if request.param == "executor" else SessionForEach(database)


async def counts_of(service: TaskService) -> tuple[int, int, int]:
    found = await service.stats()
    counts = found[0]
    return counts["total"], counts["completed"], counts["active"]


async def test_a_task_is_stored_and_found(alice: TaskService) -> None:
    task = await alice.create(TaskCreate(title=" Buy milk ", description=" as sent "))
    assert (task["title"], task["description"], task["completed"]) == ("Buy milk", " as sent ", False)
    assert task["created_at"] == task["updated_at"]
    assert task["created_at"].utcoffset() is not None
    assert await alice.get(task["id"]) == task
    assert await all_of(alice) == [task]


async def test_a_page_says_whether_more_follow(alice: TaskService) -> None:
    tasks = [await alice.create(TaskCreate(title=title)) for title in "abc"][::-1]
    for limit, more in ((1, True), (2, True), (3, False), (4, False)):
        page = await page_of(alice, limit=limit)
        assert (page.tasks, page.more) == (tasks[:limit], more)
    assert (await page_of(alice, limit=2, skip=1)).tasks == tasks[1:]
    assert (await page_of(alice, limit=2, after=Cursor((), tasks[0]["id"]))).tasks == tasks[1:]
    assert (await page_of(alice, limit=2, after=Cursor((), tasks[2]["id"]))).tasks == []


@pytest.mark.parametrize("completed", [True, False])
async def test_a_page_can_be_filtered(alice: TaskService, completed: bool) -> None:
    for title in "aBcD":
        await alice.create(TaskCreate(title=title, completed=title.isupper()))
    page = await page_of(alice, wanted=TaskFilter(completed=completed), limit=1)
    assert ([task["title"] for task in page.tasks], page.more) == (["D" if completed else "c"], True)
    rest = await page_of(alice, wanted=TaskFilter(completed=completed), limit=1, after=page.cursor(0))
    assert ([task["title"] for task in rest.tasks], rest.more) == (["B" if completed else "a"], False)


async def test_an_update_changes_only_what_it_names(alice: TaskService) -> None:
    task = await alice.create(TaskCreate(title="a", description="b"))
    changed = (await alice.update(task["id"], TaskUpdate(completed=True))).task
    moved = {name: changed[name] for name in ("updated_at", "etag", "completed_at")}
    assert changed == {**task, "completed": True, **moved}
    assert changed["updated_at"] == changed["completed_at"]
    assert changed["updated_at"] > task["updated_at"]
    cleared = (await alice.update(task["id"], TaskUpdate(description=None))).task
    assert cleared == {**changed, "description": None, "updated_at": cleared["updated_at"], "etag": cleared["etag"]}
    assert (await alice.update(task["id"], TaskUpdate())).task == cleared


async def test_what_is_not_found_is_raised_and_never_none(alice: TaskService) -> None:
    absent = uuid4()
    for attempt in (
        alice.get(absent),
        alice.update(absent, TaskUpdate(title="x")),
        alice.update(absent, TaskUpdate()),
        alice.toggle(absent),
        alice.delete(absent),
    ):
        with pytest.raises(TaskNotFound):
            await attempt


async def test_a_strangers_tasks_do_not_exist(alice: TaskService, bob: TaskService) -> None:
    task = await alice.create(TaskCreate(title="mine", completed=True))
    foreign: UUID = task["id"]
    for attempt in (
        bob.get(foreign),
        bob.update(foreign, TaskUpdate(title="x")),
        bob.update(foreign, TaskUpdate()),
        bob.toggle(foreign),
        bob.delete(foreign),
    ):
        with pytest.raises(TaskNotFound):
            await attempt
    assert await bob.complete([foreign], completed=False) == 0
    assert await bob.delete_completed() == 0
    assert await counts_of(bob) == (0, 0, 0)
    assert await all_of(bob) == []
    assert await all_of(alice) == [task]


async def test_none_of_many_toggles_at_once_is_lost(service_of: Callable[[str], TaskService]) -> None:
    task = await service_of("alice").create(TaskCreate(title="x"))
    completed = False
    for count in (10, 11):
        toggles = (service_of("alice").toggle(task["id"]) for _ in range(count))
        states = [toggled.task["completed"] for toggled in await asyncio.gather(*toggles)]
        assert abs(states.count(True) - states.count(False)) == count % 2
        completed = completed if count % 2 == 0 else not completed
        assert (await service_of("alice").get(task["id"]))["completed"] == completed


async def test_updates_of_different_fields_at_once_both_survive(service_of: Callable[[str], TaskService]) -> None:
    task = await service_of("alice").create(TaskCreate(title="old"))
    await asyncio.gather(
        service_of("alice").update(task["id"], TaskUpdate(title="new")),
        service_of("alice").update(task["id"], TaskUpdate(description="new")),
        service_of("alice").update(task["id"], TaskUpdate(completed=True)),
    )
    after = await service_of("alice").get(task["id"])
    assert (after["title"], after["description"], after["completed"]) == ("new", "new", True)


async def test_one_of_many_deletions_at_once_succeeds(service_of: Callable[[str], TaskService]) -> None:
    task = await service_of("alice").create(TaskCreate(title="x"))
    deletions = (service_of("alice").delete(task["id"]) for _ in range(5))
    results = await asyncio.gather(*deletions, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", *["TaskNotFound"] * 4]


async def test_many_tasks_are_completed_and_cleared_at_once(alice: TaskService, bob: TaskService) -> None:
    tasks = [await alice.create(TaskCreate(title=title)) for title in "abc"]
    kept = await bob.create(TaskCreate(title="kept", completed=True))
    ids = [task["id"] for task in tasks[:2]]
    assert await alice.complete([*ids, *ids, uuid4(), kept["id"]]) == 2
    assert await alice.complete(ids) == 0
    assert await counts_of(alice) == (3, 2, 1)
    assert await alice.complete(ids[:1], completed=False) == 1
    assert await alice.delete_completed() == 1
    assert [task["title"] for task in await all_of(alice)] == ["c", "a"]
    assert await all_of(bob) == [kept]


async def test_a_transfer_moves_all_tasks_of_one_user(
    alice: TaskService, bob: TaskService, service_of: Callable[[str], TaskService]
) -> None:
    moved = [await alice.create(TaskCreate(title=title)) for title in "ab"]
    carol = service_of("carol")
    kept = await carol.create(TaskCreate(title="kept"))
    assert await alice.transfer_to(bob._user_id) == 2
    assert await alice.transfer_to(bob._user_id) == 0
    assert [task["id"] for task in await all_of(bob)] == [task["id"] for task in reversed(moved)]
    assert await all_of(alice) == []
    assert await all_of(carol) == [kept]


async def test_a_transfer_to_the_same_user_is_refused(alice: TaskService) -> None:
    task = await alice.create(TaskCreate(title="x"))
    with pytest.raises(SameUser):
        await alice.transfer_to(alice._user_id)
    assert await all_of(alice) == [task]


async def test_several_services_can_share_a_transaction(
    executor: Executor, alice: TaskService, bob: TaskService
) -> None:
    with pytest.raises(TaskNotFound):  # noqa: PT012 # it is the whole block that raises
        async with transaction(executor) as within:
            await TaskService(within, alice._user_id).create(TaskCreate(title="x"))
            await TaskService(within, bob._user_id).get(uuid4())
    assert await all_of(alice) == []
    async with transaction(executor) as within, transaction(within) as same:
        task = await TaskService(within, alice._user_id).create(TaskCreate(title="x"))
        assert await TaskService(same, alice._user_id).get(task["id"]) == task
    assert await all_of(alice) == [task]
