"""The parts of the OpenAPI document that FastAPI cannot know: every problem that a route can respond with, examples."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any
from uuid import UUID

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field, TypeAdapter

from backend.api.cursors import encode_cursor
from backend.api.paths import API, TASKS
from backend.api.problems import MEDIA_TYPE, PROBLEM_TYPES
from backend.models.queries import Cursor
from backend.models.task import TaskPublic

DESCRIPTION = """\
A user's tasks. Send a JWT as a bearer token; all that is listed, read and changed is its user's.

Every error is a problem document (RFC 9457) whose `code` is stable. A 503 on a write means that its outcome is unknown
unless the `code` says otherwise.
"""

TAGS = [
    {"name": "tasks", "description": "The tasks of the token's user."},
    {"name": "health", "description": "Probes for the platform. They take no token."},
    {"name": "service", "description": "What this is. It takes no token."},
]


def _example_of(schema: dict[str, Any]) -> Any:
    """Return the example of a field, or, where it may be null, of what it is otherwise."""
    return (schema.get("examples") or schema.get("anyOf", [{}])[0].get("examples", [None]))[0]


TASK_EXAMPLE: dict[str, Any] = {
    name: _example_of(schema) for name, schema in TypeAdapter(TaskPublic).json_schema()["properties"].items()
}

_CURSOR = encode_cursor(Cursor((), UUID(TASK_EXAMPLE["id"])), "")


def _header(description: str, example: str | None = None, **schema: str) -> dict[str, Any]:
    header = {"description": description, "schema": {"type": "string"} | schema}
    return header if example is None else header | {"example": example}


NEXT_PAGE = {
    "X-Next-Cursor": _header("While more tasks follow: the next page's cursor."),
    "X-Total-Count": _header("With `count=true`: how many there are.", type="integer"),
    "Link": _header(
        "While more tasks follow: the address of the next page, relation `next` (RFC 8288).",
        f'</api/tasks?limit=100&cursor={_CURSOR}>; rel="next"',
    ),
}
_ETAG = {"ETag": _header("The entity tag (RFC 9110).")}
_SUCCESSOR = {"X-Successor": _header("Where this completed a recurring task: the id of the next one.", format="uuid")}
NEW_TASK = {"Location": _header("The new task's address."), **_ETAG}
_MADE_FOR_EACH = {
    "method_not_allowed": {"Allow": _header("The methods of the address.", "GET, HEAD, POST")},
    "unsupported_media_type": {"Accept-Encoding": _header("Where the body is compressed.", "identity")},
    "too_many_requests": {
        "RateLimit": _header("Requests that are left, and in how many seconds there will be one.", '"user";r=0;t=1'),
        "RateLimit-Policy": _header("With `RATE_LIMIT`: requests, and the seconds they are for.", '"user";q=300;w=60'),
    },
}
"""Headers of problems that are not always the same, by code."""


def _condition(name: str, description: str) -> dict[str, Any]:
    return {"name": name, "in": "header", **_header(description)}


_IF_MATCH = _condition("If-Match", "Entity tags of which the task must have one, or `*`; else 412.")
_IF_NONE_MATCH = _condition(
    "If-None-Match", "Entity tags of responses that the client has; 304 where one is still good."
)
_CREATE_ONLY = _condition("If-None-Match", "`*`: create only; 412 where there is a task that differs.")

# Written out: the guard verifies tokens, so there is no dependency of FastAPI's to take the scheme from.
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "JWT",
    "description": "A JWT of Better Auth, or of `todo-backend token`.",
}
PROBE_BEARER = {"type": "http", "scheme": "bearer", "description": "`HEALTH_DB_TOKEN`, where that is set."}

_ANY_REQUEST = (
    "malformed_request",
    "ambiguous_length",
    "method_not_allowed",
    "request_timeout",
    "body_too_large",
    "head_too_large",
    "internal_error",
)
_UNDER_API = (
    "token_missing",
    "token_invalid",
    "token_expired",
    "issuer_unavailable",
    "validation_error",
    "too_many_requests",
    "overloaded",
)
WITH_DATABASE = ("database_unavailable", "database_not_migrated", "database_refused")
_WITH_BODY = ("malformed_json", "unsupported_media_type")


class FieldProblem(BaseModel):
    """One place of the request that breaks a rule."""

    source: str = Field(description="Where to look: `body`, `query` or `path`.", examples=["body"])
    pointer: str = Field(description="A JSON pointer (RFC 6901) into the source.", examples=["/title"])
    code: str = Field(description="The rule, machine-readable.", examples=["blank"])
    detail: str = Field(description="The rule, for people.", examples=["must not be blank"])


class ProblemDocument(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(description="The status in words.", examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(description="What to do, for people.", examples=["You have no task with this id here."])
    instance: str = Field(
        description="The request's path.", examples=["/api/tasks/0192f0c1-2345-7abc-8def-0123456789ab"]
    )
    code: str = Field(description="Stable and machine-readable.", examples=["task_not_found"])
    request_id: str = Field(description="The response's X-Request-ID, to find the request in the logs.")
    errors: list[FieldProblem] | None = Field(
        default=None, description="With status 422, and where an operation of a batch failed."
    )


def documented(
    example: Any,
    *codes: str,
    headers: dict[str, Any] | None = None,
    query: type[BaseModel] | None = None,
    security: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Return what cannot be derived of a route: an example, headers, its query, a token and problems of its own.

    What every route of its kind can respond with `_document` derives from its address, its method and its body.
    """
    own = {"example": example, "codes": codes, "headers": headers or {}, "security": [*security]}
    return {"openapi_extra": {_OWN: own} | ({} if query is None else {"parameters": _query_parameters(query)})}


