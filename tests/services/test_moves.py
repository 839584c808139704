"""The manual order: what a move puts where, with and without room, alone and at once."""

import asyncio
import itertools
import random
from uuid import UUID, uuid4

import pytest

from backend.db.session import Database
from backend.errors import PreconditionFailed, RuleBroken, TaskNotFound
from backend.models.fields import POSITION_MAX
from backend.models.queries import Destination, Order
from backend.models.task import TaskPublic
from backend.services.tasks import TaskService
from tests.services.conftest import ServiceOf, all_of, batch_of, make, new, page_of
from tests.statements import recorded_statements

BY_POSITION = (Order("position", descending=False),)


async def in_order(service: TaskService) -> list[TaskPublic]:
    return await all_of(service, order=BY_POSITION)


async def titles(service: TaskService) -> str:
    return "".join(task["title"] for task in await in_order(service))


async def make_each(service: TaskService, letters: str, position: int | None = None) -> dict[str, UUID]:
    """Make a task for each letter, in this order; all of them at one position if that is given."""
    fields = {} if position is None else {"position": position}
    made = [await make(service, letter, **fields) for letter in (letters if fields else letters[::-1])]
    return {task["title"]: task["id"] for task in made}


def _id(task: TaskPublic | None) -> UUID:
    assert task is not None
    return task["id"]


@pytest.mark.parametrize(
    ("moved", "relation", "neighbour", "expected"),
    [
        ("d", "first", None, "dabc"),
        ("a", "first", None, "abcd"),
        ("a", "last", None, "bcda"),
        ("d", "last", None, "abcd"),
        ("d", "before", "b", "adbc"),
        ("d", "before", "a", "dabc"),
        ("a", "before", "b", "abcd"),
        ("a", "after", "d", "bcda"),
        ("a", "after", "b", "bacd"),
        ("c", "after", "b", "abcd"),
    ],
)
@pytest.mark.parametrize("position", [None, 0, POSITION_MAX, -POSITION_MAX], ids=["room", "none", "greatest", "least"])
async def test_a_task_goes_where_it_is_put(
    alice: TaskService, bob: TaskService, moved: str, relation: str, neighbour: str | None, expected: str, position: int
) -> None:
    """Also where no number is left between neighbours, or beyond them, as with rows of the first version."""
    ids = await make_each(alice, "abcd", position)
    foreign = await make(bob, "x", position=0)
    destination = Destination(relation, ids[neighbour] if neighbour else None)  # type: ignore[arg-type]
    task = await alice.move(ids[moved], destination)
    listed = await in_order(alice)
    assert "".join(each["title"] for each in listed) == expected
    assert task == listed[expected.index(moved)]
    assert all(abs(each["position"]) <= POSITION_MAX for each in listed)
    assert await bob.get(foreign["id"]) == foreign


async def test_where_there_is_room_a_move_is_one_statement_and_touches_no_other_task(
    alice: TaskService, database: Database
) -> None:
    ids = await make_each(alice, "abcd")
    before = {task["id"]: task for task in await in_order(alice)}
    with recorded_statements(database) as statements:
        moved = await alice.move(ids["d"], Destination("after", ids["a"]))
    assert len(statements) == 1
    assert before[ids["a"]]["position"] < moved["position"] < before[ids["b"]]["position"]
    changed = {"position": moved["position"], "etag": moved["etag"], "updated_at": moved["updated_at"]}
    assert moved == before[ids["d"]] | changed
    assert moved["etag"] != before[ids["d"]]["etag"]
    after = {task["id"]: task for task in await in_order(alice)}
    assert all(after[ids[letter]] == before[ids[letter]] for letter in "abc")


async def test_moves_to_one_place_stay_right(alice: TaskService) -> None:
    ids = await make_each(alice, "abcdefgh")
    expected = list("abcdefgh")
    for number in range(80):
        moved = expected[2 + number % 6] if number % 6 else expected[-1]
        await alice.move(ids[moved], Destination("after", ids["a"]))
        expected.remove(moved)
        expected.insert(1, moved)
        if number % 20 == 0:
            assert await titles(alice) == "".join(expected)
    assert await titles(alice) == "".join(expected)


