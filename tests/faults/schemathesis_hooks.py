"""What Schemathesis is told of the three rules that no schema can state. It loads this file into its own process.

A cursor is made by the service, for one filter, and excludes `skip`; `from_token` is a token of somebody else's; a
title is measured after trimming. Good requests get a real cursor and a real token, and what is too long stays too long.
"""

import uuid
from typing import Any

import schemathesis
from schemathesis import GenerationMode

from backend.api.cursors import encode_cursor
from backend.auth.tokens import mint
from backend.config import Settings
from backend.models.task import TITLE_MAX

SETTINGS = Settings()
FILTERS = {"true": True, "false": False}


@schemathesis.hook
def before_call(_context: schemathesis.HookContext, case: schemathesis.Case[Any], _options: dict[str, Any]) -> None:
    """Put into a request what only the service can make."""
    if isinstance(case.body, dict) and isinstance(title := case.body.get("title"), str) and len(title) > TITLE_MAX:
        case.body["title"] = f"x{title}x"
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if case.operation.label == "GET /api/tasks" and "cursor" in case.query:
        case.query["cursor"] = encode_cursor(uuid.uuid4(), FILTERS.get(str(case.query.get("completed")).lower()))
        case.query.pop("skip", None)
    if case.operation.label == "POST /api/tasks/transfer" and isinstance(case.body, dict):
        case.body["from_token"] = mint(SETTINGS, f"guest-{uuid.uuid4()}", 600)
