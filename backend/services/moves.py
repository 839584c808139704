"""The manual order: a task is put between two others by a number between theirs."""

from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Update, bindparam, func, select, tuple_, update

from backend.errors import RuleBroken
from backend.models.fields import POSITION_MAX
from backend.models.queries import Destination
from backend.models.task import TaskPublic
from backend.services.executor import Executor, transaction
from backend.services.rows import (
    PUBLIC,
    Match,
    OwnedTasks,
    if_matched,
    living,
    next_revision,
    now,
    owned,
    stamped,
    tasks,
    this,
)

ROOM = 512
"""The room beside a task that is put at an end, and between tasks that were spread out. It is half of what a new task
gets for each millisecond, so that one that is made later still stands before all."""
WINDOW = 100
"""How many tasks on each side make room where two have no number between them; four times as many if they cannot."""
ENOUGH = 16
"""The least room that spreading is worth: with less, the next move to the same place would spread again."""

_Placed = tuple[UUID, int]

_other = tasks.alias("other")
_neighbour = tasks.alias("neighbour")
_place = tuple_(_other.c.position, _other.c.id)
_task_id = bindparam("task_id", type_=tasks.c.id.type)


def _positions_of_others(function: Any, *conditions: ColumnElement[bool]) -> Any:
    return (
        select(function(_other.c.position))
        .where(
            _other.c.user_id == bindparam("owner"),
            _other.c.deleted_at.is_(None),
            _other.c.id != bindparam("task_id"),
            *conditions,
        )
        .scalar_subquery()
    )


def _gap(relation: str) -> Select[*tuple[Any, ...]]:
    """Return the statement for the numbers between which a task goes; without a row where the neighbour is none."""
    low: Any
    high: Any
    if relation in {"first", "last"}:
        end = func.coalesce(_positions_of_others(func.min if relation == "first" else func.max), 0)
        low, high = (end - 2 * ROOM, end) if relation == "first" else (end, end + 2 * ROOM)
        return select(_task_id.label("id"), low.label("low"), high.label("high"))
    beside = tuple_(_neighbour.c.position, _neighbour.c.id)
    low = high = _neighbour.c.position
    if relation == "before":
        low = func.coalesce(_positions_of_others(func.max, _place < beside), high - 2 * ROOM)
    else:
        high = func.coalesce(_positions_of_others(func.min, _place > beside), low + 2 * ROOM)
    return select(_task_id.label("id"), low.label("low"), high.label("high")).where(
        _neighbour.c.user_id == bindparam("owner"),
        _neighbour.c.deleted_at.is_(None),
        _neighbour.c.id == bindparam("neighbour"),
    )


@cache
def _move(relation: str, *, matched: bool) -> Update:
    """Return the statement that moves a task where there is room; it finds no row where there is none."""
    # OFFSET keeps PostgreSQL from putting the subqueries wherever a number is used: seven scans of all tasks for one.
    gap = _gap(relation).offset(0).subquery("gap")
    position = gap.c.low + (gap.c.high - gap.c.low) // 2
    statement = (
        stamped(living(update(tasks)))
        .values(position=position)
        .where(tasks.c.id == gap.c.id, gap.c.high - gap.c.low > 1, position.between(-POSITION_MAX, POSITION_MAX))
    )
    return if_matched(statement, matched=matched).returning(*PUBLIC)


_select_position = this(living(select(tasks.c.position)))
_set_position = this(owned(update(tasks))).values(
    position=bindparam("new_position"), revision=bindparam("new_revision"), updated_at=bindparam("now")
)


@cache
def _select_side(*, above: bool, bounded: bool) -> Select[*tuple[Any, ...]]:
    """Return the statement for the tasks on one side of a place, the nearest first."""
    place = tuple_(tasks.c.position, tasks.c.id)
    statement = living(select(tasks.c.id, tasks.c.position)).where(tasks.c.id != bindparam("moved"))
    if bounded:
        bound = tuple_(
            bindparam("place_position", type_=tasks.c.position.type), bindparam("place_id", type_=tasks.c.id.type)
        )
        statement = statement.where(place > bound if above else place < bound)
    keys = (tasks.c.position, tasks.c.id)
    return statement.order_by(*(keys if above else (key.desc() for key in keys))).limit(bindparam("limit"))


