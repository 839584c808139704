"""Many tasks: filters, order, search, pages, counts and tags.

A statement is made once for each shape of query, which filters and which order, and kept; its values are parameters.
Pages go on from the values of the last row, so that in the default order page 10,000 costs what page 1 costs.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    bindparam,
    case,
    column,
    exists,
    false,
    func,
    literal,
    not_,
    or_,
    select,
    true,
)
from sqlalchemy.types import Text

from backend.models.fields import POSITION_MAX, PRIORITIES, is_storable
from backend.models.queries import ALL, NEWEST_FIRST, Cursor, Order, TaskFilter
from backend.models.task import TaskPublic, TaskStats
from backend.services.functions import bytewise, has_all, has_any, texts
from backend.services.rows import (
    LAST_ID,
    PUBLIC,
    OwnedTasks,
    living,
    owned,
    owner_now,
    tasks,
    trashed,
)

PAGE = 500
"""Tasks that are read at once where all are."""
MAX_TAG_COUNTS = 500
MAX_SHAPES = 500
"""Statements that are kept. There are more shapes than anybody asks for; the oldest is made anew."""

# Rows of the version before have no folded columns until they are written again, or resync has filled them, but those
# that are not ASCII, which migration 0003 has filled: the rest lower() folds, the same on every server where the
# collation is "C".
_title = func.coalesce(tasks.c.title_folded, func.lower(bytewise(tasks.c.title)))
_description = func.coalesce(tasks.c.description_folded, func.lower(bytewise(tasks.c.description)), "")
_tags = func.coalesce(tasks.c.tags_folded, "")


def _has_words() -> ColumnElement[bool]:
    word = texts(bindparam("words", type_=Text)).table_valued(column("value", Text), name="words")
    occurs = or_(*(text.like(word.c.value, escape="\\") for text in (_title, _description, _tags)))
    return not_(exists().select_from(word).where(not_(occurs)))  # there is none that does not occur


def _likely(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    """Have PostgreSQL take a condition for one that half of the rows fulfil, so that it reads them in order.

    Of an expression it knows nothing, and expects one row in 200 or 1,000 to fulfil it: then it would read and sort all
    of a user's tasks for a page, which takes ten times as long where some of them do.
    """
    return func.coalesce(condition, false())


_CLAUSES: Mapping[str, ColumnElement[bool]] = {
    "completed": tasks.c.completed == bindparam("completed"),
    "words": _has_words(),
    "tags": _likely(has_all(tasks.c.tags, bindparam("tags", type_=Text))),
    "any_tags": _likely(has_any(tasks.c.tags, bindparam("any_tags", type_=Text))),
    "priorities": _likely(func.coalesce(tasks.c.priority, "none").in_(bindparam("priorities", expanding=True))),
    "due_from": tasks.c.due_date >= bindparam("due_from"),
    "due_to": tasks.c.due_date <= bindparam("due_to"),
    "no_due_date": tasks.c.due_date.is_(None),
}
"""Each filter's clause."""

Shape = tuple[str, ...]


def _shape(wanted: TaskFilter) -> tuple[Shape, dict[str, Any]]:
    """Return which filters are set, and their parameters."""
    shape = tuple(name for name in _CLAUSES if getattr(wanted, name) != getattr(ALL, name))
    parameters = {name: getattr(wanted, name) for name in shape if name != "no_due_date"}
    if "words" in parameters:
        parameters["words"] = [_like(word) for word in wanted.words]
    for name in {"words", "tags", "any_tags"} & parameters.keys():
        parameters[name] = json.dumps(parameters[name], ensure_ascii=False)
    return shape, parameters


def _like(word: str) -> str:
    for character in "\\%_":
        word = word.replace(character, "\\" + character)
    return f"%{word.casefold()}%"


_LAST = datetime(9999, 12, 31, tzinfo=UTC)
_FIRST = datetime(1900, 1, 1, tzinfo=UTC)  # the year 1 would not do: asyncpg takes its beginning for -infinity
_due = tasks.c.due_date + func.coalesce(tasks.c.due_time, "")
_urgency = {name: number for number, name in enumerate(PRIORITIES)}