def _query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    schemas = model.model_json_schema()["properties"]
    return [
        {"name": name, "in": "query", "description": schema.pop("description"), "schema": schema}
        for name, schema in schemas.items()
    ]


def query_names(route: APIRoute) -> list[str]:
    """Return the names of the query parameters that a route is documented with."""
    return [parameter["name"] for parameter in (route.openapi_extra or {}).get("parameters", [])]


_OWN = "x-own"


def _document(path: str, method: str, operation: dict[str, Any]) -> None:
    """Complete an operation: its responses, its security, and a summary that says more than the function's name."""
    # A route of who embeds the service has nothing of this.
    own = {"example": None, "codes": (), "headers": {}, "security": []} | operation.pop(_OWN, {})
    # FastAPI's own is the function's name; the first sentence of its docstring says more.
    operation["summary"] = operation.get("description", operation["summary"]).partition(". ")[0].rstrip(".") + "."
    under_api = path.startswith(API)
    reads = method == "get"
    completes = path.endswith("/toggle") or ("{id}" in path and method in {"patch", "put"})
    conditions = [
        *([_IF_MATCH] if "{id}" in path and not reads else []),
        *([_IF_NONE_MATCH] if under_api and reads else []),
        *([_CREATE_ONLY] if method == "put" else []),
    ]
    if conditions:
        operation["parameters"] = [*operation.get("parameters", []), *conditions]
    codes = [*_ANY_REQUEST, *own["codes"]]
    if under_api:
        codes += [*_UNDER_API, *WITH_DATABASE, *(() if reads else ("outcome_unknown",))]
        codes += _WITH_BODY if "requestBody" in operation else ()
    if "{id}" in path:
        codes += ("task_not_found",) if method != "put" else ()
        codes += () if reads else ("precondition_failed",)
    good = {status: response for status, response in operation["responses"].items() if status != "422"}
    for response in good.values():
        content = response.get("content", {}).get("application/json")
        if content is not None and own["example"] is not None:
            content["example"] = own["example"]
        headers = {**own["headers"], **(_ETAG if (under_api and reads) or "{id}" in path else {})}
        if headers and method != "delete":
            response["headers"] = headers
    if under_api and reads:
        good["304"] = {"description": "Not Modified", "headers": _ETAG}
    if method == "put":
        headers = {**good["200"].get("headers", {}), **NEW_TASK}
        good["201"] = {**good["200"], "description": "Created", "headers": headers}
    if completes:
        good["200"]["headers"] |= _SUCCESSOR
    operation["responses"] = dict(sorted({**good, **_problems(codes)}.items()))
    operation["security"] = [{"Bearer": []}] if under_api else own["security"]


def _problems(codes: Iterable[str]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for code in codes:
        problem = PROBLEM_TYPES[code]
        response = responses.setdefault(
            str(problem.status),
            {
                "description": problem.title,
                "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}},
            },
        )
        response["content"][MEDIA_TYPE]["examples"][code] = {"summary": problem.detail, "value": _example(code)}
        constant = {
            name: {"schema": {"type": "string"}, "example": value}
            for name, value in problem.headers.items()
            if name != "Connection"
        }
        if headers := _MADE_FOR_EACH.get(code, {}) | constant:
            response["headers"] = response.get("headers", {}) | headers
    return responses


def _example(code: str) -> dict[str, Any]:
    problem = PROBLEM_TYPES[code]
    example = problem.document(TASKS, "7f9c0f2a4e6b4d0c9a3b5d7e1f2a4c6e")
    if problem.status == HTTPStatus.UNPROCESSABLE_ENTITY:
        error = {"source": "body", "pointer": "/title", "code": "blank", "detail": "must not be blank"}
        example["errors"] = [error]
    return example


def _share_problems(document: dict[str, Any]) -> dict[str, Any]:
    """Say once what many operations respond alike: of each status the problem response that most of them have."""
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
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                _document(path, method, operation)
        schemas = document["components"]["schemas"]
        problem = ProblemDocument.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(problem.pop("$defs"))
        # A reference, which pydantic could only make of the task's model itself, and then a second time.
        problem["properties"]["current"] = {
            "description": "With status 412 only: the task as it is now, where there is one.",
            "$ref": "#/components/schemas/TaskPublic",
        }
        schemas["Problem"] = problem
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)  # FastAPI's own, which nothing refers to
        # The list first: the routes themselves are in the order of their use.
        document["paths"] = dict(sorted(document["paths"].items()))
        document["components"]["responses"] = _share_problems(document)
        document["components"]["schemas"] = dict(sorted(schemas.items()))
        document["components"]["securitySchemes"] = {"Bearer": BEARER, "Probe": PROBE_BEARER}
        app.openapi_schema = document
    return app.openapi_schema
