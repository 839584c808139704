"""Many tasks: for any filter and order, the pages of a walk are what Python's own filter and sort make of the whole."""

import random
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.db.session import Database
from backend.models.fields import PRIORITIES
from backend.models.queries import LATEST_DELETION_FIRST, Order, TaskFilter
from backend.models.task import TaskPublic
from backend.services.tasks import TaskService
from tests.services.conftest import ServiceOf, all_of, batch_of, make, new, page_of
from tests.statements import recorded_statements

WORDS = ("milk", "Milk", "MILK", "straße", "STRASSE", "éclair", "ÉCLAIR", "100%", "a_b", "axb", "c\\d", "日本", "😀")
TAGS = ("home", "Home", "home garden", "gar", "garden", "50%", "a_b", 'say "hi"', "back\\slash", "é", "😀", "[]")
DATES = ("1900-01-01", "2026-11-30", "2026-12-01", "2026-12-02", "9999-12-31")
TIMES = ("00:00", "09:30", "23:59")


def random_fields(chance: random.Random) -> dict[str, Any]:
    """Make up a task out of few values, so that many are equal."""

    def text() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 3)))

    due_date = chance.choice((None, *DATES))
    return {
        "title": text(),
        "description": chance.choice((None, text(), "")),
        "completed": chance.random() < 0.5,
        "priority": chance.choice((None, *PRIORITIES)),
        "due_date": due_date,
        "due_time": chance.choice((None, *TIMES)) if due_date else None,
        "tags": chance.sample(TAGS, chance.randint(0, 3)),
        "position": chance.randint(-2, 2),
    }


words = st.sampled_from(WORDS) | st.text('mMiILlkK%_\\s ßseéÉ"[],', min_size=1, max_size=3).filter(str.strip)
CONDITIONS: dict[str, st.SearchStrategy[Any]] = {
    "completed": st.booleans(),
    "words": st.lists(words, min_size=1, max_size=2).map(lambda found: tuple(" ".join(found).casefold().split())),
    "tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=2).map(tuple),
    "any_tags": st.lists(st.sampled_from(TAGS), min_size=1, max_size=3).map(tuple),
    "priorities": st.lists(st.sampled_from([*PRIORITIES, "none"]), min_size=1, max_size=3).map(tuple),
    "due_from": st.sampled_from(DATES),
    "due_to": st.sampled_from(DATES),
    "no_due_date": st.just(True),
}
# Seldom more than two at once, or nothing would be left to put in order.
filters = (
    st.lists(st.sampled_from(sorted(CONDITIONS)), max_size=2, unique=True)
    .flatmap(lambda names: st.fixed_dictionaries({name: CONDITIONS[name] for name in names}))
    .map(lambda conditions: TaskFilter(**conditions))
)
KEYS = ("created_at", "updated_at", "due_date", "priority", "title", "position", "completed_at", "completed")
orders = st.lists(
    st.builds(Order, st.sampled_from(KEYS), descending=st.booleans()), max_size=3, unique_by=lambda order: order.key
).map(tuple)


def is_wanted(task: TaskPublic, wanted: TaskFilter) -> bool:
    """Say what a filter means."""
    text = [each.casefold() for each in (task["title"], task["description"] or "", *task["tags"])]
    due = task["due_date"]
    return all(
        (
            wanted.completed is None or task["completed"] == wanted.completed,
            all(any(word in each for each in text) for word in wanted.words),
            all(tag in task["tags"] for tag in wanted.tags),
            not wanted.any_tags or any(tag in task["tags"] for tag in wanted.any_tags),
            not wanted.priorities or (task["priority"] or "none") in wanted.priorities,
            wanted.due_from is None or (due is not None and due >= wanted.due_from),
            wanted.due_to is None or (due is not None and due <= wanted.due_to),
            not wanted.no_due_date or due is None,
        )
    )


VALUES: dict[str, Callable[[TaskPublic], Any]] = {
    "created_at": lambda task: task["created_at"],
    "updated_at": lambda task: task["updated_at"],
    "due_date": lambda task: task["due_date"] and (task["due_date"], task["due_time"] or ""),
    "priority": lambda task: task["priority"] and PRIORITIES.index(task["priority"]),
    "title": lambda task: task["title"].casefold(),
    "position": lambda task: task["position"],
    "completed_at": lambda task: task["completed_at"],
    "completed": lambda task: task["completed"],
}