# What has no value comes last either way: it gets one beyond all others. So every key has a value, and a page can go on
# from it by plain comparisons.
_KEYS: Mapping[str, Callable[[bool], ColumnElement[Any]]] = {
    "created_at": lambda _: tasks.c.created_at,
    "updated_at": lambda _: tasks.c.updated_at,
    "due_date": lambda descending: bytewise(func.coalesce(_due, "" if descending else "~")),
    "priority": lambda descending: case(_urgency, value=tasks.c.priority, else_=-1 if descending else 9),
    "title": lambda _: bytewise(_title),
    "position": lambda _: tasks.c.position,
    "completed_at": lambda descending: func.coalesce(
        tasks.c.completed_at, literal(_FIRST if descending else _LAST, tasks.c.completed_at.type)
    ),
    "completed": lambda _: case((tasks.c.completed, 1), else_=0),
    "deleted_at": lambda _: tasks.c.deleted_at,
}
"""Each key's expression, by its direction."""

_NUMBERS = frozenset({"priority", "position", "completed"})
_TIMES = frozenset({"created_at", "updated_at", "completed_at", "deleted_at"})


def is_time(order: Order) -> bool:
    """Tell whether a key's values are times."""
    return order.key in _TIMES


def is_value(order: Order, value: object) -> bool:
    """Tell whether this can be a key's value. A cursor may be forged, and then hold what no database compares."""
    if order.key in _TIMES:
        return isinstance(value, datetime) and value.tzinfo is not None
    if order.key in _NUMBERS:
        return type(value) is int and abs(value) <= POSITION_MAX
    return isinstance(value, str) and is_storable(value)


def _after(order: tuple[Order, ...]) -> ColumnElement[bool]:
    """Return the clause for what comes after a cursor: greater in one key, and equal in those before it."""
    keys = [(_KEYS[each.key](each.descending), each.descending) for each in order]
    keys.append((tasks.c.id, order[-1].descending if order else True))
    clauses = []
    for number, (expression, descending) in enumerate(keys):
        equal = [key == bindparam(f"after_{before}", type_=key.type) for before, (key, _) in enumerate(keys[:number])]
        bound = bindparam(f"after_{number}", type_=expression.type)
        clauses.append(and_(*equal, expression < bound if descending else expression > bound))
    return or_(*clauses)


@lru_cache(maxsize=MAX_SHAPES)
def _select_page(
    shape: Shape, order: tuple[Order, ...], *, after: bool, deleted: bool, counted: bool
) -> Select[*tuple[Any, ...]]:
    keys = [_KEYS[each.key](each.descending).label(f"key_{number}") for number, each in enumerate(order)]
    narrow = trashed if deleted else living
    conditions = [_CLAUSES[name] for name in shape]
    columns = (*PUBLIC, *((tasks.c.deleted_at,) if deleted else ()), *keys)
    page = narrow(select(*columns)).where(*conditions, *((_after(order),) if after else ()))

    def ordered(statement: Any, id_column: Any, expressions: Any) -> Any:
        ids = id_column.desc() if not order or order[-1].descending else id_column.asc()
        pairs = zip(expressions, order, strict=True)
        return statement.order_by(*(key.desc() if each.descending else key.asc() for key, each in pairs), ids)

    found = ordered(page, tasks.c.id, keys).limit(bindparam("limit")).offset(bindparam("skip")).subquery("page")
    total = narrow(select(func.count()).select_from(tasks)).where(*conditions).scalar_subquery()
    statement = select(owner_now.c.head, *((total.label("total"),) if counted else ()), *found.c).select_from(
        owner_now.outerjoin(found, true())
    )
    found_keys = [
        bytewise(found.c[key.name]) if each.key in {"title", "due_date"} else found.c[key.name]
        for key, each in zip(keys, order, strict=True)
    ]
    return cast(Select[*tuple[Any, ...]], ordered(statement, found.c.id, found_keys))


@lru_cache(maxsize=MAX_SHAPES)
def _count(shape: Shape) -> Select[*tuple[Any, ...]]:
    return living(
        select(
            select(owner_now.c.head).scalar_subquery().label("head"),
            func.count().label("total"),
            func.count().filter(tasks.c.completed).label("completed"),
        ).select_from(tasks)
    ).where(*(_CLAUSES[name] for name in shape))


