"""Two users do what comes to mind, and a model in plain Python says what each of them must be told.

The model is the specification once more: whose tasks there are, and what each looks like. Hypothesis makes up the
steps, four hundred times `FAULT_ROUNDS`; `make faults` asks for many.
"""

import asyncio
import os
import re
import uuid
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Self, TypeVar
from urllib.parse import urlencode

import httpx
import pytest
from hypothesis import HealthCheck
from hypothesis import settings as limits
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from uuid_utils.compat import uuid7

from backend.auth.tokens import mint
from backend.config import Settings
from backend.db.session import Database
from backend.models.fields import is_visible
from backend.models.task import TaskBase
from tests.applications import client_of, running
from tests.settings import make_settings

STEPS = int(os.environ.get("FAULT_ROUNDS", "1")) * 400
STEPS_OF_AN_EXAMPLE = 50
USERS = ("alice", "bob")

Result = TypeVar("Result")
Choice = tuple[str, int]
"""Whose task, and which of them."""


class Service:
    """The application on an event loop of its own: Hypothesis's steps are no coroutines."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.steps = 0
        self._stack = AsyncExitStack()
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)

    def __enter__(self) -> Self:
        self._client = client_of(self.run(self._stack.enter_async_context(running(self.settings))), self.settings)
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._client.aclose())
        self.run(self._stack.aclose())
        self._runner.close()

    def run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(coroutine)

    def request(
        self, method: str, path: str, token: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}", **(headers or {})}
        return self.run(self._client.request(method, path, headers=headers, json=body))


@dataclass
class Known:
    """A task as it was last shown, and whether it has been written to since."""

    task: dict[str, Any]
    written: bool = False

    def is_shown(self, task: dict[str, Any]) -> None:
        """Check what is shown now, and keep it."""
        if self.written:
            assert datetime.fromisoformat(task["updated_at"]) > datetime.fromisoformat(self.task["updated_at"])
            assert task["etag"] != self.task["etag"]
            assert (task["completed_at"] is not None) == task["completed"]
            self.task |= {name: task[name] for name in ("updated_at", "etag", "completed_at")}
            self.written = False
        assert task == self.task


@dataclass(frozen=True)
class Page:
    """A page that follows: under which filter, after which task, and where."""

    completed: bool | None
    after: str
    address: str


@dataclass(frozen=True)
class Refused:
    """What a response must be that is none of the good ones."""

    status: int
    code: str


NEW: dict[str, Any] = {
    **dict.fromkeys(TaskBase.model_fields),
    "completed": False,
    "tags": [],
}
"""What a new task has where nothing is said."""

NOT_FOUND = Refused(404, "task_not_found")
INVALID = Refused(422, "validation_error")

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
texts = words | words | words | st.sampled_from(["", " ", "x" * 200, "x" * 201, "a\0b", None])
fields = {"description": texts, "completed": st.sampled_from([True, True, False, False, None])}
new_tasks = st.fixed_dictionaries({"title": texts}, optional=fields)
patches = st.fixed_dictionaries({}, optional={"title": texts, **fields})
users = st.sampled_from(USERS)
choices = st.tuples(st.sampled_from(["own", "own", "own", "foreign", "gone"]), st.integers(0, 9))
filters = st.sampled_from([None, True, False])
page_limits = st.sampled_from([1, 2, None])


def is_valid(body: dict[str, Any]) -> bool:
    """Tell whether the fields are ones that a task can have."""
    title, description = body.get("title", "a title"), body.get("description")
    if title is None or "\0" in title or not is_visible(title) or len(title.strip()) > 200:
        return False
    return body.get("completed", False) is not None and "\0" not in (description or "")


def trimmed(body: dict[str, Any]) -> dict[str, Any]:
    return body | ({"title": body["title"].strip()} if "title" in body else {})


class TwoUsers(RuleBasedStateMachine):
    """The rules: what a user can do, with tasks of its own, of the other user, or that are no more."""

    pages = Bundle("pages")

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.model: dict[str, dict[str, Known]] = {user: {} for user in USERS}
        self.trash: dict[str, dict[str, Known]] = {user: {} for user in USERS}
        self.gone = [str(uuid.uuid4())]
        self.newest = ""
        self.tokens = {user: mint(service.settings, f"{user}-{uuid.uuid4()}", 3600) for user in USERS}

    def ask(
        self,
        user: str,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        *,
        expected: int | Refused,
    ) -> Any:
        """Send a user's request, check the status, and return the body; check all of it where it is a refusal."""
        response = self.service.request(method, path, self.tokens[user], body, headers)
        if isinstance(expected, int):
            assert response.status_code == expected, response.text
            return response
        assert response.status_code == expected.status, response.text
        problem = response.json()
        assert problem["code"] == expected.code
        if expected is NOT_FOUND:  # nothing tells a foreign task from one that never was
            assert problem == {
                "type": "about:blank",
                "title": "Not Found",
                "status": 404,
                "detail": "You have no task with this id here.",
                "instance": path,
                "code": "task_not_found",
                "request_id": response.headers["X-Request-ID"],
            }
        return None

    def named(self, user: str, choice: Choice) -> str:
        """The id of a task that a user has chosen; of one that is no more where there is none to choose."""
        whose, number = choice
        other = USERS[user == USERS[0]]
        ids = list({"own": self.model[user], "foreign": self.model[other], "gone": self.gone}[whose]) or self.gone
        return ids[number % len(ids)]

    def listed(self, user: str, completed: bool | None, after: str | None = None) -> list[Known]:
        """A user's tasks that a list shows, newest first."""
        return [
            known
            for task_id, known in sorted(self.model[user].items(), reverse=True)
            if completed in (None, known.task["completed"]) and (after is None or task_id < after)
        ]

    def see_page(self, response: httpx.Response, expected: list[Known], limit: int, completed: bool | None) -> Any:
        """Check a page, and return the next one where there must be one."""
        for known, task in zip(expected[:limit], response.json(), strict=True):
            known.is_shown(task)
        link = re.fullmatch(r'<(/api/tasks\?.*)>; rel="next"', response.headers.get("Link", ""))
        if len(expected) <= limit:
            assert link is None
            return multiple()
        assert link is not None
        return Page(completed, expected[limit - 1].task["id"], link[1])

    @initialize()
    def begin(self) -> None:
        for user in (*USERS, *USERS, *USERS):
            self.make(user, {"title": "first"})

    @invariant()
    def count(self) -> None:
        self.service.steps += 1

    def make(self, user: str, body: dict[str, Any]) -> None:
        response = self.ask(user, "POST", "/api/tasks", body, expected=201)
        self.keep(user, body, response)

    def keep(self, user: str, body: dict[str, Any], response: httpx.Response) -> None:
        """Check a task that is new, and keep it."""
        task: dict[str, Any] = response.json()
        names = ("id", "position", "completed_at", "etag", "created_at", "updated_at")
        assert task == NEW | trimmed(body) | {name: task[name] for name in names}
        assert task["created_at"] == task["updated_at"]
        assert task["id"] > self.newest
        assert response.headers["Location"] == f"/api/tasks/{task['id']}"
        self.newest = task["id"]
        self.model[user][task["id"]] = Known(task)

    @rule(user=users, body=new_tasks)
    def create(self, user: str, body: dict[str, Any]) -> None:
        if is_valid(body):
            self.make(user, body)
        else:
            self.ask(user, "POST", "/api/tasks", body, expected=INVALID)

    @rule(user=users, choice=choices)
    def get(self, user: str, choice: Choice) -> None:
        task_id = self.named(user, choice)
        known = self.model[user].get(task_id)
        response = self.ask(user, "GET", f"/api/tasks/{task_id}", expected=200 if known else NOT_FOUND)
        if known:
            known.is_shown(response.json())

    @rule(user=users, choice=choices, body=patches, again=st.booleans())
    def patch(self, user: str, choice: Choice, body: dict[str, Any], again: bool) -> None:
        task_id = self.named(user, choice)
        known = self.model[user].get(task_id)
        if known and again:  # equal values are a write like any other
            body = {name: known.task[name] for name in body}
        found = 200 if known else NOT_FOUND
        response = self.ask(user, "PATCH", f"/api/tasks/{task_id}", body, expected=found if is_valid(body) else INVALID)
        if response and known:
            known.task |= trimmed(body)
            known.written |= bool(body)
            known.is_shown(response.json())

    @rule(user=users, choice=choices, body=patches, fresh=st.booleans())
    def put(self, user: str, choice: Choice, body: dict[str, Any], fresh: bool) -> None:
        task_id = str(uuid7()) if fresh or not self.model[user] else self.named(user, ("own", choice[1]))
        known = self.model[user].get(task_id)
        if not is_valid(body) or (known is None and "title" not in body):
            self.ask(user, "PUT", f"/api/tasks/{task_id}", body, expected=INVALID)
        elif known is None:
            self.keep(user, body, self.ask(user, "PUT", f"/api/tasks/{task_id}", body, expected=201))
        else:
            response = self.ask(user, "PUT", f"/api/tasks/{task_id}", body, expected=200)
            known.written |= any(known.task[name] != value for name, value in trimmed(body).items())
            known.task |= trimmed(body)
            known.is_shown(response.json())  # where it was equal nothing has changed, the entity tag neither

    @rule(user=users, choice=choices, current=st.booleans())
    def patch_of_a_state(self, user: str, choice: Choice, current: bool) -> None:
        task_id = self.named(user, choice)
        known = self.model[user].get(task_id)
        self.get(user, choice)
        tag = f'"{known.task["etag"]}"' if known and current else f'"{2**60}-{"0" * 12}"'
        refused = NOT_FOUND if known is None else Refused(412, "precondition_failed")
        expected = 200 if known and current else refused
        body = {"title": f"seen as {tag[:9]}"}
        response = self.ask(user, "PATCH", f"/api/tasks/{task_id}", body, {"If-Match": tag}, expected=expected)
        if response and known:
            known.task |= body
            known.written = True
            known.is_shown(response.json())

    @rule(user=users, first=choices, second=choices)
    def batch(self, user: str, first: Choice, second: Choice) -> None:
        toggled, patched = self.named(user, first), self.named(user, second)
        operations = [
            {"op": "toggle", "id": toggled},
            {"op": "patch", "id": patched, "task": {"description": "by batch"}},
        ]
        both = [self.model[user].get(toggled), self.model[user].get(patched)]
        expected = 200 if all(both) else Refused(404, "task_not_found")
        response = self.ask(user, "POST", "/api/tasks/batch", {"operations": operations}, expected=expected)
        if response and both[0] and both[1]:
            both[0].task["completed"] = not both[0].task["completed"]
            both[1].task["description"] = "by batch"
            both[0].written = both[1].written = True
            for task_id in {toggled, patched}:
                self.get(user, ("own", list(self.model[user]).index(task_id)))

    @rule(user=users, choice=choices)
    def restore(self, user: str, choice: Choice) -> None:
        deleted = list(self.trash[user])
        task_id = deleted[choice[1] % len(deleted)] if deleted and choice[0] == "own" else self.named(user, choice)
        known = self.trash[user].pop(task_id, None)
        response = self.ask(user, "POST", f"/api/tasks/{task_id}/restore", expected=200 if known else NOT_FOUND)
        if known:
            known.written = True
            known.is_shown(response.json())
            self.model[user][task_id] = known

    @rule(user=users, choice=choices)
    def toggle(self, user: str, choice: Choice) -> None:
        task_id = self.named(user, choice)
        known = self.model[user].get(task_id)
        response = self.ask(user, "POST", f"/api/tasks/{task_id}/toggle", expected=200 if known else NOT_FOUND)
        if known:
            known.task["completed"] = not known.task["completed"]
            known.written = True
            known.is_shown(response.json())

    @rule(user=users, choice=choices)
    def delete(self, user: str, choice: Choice) -> None:
        task_id = self.named(user, choice)
        known = self.model[user].pop(task_id, None)
        self.ask(user, "DELETE", f"/api/tasks/{task_id}", expected=204 if known else NOT_FOUND)
        if known:
            shown = self.ask(user, "GET", "/api/tasks?deleted=true&limit=1", expected=200).json()[0]
            assert shown.pop("deleted_at") == shown["updated_at"]
            known.written = True
            known.is_shown(shown)
            self.trash[user][task_id] = known
            self.gone.append(task_id)

    @rule(user=users, chosen=st.lists(choices, min_size=1, max_size=6), wanted=filters)
    def bulk_complete(self, user: str, chosen: list[Choice], wanted: bool | None) -> None:
        task_ids = [self.named(user, choice) for choice in chosen]
        body = {"task_ids": task_ids} | ({} if wanted is None else {"completed": wanted})
        state = wanted is not False
        response = self.ask(user, "POST", "/api/tasks/bulk-complete", body, expected=200)
        own = [self.model[user][task_id] for task_id in set(task_ids) & set(self.model[user])]
        changed = [known for known in own if known.task["completed"] != state]
        for known in changed:
            known.task["completed"] = state
            known.written = True
        assert response.json() == {"updated": len(changed)}

    @rule(user=users)
    def clear_completed(self, user: str) -> None:
        response = self.ask(user, "DELETE", "/api/tasks?completed=true", expected=200)
        assert response.json() == {"deleted": len(self.listed(user, completed=True))}
        self.trash[user] |= {known.task["id"]: known for known in self.listed(user, completed=True)}
        self.model[user] = {known.task["id"]: known for known in self.listed(user, completed=False)}

    @rule(user=users)
    def stats(self, user: str) -> None:
        response = self.ask(user, "GET", "/api/tasks/stats", expected=200)
        total, completed = len(self.model[user]), len(self.listed(user, completed=True))
        assert response.json() == {"total": total, "completed": completed, "active": total - completed}

    @rule(giver=users, taker=users)
    def transfer(self, giver: str, taker: str) -> None:
        body = {"from_token": self.tokens[giver]}
        if giver == taker:
            self.ask(taker, "POST", "/api/tasks/transfer", body, expected=Refused(422, "same_user"))
            return
        response = self.ask(taker, "POST", "/api/tasks/transfer", body, expected=200)
        moved, self.model[giver] = self.model[giver], {}
        for known in moved.values():
            known.written = True
        self.model[taker] |= moved
        assert response.json() == {"transferred": len(moved)}

    @rule(target=pages, user=users, completed=filters, limit=page_limits, skip=st.sampled_from([None, 0, 1]))
    def list_tasks(self, user: str, completed: bool | None, limit: int | None, skip: int | None) -> Any:
        query = {"completed": completed if completed is None else str(completed).lower(), "limit": limit, "skip": skip}
        given = urlencode({name: value for name, value in query.items() if value is not None})
        response = self.ask(user, "GET", f"/api/tasks?{given}", expected=200)
        return self.see_page(response, self.listed(user, completed)[skip or 0 :], limit or 100, completed)

    # Whatever was written since the page before: a page shows the tasks as they are now, older than that page's last.
    # In the other user's hands its address shows that user's own.
    @rule(target=pages, page=pages, user=users, limit=page_limits)
    def follow(self, page: Page, user: str, limit: int | None) -> Any:
        address = re.sub("limit=[0-9]+", f"limit={limit}", page.address) if limit else page.address
        used = int(re.findall("limit=([0-9]+)", address)[0])
        response = self.ask(user, "GET", address, expected=200)
        return self.see_page(response, self.listed(user, page.completed, page.after), used, page.completed)

    def teardown(self) -> None:
        for user in USERS:
            response = self.ask(user, "GET", "/api/tasks", expected=200)
            self.see_page(response, self.listed(user, completed=None), 100, completed=None)


@pytest.fixture
def service(database_url: str, database: Database) -> Iterator[Service]:
    patient = {"database_connect_timeout": 300, "database_command_timeout": 300}  # the model knows no busy machine
    with Service(make_settings(database_url, **patient, database_pool_size=1, log_level="WARNING")) as service:
        yield service


def test_the_service_does_what_the_model_does(service: Service) -> None:
    examples = limits(
        max_examples=STEPS // STEPS_OF_AN_EXAMPLE + 1,
        stateful_step_count=STEPS_OF_AN_EXAMPLE,
        database=None,
        suppress_health_check=list(HealthCheck),  # they are about time
    )
    while service.steps < STEPS:
        run_state_machine_as_test(partial(TwoUsers, service), settings=examples)  # type: ignore[arg-type] # any maker of one will do
