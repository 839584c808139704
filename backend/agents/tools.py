"""The tools: what an agent may ask, made of the API's own models, and run by the same `TaskService`.

Nothing here knows the protocol. A tool takes the arguments as JSON holds them, and returns what it shows as such.
"""

import json
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from uuid_utils.compat import uuid7

from backend.api.deps import CanonicalUUID
from backend.api.field_errors import FieldError, field_errors
from backend.api.problems import Problem, relocated
from backend.api.queries import SEARCH_SCHEMA, ListQuery, search_text
from backend.api.responses import tasks_content
from backend.errors import TodoError
from backend.models.queries import TaskFilter
from backend.models.task import READ_ONLY, TaskCreate, TaskPublic, TaskUpdate, drop_defaults
from backend.services.batch import MAX_OPERATIONS, Operation, OperationFailed
from backend.services.tasks import TaskService

MAX_NAMED = 100
"""How many ids a refusal names where a part of a title is in several."""

Arguments = Mapping[str, Any]
Result = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)


class ToolFailed(Exception):
    """A tool that did nothing: a problem's code, and in words what to change."""

    def __init__(self, code: str, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(code)
        self.code = code
        self.detail = detail
        self.errors = errors

    def text(self) -> str:
        """Return what the agent reads."""
        errors = [{"pointer": each.pointer, "code": each.code, "detail": each.detail} for each in self.errors]
        return json.dumps({"code": self.code, "detail": self.detail} | ({"errors": errors} if errors else {}))


class NewTasks(BaseModel):
    """Several new tasks: all of them are made, or none."""

    model_config = ConfigDict(extra="forbid")

    tasks: Annotated[list[TaskCreate], Field(min_length=1, max_length=MAX_OPERATIONS)]


class NamedTasks(BaseModel):
    """Which tasks: by exactly one of the three. The defaults only mean "absent"."""

    model_config = ConfigDict(extra="forbid")

    id: CanonicalUUID = Field(UUID(int=0), description="The task's id.")
    ids: Annotated[list[CanonicalUUID], Field(min_length=1, max_length=MAX_OPERATIONS)] = Field(
        [], description="Several tasks' ids: all of them are changed, or none."
    )
    match: Annotated[str, AfterValidator(search_text)] = Field(
        "",
        description="A part of the task's title, in upper or lower case, that no other task's title has.",
        json_schema_extra=SEARCH_SCHEMA,
    )

    @model_validator(mode="after")
    def _by_one(self) -> "NamedTasks":
        if len(self.model_fields_set) != 1:
            raise PydanticCustomError("one_of", "needs exactly one of id, ids and match")
        return self

    async def find(self, tasks: TaskService) -> tuple[list[UUID], str]:
        """Return the ids, and what they were named by. Raises `ToolFailed` where a part of a title names not one."""
        if "match" in self.model_fields_set:
            return [await _only(tasks, self.match.strip())], "match"
        return ([self.id], "id") if "id" in self.model_fields_set else (list(dict.fromkeys(self.ids)), "ids")


async def _only(tasks: TaskService, part: str) -> UUID:
    """Return the id of the one task with this text in its title."""
    wanted = TaskFilter(words=tuple(dict.fromkeys(part.split())))  # in the title, or beside it
    found: list[UUID] = []
    async for task in tasks.every(wanted):
        if part.casefold() in task["title"].casefold():
            found.append(task["id"])
        if len(found) > MAX_NAMED:
            break
    if not found:
        place = FieldError("body", "/match", "task_not_found", "is not in the title of a task of yours")
        raise ToolFailed("task_not_found", "No title holds this text; list_tasks shows the tasks.", [place])
    if len(found) > 1:
        named = ", ".join(map(str, found[:MAX_NAMED])) + (", …" if len(found) > MAX_NAMED else "")
        raise ToolFailed("ambiguous_match", f"Several titles hold this text; name one by its id: {named}")
    return found[0]


def _parse(model: type[Model], arguments: Arguments) -> Model:
    try:
        return model.model_validate(dict(arguments))
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False)
        raise Problem("validation_error", field_errors(found, "arguments")) from None


async def _run(
    tasks: TaskService, operations: Sequence[Operation], pointer: Callable[[int, str], str]
) -> list[TaskPublic]:
    """Run operations, all or none. `pointer` says where the argument of one stands, and of one of its fields."""
    try:
        outcomes = await tasks.batch(operations)
    except OperationFailed as failed:
        raise relocated(failed.error, partial(pointer, failed.number)) from failed.error
    return [outcome.task for outcome in outcomes if not isinstance(outcome, TodoError)]


_TASKS = TypeAdapter(list[TaskPublic])


def _shown(tasks: list[TaskPublic]) -> Result:
    return {"tasks": _TASKS.dump_python(tasks, mode="json")}


async def add_task(tasks: TaskService, arguments: Arguments) -> Result:
    """Make one task, or with `tasks` up to 100 at once: all of them, or none."""
    several = "tasks" in arguments
    new = _parse(NewTasks, arguments).tasks if several else [_parse(TaskCreate, arguments)]
    operations = [Operation("put", uuid7(), task.changes()) for task in new]
    return _shown(await _run(tasks, operations, lambda number, field: f"/tasks/{number}{field}" if several else field))


