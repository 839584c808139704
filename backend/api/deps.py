"""What routes ask for, by name."""

import re
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Depends, Path, Query, Request
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from backend.auth.identity import Identity
from backend.auth.tokens import TokenVerifier
from backend.db.session import Database
from backend.services.tasks import TaskService

_UUID = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
MAX_SKIP = 2**31 - 1

_WHOLE_NUMBER = re.compile("0|-?[1-9][0-9]{0,99}")


def _canonical_uuid(value: Any) -> UUID:
    # Python would also take braces, "urn:uuid:", and hyphens anywhere.
    if not isinstance(value, str) or _UUID.fullmatch(value) is None:
        raise PydanticCustomError("not_a_uuid", "must be a UUID")
    return UUID(value)


def _whole_number(value: Any) -> int:
    # pydantic would also take " 1 ", "1.0" and "1_000".
    if isinstance(value, int):
        return value
    if _WHOLE_NUMBER.fullmatch(value) is None:
        raise PydanticCustomError("not_an_integer", "must be a whole number")
    return int(value)


CanonicalUUID = Annotated[
    UUID,
    BeforeValidator(_canonical_uuid),
    WithJsonSchema({"type": "string", "format": "uuid", "pattern": f"^{_UUID.pattern}$"}),
]
TaskId = Annotated[CanonicalUUID, Path(alias="id", description="The task's id.")]

# The schemas are written out: a parameter that may be absent is not one that may be null.
Completed = Annotated[
    Literal["true", "false"] | None,
    Query(description="Only completed, or only active, tasks."),
    WithJsonSchema({"type": "boolean"}),
]
Limit = Annotated[int, Query(ge=1, le=500, description="The most tasks to return."), BeforeValidator(_whole_number)]
Skip = Annotated[
    int,
    Query(ge=0, le=MAX_SKIP, description="Tasks to pass over; not together with `cursor`."),
    BeforeValidator(_whole_number),
]
Cursor = Annotated[
    str | None,
    Query(description="Where the page before ended: from its `Link` header."),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9_-]{32}$"}),
]
OnlyCompleted = Annotated[
    Literal["true"],
    Query(alias="completed", description="Exactly `true`: anything else deletes nothing."),
    WithJsonSchema({"type": "boolean", "enum": [True]}),
]


async def _caller(request: Request) -> Identity:
    """Whom the guard has identified, before any route was chosen."""
    caller: Identity = request.scope["identity"]
    return caller


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _verifier(request: Request) -> TokenVerifier:
    verifier: TokenVerifier = request.app.state.verifier
    return verifier


def tasks_of(request: Request) -> TaskService:
    """Return the caller's tasks, and nobody else's.

    No dependency: for each one FastAPI looks through the request's path, query, headers and cookies once more, which
    takes longer than checking the token.
    """
    return TaskService(request.app.state.database.executor, request.scope["identity"].user_id)


Caller = Annotated[Identity, Depends(_caller)]
CurrentDatabase = Annotated[Database, Depends(_database)]
CurrentVerifier = Annotated[TokenVerifier, Depends(_verifier)]
