"""What can go wrong, in the service's own words: no framework, no driver. `api/problems.py` says each in HTTP."""

from collections.abc import Mapping
from typing import Any


class TodoError(Exception):
    """The root of the tree. A text given to it is for the log, never for the client."""


class TaskNotFound(TodoError):
    """The user has no such task: it never existed, was deleted, or is somebody else's."""


class TaskDeleted(TodoError):
    """The task is in the trash: a late retry must not bring it back."""


class PreconditionFailed(TodoError):
    """The task is not in the state that the client named. `current` is how it is; None where there is none."""

    def __init__(self, current: Mapping[str, Any] | None) -> None:
        super().__init__("the task is in another state")
        self.current = current


class TooManyTasks(TodoError):
    """The user has as many tasks as one may have."""


class RuleBroken(TodoError):
    """A field that is right by itself does not go with the stored task. `code` names the rule."""

    def __init__(self, field: str, code: str, detail: str) -> None:
        super().__init__(f"{field} {detail}")
        self.field = field
        self.code = code
        self.detail = detail


class CheckpointExpired(TodoError):
    """What happened since a follower's checkpoint cannot be told any more."""


class SameUser(TodoError):
    """Tasks cannot be transferred from a user to the same user."""


class TokenError(TodoError):
    """The client could not be identified."""


class TokenMissing(TokenError):
    """No bearer token was sent."""


class TokenInvalid(TokenError):
    """The token is not one that this service accepts."""


class TokenExpired(TokenInvalid):
    """The token was good until its `exp`."""


class IssuerUnavailable(TodoError):
    """The issuer's keys are needed to judge this token, and cannot be had now."""


class DatabaseError(TodoError):
    """The database did not do what it was asked."""


class DatabaseUnavailable(DatabaseError):
    """The database could not be reached or refused; nothing was written.

    `repeatable` tells that the same statement may well succeed when it is run again.
    """

    def __init__(self, reason: str, *, repeatable: bool = False) -> None:
        super().__init__(reason)
        self.repeatable = repeatable


class OutcomeUnknown(DatabaseError):
    """A write was sent and its response was lost: it may or may not have happened."""


class DatabaseRefused(DatabaseError):
    """The role that the service connects as lacks a right: an operator has to grant it."""


class DatabaseNotMigrated(DatabaseError):
    """The tables are missing or old: `todo-backend migrate` makes them."""