async def list_tasks(tasks: TaskService, arguments: Arguments) -> Result:
    """List tasks, newest first unless sorted. `next_cursor` is null on the last page."""
    query = _list_query(arguments)
    order = query.keys()
    page = await tasks.list(query.wanted(), order=order, limit=query.limit, after=query.after(order))
    content, count = tasks_content(page.tasks)
    return {"tasks": json.loads(content), "next_cursor": query.next_cursor(page, count)}


LIST_SCHEMA = {
    name: schema
    for name, schema in ListQuery.model_json_schema()["properties"].items()
    if name not in {"skip", "count", "deleted"}
}
_TYPES = {
    "boolean": (bool, "bool_type"),
    "integer": (int, "int_type"),
    "string": (str, "string_type"),
    "array": (list, "list_type"),
}
"""JSON schema's types, and what pydantic calls a value that is not of one."""


def _list_query(arguments: Arguments) -> ListQuery:
    """Return the list's query. In an address all is text; here a value has the type that the schema says."""
    wrong = []
    for name, value in arguments.items():
        expected, error = _TYPES[LIST_SCHEMA[name]["type"]] if name in LIST_SCHEMA else (None, "extra_forbidden")
        if type(value) is not expected:
            wrong.append({"loc": [name], "type": error})
    if wrong:
        raise Problem("validation_error", field_errors(wrong, "arguments"))
    return _parse(ListQuery, arguments)


async def update_task(tasks: TaskService, arguments: Arguments) -> Result:
    """Change the fields that are given; null clears what may be null. Of several tasks all are changed, or none."""
    names = NamedTasks.model_fields.keys()
    named = _parse(NamedTasks, {name: value for name, value in arguments.items() if name in names})
    patch = _parse(TaskUpdate, {name: value for name, value in arguments.items() if name not in names})
    return await _change(tasks, named, "patch", patch.changes())


async def complete_task(tasks: TaskService, arguments: Arguments) -> Result:
    """Complete tasks. One that recurs gets its successor. `update_task` with `completed: false` opens one again."""
    return await _change(tasks, _parse(NamedTasks, arguments), "patch", {"completed": True})


async def delete_task(tasks: TaskService, arguments: Arguments) -> Result:
    """Move tasks to the trash, from where the user can bring them back."""
    return await _change(tasks, _parse(NamedTasks, arguments), "delete", {})


async def _change(
    tasks: TaskService, named: NamedTasks, op: Literal["patch", "delete"], changes: dict[str, Any]
) -> Result:
    ids, by = await named.find(tasks)

    def pointer(number: int, field: str) -> str:
        return f"/ids/{named.ids.index(ids[number])}" if by == "ids" else field or f"/{by}"

    operations = [Operation(op, task_id, changes, idempotent=True) for task_id in ids]
    return _shown(await _run(tasks, operations, pointer))


def _object(properties: Mapping[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    # Plain, without a choice at its root, which many clients cannot read. What goes with what, a refusal says.
    schema: dict[str, Any] = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return schema | ({"required": list(required)} if required else {})


def _properties(model: type[BaseModel], *, without: Container[str] = ()) -> dict[str, Any]:
    schema = model.model_json_schema()
    drop_defaults(schema)
    return {name: field for name, field in schema["properties"].items() if name not in without}


_NEW_TASK = _object(_properties(TaskCreate, without=READ_ONLY), ["title"])
_NAMED = _properties(NamedTasks)
_OUTPUT = {"tasks": {"type": "array", "items": TypeAdapter(TaskPublic).json_schema()}}
_CURSOR = {"next_cursor": {"anyOf": [LIST_SCHEMA["cursor"], {"type": "null"}]}}

_SEVERAL = {
    "type": "array",
    "items": _NEW_TASK,
    "minItems": 1,
    "maxItems": MAX_OPERATIONS,
    "description": "Several new tasks, instead of the other fields.",
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as an agent sees it, and what runs it."""

    run: Callable[[TaskService, Arguments], Awaitable[Result]]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] = field(default_factory=lambda: _object(_OUTPUT, ["tasks"]))
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False

    @property
    def name(self) -> str:
        """Its name."""
        return self.run.__name__

    @property
    def description(self) -> str:
        """What it does, in a sentence or two."""
        return " ".join((self.run.__doc__ or "").split())


_CHANGES = _NAMED | _properties(TaskUpdate, without=READ_ONLY | {"id"})
_LISTED = _object(_OUTPUT | _CURSOR, ["tasks", "next_cursor"])

TOOLS = {
    tool.name: tool
    for tool in (
        Tool(add_task, _object(_NEW_TASK["properties"] | {"tasks": _SEVERAL})),
        Tool(list_tasks, _object(LIST_SCHEMA), _LISTED, read_only=True),
        Tool(update_task, _object(_CHANGES), destructive=True, idempotent=True),
        Tool(complete_task, _object(_NAMED), idempotent=True),
        Tool(delete_task, _object(_NAMED), destructive=True),
    )
}
