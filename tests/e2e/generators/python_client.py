"""openapi-python-client's client of this API, in use. The class that it generates per body tells absent from null."""

import os
from uuid import UUID

from tasks_api.api.tasks import create_task, get_task, list_tasks, toggle_task, update_task
from tasks_api.client import AuthenticatedClient
from tasks_api.models import ProblemDocument, TaskCreate, TaskPublic, TaskUpdate

token = os.environ["TOKEN"]
client = AuthenticatedClient(base_url=os.environ["API_URL"], token=token)
without_database = AuthenticatedClient(base_url=os.environ["WITHOUT_DATABASE_URL"], token=token)


def create(title: str, description: str | None = None) -> TaskPublic:
    body = TaskCreate(title=title, description=description, tags=["home", "shop"])
    created = create_task.sync(client=client, body=body)
    assert isinstance(created, TaskPublic), created
    return created


def code_of(problem: object) -> str:
    assert isinstance(problem, ProblemDocument), problem
    return problem.code


tasks = [create(f"Task {number}", "To be cleared") for number in range(1, 6)]
toggled = toggle_task.sync(tasks[0].id, client=client)
assert isinstance(toggled, TaskPublic)
assert toggled.completed

active = list_tasks.sync(client=client, completed=False, tag=["home", "shop"])
assert isinstance(active, list)
assert [task.title for task in active] == ["Task 5", "Task 4", "Task 3", "Task 2"]

pages = []
response = list_tasks.sync_detailed(client=client, limit=2)
while isinstance(response.parsed, list):
    pages.append([task.title for task in response.parsed])
    cursor = response.headers.get("X-Next-Cursor")
    if cursor is None:
        break
    response = list_tasks.sync_detailed(client=client, limit=2, cursor=cursor)
assert pages == [["Task 5", "Task 4"], ["Task 3", "Task 2"], ["Task 1"]]

cleared = update_task.sync(tasks[1].id, client=client, body=TaskUpdate(description=None))
assert isinstance(cleared, TaskPublic)
assert (cleared.title, cleared.description) == ("Task 2", None)

absent = UUID("0192f0c1-2345-7abc-8def-0123456789ab")
assert code_of(get_task.sync(absent, client=client)) == "task_not_found"
assert code_of(create_task.sync(client=client, body=TaskCreate(title=" "))) == "validation_error"
unavailable = create_task.sync_detailed(client=without_database, body=TaskCreate(title="Buy milk"))
assert (unavailable.status_code, code_of(unavailable.parsed)) == (503, "database_unavailable")

late = client.with_headers({"If-Match": f'"{tasks[1].etag}"'})
assert code_of(update_task.sync(tasks[1].id, client=late, body=TaskUpdate(title="Too late"))) == "precondition_failed"
