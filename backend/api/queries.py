"""What a list's address says: filters, order and page, from text to what the service takes.

Each is a parameter of the OpenAPI document; the schemas are written out, because a parameter that may be absent is not
one that may be null.
"""

import json
import re
from typing import Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl, urlencode

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.requests import Request

from backend.api.cursors import MAX_CURSOR, decode_cursor, encode_cursor
from backend.api.field_errors import FieldError
from backend.api.paths import TASKS
from backend.api.problems import Problem
from backend.models.fields import (
    DUE_DATE_SCHEMA,
    PRIORITIES,
    TAG_SCHEMA,
    IsDate,
    at_most,
    not_blank,
    storable,
    tag,
    unique,
)
from backend.models.queries import (
    LATEST_DELETION_FIRST,
    MAX_FILTER_TAGS,
    MAX_SORT_KEYS,
    NATURALLY_DESCENDING,
    NEWEST_FIRST,
    SEARCH_MAX,
    Cursor,
    Order,
    SortKey,
    TaskFilter,
)
from backend.services.lists import Page

MAX_SKIP = 10_000
SORT_KEYS: tuple[str, ...] = tuple(key for key in get_args(SortKey) if key != "deleted_at")

_KEY = f"({'|'.join(SORT_KEYS)})"
_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")


def _whole_number(value: Any) -> int:
    # pydantic would also take " 1 ", "1.0" and "1_000".
    if isinstance(value, int):
        return value
    if not isinstance(value, str) or _WHOLE_NUMBER.fullmatch(value) is None:
        raise PydanticCustomError("not_an_integer", "must be a whole number")
    return int(value)


def _boolean(value: Any) -> bool:
    # pydantic would also take "yes" and "1".
    if not isinstance(value, bool) and value not in {"true", "false"}:
        raise PydanticCustomError("not_a_boolean", "must be true or false")
    return value in {True, "true"}


def search_text(text: str) -> str:
    """Return a text to search for, that is not only white space. Raises `PydanticCustomError`."""
    if not at_most(storable(text), SEARCH_MAX).split():
        raise PydanticCustomError("blank", "must not be blank")
    return text


def _sort(text: str) -> str:
    keys = text.split(",")
    if not set(keys) <= set(SORT_KEYS) or len(set(keys)) != len(keys) or len(keys) > MAX_SORT_KEYS:
        names = ", ".join(SORT_KEYS)
        raise PydanticCustomError("unknown_order", "{reason}", {"reason": f"takes one to three, each once, of {names}"})
    return text


def _order(text: str) -> str:
    if not set(text.split(",")) <= {"asc", "desc"} or text.count(",") >= MAX_SORT_KEYS:
        raise PydanticCustomError("unknown_order", "takes asc and desc, one for each sort key")
    return text


def _priorities(values: list[str]) -> list[str]:
    chosen = [each for value in values for each in value.split(",")]
    if not set(chosen) <= {*PRIORITIES, "none"}:
        names = ", ".join((*PRIORITIES, "none"))
        raise PydanticCustomError("unknown_priority", "{reason}", {"reason": f"takes {names}"})
    return unique(chosen)


SEARCH_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": SEARCH_MAX,
    "pattern": not_blank(),
}

Flag = Annotated[Annotated[bool, BeforeValidator(_boolean)] | None, WithJsonSchema({"type": "boolean"})]
Limit = Annotated[int, Field(ge=1, le=500, description="The most tasks to return."), BeforeValidator(_whole_number)]
FilterTag = Annotated[str, AfterValidator(tag)]
FilterTags = Annotated[
    list[FilterTag],
    Field(max_length=MAX_FILTER_TAGS),
    AfterValidator(unique),
    WithJsonSchema({"type": "array", "items": TAG_SCHEMA, "maxItems": MAX_FILTER_TAGS}),
]
FilterDate = Annotated[
    Annotated[str, IsDate] | None,
    WithJsonSchema({name: DUE_DATE_SCHEMA[name] for name in ("type", "format", "pattern")}),
]


class CompletedQuery(BaseModel):
    """Only completed, or only active, tasks."""

    model_config = ConfigDict(extra="forbid")

    completed: Flag = Field(None, description="Only completed, or only active, tasks.")


class FilterQuery(CompletedQuery):
    """Which tasks."""

    search: Annotated[
        Annotated[str, AfterValidator(search_text)] | None,
        WithJsonSchema(SEARCH_SCHEMA),
    ] = Field(None, description="All these words occur in the title, the description or a tag, in upper or lower case.")
    tag: FilterTags = Field([], description="Tags that are all there.")
    tag_any: FilterTags = Field([], description="Tags of which one is there.")
    priority: Annotated[
        list[str],
        AfterValidator(_priorities),
        WithJsonSchema({"type": "array", "items": {"type": "string", "enum": [*PRIORITIES, "none"]}}),
    ] = Field([], description="Priorities of which one is the task's; `none` for no priority.")
    due_from: FilterDate = Field(None, description="The first due date.")
    due_to: FilterDate = Field(None, description="The last due date.")
    due: Annotated[Literal["none"] | None, WithJsonSchema({"type": "string", "enum": ["none"]})] = Field(
        None, description="`none`: tasks without a due date."
    )

    def wanted(self) -> TaskFilter:
        """Return the filter."""
        return TaskFilter(
            completed=self.completed,
            words=tuple(dict.fromkeys((self.search or "").split())),
            tags=tuple(self.tag),
            any_tags=tuple(self.tag_any),
            priorities=tuple(self.priority),
            due_from=self.due_from,
            due_to=self.due_to,
            no_due_date=self.due is not None,
        )


