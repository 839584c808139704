"""Problem answers (RFC 9457): the only place where an error becomes HTTP.

`KINDS` lists every problem that the service can answer with, `_BY_ERROR` says which error is which. An answer is made
of this module's texts, the request's path and its id: nothing of the request's body, an exception, or the database.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from backend import errors

MEDIA_TYPE = "application/problem+json"
MAX_ERRORS = 20
"""How many places one 422 points at; more would make a small request a large answer."""
MAX_POINTED_NAME = 64
"""The longest field name that a pointer repeats; past it, it points at the object that holds the field."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A problem that the service can answer with."""

    status: int
    code: str
    detail: str
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def title(self) -> str:
        """The status in words."""
        return _TITLES[self.status]

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


def _retry_after(seconds: int) -> tuple[tuple[str, str], ...]:
    return (("Retry-After", str(seconds)),)


# RFC 9110's phrases, written out: Python's http.HTTPStatus words two of them differently from version to version.
_TITLES = {
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}

_INVALID_TOKEN = (("WWW-Authenticate", 'Bearer error="invalid_token"'),)
_CLOSE = (("Connection", "close"),)  # the rest of the request is not read, so the connection cannot go on

KINDS: Mapping[str, Kind] = {
    kind.code: kind
    for kind in (
        Kind(400, "malformed_json", "The body is not JSON in UTF-8 without duplicate names."),
        Kind(400, "malformed_request", "The request is not HTTP/1.1.", _CLOSE),
        Kind(400, "ambiguous_length", "The body's length is told in two ways, or in an unknown one.", _CLOSE),
        Kind(401, "token_missing", "Send a token: Authorization: Bearer <JWT>.", (("WWW-Authenticate", "Bearer"),)),
        Kind(401, "token_invalid", "The token is not valid for this service.", _INVALID_TOKEN),
        Kind(401, "token_expired", "The token has expired; get a new one.", _INVALID_TOKEN),
        Kind(404, "not_found", "There is nothing at this address."),
        Kind(404, "task_not_found", "You have no task with this id."),
        Kind(405, "method_not_allowed", "This address does not support the method; see the Allow header."),
        Kind(408, "request_timeout", "The body did not arrive in time.", _CLOSE),
        Kind(413, "body_too_large", "The body is larger than 64 KiB.", _CLOSE),
        Kind(415, "unsupported_media_type", "Send the body as application/json."),
        Kind(422, "validation_error", "The request breaks a rule; see errors."),
        Kind(422, "invalid_from_token", "The token in from_token is not valid for this service."),
        Kind(422, "same_user", "Both tokens are the same user's."),
        Kind(429, "too_many_requests", "Too many requests of yours; nothing was done.", _retry_after(1)),
        Kind(431, "head_too_large", "The request line and the headers are larger than 32 KiB.", _CLOSE),
        Kind(500, "internal_error", "The service failed. The request_id helps its operators to find out why."),
        Kind(503, "database_unavailable", "The database cannot be reached now; nothing was written.", _retry_after(2)),
        Kind(
            503, "outcome_unknown", "The connection was lost; the write may or may not have happened.", _retry_after(2)
        ),
        Kind(503, "database_not_migrated", "The database is not set up yet.", _retry_after(30)),
        Kind(503, "database_refused", "The database does not let the service do this; its operator has to."),
        Kind(503, "overloaded", "Too many requests at once; nothing was done.", _retry_after(1)),
        Kind(503, "issuer_unavailable", "The issuer's keys cannot be fetched now.", _retry_after(2)),
    )
}

_BY_ERROR: Mapping[type[errors.TodoError], str] = {
    errors.TaskNotFound: "task_not_found",
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

_BY_STATUS: Mapping[int, str] = {404: "not_found", 405: "method_not_allowed"}


class Problem(Exception):
    """A refusal that only HTTP knows: of a body, a header, a moment. `code` is one of `KINDS`."""

    def __init__(
        self, code: str, errors: Sequence["FieldError"] = (), headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.kind = KINDS[code]
        self.errors = errors
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One place of the request that breaks a rule. `pointer` is a JSON pointer (RFC 6901) into `source`."""

    source: str
    pointer: str
    code: str
    detail: str


# pydantic's error types that can occur here, in our words. Its own messages can repeat a piece of the value.
_RULES: Mapping[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown_field", "is not a field of this request"),
    "string_type": ("not_a_string", "must be a string"),
    "string_unicode": ("invalid_character", "must not contain NUL or a lone surrogate"),
    "invalid_character": ("invalid_character", "must not contain NUL or a lone surrogate"),
    "blank": ("blank", "must not be blank"),
    "bool_type": ("not_a_boolean", "must be true or false"),
    "literal_error": ("not_a_boolean", "must be true or false"),
    "not_a_uuid": ("not_a_uuid", "must be a UUID such as 0192f0c1-2345-7abc-8def-0123456789ab"),
    "not_an_integer": ("not_an_integer", "must be a whole number"),
    "list_type": ("not_a_list", "must be a list"),
    "model_attributes_type": ("not_an_object", "must be a JSON object"),
    "dict_type": ("not_an_object", "must be a JSON object"),
}


def _field_error(error: Mapping[str, Any]) -> FieldError:
    source, *path = error["loc"]
    kind, context = error["type"], error.get("ctx", {})
    if kind == "too_many_characters":
        code, detail = "too_long", f"must have at most {context['limit']} characters"
    elif kind == "too_long":
        code, detail = "too_long", f"must have at most {context['max_length']} entries"
    elif kind == "too_short":
        code, detail = "too_short", f"must have at least {context['min_length']} entries"
    elif kind in {"greater_than_equal", "less_than_equal"}:
        limits = {"greater_than_equal": "at least", "less_than_equal": "at most"}
        code, detail = "out_of_range", f"must be {limits[kind]} {context.get('ge', context.get('le'))}"
    elif kind == "literal_error" and context["expected"] == "'true'":
        code, detail = "not_true", "must be true"
    else:
        code, detail = _RULES.get(kind, ("invalid", "is not valid"))
    return FieldError(source, _pointer(path), code, detail)


def _pointer(path: Sequence[str | int]) -> str:
    if path and isinstance(path[-1], str) and not (len(path[-1]) <= MAX_POINTED_NAME and path[-1].isprintable()):
        path = path[:-1]
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def problem_of(error: Exception) -> Problem:
    """Return the problem that an error is to its caller; `internal_error` where nobody foresaw it."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, RequestValidationError):
        return Problem("validation_error", [_field_error(each) for each in error.errors()[:MAX_ERRORS]])
    if isinstance(error, HTTPException) and error.status_code in _BY_STATUS:
        return Problem(_BY_STATUS[error.status_code], headers=error.headers)
    if isinstance(error, errors.TodoError):
        return Problem(_BY_ERROR[type(error)])
    return Problem("internal_error")


def problem_response(problem: Problem, scope: Scope, request_id: str) -> Response:
    """Write a problem as the answer to the request."""
    kind = problem.kind
    body = kind.document(quote(scope["path"], safe="/:@!$&'()*+,;=~"), request_id)
    if kind.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        body["errors"] = [
            {"source": each.source, "pointer": each.pointer, "code": each.code, "detail": each.detail}
            for each in problem.errors
        ]
    headers = dict(kind.headers) | dict(problem.headers)
    return Response(json.dumps(body), kind.status, headers, MEDIA_TYPE)