def sorted_by(order: tuple[Order, ...], tasks: Iterable[TaskPublic]) -> list[TaskPublic]:
    """Say what an order means: what has no value comes last either way, ties by id in the last key's direction."""
    found = sorted(tasks, key=lambda task: task["id"], reverse=order[-1].descending if order else True)
    for each in reversed(order):
        value = VALUES[each.key]
        known = sorted((task for task in found if value(task) is not None), key=value, reverse=each.descending)
        found = known + [task for task in found if value(task) is None]
    return found


async def walk(service: TaskService, wanted: TaskFilter, order: tuple[Order, ...], limit: int) -> list[TaskPublic]:
    """Read all pages of a list, and check what is said about them."""
    found: list[TaskPublic] = []
    cursor = None
    for _ in range(100):
        page = await page_of(service, wanted, order=order, limit=limit, after=cursor, counted=True)
        found += page.tasks
        assert len(page.tasks) <= limit
        assert [page.cursor(number).task_id for number in range(len(page.tasks))] == [task["id"] for task in page.tasks]
        if not page.more:
            assert page.total == len(found)
            return found
        assert len(page.tasks) == limit
        cursor = page.cursor(-1)
    raise AssertionError("the walk does not end")


@pytest.fixture
async def populations(service_of: ServiceOf) -> list[tuple[TaskService, list[TaskPublic]]]:
    """Users of whom each has tasks, made at once, so that many have the same time; some are touched again."""
    made = []
    for number in range(3):
        chance = random.Random(number)
        service = service_of(str(number))
        outcomes = await batch_of(service, *(new(random_fields(chance)) for _ in range(25)))
        for outcome in outcomes[::5]:
            await service.toggle(outcome.task["id"])
        whole = await all_of(service)
        assert len(whole) == 25
        made.append((service, whole))
    return made


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(number=st.integers(0, 2), wanted=filters, order=orders, limit=st.sampled_from([1, 2, 7, 100]))
async def test_the_pages_of_a_walk_are_what_is_wanted_in_order(
    populations: list[tuple[TaskService, list[TaskPublic]]],
    number: int,
    wanted: TaskFilter,
    order: tuple[Order, ...],
    limit: int,
) -> None:
    service, whole = populations[number]
    expected = sorted_by(order, (task for task in whole if is_wanted(task, wanted)))
    assert await walk(service, wanted, order, limit) == expected
    skipped = await all_of(service, wanted, order=order, skip=limit)
    assert skipped == expected[limit:]
    counts = await service.stats(wanted)
    completed = sum(task["completed"] for task in expected)
    assert counts is not None
    assert counts[0] == {"total": len(expected), "completed": completed, "active": len(expected) - completed}


async def test_each_order_has_both_directions(populations: list[tuple[TaskService, list[TaskPublic]]]) -> None:
    service, whole = populations[0]
    for key in KEYS:
        for descending in (False, True):
            order = (Order(key, descending=descending),)  # type: ignore[arg-type] # one of them
            assert await walk(service, TaskFilter(), order, 9) == sorted_by(order, whole), order


@pytest.mark.parametrize("completed", [None, True, False])
async def test_tags_are_counted(
    populations: list[tuple[TaskService, list[TaskPublic]]], completed: bool | None
) -> None:
    service, whole = populations[0]
    expected = Counter(tag for task in whole for tag in task["tags"] if completed in (None, task["completed"]))
    found = await service.tags(completed=completed)
    assert found[0] == sorted(expected.items(), key=lambda pair: (-pair[1], pair[0]))


@pytest.mark.parametrize("tags", [(), ("home",), ("home", "garden")])
async def test_what_is_wanted_is_one_statement(
    populations: list[tuple[TaskService, list[TaskPublic]]], database: Database, tags: tuple[str, ...]
) -> None:
    service, _ = populations[0]
    wanted = TaskFilter(words=("milk",), tags=tags, priorities=("high", "none"), due_from=DATES[0])
    order = (Order("due_date", descending=False), Order("title", descending=True), Order("priority", descending=True))
    with recorded_statements(database) as statements:
        page = await page_of(service, wanted, order=order, limit=1, counted=True)
        await service.stats(wanted)
        await service.tags()
    assert len(statements) == 3
    if page.more:
        with recorded_statements(database) as statements:
            await page_of(service, wanted, order=order, limit=1, after=page.cursor(0))
        assert len(statements) == 1


