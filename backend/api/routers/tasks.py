"""`/api/tasks`: each route asks `TaskService` for one thing. What may be sent back is documented in `openapi.py`."""

from typing import Any
from zlib import crc32

from fastapi import APIRouter
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response

from backend.api.cursors import decode_checkpoint, encode_checkpoint
from backend.api.deps import NewTaskId, TaskId, tasks_of, tasks_of_user, user_of
from backend.api.field_errors import FieldError
from backend.api.openapi import NEW_TASK, NEXT_PAGE, TASK_EXAMPLE, documented
from backend.api.paths import TASKS
from backend.api.preconditions import if_match, is_known, known, must_exist, must_not_exist
from backend.api.problems import Problem
from backend.api.queries import (
    ChangesQuery,
    CompletedQuery,
    DeletionQuery,
    ErasureQuery,
    FilterQuery,
    ListQuery,
    address,
)
from backend.api.requests import StrictRoute, read_query
from backend.api.responses import JSONBytes, changes_content, json_response, not_modified, task_response, tasks_content
from backend.api.schemas import BulkComplete, ChangesPage, Deleted, Move, TagCount, Transfer, Transferred, Updated
from backend.errors import SameUser, TokenInvalid
from backend.models.task import AddressedTask, ListedTask, TaskCreate, TaskPublic, TaskPut, TaskStats, TaskUpdate


class TaskIdConvertor(StringConvertor):
    """One segment of the path that is no fixed path of this router, so that those never pass for an id."""

    regex = "(?!(?:stats|tags|changes|batch|transfer|bulk-complete)(?:/|$))[^/]+"


register_url_convertor("task_id", TaskIdConvertor())

router = APIRouter(prefix=TASKS, tags=["tasks"], route_class=StrictRoute)


# Routes are tried in turn: those that are asked for most come first.


@router.get("/{id:task_id}", response_model=TaskPublic, **documented(TASK_EXAMPLE))
async def get_task(request: Request, task_id: TaskId) -> Response:
    """Read a task."""
    task = await tasks_of(request).get(task_id)
    if is_known(request, task["etag"]):
        return not_modified(task["etag"], weak=False)
    return task_response(task)


@router.patch("/{id:task_id}", response_model=TaskPublic, **documented(TASK_EXAMPLE))
async def update_task(request: Request, task_id: TaskId, patch: TaskUpdate) -> Response:
    """Change a task. What is absent is kept; `null` clears what may be null; `{}` changes nothing."""
    _check_id(patch, task_id)
    tasks = tasks_of(request)
    written = await tasks.update(task_id, patch, match=if_match(request, tasks))
    return task_response(written.task, written.successor)


@router.put("/{id:task_id}", response_model=TaskPublic, **documented(TASK_EXAMPLE, "task_deleted", "too_many_tasks"))
async def put_task(request: Request, task_id: NewTaskId, task: TaskPut) -> Response:
    """Create the task of this id, or change the fields that are sent. A repetition changes nothing."""
    _check_id(task, task_id)
    tasks = tasks_of(request)
    written = await tasks.put(
        task_id,
        task,
        match=if_match(request, tasks),
        must_exist=must_exist(request),
        create_only=must_not_exist(request),
    )
    return task_response(written.task, written.successor, new_at=address(request) if written.created else None)


@router.delete("/{id:task_id}", status_code=204, **documented(None, query=ErasureQuery))
async def delete_task(request: Request, task_id: TaskId) -> Response:
    """Move a task to the trash. With `permanent=true` erase one that is in the trash."""
    query = read_query(request, ErasureQuery)
    tasks = tasks_of(request)
    await tasks.delete(task_id, match=if_match(request, tasks), permanent=bool(query.permanent))
    return Response(status_code=204)


@router.post("/{id:task_id}/toggle", response_model=TaskPublic, **documented(TASK_EXAMPLE))
async def toggle_task(request: Request, task_id: TaskId) -> Response:
    """Complete a task that is active, or the reverse. Atomic: of two at once, neither is lost. Takes no body."""
    tasks = tasks_of(request)
    written = await tasks.toggle(task_id, match=if_match(request, tasks))
    return task_response(written.task, written.successor)


@router.get("", response_model=list[ListedTask], **documented([TASK_EXAMPLE], headers=NEXT_PAGE, query=ListQuery))
async def list_tasks(request: Request) -> Response:
    """List the user's tasks, newest first unless sorted. While more follow, `Link` has the next page's address."""
    query = read_query(request, ListQuery)
    tasks = tasks_of(request)
    order = query.keys()
    after = query.after(order)
    if (response := await known(request, tasks)) is not None:
        return response
    page = await tasks.list(
        query.wanted(),
        order=order,
        limit=query.limit,
        skip=query.skip,
        after=after,
        deleted=bool(query.deleted),
        counted=bool(query.count),
    )
    content, shown = tasks_content(page.tasks)
    headers = {"ETag": f'W/"{tasks.etag(page.head)}"'}
    if (cursor := query.next_cursor(page, shown)) is not None:
        headers |= {"Link": f'<{query.next_page(request, cursor)}>; rel="next"', "X-Next-Cursor": cursor}
    if page.total is not None:
        headers["X-Total-Count"] = str(page.total)
    return JSONBytes(content, headers=headers)


@router.post(
    "",
    status_code=201,
    response_model=TaskPublic,
    **documented(TASK_EXAMPLE, "too_many_tasks", headers=NEW_TASK),
)
async def create_task(request: Request, task: TaskCreate) -> Response:
    """Create a task."""
    return task_response(await tasks_of(request).create(task), new_at=address(request))