async def test_room_is_made_in_a_window_and_nowhere_else(alice: TaskService, service_of: ServiceOf) -> None:
    fields = [{"title": f"{number:03}", "position": number * 1000} for number in range(300)]
    made = [outcome.task for outcome in await batch_of(alice, *map(new, fields))]
    for number in range(20):  # 1,000 halved until nothing is left
        moved = _id(made[-1 - number])
        await alice.move(moved, Destination("after", _id(made[10])))
    listed = {task["id"]: task for task in await in_order(alice)}
    assert all(listed[_id(task)] == task for task in made[112:280])
    positions = [task["position"] for task in listed.values()]
    assert positions == sorted(set(positions))


async def test_random_moves_agree_with_a_list_in_memory(alice: TaskService) -> None:
    chance = random.Random(12)
    letters = "abcdefghij"
    ids = await make_each(alice, letters, position=0)
    expected = list(letters)
    for _ in range(60):
        moved, neighbour = chance.sample(letters, 2)
        relation = chance.choice(["before", "after", "first", "last"])
        expected.remove(moved)
        beside_it = expected.index(neighbour) + (relation == "after")
        place = {"first": 0, "last": len(expected)}.get(relation, beside_it)
        expected.insert(place, moved)
        beside = ids[neighbour] if relation in {"before", "after"} else None
        await alice.move(ids[moved], Destination(relation, beside))  # type: ignore[arg-type]
        assert await titles(alice) == "".join(expected)


@pytest.mark.parametrize("position", [None, 0], ids=["room", "none"])
async def test_moves_at_once_leave_a_total_order_and_lose_nothing(service_of: ServiceOf, position: int | None) -> None:
    ids = await make_each(service_of("alice"), "abcdefgh", position)
    await asyncio.gather(
        *(service_of("alice").move(ids[letter], Destination("after", ids["a"])) for letter in "cdefgh")
    )
    listed = await titles(service_of("alice"))
    assert sorted(listed) == list("abcdefgh")
    assert listed[0] == "a"
    assert listed[-1] == "b"


async def test_a_new_task_stands_before_all_even_after_moves_to_the_front(alice: TaskService) -> None:
    ids = await make_each(alice, "abc")
    for letter in "cba":
        await alice.move(ids[letter], Destination("first"))
        await asyncio.sleep(0.002)  # the room of a millisecond is spent
    await make(alice, "n")
    assert (await titles(alice))[0] == "n"


async def test_new_tasks_stand_before_earlier_ones_with_room_between(alice: TaskService) -> None:
    for number in range(5):
        await make(alice, str(number))
        await asyncio.sleep(0.002)
    listed = await in_order(alice)
    assert [task["title"] for task in listed] == list("43210")
    assert all(later["position"] - task["position"] > 100 for task, later in itertools.pairwise(listed))


@pytest.mark.parametrize("relation", ["before", "after"])
async def test_what_is_no_other_task_of_the_user_is_no_neighbour(
    alice: TaskService, bob: TaskService, relation: str
) -> None:
    ids = await make_each(alice, "ab")
    deleted = await make(alice, "c")
    await alice.delete(deleted["id"])
    before = await in_order(alice)
    for neighbour in (uuid4(), (await make(bob, "x"))["id"], deleted["id"], ids["a"]):
        with pytest.raises(RuleBroken) as raised:
            await alice.move(ids["a"], Destination(relation, neighbour))  # type: ignore[arg-type]
        assert (raised.value.field, raised.value.code) == (relation, "unknown_task")
    assert await in_order(alice) == before


async def test_what_is_not_there_is_not_moved(alice: TaskService, bob: TaskService) -> None:
    ids = await make_each(alice, "ab")
    deleted = await make(alice, "c")
    await alice.delete(deleted["id"])
    head = (await page_of(alice)).head
    for absent in (uuid4(), (await make(bob, "x"))["id"], deleted["id"]):
        for destination in (Destination("first"), Destination("last"), Destination("after", ids["a"])):
            with pytest.raises(TaskNotFound):
                await alice.move(absent, destination)
    assert (await page_of(alice)).head == head


@pytest.mark.parametrize("position", [None, 0], ids=["room", "none"])
async def test_a_precondition_holds_for_a_move(alice: TaskService, position: int | None) -> None:
    ids = await make_each(alice, "abc", position)
    stale = alice.revisions([(await alice.get(ids["c"]))["etag"]])
    moved = await alice.move(ids["c"], Destination("after", ids["a"]), match=stale)
    with pytest.raises(PreconditionFailed) as raised:
        await alice.move(ids["c"], Destination("last"), match=stale)
    assert raised.value.current == moved
    assert await titles(alice) == "acb"