async def test_the_trash_is_listed_latest_deletion_first_and_nowhere_else(alice: TaskService) -> None:
    made = [await make(alice, title, tags=["x"]) for title in ("a milk", "b", "c milk", "d milk")]
    for number in (2, 0, 3):
        await alice.delete(made[number]["id"])
    trash = {"order": LATEST_DELETION_FIRST, "deleted": True}
    listed = await all_of(alice, **trash)
    assert [task["title"] for task in listed] == ["d milk", "a milk", "c milk"]
    assert all(isinstance(task["deleted_at"], datetime) for task in listed)  # type: ignore[typeddict-item] # ListedTask's
    first = await page_of(alice, TaskFilter(words=("milk",)), **trash, limit=1, counted=True)
    assert (first.tasks, first.more, first.total) == (listed[:1], True, 3)
    rest = await all_of(alice, TaskFilter(words=("milk",)), **trash, after=first.cursor(0))
    assert rest == listed[1:]
    assert [task["title"] for task in await all_of(alice)] == ["b"]
    assert await alice.tags() == ([("x", 1)], first.head)
    assert await alice.stats() == ({"total": 1, "completed": 0, "active": 1}, first.head)


async def test_a_walk_goes_on_though_tasks_come_go_and_change(alice: TaskService) -> None:
    order = (Order("title", descending=False),)
    made = {letter: await make(alice, letter) for letter in "abcdef"}
    page = await page_of(alice, order=order, limit=2)
    await alice.delete(made["b"]["id"])
    await alice.delete(made["c"]["id"])
    await make(alice, "aa")
    await make(alice, "cc")
    rest = await all_of(alice, order=order, after=page.cursor(-1))
    assert [task["title"] for task in rest] == ["cc", "d", "e", "f"]


async def test_the_owners_revision_alone_is_that_of_a_page(alice: TaskService, bob: TaskService) -> None:
    before = 0
    for _ in range(2):
        await make(alice)
        assert await alice.head() == (await page_of(alice)).head > before
        before = await alice.head()
    assert await bob.head() == (await page_of(bob)).head == 0


async def test_at_most_500_tags_are_returned(alice: TaskService) -> None:
    for number in range(26):
        await make(alice, tags=[f"{number:02}-{each:02}" for each in range(20)])
    found = await alice.tags()
    assert [tag for tag, _ in found[0]] == [f"{number:02}-{each:02}" for number in range(25) for each in range(20)]


async def test_a_statement_is_made_once_for_any_number_of_words_and_tags(
    alice: TaskService, database: Database
) -> None:
    """One statement for each number would be thousands of long ones, kept: one user could fill the memory."""
    await make(alice)
    with recorded_statements(database) as statements:
        for number in range(1, 51):
            texts = tuple(map(str, range(number)))
            await page_of(alice, TaskFilter(words=texts, tags=texts[:10], any_tags=texts[:10]))
            await alice.stats(TaskFilter(words=texts, tags=texts[:10], any_tags=texts[:10]))
    assert len({sql for sql, _ in statements}) == 2


async def test_an_export_has_each_task_once_whatever_is_deleted_and_restored_meanwhile(alice: TaskService) -> None:
    made = [
        written.task["id"]
        for count in (100, 100, 100, 100, 100, 4)  # more than are read at once
        for written in await batch_of(alice, *(new({"title": "x"}) for _ in range(count)))
    ]
    old, older, newer, newest = made[0], made[1], made[-2], made[-1]
    for task_id in (older, newer):
        await alice.delete(task_id)
    exported: dict[UUID, bool] = {}
    async for task in alice.export():
        if not exported:
            for task_id in (older, newer):
                await alice.restore(task_id)
            for task_id in (old, newest):
                await alice.delete(task_id)
        assert task["id"] not in exported
        exported[task["id"]] = "deleted_at" in task
    assert list(exported) == made[::-1]
    assert [task_id for task_id, deleted in exported.items() if deleted] == [newer, old]  # as each was when it was read
