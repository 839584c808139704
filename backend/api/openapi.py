"""The parts of the OpenAPI document that FastAPI cannot know: every problem that a route can answer with, examples."""

import json
from collections import Counter
from collections.abc import Iterable
from http import HTTPStatus
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field

from backend.api.cursors import encode_cursor
from backend.api.problems import KINDS, MEDIA_TYPE

DESCRIPTION = """\
A user's tasks. Send a JWT as a bearer token; all that is listed, read and changed is its user's.

Every error is a problem document (RFC 9457) whose `code` is stable. A 503 on a write means that its outcome is unknown
unless the `code` says otherwise.
"""

TAGS = [
    {"name": "tasks", "description": "The tasks of the token's user."},
    {"name": "health", "description": "Probes for the platform. They take no token."},
]

TASK_EXAMPLE: dict[str, Any] = {
    "id": "0192f0c1-2345-7abc-8def-0123456789ab",
    "title": "Buy milk",
    "description": "Two litres, the blue one",
    "completed": False,
    "created_at": "2026-01-02T03:04:05.678901Z",
    "updated_at": "2026-01-02T03:04:05.678901Z",
}

NEXT_PAGE = {
    "Link": {
        "description": "While more tasks follow: the address of the next page, relation `next` (RFC 8288).",
        "schema": {"type": "string"},
        "example": f'</api/tasks?limit=100&cursor={encode_cursor(UUID(TASK_EXAMPLE["id"]), None)}>; rel="next"',
    }
}

NEW_TASK = {"Location": {"description": "The new task's address.", "schema": {"type": "string"}}}

# Written out: the guard verifies tokens, so there is no dependency of FastAPI's to take the scheme from.
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A JWT of Better Auth, or of `todo-backend token`.",
}

_ANY_REQUEST = (
    "malformed_request",
    "ambiguous_length",
    "method_not_allowed",
    "request_timeout",
    "body_too_large",
    "head_too_large",
    "internal_error",
)
_UNDER_API = ("token_missing", "token_invalid", "token_expired", "issuer_unavailable", "validation_error", "overloaded")
_WITH_DATABASE = ("database_unavailable", "database_not_migrated")
_WITH_BODY = ("malformed_json", "unsupported_media_type")


class FieldProblem(BaseModel):
    """One place of the request that breaks a rule."""

    source: str = Field(description="Where to look: `body`, `query`, `path` or `header`.", examples=["body"])
    pointer: str = Field(description="A JSON pointer (RFC 6901) into the source.", examples=["/title"])
    code: str = Field(description="The rule, machine-readable.", examples=["blank"])
    detail: str = Field(description="The rule, for people.", examples=["must not be blank"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What to do, for people.", examples=["You have no task with this id."])
    instance: str = Field(
        description="The request's path.", examples=["/api/tasks/0192f0c1-2345-7abc-8def-0123456789ab"]
    )
    code: str = Field(description="Stable and machine-readable.", examples=["task_not_found"])
    request_id: str = Field(description="The answer's X-Request-ID, to find the request in the logs.")
    errors: list[FieldProblem] | None = Field(default=None, description="With status 422 only.")


def documented(
    status: int,
    *,
    example: Any = None,
    headers: dict[str, Any] | None = None,
    body: bool = False,
    writes: bool = False,
    codes: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return what a route under `/api` can answer: the good answer with its example, and every problem.

    `codes` are the problems that only this route has.
    """
    found = (*_ANY_REQUEST, *_UNDER_API, *_WITH_DATABASE, *codes)
    found += (_WITH_BODY if body else ()) + (("outcome_unknown",) if writes else ())
    good = _good_answer(status, example, headers)
    return {
        "responses": {status: good, **_problems(found)},
        "openapi_extra": {"security": [{"Bearer": []}]},
    }


def documented_probe(example: Any, codes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a probe can answer, as `documented` does."""
    return {
        "responses": {200: _good_answer(200, example, None), **_problems((*_ANY_REQUEST, *codes))},
        "openapi_extra": {"security": []},
    }


def _good_answer(status: int, example: Any, headers: dict[str, Any] | None) -> dict[str, Any]:
    good: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if example is not None:
        good["content"] = {"application/json": {"example": example}}
    if headers is not None:
        good["headers"] = headers
    return good


def _problems(codes: Iterable[str]) -> dict[int, Any]:
    responses: dict[int, Any] = {}
    for code in codes:
        kind = KINDS[code]
        response = responses.setdefault(
            kind.status,
            {
                "description": kind.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        response["content"][MEDIA_TYPE]["examples"][code] = {"summary": kind.detail, "value": _example(code)}
        if code == "method_not_allowed":
            response["headers"] = {"Allow": {"schema": {"type": "string"}, "example": "GET, HEAD, POST"}}
        for name, value in kind.headers:
            if name != "Connection":
                response.setdefault("headers", {})[name] = {"schema": {"type": "string"}, "example": value}
    return dict(sorted(responses.items()))


def _example(code: str) -> dict[str, Any]:
    kind = KINDS[code]
    example = kind.document("/api/tasks", "7f9c0f2a4e6b4d0c9a3b5d7e1f2a4c6e")
    if kind.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        error = {"source": "body", "pointer": "/title", "code": "blank", "detail": "must not be blank"}
        example["errors"] = [error]
    return example


def _share_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Say once what many operations answer alike: of each status the problem response that most of them have."""
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    counted = Counter(
        json.dumps([status, response])
        for operation in operations
        for status, response in operation["responses"].items()
        if MEDIA_TYPE in response.get("content", {})
    )
    shared: dict[str, Any] = {}
    names: dict[str, str] = {}
    for text, count in counted.most_common():
        _, response = json.loads(text)
        name = response["description"].replace(" ", "")
        if count > 1 and name not in shared:
            shared[name], names[text] = response, name
    for operation in operations:
        for status, response in operation["responses"].items():
            if (name := names.get(json.dumps([status, response]))) is not None:
                operation["responses"][status] = {"$ref": f"#/components/responses/{name}"}
    return shared


def make_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the document, made once: FastAPI's own, with the problems' schemas."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title,
            version=app.version,
            description=app.description,
            routes=app.routes,
            tags=TAGS,
            servers=[{"url": "/", "description": "Where this document is."}],
            license_info={"name": "MIT", "identifier": "MIT"},
            contact={"name": "the authors of todo-backend"},
        )
        for methods in document["paths"].values():
            for operation in methods.values():
                # FastAPI's own is the function's name; the first sentence of its docstring says more.
                operation["summary"] = operation["description"].partition(". ")[0].rstrip(".") + "."
        schemas = document["components"]["schemas"]
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs"))
        schemas["Problem"] = problem
        # The list first: the routes themselves are in the order of their use.
        document["paths"] = dict(sorted(document["paths"].items()))
        document["components"]["responses"] = _share_problems(document)
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        document["components"]["securitySchemes"] = {"Bearer": BEARER}
        app.openapi_schema = document
    return app.openapi_schema
