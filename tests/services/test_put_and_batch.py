"""Writing a task at its own address, and several in one transaction."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import update
from uuid_utils.compat import uuid7

from backend.db.session import Database, get_session_context
from backend.errors import PreconditionFailed, RuleBroken, TaskDeleted, TaskNotFound, TodoError, TooManyTasks
from backend.models.task import TaskPut, TaskUpdate
from backend.services.batch import Operation, OperationFailed, Outcome, Written
from backend.services.executor import Executor
from backend.services.rows import Limits, owners, tasks
from backend.services.tasks import TaskService
from tests.services.conftest import ServiceOf, all_of, batch_of, make, page_of
from tests.services.following import Replica
from tests.statements import recorded_statements


def body(**fields: Any) -> TaskPut:
    return TaskPut.model_validate(fields)


async def test_a_put_creates_once_and_its_repetition_changes_nothing(alice: TaskService, database: Database) -> None:
    task_id = uuid7()
    sent = body(title=" x ", tags=["a"], due_date="2030-01-30", due_time="09:30", position=7)
    with recorded_statements(database) as statements:
        made = await alice.put(task_id, sent)
    assert len(statements) == 1
    assert made.created
    assert (made.task["id"], made.task["title"], made.task["description"]) == (task_id, "x", None)
    head = (await page_of(alice)).head
    again = await alice.put(task_id, sent)
    assert (again.created, again.task) == (False, made.task)
    assert (await page_of(alice)).head == head


async def test_a_put_keeps_what_it_does_not_send(alice: TaskService) -> None:
    task = await make(alice, "old", description="kept", tags=["kept"], due_date="2030-01-30")
    changed = await alice.put(task["id"], body(title="new", due_date=None))
    moved = {name: changed.task[name] for name in ("etag", "updated_at")}
    assert changed.task == {**task, "title": "new", "due_date": None, **moved}
    assert changed.task["etag"] != task["etag"]
    assert (await alice.put(task["id"], body(completed=True))).task["completed_at"] is not None


@pytest.mark.parametrize("fields", [{}, {"completed": True}, {"description": "x"}])
async def test_a_new_task_needs_a_title(alice: TaskService, fields: dict[str, Any]) -> None:
    with pytest.raises(RuleBroken) as raised:
        await alice.put(uuid7(), body(**fields))
    assert (raised.value.field, raised.value.code) == ("title", "required")
    assert (await page_of(alice)).head == 0


@pytest.mark.parametrize("field", [{"due_time": "09:30"}, {"recurrence": "FREQ=DAILY"}])
async def test_a_new_task_needs_a_date_for_a_time_and_a_rule(alice: TaskService, field: dict[str, Any]) -> None:
    with pytest.raises(RuleBroken) as raised:
        await alice.put(uuid7(), body(title="x", **field))
    assert (raised.value.field, raised.value.code) == (next(iter(field)), "needs_due_date")
    assert await all_of(alice) == []


async def test_create_only_refuses_what_differs_and_takes_what_is_equal(alice: TaskService) -> None:
    task = await make(alice, "x", tags=["a"])
    for same in ({}, {"title": "x"}, {"title": "x", "tags": ["a"], "completed": False, "description": None}):
        assert (await alice.put(task["id"], body(**same), create_only=True)).task == task
    for other in ({"title": "y"}, {"title": "x", "tags": []}, {"completed": True}):
        with pytest.raises(PreconditionFailed) as raised:
            await alice.put(task["id"], body(**other), create_only=True)
        assert raised.value.current == task
    assert await alice.get(task["id"]) == task


async def test_what_is_in_the_trash_is_not_brought_back(alice: TaskService) -> None:
    task = await make(alice, "x")
    await alice.delete(task["id"])
    etag = frozenset({1})
    for options in ({}, {"create_only": True}, {"match": etag}):
        for sent in (body(title="x"), body(completed=True)):
            with pytest.raises(TaskDeleted):
                await alice.put(task["id"], sent, **options)
    assert await all_of(alice) == []


async def test_a_put_that_needs_a_state_does_not_create(alice: TaskService, bob: TaskService) -> None:
    foreign = await make(bob)
    for task_id in (uuid7(), foreign["id"]):
        for sent in (body(title="x"), body()):
            with pytest.raises(PreconditionFailed) as raised:
                await alice.put(task_id, sent, match=frozenset({1}))
            assert raised.value.current is None
    assert await all_of(alice) == []


async def test_one_id_is_a_task_of_each_user(alice: TaskService, bob: TaskService) -> None:
    task_id = uuid7()
    assert (await alice.put(task_id, body(title="hers"))).created
    assert (await bob.put(task_id, body(title="his"))).created
    assert [(await service.get(task_id))["title"] for service in (alice, bob)] == ["hers", "his"]


async def test_of_many_puts_at_once_one_creates(service_of: ServiceOf) -> None:
    for _ in range(5):
        task_id = uuid7()
        puts = (service_of("alice").put(task_id, body(title="x")) for _ in range(8))
        results = await asyncio.gather(*puts)
        assert sorted(result.created for result in results) == [False] * 7 + [True]
        assert len({result.task["etag"] for result in results}) == 1


async def test_puts_and_batches_at_once_agree_on_who_created(service_of: ServiceOf) -> None:
    for _ in range(5):
        task_id = uuid7()
        operation = Operation("put", task_id, {"title": "x"})
        writes = [service_of("alice").put(task_id, body(title="x")) for _ in range(4)]
        batches = [batch_of(service_of("alice"), operation) for _ in range(4)]
        written, outcomes = await asyncio.gather(asyncio.gather(*writes), asyncio.gather(*batches))
        created = [result.created for result in written] + [outcome.created for [outcome] in outcomes]
        assert sorted(created) == [False] * 7 + [True]


async def test_at_the_limit_nothing_is_created_but_all_else_goes_on(alice: TaskService, database: Database) -> None:
    limited = TaskService(database.executor, alice._user_id, Limits(max_tasks=2))
    first, second = await make(limited, "a"), await make(limited, "b")
    await limited.delete(second["id"])  # the trash counts
    head = (await page_of(alice)).head
    for attempt in (limited.put(uuid7(), body(title="x")), make(limited)):
        with pytest.raises(TooManyTasks):
            await attempt
    with pytest.raises(OperationFailed) as raised:
        await limited.batch(
            [Operation("patch", first["id"], {"title": "z"}), Operation("put", uuid7(), {"title": "x"})]
        )
    assert (raised.value.number, type(raised.value.error)) == (1, TooManyTasks)
    assert (await page_of(alice)).head == head
    assert (await limited.put(first["id"], body(title="c"))).task["title"] == "c"
    await limited.restore(second["id"])
    await limited.delete(second["id"])
    await limited.delete(second["id"], permanent=True)
    assert await make(limited)


async def test_those_who_create_at_once_share_the_room_that_expired_tasks_make(
    service_of: ServiceOf, database: Database
) -> None:
    for task in [await make(service_of("alice")) for _ in range(4)]:
        await service_of("alice").delete(task["id"])
    limits = Limits(max_tasks=4, trash_days=-1)  # whatever is in the trash has expired
    services = [TaskService(database.executor, service_of("alice")._user_id, limits) for _ in range(4)]
    await asyncio.gather(*map(make, services))
    assert len(await all_of(service_of("alice"))) == 4


async def test_batches_at_once_leave_no_more_tasks_than_may_be(service_of: ServiceOf, database: Database) -> None:
    limits = Limits(max_tasks=10)
    services = [TaskService(database.executor, service_of("alice")._user_id, limits) for _ in range(5)]
    batches = (service.batch([_new() for _ in range(4)], atomic=False) for service in services)
    created = [outcome for outcomes in await asyncio.gather(*batches) for outcome in outcomes]
    assert kinds(created).count(None) == 10
    assert len(await all_of(service_of("alice"))) == 10


async def test_what_has_expired_makes_room_in_the_batch_that_names_it(alice: TaskService, database: Database) -> None:
    task = await make(alice)
    await alice.delete(task["id"])
    replica = Replica(alice)
    await replica.follow()
    limited = TaskService(database.executor, alice._user_id, Limits(max_tasks=1, trash_days=-1))
    again = Operation("put", task["id"], {"title": "x"})
    assert kinds(await limited.batch([again, _new(), _new()], atomic=False)) == ["TaskDeleted", None, "TooManyTasks"]
    await replica.assert_equal()
    assert replica.restarts == 0  # who has seen it go to the trash misses nothing


# ---------------------------------------------------------------------------------------------------------- batches


def kinds(outcomes: list[Outcome]) -> list[str | None]:
    return [type(outcome).__name__ if isinstance(outcome, TodoError) else None for outcome in outcomes]


async def test_a_batch_runs_in_order_and_in_one_revision(alice: TaskService) -> None:
    task = await make(alice, "a")
    new = uuid7()
    outcomes = await batch_of(
        alice,
        Operation("patch", task["id"], {"title": "b"}),
        Operation("put", new, {"title": "n"}),
        Operation("toggle", new),
        Operation("patch", new, {"tags": ["x"]}),
        Operation("delete", task["id"]),
        Operation("restore", task["id"]),
        Operation("put", new, {"title": "n"}),
    )
    assert [outcome.created for outcome in outcomes] == [False, True, *[False] * 5]
    listed = {each["id"]: each for each in await all_of(alice)}
    assert listed == {task["id"]: outcomes[5].task, new: outcomes[6].task}
    assert (listed[new]["title"], listed[new]["completed"], listed[new]["tags"]) == ("n", True, ["x"])
    assert listed[task["id"]]["title"] == "b"
    assert len({each["etag"] for each in listed.values()}) == 1


@pytest.mark.parametrize("count", [1, 10, 100])
async def test_the_number_of_statements_does_not_grow(alice: TaskService, database: Database, count: int) -> None:
    tasks = [outcome.task for outcome in await batch_of(alice, *(_new() for _ in range(count)))]
    operations = [Operation("patch", task["id"], {"title": "y"}) for task in tasks]
    with recorded_statements(database) as statements:
        await alice.batch([*operations, *(_new() for _ in range(count))])
    different = {statement for statement, _ in statements} - {"BEGIN IMMEDIATE", "COMMIT"}
    assert len(different) == 4  # the lock, the tasks, the changed ones, the new ones


def _new() -> Operation:
    return Operation("put", uuid7(), {"title": "x"})


async def failing(alice: TaskService) -> dict[str, tuple[Operation, type[TodoError]]]:
    """Return one operation for each way to fail."""
    living, deleted = await make(alice, "living"), await make(alice, "deleted")
    await alice.delete(deleted["id"])
    stale = frozenset({1})
    return {
        "no task": (Operation("patch", uuid7(), {"title": "x"}), TaskNotFound),
        "deleted": (Operation("toggle", deleted["id"]), TaskNotFound),
        "put deleted": (Operation("put", deleted["id"], {"title": "x"}), TaskDeleted),
        "stale": (Operation("delete", living["id"], match=stale), PreconditionFailed),
        "stale restore": (Operation("restore", deleted["id"], match=stale), PreconditionFailed),
        "not deleted": (Operation("restore", living["id"]), TaskNotFound),
        "create only": (Operation("put", living["id"], {"title": "x"}, create_only=True), PreconditionFailed),
        "no title": (Operation("put", uuid7(), {"completed": True}), RuleBroken),
        "no date": (Operation("patch", living["id"], {"due_time": "09:30"}), RuleBroken),
    }


async def test_where_one_fails_none_is_written(alice: TaskService) -> None:
    for name, (operation, error) in (await failing(alice)).items():
        before = await page_of(alice)
        with pytest.raises(OperationFailed) as raised:
            await alice.batch([_new(), operation, _new()])
        assert (raised.value.number, type(raised.value.error)) == (1, error), name
        after = await page_of(alice)
        assert (after.tasks, after.head) == (before.tasks, before.head), name


async def test_each_can_stand_alone(alice: TaskService) -> None:
    bad = await failing(alice)
    operations = [_new(), *(operation for operation, _ in bad.values()), _new()]
    before = len(await all_of(alice))
    outcomes = await alice.batch(operations, atomic=False)
    assert kinds(outcomes) == [None, *(error.__name__ for _, error in bad.values()), None]
    assert len(await all_of(alice)) == before + 2


async def test_a_dry_run_tells_all_and_writes_nothing(alice: TaskService) -> None:
    task = await make(alice, due_date="2030-01-30", recurrence="FREQ=DAILY")
    before = await page_of(alice)
    outcomes = await batch_of(alice, Operation("toggle", task["id"]), _new(), dry_run=True)
    assert outcomes[0].task["completed"]
    assert outcomes[1].created
    after = await page_of(alice)
    assert (after.tasks, after.head) == (before.tasks, before.head)
    with pytest.raises(OperationFailed):
        await alice.batch([Operation("toggle", uuid7())], dry_run=True)


@pytest.mark.parametrize("opened", [get_session_context, lambda database: database.executor.transaction()])
async def test_a_session_or_a_transaction_keeps_nothing_of_what_is_rolled_back_in_it_and_goes_on(
    alice: TaskService,
    bob: TaskService,
    database: Database,
    opened: Callable[[Database], AbstractAsyncContextManager[Executor]],
) -> None:
    task = await make(alice)
    before, toggle = await page_of(alice), Operation("toggle", task["id"])
    async with opened(database) as within:
        script = TaskService(within, alice._user_id)
        await batch_of(script, toggle, _new(), dry_run=True)
        with pytest.raises(OperationFailed):
            await script.batch([toggle, Operation("toggle", uuid7())])
        assert await script.erase_expired() == 0
        assert await TaskService(within, bob._user_id).transfer_to(alice._user_id) == 0
    after = await page_of(alice)
    assert (after.tasks, after.head) == (before.tasks, before.head)
    async with opened(database) as within:
        script = TaskService(within, alice._user_id)
        await batch_of(script, toggle, dry_run=True)
        [done] = await batch_of(script, toggle)
    assert await all_of(alice) == [done.task]


async def put_ahead_of_the_clock(service: TaskService, database: Database) -> None:
    """Have the next revision be the last one and 1, as where the clock was put back."""
    mine = owners.c.user_id == service._user_id
    await database.executor.exec(update(owners).where(mine).values(revision=owners.c.revision + 10**12))


async def test_no_task_ever_has_the_entity_tag_that_a_dry_run_shows(alice: TaskService, database: Database) -> None:
    task = await make(alice)
    await put_ahead_of_the_clock(alice, database)
    [tried] = await batch_of(alice, Operation("toggle", task["id"]), dry_run=True)
    updated = (await alice.update(task["id"], TaskUpdate(title="new"))).task
    assert updated["etag"] not in {task["etag"], tried.task["etag"]}
    with pytest.raises(PreconditionFailed):
        await alice.toggle(task["id"], match=alice.revisions([tried.task["etag"]]))


async def test_no_task_has_the_entity_tag_of_one_that_was_erased_in_its_own_batch(
    alice: TaskService, database: Database
) -> None:
    keeps_nothing = TaskService(database.executor, alice._user_id, Limits(trash_days=0))
    await make(alice)
    await put_ahead_of_the_clock(alice, database)
    task_id = uuid7()
    made, _ = await batch_of(keeps_nothing, Operation("put", task_id, {"title": "x"}), Operation("delete", task_id))
    assert (await make(alice))["etag"] != made.task["etag"]


async def test_what_is_current_is_what_is_stored(alice: TaskService) -> None:
    """Not what an operation before it in the batch would have made of it."""
    task = await make(alice, "stored")
    with pytest.raises(OperationFailed) as raised:
        await alice.batch(
            [
                Operation("patch", task["id"], {"title": "sent"}),
                Operation("toggle", task["id"], match=frozenset({1})),
            ]
        )
    assert isinstance(raised.value.error, PreconditionFailed)
    assert raised.value.error.current == task


Step = tuple[str, str]
"""An operation, and the letter of its task."""

SEQUENCES: list[list[Step]] = [
    [("put", "i"), ("delete", "i"), ("put", "i"), ("delete", "i"), ("restore", "i")],
    [("put", "i"), ("delete", "i"), ("patch", "i"), ("delete", "i"), ("toggle", "i"), ("put", "i")],
    [("delete", "a"), ("put", "a"), ("put", "a"), ("delete", "a"), ("restore", "a"), ("put", "a")],
    [("delete", "a"), ("put", "i"), ("put", "j")],
    [("put", "i"), ("delete", "i"), ("put", "j"), ("restore", "i"), ("put", "k")],
    [("put", "i"), ("restore", "old")],
    [("patch", "old"), ("put", "i"), ("delete", "a"), ("put", "old"), ("put", "j")],
    [("restore", "old"), ("patch", "old")],
    [("put", "old"), ("restore", "old"), ("put", "old")],
    [("toggle", "old"), ("delete", "old"), ("restore", "old"), ("delete", "old"), ("restore", "old")],
]
"""Of a user who has the tasks `a` and `b`, and in the trash `old`."""


async def alone(service: TaskService, operation: Operation) -> Outcome:
    task_id, changes = operation.task_id, dict(operation.changes)
    try:
        match operation.op:
            case "put":
                return await service.put(task_id, body(**changes))
            case "patch":
                return await service.update(task_id, TaskUpdate.model_validate(changes))
            case "toggle":
                return await service.toggle(task_id)
            case "restore":
                return Written(await service.restore(task_id))
            case "delete":
                task = await service.get(task_id)
                await service.delete(task_id)
                return Written(task)
    except TodoError as error:
        return error


async def after_each(service: TaskService, operations: list[Operation]) -> list[Outcome]:
    return [await alone(service, operation) for operation in operations]


async def after_all(service: TaskService, operations: list[Operation]) -> list[Outcome]:
    return await service.batch(operations, atomic=False)


@pytest.mark.parametrize("days_in_trash", [0, 40])
@pytest.mark.parametrize("trash_days", [0, 30])
@pytest.mark.parametrize("steps", SEQUENCES, ids=lambda steps: " ".join("-".join(step) for step in steps))
async def test_a_batch_does_what_its_operations_do_alone(
    service_of: ServiceOf, database: Database, steps: list[Step], trash_days: int, days_in_trash: int
) -> None:
    """Where the trash is kept and where it is not, what has expired in it included, and at the limit."""
    ids = {name: uuid7() for name in ("a", "b", "old", "i", "j", "k")}
    operations: list[Any] = [
        Operation(op, ids[name], {"title": op} if op in {"put", "patch"} else {})  # type: ignore[arg-type] # an op
        for op, name in steps
    ]
    found = []
    for name, run in (("each", after_each), ("all", after_all)):
        user = service_of(name)
        for letter in ("a", "b", "old"):
            await user.put(ids[letter], body(title=letter))
        await user.delete(ids["old"])
        since = datetime.now(UTC) - timedelta(days=days_in_trash)
        trash = update(tasks).where(tasks.c.user_id == user._user_id, tasks.c.deleted_at.is_not(None))
        await database.executor.exec(trash.values(deleted_at=since))
        replica = Replica(user)
        await replica.follow()
        limited = TaskService(database.executor, user._user_id, Limits(max_tasks=3, trash_days=trash_days))
        outcomes = await run(limited, operations)
        created = [isinstance(outcome, Written) and outcome.created for outcome in outcomes]
        titles = {each["id"]: each["title"] for each in await all_of(user)}
        found.append((kinds(outcomes), created, titles))
        await replica.assert_equal()
    assert found[0] == found[1]


async def test_what_is_current_is_stored_where_the_batch_has_erased_it(alice: TaskService, database: Database) -> None:
    keeps_nothing = TaskService(database.executor, alice._user_id, Limits(trash_days=0))
    task = await make(alice)
    put = Operation("put", task["id"], {"title": "x"}, match=frozenset({1}))
    with pytest.raises(OperationFailed) as raised:
        await keeps_nothing.batch([Operation("delete", task["id"]), put])
    assert isinstance(raised.value.error, PreconditionFailed)
    assert raised.value.error.current == task


async def test_no_update_is_lost_among_batches_at_once(service_of: ServiceOf) -> None:
    tasks = [await make(service_of("alice")) for _ in range(3)]
    ids = [task["id"] for task in tasks]
    toggles = [
        service_of("alice").batch([Operation("toggle", each) for each in order]) for order in (ids, ids[::-1]) * 4
    ]
    singles = [service_of("alice").toggle(ids[0]) for _ in range(3)]
    await asyncio.gather(*toggles, *singles)
    assert [(await service_of("alice").get(each))["completed"] for each in ids] == [True, False, False]


async def test_a_batch_of_nothing_new_takes_no_revision(alice: TaskService) -> None:
    task = await make(alice, "x")
    head = (await page_of(alice)).head
    outcomes = await batch_of(alice, Operation("put", task["id"], {"title": "x"}), Operation("patch", task["id"]))
    assert [outcome.task for outcome in outcomes] == [task, task]
    assert (await page_of(alice)).head == head


async def test_a_stranger_finds_nothing_by_batch(alice: TaskService, bob: TaskService) -> None:
    task = await make(alice)
    foreign: UUID = task["id"]
    for operation in (
        Operation("patch", foreign, {"title": "x"}),
        Operation("toggle", foreign),
        Operation("delete", foreign),
        Operation("restore", foreign),
    ):
        assert kinds(await bob.batch([operation], atomic=False)) == ["TaskNotFound"]
    assert await alice.get(foreign) == task


async def test_preconditions_hold_in_the_statement_that_writes(alice: TaskService) -> None:
    task = await make(alice)
    good, stale = alice.revisions([task["etag"]]), frozenset({1})
    changed = (await alice.update(task["id"], TaskUpdate(title="y"), match=good)).task
    for attempt in (
        alice.update(task["id"], TaskUpdate(title="z"), match=good),
        alice.update(task["id"], TaskUpdate(), match=good),
        alice.toggle(task["id"], match=stale),
        alice.delete(task["id"], match=good),
        alice.put(task["id"], body(title="z"), match=good),
        alice.put(task["id"], body(title="y"), match=good),
    ):
        with pytest.raises(PreconditionFailed) as raised:
            await attempt
        assert raised.value.current == changed
    assert await alice.get(task["id"]) == changed
    for attempt in (alice.toggle(uuid7(), match=stale), alice.delete(uuid7(), match=stale)):
        with pytest.raises(TaskNotFound):
            await attempt
    await alice.delete(task["id"], match=alice.revisions([changed["etag"], "x"]))


async def test_of_two_who_change_one_state_at_once_one_is_refused(service_of: ServiceOf) -> None:
    task = await make(service_of("alice"))
    good = service_of("alice").revisions([task["etag"]])
    writes = (service_of("alice").update(task["id"], TaskUpdate(title=str(n)), match=good) for n in range(6))
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sorted(type(result).__name__ for result in results) == [*["PreconditionFailed"] * 5, "Written"]