class ListQuery(FilterQuery):
    """Which tasks, in which order, and which page of them."""

    sort: Annotated[
        Annotated[str, AfterValidator(_sort)] | None,
        WithJsonSchema({"type": "string", "pattern": f"^{_KEY}(,{_KEY}){{0,2}}$", "examples": ["due_date,priority"]}),
    ] = Field(None, description=f"One to three keys, separated by commas, of {', '.join(SORT_KEYS)}.")
    order: Annotated[
        Annotated[str, AfterValidator(_order)] | None,
        WithJsonSchema({"type": "string", "pattern": "^(asc|desc)(,(asc|desc)){0,2}$", "examples": ["asc,desc"]}),
    ] = Field(None, description="A direction for each key of `sort`; alone, that of `created_at`.")
    limit: Limit = 100
    skip: Annotated[int, Field(ge=0, le=MAX_SKIP), BeforeValidator(_whole_number)] = Field(
        0, description="Tasks to pass over; not together with `cursor`."
    )
    cursor: Annotated[
        str | None, WithJsonSchema({"type": "string", "maxLength": MAX_CURSOR, "pattern": r"^[A-Za-z0-9_\-]+$"})
    ] = Field(None, max_length=MAX_CURSOR, description="Where the page before ended: its `X-Next-Cursor`.")
    count: Flag = Field(None, description="Add `X-Total-Count`: how many tasks there are under the filters.")
    deleted: Flag = Field(None, description="List the trash instead, the latest deletion first.")

    def keys(self) -> tuple[Order, ...]:
        """Return the order. Raises `Problem` where it has more or fewer directions than keys, and of the trash any."""
        if self.deleted:
            if others := self.model_fields_set - {"search", "limit", "skip", "cursor", "count", "deleted"}:
                raise _refused(min(others), "conflict", "does not go with deleted")
            return LATEST_DELETION_FIRST
        if self.sort is None and self.order is None:
            return NEWEST_FIRST
        keys = (self.sort or "created_at").split(",")
        if self.order is None:
            return tuple(Order(key, key in NATURALLY_DESCENDING) for key in keys)  # type: ignore[arg-type] # _sort has checked it
        directions = self.order.split(",")
        if len(directions) != len(keys):
            raise _refused("order", "unknown_order", "must have a direction for each sort key")
        return tuple(Order(key, direction == "desc") for key, direction in zip(keys, directions, strict=True))  # type: ignore[arg-type] # as above

    def after(self, order: tuple[Order, ...]) -> Cursor | None:
        """Return where the page before ended. Raises `Problem` for a cursor that is not of this list."""
        if self.cursor is None:
            return None
        if self.skip:
            raise _refused("cursor", "conflict", "excludes skip")
        try:
            return decode_cursor(self.cursor, order, self.canonical())
        except ValueError:
            raise _refused("cursor", "invalid_cursor", "is not a cursor of this list") from None

    def canonical(self) -> str:
        """Return the filters and the order in one form, whatever form they were sent in."""
        wanted = self.wanted()
        values = {name: getattr(wanted, name) for name in wanted.__slots__}
        values["words"] = {word.casefold() for word in wanted.words}
        values = {name: sorted(value) if isinstance(value, set | tuple) else value for name, value in values.items()}
        order = [[each.key, each.descending] for each in self.keys()]
        return json.dumps([values, order, bool(self.deleted)], separators=(",", ":"))

    def next_cursor(self, page: Page, shown: int) -> str | None:
        """Return the next page's cursor where so many of this one's tasks are shown; None where nothing follows."""
        if not page.more and shown == len(page.tasks):
            return None
        return encode_cursor(page.cursor(shown - 1), self.canonical())

    def next_page(self, request: Request, cursor: str) -> str:
        """Return the next page's address, with all that this one's says.

        Lists are written as they were understood, each value once. As they were sent, with blanks and repetitions, they
        and the cursor could be more than an address may have.
        """
        query: dict[str, Any] = dict(parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True))
        query |= {name: value for name, value in self if isinstance(value, list)}
        query |= {"limit": self.limit, "cursor": cursor}
        query.pop("skip", None)
        return f"{address(request)}?{urlencode(query, doseq=True)}"


class ChangesQuery(BaseModel):
    """Since when, and how many at once."""

    since: Annotated[str | None, WithJsonSchema({"type": "string"})] = Field(
        None, description="The `checkpoint` of the page before; without it, everything."
    )
    limit: Limit = 100


class DeletionQuery(BaseModel):
    """What is deleted at once."""

    completed: Flag = Field(None, description="`true`: all completed tasks, to the trash.")
    all: Flag = Field(None, description="`true`, alone: all that there is, for good.")


class ErasureQuery(BaseModel):
    """Whether a task in the trash is erased."""

    permanent: Flag = Field(None, description="Erase it.")


def address(request: Request) -> str:
    """Return the path of the list, with the prefix that the service is mounted at."""
    return f"{request.scope.get('root_path', '')}{TASKS}"


def _refused(name: str, code: str, detail: str) -> Problem:
    return Problem("validation_error", [FieldError("query", f"/{name}", code, detail)])