@cache
def _select_tags(shape: Shape) -> Select[*tuple[Any, ...]]:
    each = texts(tasks.c.tags).table_valued(column("value", Text), name="each")
    tag, count = each.c.value.label("tag"), func.count().label("count")
    found = (
        living(select(tag, count).select_from(tasks.join(each, true())))
        .where(tasks.c.tags != "[]", *(_CLAUSES[name] for name in shape))
        .group_by(each.c.value)
        .order_by(count.desc(), bytewise(each.c.value))
        .limit(MAX_TAG_COUNTS)
        .subquery("found")
    )
    return (
        select(owner_now.c.head, found.c.tag, found.c["count"])
        .select_from(owner_now.outerjoin(found, true()))
        .order_by(found.c["count"].desc(), bytewise(found.c.tag))
    )


_select_stored = (
    owned(select(*PUBLIC, tasks.c.deleted_at))
    .where(tasks.c.id < bindparam("before"))
    .order_by(tasks.c.id.desc())
    .limit(PAGE)
)


@dataclass(frozen=True, slots=True)
class Page:
    """Some tasks in their order, and whether more follow."""

    tasks: list[TaskPublic]
    rows: list[Any]
    """What they were made of, with the values of the order's keys at the end."""
    order: tuple[Order, ...]
    more: bool
    head: int
    """The owner's revision in the same snapshot."""
    total: int | None = None
    """How many there are under the filters, where that was asked for."""

    def cursor(self, number: int) -> Cursor:
        """Return the cursor of a page that would end with this one of the tasks."""
        row = self.rows[number]
        return Cursor(tuple(row[len(row) - len(self.order) :]), row[0])


class TaskLists(OwnedTasks):
    """Reading many tasks."""

    async def list(
        self,
        wanted: TaskFilter = ALL,
        *,
        order: tuple[Order, ...] = NEWEST_FIRST,
        limit: int,
        skip: int = 0,
        after: Cursor | None = None,
        deleted: bool = False,
        counted: bool = False,
    ) -> Page:
        """Return up to `limit` tasks of those wanted, in order: what comes after a cursor, past the first `skip`.

        `deleted` lists the trash instead.
        """
        shape, parameters = _shape(wanted)
        if after is not None:
            values = enumerate((*after.values, after.task_id))
            parameters |= {f"after_{number}": value for number, value in values}
        statement = _select_page(shape, order, after=after is not None, deleted=deleted, counted=counted)
        rows = (await self._run(statement, **parameters, limit=limit + 1, skip=skip)).all()
        head = rows[0][0]
        first = 2 if counted else 1
        found = [row[first:] for row in rows if row[first] is not None]
        shown = found[:limit]
        tasks_shown = [self._task(row) for row in shown]
        if deleted:
            for task, row in zip(tasks_shown, shown, strict=True):
                task["deleted_at"] = row[len(PUBLIC)]  # type: ignore[typeddict-unknown-key] # ListedTask's
        return Page(tasks_shown, shown, order, len(found) > limit, head, rows[0][1] if counted else None)

    async def every(self, wanted: TaskFilter) -> AsyncIterator[TaskPublic]:
        """Yield all tasks of those wanted, newest first, read page by page."""
        after = None
        while True:
            page = await self.list(wanted, limit=PAGE, after=after)
            for task in page.tasks:
                yield task
            if not page.more:
                return
            after = page.cursor(-1)

    async def export(self) -> AsyncIterator[TaskPublic]:
        """Yield all tasks, newest first, those in the trash with `deleted_at`; read page by page.

        What is deleted or restored meanwhile comes once, because no task changes its id.
        """
        before = LAST_ID
        while rows := (await self._run(_select_stored, before=before)).all():
            for row in rows:
                task = self._task(row)
                if row.deleted_at is not None:
                    task["deleted_at"] = row.deleted_at  # type: ignore[typeddict-unknown-key] # ListedTask's
                yield task
            before = rows[-1].id

    async def stats(self, wanted: TaskFilter = ALL) -> tuple[TaskStats, int]:
        """Count the tasks that are wanted; return the numbers, and the owner's revision."""
        shape, parameters = _shape(wanted)
        row = (await self._run(_count(shape), **parameters)).one()
        return TaskStats(total=row.total, completed=row.completed, active=row.total - row.completed), row.head

    async def tags(self, *, completed: bool | None = None) -> tuple[Sequence[tuple[str, int]], int]:
        """Return the tags that are used most, with the number of their tasks; and the owner's revision."""
        shape, parameters = _shape(TaskFilter(completed=completed))
        rows = (await self._run(_select_tags(shape), **parameters)).all()
        return [(tag, count) for _, tag, count in rows if tag is not None], rows[0][0]
