"""What routes take: ids, the user, and the user's tasks."""

import re
from typing import Annotated, Any, TypeGuard
from uuid import UUID

from fastapi import Path, Request
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from backend.auth.identity import Identity
from backend.db.session import Database
from backend.services.rows import Limits
from backend.services.tasks import TaskService

_UUID = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")


def is_uuid(value: Any) -> TypeGuard[str]:
    """Tell whether a value is a UUID's text, in its usual form."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _canonical_uuid(value: Any) -> UUID:
    # Python would also take braces, "urn:uuid:", and hyphens anywhere.
    if not is_uuid(value):
        raise PydanticCustomError("not_a_uuid", "must be a UUID")
    return UUID(value)


def _uuid7(value: UUID) -> UUID:
    if value.version != 7:
        raise PydanticCustomError("not_a_uuid7", "must be a UUID of version 7")
    return value


CanonicalUUID = Annotated[
    UUID,
    BeforeValidator(_canonical_uuid),
    WithJsonSchema({"type": "string", "format": "uuid", "pattern": f"^{_UUID.pattern}$"}),
]
TaskId = Annotated[CanonicalUUID, Path(alias="id", description="The task's id.")]

_UUID7_PATTERN = "^[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-7[0-9A-Fa-f]{3}-[89ABab][0-9A-Fa-f]{3}-[0-9A-Fa-f]{12}$"
CanonicalUUID7 = Annotated[
    CanonicalUUID,
    AfterValidator(_uuid7),
    WithJsonSchema({"type": "string", "format": "uuid", "pattern": _UUID7_PATTERN}),
]
NewTaskId = Annotated[CanonicalUUID7, Path(alias="id", description="The task's id: a UUID of version 7 of your own.")]


# No dependencies: for each one FastAPI looks through the request's path, query, headers and cookies once more, which
# takes longer than checking the token.


def user_of(request: Request) -> Identity:
    """Return whom the guard has identified, before any route was chosen."""
    user: Identity = request.scope["identity"]
    return user


def tasks_of(request: Request) -> TaskService:
    """Return the tasks of the request's user."""
    return tasks_of_user(request.app.state.database, user_of(request).user_id)


def tasks_of_user(database: Database, user_id: str) -> TaskService:
    """Return the tasks of a user who was verified, for one request, within the limits of the settings."""
    limits = Limits(database.settings.max_tasks_per_user, database.settings.trash_days)
    return TaskService(database.executor.for_request(), user_id, limits)
