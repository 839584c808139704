"""Problem responses (RFC 9457): the only place where an error becomes HTTP.

`PROBLEM_TYPES` lists every problem there is, `_BY_ERROR` says which error is which. A response is made of the texts
here and in `field_errors.py`, the request's path and its id: nothing of its body, an exception, or the database.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from backend import errors
from backend.api.field_errors import FieldError, field_errors

MEDIA_TYPE = "application/problem+json"


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A problem that the service can respond with."""

    status: int
    code: str
    detail: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The status in words."""
        return _TITLES.get(self.status) or HTTPStatus(self.status).phrase

    def document(self, instance: str, request_id: str) -> dict[str, Any]:
        """Return the members that every problem document has."""
        return {
            "type": "about:blank",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "instance": instance,
            "code": self.code,
            "request_id": request_id,
        }


_TITLES = {413: "Content Too Large", 422: "Unprocessable Content"}
"""RFC 9110's phrases where http.HTTPStatus has older ones before Python 3.13."""

_INVALID_TOKEN = {"WWW-Authenticate": 'Bearer error="invalid_token"'}
_CLOSE = {"Connection": "close"}  # the rest of the request is not read, so the connection cannot go on

PROBLEM_TYPES: Mapping[str, ProblemType] = {
    each.code: each
    for each in (
        ProblemType(400, "malformed_json", "The body is no JSON in UTF-8, has a name twice, or too many names."),
        ProblemType(400, "malformed_request", "The request is not HTTP/1.1.", _CLOSE),
        ProblemType(400, "ambiguous_length", "The body's length is told in two ways, or in an unknown one.", _CLOSE),
        ProblemType(401, "token_missing", "Send a token: Authorization: Bearer <JWT>.", {"WWW-Authenticate": "Bearer"}),
        ProblemType(401, "token_invalid", "The token is not valid for this service.", _INVALID_TOKEN),
        ProblemType(401, "token_expired", "The token has expired; get a new one.", _INVALID_TOKEN),
        ProblemType(403, "origin_not_allowed", "Pages of this origin may not call this address."),
        ProblemType(404, "not_found", "There is nothing at this address."),
        ProblemType(404, "task_not_found", "You have no task with this id here."),
        ProblemType(405, "method_not_allowed", "This address does not support the method; see the Allow header."),
        ProblemType(406, "not_acceptable", "The response is application/json; accept it."),
        ProblemType(409, "too_many_tasks", "That would be more tasks than one may have."),
        ProblemType(410, "task_deleted", "You have deleted this task; restore it first."),
        ProblemType(410, "checkpoint_expired", "What happened since cannot be told any more; start anew."),
        ProblemType(412, "precondition_failed", "The task is not as you expect it; see current."),
        ProblemType(408, "request_timeout", "The body did not arrive in time.", _CLOSE),
        ProblemType(
            413, "body_too_large", "The body is larger than 64 KiB, or than 1 MiB where that is the limit.", _CLOSE
        ),
        ProblemType(415, "unsupported_media_type", "Send the body as application/json, in UTF-8, not compressed."),
        ProblemType(422, "validation_error", "The request breaks a rule."),
        ProblemType(
            422, "invalid_from_token", "The token in from_token has expired, or is not valid for this service."
        ),
        ProblemType(422, "same_user", "Both tokens are the same user's."),
        ProblemType(429, "too_many_requests", "Too many requests of yours; nothing was done.", {"Retry-After": "1"}),
        ProblemType(431, "head_too_large", "The head is larger than 32 KiB, or has more than 100 headers.", _CLOSE),
        ProblemType(500, "internal_error", "The service failed. The request_id helps its operators to find out why."),
        ProblemType(
            503, "database_unavailable", "The database cannot be used now; nothing was written.", {"Retry-After": "2"}
        ),
        ProblemType(503, "outcome_unknown", "It is not known whether the write has happened.", {"Retry-After": "2"}),
        ProblemType(503, "database_not_migrated", "The database is not set up yet.", {"Retry-After": "30"}),
        ProblemType(503, "database_refused", "The database does not let the service do this; its operator has to."),
        ProblemType(503, "overloaded", "Too many requests at once; nothing was done.", {"Retry-After": "1"}),
        ProblemType(503, "issuer_unavailable", "The issuer's keys cannot be fetched now.", {"Retry-After": "2"}),
    )
}

