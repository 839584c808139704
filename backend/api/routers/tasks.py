"""`/api/tasks`: each route asks `TaskService` for one thing. What may be answered is documented in `openapi.py`."""

from typing import Annotated
from urllib.parse import urlencode
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.api.answers import answer_counts, answer_created, answer_task, answer_tasks
from backend.api.cursors import decode_cursor, encode_cursor
from backend.api.deps import (
    Caller,
    CanonicalUUID,
    Completed,
    CurrentDatabase,
    CurrentVerifier,
    Cursor,
    Limit,
    OnlyCompleted,
    Skip,
    TaskId,
    tasks_of,
)
from backend.api.openapi import NEW_TASK, NEXT_PAGE, TASK_EXAMPLE, documented
from backend.api.problems import FieldError, Problem
from backend.api.requests import StrictRoute
from backend.errors import SameUser, TokenInvalid
from backend.models.task import TaskCreate, TaskPublic, TaskStats, TaskUpdate, drop_defaults
from backend.services.tasks import TaskService

MAX_BULK = 500
ONE_TASK = ("task_not_found",)
"""The problem of every route that names a task."""


class TaskIdConvertor(StringConvertor):
    """One segment of the path that is no fixed path of this router, so that those never pass for an id."""

    regex = "(?!(?:stats|transfer|bulk-complete)(?:/|$))[^/]+"


register_url_convertor("task_id", TaskIdConvertor())


class BulkComplete(BaseModel):
    """Which tasks to set to which state."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)

    task_ids: Annotated[list[CanonicalUUID], Field(min_length=1, max_length=MAX_BULK)]
    completed: Annotated[StrictBool, Field(description="True if absent.")] = True


class Transfer(BaseModel):
    """The proof that the caller was the other user, too."""

    model_config = ConfigDict(extra="forbid")

    from_token: Annotated[
        str, Field(description="A token of the user who has the tasks now.", examples=["eyJhbGciOiJFZERTQSJ9.e30.c2ln"])
    ]


class Updated(TypedDict):
    """How many tasks changed."""

    updated: Annotated[int, Field(ge=0)]


class Deleted(TypedDict):
    """How many tasks were deleted."""

    deleted: Annotated[int, Field(ge=0)]


class Transferred(TypedDict):
    """How many tasks changed hands."""

    transferred: Annotated[int, Field(ge=0)]


router = APIRouter(
    prefix="/api/tasks", tags=["tasks"], route_class=StrictRoute, generate_unique_id_function=lambda route: route.name
)


# Routes are tried in turn: those that are asked for most come first.


@router.get("/{id:task_id}", response_model=TaskPublic, **documented(200, example=TASK_EXAMPLE, codes=ONE_TASK))
async def get_task(request: Request, task_id: TaskId) -> Response:
    """Read a task."""
    return answer_task(await tasks_of(request).get(task_id))


@router.patch(
    "/{id:task_id}",
    response_model=TaskPublic,
    **documented(200, example=TASK_EXAMPLE, body=True, writes=True, codes=ONE_TASK),
)
async def update_task(request: Request, task_id: TaskId, patch: TaskUpdate) -> Response:
    """Change a task. What is absent is kept; `null` clears the description; `{}` changes nothing.

    The body may come as `application/merge-patch+json`, too, which it is (RFC 7396).
    """
    return answer_task(await tasks_of(request).update(task_id, patch))


@router.delete("/{id:task_id}", status_code=204, **documented(204, writes=True, codes=ONE_TASK))
async def delete_task(request: Request, task_id: TaskId) -> Response:
    """Delete a task."""
    await tasks_of(request).delete(task_id)
    return Response(status_code=204)


@router.post(
    "/{id:task_id}/toggle",
    response_model=TaskPublic,
    **documented(200, example=TASK_EXAMPLE, writes=True, codes=ONE_TASK),
)
async def toggle_task(request: Request, task_id: TaskId) -> Response:
    """Complete a task that is active, or the reverse. Atomic: of two at once, neither is lost. Takes no body."""
    return answer_task(await tasks_of(request).toggle(task_id))


@router.get("", response_model=list[TaskPublic], **documented(200, example=[TASK_EXAMPLE], headers=NEXT_PAGE))
async def list_tasks(
    request: Request,
    completed: Completed = None,
    limit: Limit = 100,
    skip: Skip = 0,
    cursor: Cursor = None,
) -> Response:
    """List the caller's tasks, newest first. While more follow, the `Link` header has the next page's address."""
    wanted = None if completed is None else completed == "true"
    if cursor is not None and "skip" in request.query_params:
        raise Problem("validation_error", [FieldError("query", "/cursor", "conflict", "excludes skip")])
    after = _position(cursor, wanted)
    page = await tasks_of(request).list(completed=wanted, limit=limit, skip=skip, after=after)
    next_page = None
    if page.more:
        query = {"completed": completed, "limit": limit, "cursor": encode_cursor(page.tasks[-1]["id"], wanted)}
        next_page = "/api/tasks?" + urlencode({name: value for name, value in query.items() if value is not None})
    return answer_tasks(page.tasks, next_page)


def _position(cursor: str | None, completed: bool | None) -> UUID | None:
    if cursor is None:
        return None
    try:
        return decode_cursor(cursor, completed)
    except ValueError:
        error = FieldError("query", "/cursor", "invalid_cursor", "is not a cursor of this list")
        raise Problem("validation_error", [error]) from None


@router.post(
    "",
    status_code=201,
    response_model=TaskPublic,
    **documented(201, example=TASK_EXAMPLE, headers=NEW_TASK, body=True, writes=True),
)
async def create_task(request: Request, task: TaskCreate) -> Response:
    """Create a task."""
    return answer_created(await tasks_of(request).create(task))


@router.delete("", response_model=Deleted, **documented(200, example={"deleted": 3}, writes=True))
async def delete_completed_tasks(request: Request, _completed: OnlyCompleted) -> Response:
    """Delete all the caller's completed tasks. Nothing but `?completed=true` is accepted."""
    return answer_counts(Deleted(deleted=await tasks_of(request).delete_completed()))