@router.delete("", response_model=Deleted, **documented({"deleted": 3}, query=DeletionQuery))
async def delete_tasks(request: Request) -> Response:
    """Delete all completed tasks with `completed=true`, or erase everything with `all=true`. Nothing else is taken."""
    query = read_query(request, DeletionQuery)
    if (query.completed, query.all) not in {(True, None), (None, True)}:
        name = "all" if query.all is not None else "completed"
        raise Problem(
            "validation_error",
            [FieldError("query", f"/{name}", "not_true", "must be true, and alone: completed=true or all=true")],
        )
    tasks = tasks_of(request)
    return json_response(Deleted(deleted=await (tasks.delete_all() if query.all else tasks.delete_completed())))


@router.get(
    "/stats", response_model=TaskStats, **documented({"total": 5, "completed": 3, "active": 2}, query=FilterQuery)
)
async def count_tasks(request: Request) -> Response:
    """Count the user's tasks."""
    query = read_query(request, FilterQuery)
    tasks = tasks_of(request)
    if (response := await known(request, tasks)) is not None:
        return response
    stats, revision = await tasks.stats(query.wanted())
    return json_response(stats, tasks.etag(revision))


@router.get("/tags", response_model=list[TagCount], **documented([{"tag": "home", "count": 3}], query=CompletedQuery))
async def list_tags(request: Request) -> Response:
    """List the tags in use, most used first, then by name; at most 500."""
    query = read_query(request, CompletedQuery)
    tasks = tasks_of(request)
    if (response := await known(request, tasks)) is not None:
        return response
    counts, revision = await tasks.tags(completed=query.completed)
    return json_response([{"tag": tag, "count": count} for tag, count in counts], tasks.etag(revision))


@router.post("/bulk-complete", response_model=Updated, **documented({"updated": 2}))
async def complete_tasks(request: Request, wanted: BulkComplete) -> Response:
    """Complete many tasks (or make them active again). Ids that are not the user's are ignored."""
    updated = await tasks_of(request).complete(wanted.task_ids, completed=wanted.completed)
    return json_response(Updated(updated=updated))


@router.post(
    "/transfer",
    response_model=Transferred,
    **documented({"transferred": 5}, "invalid_from_token", "same_user", "too_many_tasks"),
)
async def transfer_tasks(request: Request, transfer: Transfer) -> Response:
    """Take over another user's tasks, the trash apart, by that user's token: a guest who signs up keeps the list."""
    try:
        giver = await request.app.state.verifier.verify(transfer.from_token)
        tasks = tasks_of_user(request.app.state.database, giver.user_id)
        moved = await tasks.transfer_to(user_of(request).user_id)
    except TokenInvalid:
        raise _refused_token("invalid_from_token", "has expired, or is not valid") from None
    except SameUser:
        raise _refused_token("same_user", "is the same user's") from None
    return json_response(Transferred(transferred=moved))


def _refused_token(code: str, detail: str) -> Problem:
    # 422, because a 401 would tell the frontend to log the user out.
    return Problem(code, [FieldError("body", "/from_token", code, detail)])


def _check_id(task: AddressedTask, task_id: Any) -> None:
    if not task.names(task_id):
        raise Problem("validation_error", [FieldError("body", "/id", "id_mismatch", "must be the address's id")])


@router.post("/{id:task_id}/restore", response_model=TaskPublic, **documented(TASK_EXAMPLE))
async def restore_task(request: Request, task_id: TaskId) -> Response:
    """Bring a task back from the trash. Takes no body."""
    tasks = tasks_of(request)
    return task_response(await tasks.restore(task_id, match=if_match(request, tasks)))


CHANGES_EXAMPLE = {
    "changes": [TASK_EXAMPLE, {"id": TASK_EXAMPLE["id"], "deleted": True}],
    "checkpoint": "AAZGp2mZ1nk",
    "more": False,
}


@router.get(
    "/changes", response_model=ChangesPage, **documented(CHANGES_EXAMPLE, "checkpoint_expired", query=ChangesQuery)
)
async def list_changes(request: Request) -> Response:
    """List what has changed since a checkpoint, each task once, as it is now."""
    query = read_query(request, ChangesQuery)
    tasks = tasks_of(request)
    user_id = user_of(request).user_id
    checkpoint = None if query.since is None else decode_checkpoint(query.since, user_id)
    # All pages are of one revision: with the tag of the page before nobody must be told that this one is known.
    suffix = f"-{crc32(request.scope['query_string']):08x}"
    if (response := await known(request, tasks, suffix)) is not None:
        return response
    found = await tasks.changes(checkpoint, limit=query.limit)
    if must_not_exist(request):  # the checkpoint has not expired, which would be 410
        return not_modified(tasks.etag(found.head) + suffix)
    content, shown = changes_content(found.changes)
    cut = shown < len(found.changes)
    checkpoint_text = encode_checkpoint(found.checkpoints[shown - 1] if cut else found.last, user_id).encode()
    more = b"true" if cut or found.more else b"false"
    return JSONBytes(
        b'{"changes":%b,"checkpoint":"%b","more":%b}' % (content, checkpoint_text, more),
        headers={"ETag": f'W/"{tasks.etag(found.head)}{suffix}"'},
    )


@router.post("/{id:task_id}/move", response_model=TaskPublic, **documented(TASK_EXAMPLE))
async def move_task(request: Request, task_id: TaskId, move: Move) -> Response:
    """Put a task before or after another, or at an end, in the manual order."""
    tasks = tasks_of(request)
    return task_response(await tasks.move(task_id, move.destination(), match=if_match(request, tasks)))