class TaskMoves(OwnedTasks):
    """Moving tasks in the manual order."""

    async def move(self, task_id: UUID, destination: Destination, *, match: Match = None) -> TaskPublic:
        """Put a task beside another, or at an end; return it.

        Where no number is left between the two, their neighbours are spread out in the same transaction. Raises
        `TaskNotFound`, `PreconditionFailed`, `RuleBroken` for a neighbour that is not another task of the user.
        """
        if destination.neighbour == task_id:  # before the task is looked for: the request alone is wrong
            raise _unknown(destination)
        parameters: dict[str, Any] = {"task_id": task_id, "now": now()}
        if destination.neighbour is not None:
            parameters["neighbour"] = destination.neighbour
        statement = _move(destination.relation, matched=match is not None)
        row = (await self._run(statement, match=match, **parameters)).one_or_none()
        if row is not None:
            return self._task(row)
        async with transaction(self._executor) as within:
            # Other writers of this user wait from here on: what is read now stays as it is.
            revision = (await self._run(next_revision, within=within)).scalar_one()
            await self._unchanged(task_id, match, within=within)
            positions = await self._make_room(within, task_id, destination)
            shared = {"owner": self._user_id, "new_revision": revision, "now": parameters["now"]}
            rows = [shared | {"task_id": moved, "new_position": position} for moved, position in positions]
            await within.exec(_set_position, params=rows)
            return await self._find(task_id, within=within)

    async def _make_room(self, within: Executor, task_id: UUID, destination: Destination) -> list[_Placed]:
        """Return the positions to set: the moved task's, and those of the neighbours that make room for it."""
        relation, neighbour = destination.relation, destination.neighbour
        place: dict[str, Any] = {}
        if neighbour is not None:
            found = await self._run(_select_position, within=within, task_id=neighbour)
            position = found.scalar_one_or_none()
            if position is None:
                raise _unknown(destination)
            place = {"place_position": position, "place_id": neighbour}
        window = 0
        while True:
            below = await self._side(within, task_id, relation, window, place, above=False)
            above = await self._side(within, task_id, relation, window, place, above=True)
            low = below.pop()[1] if len(below) > window else None
            high = above.pop()[1] if len(above) > window else None
            moved = [*(each for each, _ in reversed(below)), task_id, *(each for each, _ in above)]
            positions = _spread(len(moved), low, high, least=ENOUGH if window else 1)
            if positions is not None:
                return list(zip(moved, positions, strict=True))
            window = max(WINDOW, window * 4)

    async def _side(
        self, within: Executor, task_id: UUID, relation: str, window: int, place: dict[str, Any], *, above: bool
    ) -> list[_Placed]:
        """Return the tasks on one side of where a task goes, the nearest first: one more than the window takes."""
        if relation == ("last" if above else "first"):
            return []
        is_neighbours = relation == ("before" if above else "after")
        nearest = [(place["place_id"], place["place_position"])] if is_neighbours else []
        statement = _select_side(above=above, bounded=bool(place))
        limit = window + 1 - len(nearest)
        rows = await self._run(statement, within=within, moved=task_id, limit=limit, **place)
        return nearest + [(row[0], row[1]) for row in rows]


def _unknown(destination: Destination) -> RuleBroken:
    return RuleBroken(destination.relation, "unknown_task", "is not another task of yours")


def _spread(count: int, low: int | None, high: int | None, *, least: int) -> Sequence[int] | None:
    """Return `count` numbers between two, evenly; None where they would not be `least` apart, or out of range.

    None for a bound means that there is none.
    """
    length = ROOM * (count + 1)
    if low is None:
        low = high - length if high is not None else -length // 2
    if high is None:
        high = low + length
    step = (high - low) // (count + 1)
    numbers = range(low + step, low + step * count + 1, step) if step >= least else ()
    return numbers if numbers and numbers[0] >= -POSITION_MAX and numbers[-1] <= POSITION_MAX else None
