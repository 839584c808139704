"""Recurring tasks: each way to complete one makes one successor, and no way makes two."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import literal_column, select
from uuid_utils.compat import uuid7

from backend.api.openapi import TASK_EXAMPLE
from backend.db.executors import DatabaseExecutor
from backend.db.session import Database
from backend.errors import DatabaseNotMigrated, DatabaseUnavailable, OutcomeUnknown, RuleBroken
from backend.models.recurrence import next_date
from backend.models.task import TaskBase, TaskPublic, TaskPut, TaskUpdate
from backend.services.batch import Operation
from backend.services.executor import Executor, Params
from backend.services.rows import Limits, owners
from backend.services.tasks import TaskService
from tests.services.conftest import ServiceOf, all_of, batch_of, make, new
from tests.statements import recorded_statements

DAILY = {"due_date": "2030-01-30", "recurrence": "FREQ=DAILY"}


async def _patch(service: TaskService, task_id: UUID) -> None:
    await service.update(task_id, TaskUpdate(completed=True))


async def _put(service: TaskService, task_id: UUID) -> None:
    await service.put(task_id, TaskPut(completed=True))


async def _toggle(service: TaskService, task_id: UUID) -> None:
    await service.toggle(task_id)


async def _bulk(service: TaskService, task_id: UUID) -> None:
    assert await service.complete([task_id]) == 1


async def _batch(service: TaskService, task_id: UUID) -> None:
    await service.batch([Operation("patch", task_id, {"completed": True})])


Completion = Callable[[TaskService, UUID], Awaitable[None]]
ways = pytest.mark.parametrize("complete", [_patch, _put, _toggle, _bulk, _batch])


async def successors(service: TaskService, task_id: UUID) -> list[TaskPublic]:
    return [task for task in await all_of(service) if task["id"] != task_id]


@ways
async def test_completing_moves_the_rule_to_one_new_task(alice: TaskService, complete: Completion) -> None:
    task = await make(
        alice,
        "Water plants",
        description="all",
        priority="high",
        tags=["home"],
        due_date="2030-01-31",
        due_time="09:30",
        remind_at="2030-01-30T18:00",
        recurrence="FREQ=MONTHLY;COUNT=3",
        position=5,
    )
    await complete(alice, task["id"])
    completed = await alice.get(task["id"])
    assert completed["completed_at"] is not None
    after = {"completed": True, "recurrence": None} | {
        name: completed[name] for name in ("completed_at", "updated_at", "etag")
    }
    assert completed == {**task, **after}
    [successor] = await successors(alice, task["id"])
    expected = {
        "title": "Water plants",
        "description": "all",
        "priority": "high",
        "tags": ["home"],
        "completed": False,
        "completed_at": None,
        "due_date": "2030-03-31",
        "due_time": "09:30",
        "remind_at": "2030-03-30T18:00",
        "recurrence": "FREQ=MONTHLY;COUNT=2",
    }
    assert {name: value for name, value in successor.items() if name in expected} == expected
    assert successor["id"].version == 7
    assert successor["id"] > task["id"]
    assert successor["position"] < task["position"]
    assert successor["created_at"] == successor["updated_at"] == completed["updated_at"]
    assert successor["etag"] == completed["etag"]


async def test_a_successor_keeps_every_field_that_a_client_can_set(alice: TaskService) -> None:
    fields = {name: TASK_EXAMPLE[name] for name in TaskBase.model_fields} | {"completed": False}
    task = await make(alice, **fields)
    await alice.toggle(task["id"])
    [successor] = await successors(alice, task["id"])
    changed = {name for name, value in task.items() if name in fields and successor[name] != value}  # type: ignore[literal-required] # any of them
    assert changed == {"due_date", "remind_at", "position"}, "see successor_of in services/recurrence.py"


@ways
async def test_completing_again_makes_nothing(alice: TaskService, complete: Completion) -> None:
    task = await make(alice, **DAILY)
    await complete(alice, task["id"])
    if complete is not _bulk:
        await complete(alice, task["id"])
    await alice.toggle(task["id"])
    await alice.toggle(task["id"])
    assert len(await successors(alice, task["id"])) == 1


@ways
async def test_two_who_complete_at_once_make_one_successor(service_of: ServiceOf, complete: Completion) -> None:
    task = await make(service_of("alice"), **DAILY)
    other = [_patch, _put, _bulk]
    async with asyncio.TaskGroup() as group:
        for each in (complete, *other):
            if each is _bulk:
                group.create_task(service_of("alice").complete([task["id"]]))  # may find it completed
            elif each is not _toggle:
                group.create_task(each(service_of("alice"), task["id"]))  # type: ignore[arg-type] # a coroutine
        if complete is _toggle:
            for _ in range(3):
                group.create_task(service_of("alice").toggle(task["id"]))
    assert len(await successors(service_of("alice"), task["id"])) == 1


@pytest.mark.parametrize(
    "rule", ["FREQ=DAILY;COUNT=1", "FREQ=DAILY;UNTIL=20300130", "FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30"]
)
async def test_the_last_one_has_no_successor(alice: TaskService, rule: str) -> None:
    task = await make(alice, due_date="2030-01-30", recurrence=rule)
    written = await alice.toggle(task["id"])
    assert (written.task["completed"], written.task["recurrence"], written.successor) == (True, None, None)
    assert await successors(alice, task["id"]) == []


async def test_the_successors_id_is_told(alice: TaskService) -> None:
    task = await make(alice, **DAILY)
    written = await alice.update(task["id"], TaskUpdate(completed=True))
    assert [each["id"] for each in await successors(alice, task["id"])] == [written.successor]
    again = await alice.update(task["id"], TaskUpdate(completed=True))
    assert again.successor is None


async def test_a_task_that_is_created_completed_makes_one_when_it_is_reopened_and_completed(alice: TaskService) -> None:
    task = await make(alice, completed=True, **DAILY)
    assert task["recurrence"] == "FREQ=DAILY"
    assert (await alice.update(task["id"], TaskUpdate(completed=True))).successor is None
    assert (await alice.toggle(task["id"])).successor is None
    assert (await alice.toggle(task["id"])).successor is not None
    assert len(await successors(alice, task["id"])) == 1


async def test_the_rule_after_the_write_counts(alice: TaskService) -> None:
    task = await make(alice)
    changes = TaskUpdate(completed=True, due_date="2030-01-30", recurrence="FREQ=WEEKLY")
    written = await alice.update(task["id"], changes)
    assert written.task["recurrence"] is None
    [successor] = await successors(alice, task["id"])
    assert (successor["due_date"], successor["recurrence"]) == ("2030-02-06", "FREQ=WEEKLY")
    task = await make(alice, **DAILY)
    written = await alice.update(task["id"], TaskUpdate(completed=True, recurrence=None))
    assert (written.successor, written.task["recurrence"], written.task["due_date"]) == (None, None, "2030-01-30")
    task = await make(alice, **DAILY)
    written = await alice.update(task["id"], TaskUpdate(completed=True, due_date=None))
    assert (written.successor, written.task["recurrence"]) == (None, None)


async def test_a_put_that_repeats_its_own_completion_ignores_the_rule_and_a_patch_sets_one(alice: TaskService) -> None:
    body: dict[str, Any] = {"title": "x", "completed": True, **DAILY}
    task = await make(alice, **DAILY)
    first = await alice.put(task["id"], TaskPut.model_validate(body))
    assert first.successor is not None
    again = await alice.put(task["id"], TaskPut.model_validate(body))
    assert (again.task, again.successor) == (first.task, None)
    assert len(await successors(alice, task["id"])) == 1
    patched = await alice.update(task["id"], TaskUpdate(recurrence="FREQ=WEEKLY", completed=True))
    assert (patched.task["recurrence"], patched.successor) == ("FREQ=WEEKLY", None)


async def test_many_are_completed_at_once(alice: TaskService) -> None:
    rules = [
        outcome.task for outcome in await batch_of(alice, *(new({"title": f"rule {n}", **DAILY}) for n in range(100)))
    ]
    plain = [outcome.task for outcome in await batch_of(alice, *(new({"title": f"plain {n}"}) for n in range(100)))]
    ids = [task["id"] for task in (*rules, *plain)]
    assert await alice.complete([*ids, uuid7()]) == 200
    listed = await all_of(alice)
    assert len(listed) == 300
    made = [task for task in listed if task["id"] not in ids]
    assert sorted(task["title"] for task in made) == sorted(f"rule {number}" for number in range(100))
    assert all(not task["completed"] and task["recurrence"] == "FREQ=DAILY" for task in made)
    assert await alice.complete(ids) == 0
    assert len(await all_of(alice)) == 300


async def test_many_who_complete_at_once_count_each_task_once(service_of: ServiceOf) -> None:
    alice = service_of("alice")
    made = await batch_of(alice, *(new({"title": str(number), **DAILY}) for number in range(10)))
    ids = [written.task["id"] for written in made]
    assert sum(await asyncio.gather(*(service_of("alice").complete(ids) for _ in range(5)))) == 10
    assert len(await all_of(alice)) == 20
    etags = {task["etag"] for task in await all_of(alice)}
    assert len(etags) == 1, "what was completed already was written again"


async def test_what_is_past_is_passed_over(alice: TaskService) -> None:
    task = await make(alice, due_date="2020-01-01", remind_at="2020-01-01T08:00", recurrence="FREQ=DAILY;COUNT=9")
    before = datetime.now(UTC).date()
    await alice.toggle(task["id"])
    [successor] = await successors(alice, task["id"])
    days = {(day - timedelta(days=1)).isoformat() for day in (before, datetime.now(UTC).date())}
    assert successor["due_date"] in days
    assert successor["remind_at"] == f"{successor['due_date']}T08:00"
    assert successor["recurrence"] == "FREQ=DAILY;COUNT=8"


async def test_a_reminder_past_the_year_9999_is_none(alice: TaskService) -> None:
    task = await make(alice, due_date="9999-12-30", remind_at="9999-12-31T08:00", recurrence="FREQ=DAILY")
    await alice.toggle(task["id"])
    [successor] = await successors(alice, task["id"])
    assert (successor["due_date"], successor["remind_at"]) == ("9999-12-31", None)


async def test_at_the_limit_completing_succeeds_without_a_successor(service_of: ServiceOf, database: Database) -> None:
    alice = service_of("alice")
    limited = TaskService(database.executor, alice._user_id, Limits(max_tasks=2))
    await make(limited)
    task = await make(limited, **DAILY)
    written = await limited.toggle(task["id"])
    assert (written.task["completed"], written.successor) == (True, None)
    assert len(await all_of(alice)) == 2


@pytest.mark.parametrize("field", [{"due_time": "09:30"}, {"recurrence": "FREQ=DAILY"}])
async def test_a_time_and_a_rule_need_the_stored_tasks_date(alice: TaskService, field: dict[str, Any]) -> None:
    task = await make(alice)
    name = next(iter(field))
    for attempt in (
        alice.update(task["id"], TaskUpdate.model_validate(field)),
        alice.put(task["id"], TaskPut.model_validate(field)),
    ):
        with pytest.raises(RuleBroken) as raised:
            await attempt
        assert (raised.value.field, raised.value.code) == (name, "needs_due_date")
    assert await alice.get(task["id"]) == task
    await alice.update(task["id"], TaskUpdate(due_date="2030-01-30"))
    written = await alice.update(task["id"], TaskUpdate.model_validate(field))
    assert written.task[name] == field[name]  # type: ignore[literal-required] # a field of it
    cleared = await alice.update(task["id"], TaskUpdate(due_date=None))
    assert (cleared.task["due_time"], cleared.task["recurrence"]) == (None, None)


async def test_without_a_rule_completing_is_one_statement(alice: TaskService, database: Database) -> None:
    first, second = [await make(alice) for _ in range(2)]
    with recorded_statements(database) as statements:
        await alice.toggle(first["id"])
        await alice.update(first["id"], TaskUpdate(completed=True))
        await alice.complete([first["id"], second["id"]])
    assert len(statements) <= 4


class Watched:
    """An executor that counts the next dates that are looked for within its transactions."""

    def __init__(self, executor: DatabaseExecutor) -> None:
        self._executor = executor
        self.transactions = 0
        self.found_within = 0

    async def exec(self, statement: Any, *, params: Params | None = None) -> Any:
        return await self._executor.exec(statement, params=params)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Executor]:
        async with self._executor.transaction() as within:
            before = next_date.cache_info().misses
            yield within
            self.transactions += 1
            self.found_within += next_date.cache_info().misses - before


async def test_a_bulk_holds_no_lock_while_it_looks_for_dates(
    alice: TaskService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.services.tasks.RECURRING_AT_ONCE", 2)
    next_date.cache_clear()
    watched = Watched(database.executor)
    service = TaskService(watched, alice._user_id)
    ids = [(await make(alice, due_date=f"2030-01-0{day}", recurrence="FREQ=DAILY"))["id"] for day in range(1, 6)]
    assert await service.complete(ids) == 5
    assert (watched.transactions, watched.found_within) == (3, 0)
    assert next_date.cache_info().misses == 5


async def test_a_bulk_of_which_a_part_was_done_says_so(alice: TaskService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that recur are completed in a second step: where it fails, "nothing was written" would be wrong."""
    plain, daily = await make(alice), await make(alice, **DAILY)
    failing: Any = select(literal_column("no_such_column")).select_from(owners)
    monkeypatch.setattr("backend.services.tasks._select_recurring", failing)
    with pytest.raises(OutcomeUnknown):
        await alice.complete([plain["id"], daily["id"]])
    with pytest.raises(DatabaseNotMigrated):
        await alice.complete([daily["id"]])
    assert (await alice.get(plain["id"]))["completed"]


async def test_a_bulk_that_is_cut_between_its_steps_says_so(
    alice: TaskService, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = [await make(alice, **DAILY) for _ in range(2)]
    monkeypatch.setattr("backend.services.tasks.RECURRING_AT_ONCE", 1)
    step, steps = alice.batch, iter([True, False])

    async def cut(operations: list[Operation], *, atomic: bool) -> Any:
        if next(steps):
            return await step(operations, atomic=atomic)
        raise DatabaseUnavailable("no connection")

    monkeypatch.setattr(alice, "batch", cut)
    with pytest.raises(OutcomeUnknown):
        await alice.complete([first["id"], second["id"]])
    assert sorted([(await alice.get(task["id"]))["completed"] for task in (first, second)]) == [False, True]