@router.get("/stats", response_model=TaskStats, **documented(200, example={"total": 5, "completed": 3, "active": 2}))
async def count_tasks(request: Request) -> Response:
    """Count the caller's tasks."""
    return answer_counts(await tasks_of(request).stats())


@router.post(
    "/bulk-complete", response_model=Updated, **documented(200, example={"updated": 2}, body=True, writes=True)
)
async def complete_tasks(request: Request, wanted: BulkComplete) -> Response:
    """Complete many tasks (or make them active again). Ids that are not the caller's are ignored."""
    return answer_counts(Updated(updated=await tasks_of(request).complete(wanted.task_ids, completed=wanted.completed)))


@router.post(
    "/transfer",
    response_model=Transferred,
    **documented(200, example={"transferred": 5}, body=True, writes=True, codes=("invalid_from_token", "same_user")),
)
async def transfer_tasks(
    caller: Caller, verifier: CurrentVerifier, database: CurrentDatabase, transfer: Transfer
) -> Response:
    """Take over all tasks of another user whose token the caller has too: a guest who has signed up keeps the list."""
    try:
        giver = await verifier.verify(transfer.from_token)
        moved = await TaskService(database.executor, giver.user_id).transfer_to(caller.user_id)
    except TokenInvalid:
        raise _refused_token("invalid_from_token", "is not a valid token") from None
    except SameUser:
        raise _refused_token("same_user", "is the caller's own") from None
    return answer_counts(Transferred(transferred=moved))


def _refused_token(code: str, detail: str) -> Problem:
    # 422, because a 401 would tell the frontend to log the caller out.
    return Problem(code, [FieldError("body", "/from_token", code, detail)])
