"""How a service's results become an answer's bytes: straight from the row, through pydantic's serializers."""

from typing import Any
from uuid import UUID

from pydantic import TypeAdapter
from starlette.responses import Response

from backend.models.task import TaskPublic

_task = TypeAdapter(TaskPublic)
_tasks = TypeAdapter(list[TaskPublic])
_counts = TypeAdapter(dict[str, int])


class JSONBytes(Response):
    """JSON that is written already."""

    media_type = "application/json"


def answer_task(task: TaskPublic) -> Response:
    """Answer with a task."""
    return JSONBytes(_task.dump_json(task))


def answer_created(task: TaskPublic) -> Response:
    """Answer with a new task and its address."""
    task_id: UUID = task["id"]
    return JSONBytes(_task.dump_json(task), 201, {"Location": f"/api/tasks/{task_id}"})


def answer_tasks(tasks: list[TaskPublic], next_page: str | None) -> Response:
    """Answer with a page of tasks and, while more follow, the next one's address (RFC 8288)."""
    return JSONBytes(_tasks.dump_json(tasks), headers={"Link": f'<{next_page}>; rel="next"'} if next_page else None)


def answer_counts(counts: Any) -> Response:
    """Answer with numbers by name."""
    return JSONBytes(_counts.dump_json(counts))
