"""What Schemathesis is told of the rules that no schema can state. It is loaded into a process of its own.

A cursor is made by the service, for one query; a checkpoint, too; `from_token` is somebody else's; a title and tags are
measured trimmed, and equal tags count once; dates are real ones, and a time needs one; a rule is one of RFC 5545. Good
requests get real values of all these, and what is too long stays too long.
"""

import uuid
from typing import Any

import schemathesis
from schemathesis import GenerationMode

from backend.auth.tokens import mint
from backend.config import Settings
from backend.models.fields import TAG_MAX, TAGS_MAX, TITLE_MAX, is_visible

SETTINGS = Settings()
TASK_ID = "0192f0c1-2345-7abc-8def-0123456789ab"


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]) -> None:
    """Put into a request what only the service can make."""
    body = case.body if isinstance(case.body, dict) else {}
    if isinstance(title := body.get("title"), str) and len(title) > TITLE_MAX:
        body["title"] = f"x{title}x"
    if isinstance(tags := body.get("tags"), list):
        longer = [f"x{tag}x" if isinstance(tag, str) and len(tag) > TAG_MAX else tag for tag in tags]
        body["tags"] = longer + [str(number) for number in range(TAGS_MAX + 1) if len(tags) > TAGS_MAX]
    if body.get("atomic") is False:
        body["atomic"] = True  # otherwise a broken operation has its status in a good response
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    _make_good(case, body)


def _make_good(case: schemathesis.Case[Any], body: dict[str, Any]) -> None:
    for name in ("cursor", "since", "deleted", "order", "due_from", "due_to"):
        case.query.pop(name, None)
    if "sort" in case.query:
        case.query["sort"] = "due_date,title"
    if case.operation.label == "DELETE /api/tasks":
        case.query.clear()
        case.query["completed"] = "true"
    if case.operation.label == "POST /api/tasks/transfer":
        body["from_token"] = mint(SETTINGS, f"guest-{uuid.uuid4()}", 600)
    if case.operation.label == "POST /api/tasks/{id}/move":
        body.clear()
        body["to"] = "last"
    if case.operation.label == "POST /api/tasks/batch":
        body.clear()
        body["operations"] = [{"op": "put", "id": TASK_ID, "task": {"title": "x"}}]
    if case.operation.label.startswith("PUT"):
        body.setdefault("title", "A task that may be new")
    _make_real(body)


def _make_real(task: dict[str, Any]) -> None:
    task.pop("id", None)
    if isinstance(title := task.get("title"), str) and not is_visible(title):  # past U+FFFF
        task["title"] = "x"
    if isinstance(task.get("remind_at"), str):
        task["remind_at"] = "2026-12-01T09:30"
    if isinstance(task.get("recurrence"), str):
        task["recurrence"] = "FREQ=WEEKLY;BYDAY=MO"
    if any(isinstance(task.get(name), str) for name in ("due_date", "due_time", "recurrence")):
        task["due_date"] = "2026-12-01"