_BY_ERROR: Mapping[type[errors.TodoError], str] = {
    errors.TaskNotFound: "task_not_found",
    errors.TaskDeleted: "task_deleted",
    errors.PreconditionFailed: "precondition_failed",
    errors.TooManyTasks: "too_many_tasks",
    errors.CheckpointExpired: "checkpoint_expired",
    errors.RuleBroken: "validation_error",
    errors.SameUser: "same_user",
    errors.TokenMissing: "token_missing",
    errors.TokenInvalid: "token_invalid",
    errors.TokenExpired: "token_expired",
    errors.IssuerUnavailable: "issuer_unavailable",
    errors.DatabaseUnavailable: "database_unavailable",
    errors.OutcomeUnknown: "outcome_unknown",
    errors.DatabaseNotMigrated: "database_not_migrated",
    errors.DatabaseRefused: "database_refused",
}

ENDING = "The service is about to end; nothing was written."

_BY_STATUS: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """A refusal that only HTTP knows: of a body, a header, a moment. `code` is one of `PROBLEM_TYPES`."""

    def __init__(
        self,
        code: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        detail: str | None = None,
    ) -> None:
        super().__init__(detail or code)
        self.type = PROBLEM_TYPES[code]
        self.detail = detail or self.type.detail
        self.errors = errors
        self.headers = headers or {}
        self.current: Mapping[str, Any] | None = None
        """For a failed precondition: the task as it is."""


def problem_of(error: Exception) -> Problem:
    """Return the problem that an error is to the client; `internal_error` where nobody foresaw it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return Problem("validation_error", field_errors(error.errors()))
    if isinstance(error, HTTPException) and error.status_code in _BY_STATUS:
        return Problem(_BY_STATUS[error.status_code], headers=error.headers)
    if isinstance(error, errors.TodoError):
        problem = Problem(_BY_ERROR[type(error)])
        if isinstance(error, errors.RuleBroken):
            problem.errors = [FieldError("body", f"/{error.field}", error.code, error.detail)]
        if isinstance(error, errors.PreconditionFailed):
            problem.current = error.current
            if error.current is None:
                problem.detail = PROBLEM_TYPES["task_not_found"].detail
        return problem
    return Problem("internal_error")


def relocated(error: errors.TodoError, place: Callable[[str], str], detail: str | None = None) -> Problem:
    """Return the problem of one part of a request. `place` says where in the request a field of the part stands."""
    problem = problem_of(error)
    problem.detail = detail or problem.detail
    inner = problem.errors or [FieldError("body", "", problem.type.code, problem.detail)]
    problem.errors = [replace(each, pointer=place(each.pointer)) for each in inner]
    return problem


def instance_of(raw_path: bytes) -> str:
    """Return the path as it was sent; what may not stand in a URL is escaped."""
    return quote(raw_path, safe="/:@!$&'()*+,;=~%")


def _instance(scope: Scope) -> str:
    if raw_path := scope.get("raw_path"):  # an adapter may leave it out
        return instance_of(raw_path)
    return quote(scope["path"], safe="/:@!$&'()*+,;=~")


def detail_of(problem: Problem) -> str:
    """Return the sentence that a person is shown: where rules are broken, the first of them."""
    if problem.type.code != "validation_error" or not problem.errors:
        return problem.detail
    first = problem.errors[0]
    return f"{first.pointer.removeprefix('/').replace('/', '.') or first.source}: {first.detail}"


def problem_document(problem: Problem, scope: Scope, request_id: str) -> dict[str, Any]:
    """Return a problem as the document of a response to the request."""
    document = problem.type.document(_instance(scope), request_id) | {"detail": detail_of(problem)}
    if problem.errors:
        document["errors"] = [asdict(each) for each in problem.errors]
    if problem.current is not None:
        document["current"] = problem.current
    return document


def problem_response(problem: Problem, scope: Scope, request_id: str) -> Response:
    """Write a problem as the response to the request."""
    headers = {**problem.type.headers, **problem.headers}
    content = to_json(problem_document(problem, scope, request_id))
    return Response(content, problem.type.status, headers, MEDIA_TYPE)
