"""How a service's results become a response's bytes: straight from the row, through pydantic's serializers."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from starlette.responses import Response

from backend.models.task import ListedTask, TaskPublic

MAX_CONTENT = 1024 * 1024
"""Bytes that a page of tasks may have."""
_AROUND_CHANGES = 256
"""More bytes than what stands around the list of changes."""

_task = TypeAdapter(TaskPublic)
_tasks = TypeAdapter(list[ListedTask])
_any = TypeAdapter(Any)


class JSONBytes(Response):
    """JSON that is written already."""

    media_type = "application/json"


def task_response(task: TaskPublic, successor: UUID | None = None, *, new_at: str | None = None) -> Response:
    """Respond with a task, its entity tag, the next one of a recurring one, and the address of one that is new."""
    headers = {"ETag": f'"{task["etag"]}"'}
    if new_at is not None:
        headers["Location"] = f"{new_at}/{task['id']}"
    if successor is not None:
        headers["X-Successor"] = str(successor)
    return JSONBytes(_task.dump_json(task), 200 if new_at is None else 201, headers)


def tasks_content(tasks: list[TaskPublic]) -> tuple[bytes, int]:
    """Return a page's content, and how many of the tasks it holds: as many as go into `MAX_CONTENT`, at least one."""
    return _fitting(_tasks, tasks, MAX_CONTENT)


def changes_content(changes: Sequence[Any]) -> tuple[bytes, int]:
    """Return the content of the list of changes, and how many it holds, as `tasks_content` does."""
    return _fitting(_any, changes, MAX_CONTENT - _AROUND_CHANGES)


def _fitting(adapter: TypeAdapter[Any], values: Sequence[Any], limit: int) -> tuple[bytes, int]:
    content = adapter.dump_json(values)
    if len(content) <= limit:
        return content, len(values)
    parts: list[bytes] = []
    size = 1  # a bracket; and one byte behind each part, a comma or the other bracket
    for value in values:
        parts.append(adapter.dump_json([value])[1:-1])
        size += len(parts[-1]) + 1
        if size > limit and len(parts) > 1:
            parts.pop()
            break
    return b"[" + b",".join(parts) + b"]", len(parts)


def json_response(value: Any, etag: str | None = None) -> Response:
    """Respond with a value, and the weak entity tag of what it was made of."""
    return JSONBytes(_any.dump_json(value), headers={"ETag": f'W/"{etag}"'} if etag is not None else None)


def not_modified(etag: str, *, weak: bool = True) -> Response:
    """Respond that the client has it already."""
    return Response(status_code=304, headers={"ETag": f'W/"{etag}"' if weak else f'"{etag}"'})
