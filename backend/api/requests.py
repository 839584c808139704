"""What a request must be before a route sees it: strict JSON of the right type, no stray or repeated parameters.

FastAPI would let Python's JSON decide on duplicate names, NaN and byte order marks. Of a query it would ignore an
unknown parameter, take the last of a repeated one, and find out the type of each that there could be, in each request:
a third of the time of a list that the client has already.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.routing import Route as PlainRoute
from starlette.types import Receive, Scope, Send

from backend import strict_json
from backend.api.field_errors import MAX_ERRORS, MAX_POINTED_NAME, FieldError, field_errors
from backend.api.openapi import query_names
from backend.api.problems import Problem

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_MAX_PARAMETERS = 100
_REFUSED = re.compile(r"q=0(\.0{0,3})?")
"""https://www.rfc-editor.org/rfc/rfc9110#name-quality-values"""
_UTF_8 = frozenset({"utf-8", "utf8"})
MAX_QUERY = 20 * 1024
"""Bytes that a query string may have: more would take longer to parse than all the rest. All filters at their longest,
percent-encoded, and a cursor have 18 KiB."""
Model = TypeVar("Model", bound=BaseModel)


class NoQuery(BaseModel):
    """A query without parameters."""


class StrictRequest(Request):
    """A request whose body is read as strict JSON."""

    async def json(self) -> Any:
        """Return the body's value. Raises `Problem` for what is not JSON (RFC 8259) in UTF-8 with unique names."""
        if not hasattr(self, "_json"):
            try:
                self._json = strict_json.loads(await self.body())
            except (ValueError, RecursionError):  # also of numbers with too many digits and of bytes that are no UTF-8
                raise Problem("malformed_json") from None
        return self._json


def whole(route: PlainRoute) -> PlainRoute:
    """Have a route match its whole address: Starlette's pattern ends in "$", which a line feed may follow."""
    route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    return route


class Route(APIRoute):
    """A route that matches its whole address, and refuses another method with all the methods that the address has."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        options["generate_unique_id_function"] = lambda route: route.name  # generated clients name functions by it
        super().__init__(path, endpoint, **options)
        whole(self)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request; refuse its method with an `Allow` header that names all the address's routes have."""
        if scope["method"] not in (self.methods or ()):
            raise Problem("method_not_allowed", headers={"Allow": _allowed_methods(scope)})
        await super().handle(scope, receive, send)


class StrictRoute(Route):
    """A route that takes only the body it names, and only the parameters of the query model it is documented with."""

    parameters: list[str]
    """The names of the query parameters."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Check the request, then handle it as FastAPI does."""
        handle = super().get_route_handler()
        parameters = self.parameters = query_names(self)
        media_types = (JSON, MERGE_PATCH) if "PATCH" in (self.methods or ()) else (JSON,)

        async def handle_strictly(request: Request) -> Response:
            if self.body_field is not None:  # before the parameters: 415 and 400 come before 422
                request = StrictRequest(request.scope, request.receive)
                if await request.body():  # the type of none at all means nothing
                    check_media_type(request, media_types)
                await request.json()  # read here: FastAPI would turn the problem into one of its own
            if not parameters:
                read_query(request, NoQuery)
            return await handle(request)

        return handle_strictly


def _allowed_methods(scope: Scope) -> str:
    # Starlette names the methods of the first route that matches the path, and of no other.
    methods = {
        method
        for route in scope["router"].routes
        if isinstance(route, APIRoute) and route.matches(scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))


def read_query(request: Request, model: type[Model]) -> Model:
    """Return what a request's query says. Raises `Problem`, also for a parameter that is unknown or repeated."""
    query_string: bytes = request.scope["query_string"]
    if not query_string:
        return model()
    if len(query_string) > MAX_QUERY:
        raise Problem("validation_error", [FieldError("query", "", "too_long", "is too long")])
    try:
        # What is no UTF-8 becomes lone surrogates, which no text may have.
        text = query_string.decode(errors="surrogateescape")
        pairs = parse_qsl(text, keep_blank_values=True, errors="surrogateescape", max_num_fields=_MAX_PARAMETERS)
    except ValueError:
        raise Problem("validation_error", [FieldError("query", "", "too_long", "has too many parameters")]) from None
    found = []
    values: dict[str, Any] = {}
    for name, value in pairs:
        shown = f"/{name}" if name.isidentifier() and len(name) <= MAX_POINTED_NAME else ""
        field = model.model_fields.get(name)
        if field is None:
            found.append(FieldError("query", shown, "unknown_parameter", "is not a parameter of this address"))
        elif field.default == []:
            values.setdefault(name, []).append(value)
        elif name in values:
            found.append(FieldError("query", shown, "repeated", "must be given once"))
        else:
            values[name] = value
    if found:
        raise Problem("validation_error", found[:MAX_ERRORS])
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise Problem("validation_error", field_errors(error.errors(), "query")) from None


def check_media_type(request: Request, accepted: tuple[str, ...]) -> None:
    """Raise `Problem` where the body is of none of these types, not in UTF-8, or compressed."""
    values = request.headers.getlist("content-type")
    media_type, *parameters = (values[0] if len(values) == 1 else "").lower().split(";")
    charsets = {each.strip().removeprefix("charset=").strip('"') for each in parameters if "charset=" in each}
    coding = request.headers.get("content-encoding", "").lower()
    if media_type.strip() not in accepted or not charsets <= _UTF_8 or coding not in {"", "identity"}:
        raise Problem("unsupported_media_type", headers={"Accept-Encoding": "identity"} if coding else {})


def accepted_types(request: Request) -> set[str]:
    """Return the media types that `Accept` names, but for those that it refuses with `q=0`."""
    accepted = set()
    for each in ",".join(request.headers.getlist("accept")).lower().split(","):
        media_type, *parameters = (part.strip() for part in each.split(";"))
        if not any(_REFUSED.fullmatch(parameter) for parameter in parameters):
            accepted.add(media_type)
    return accepted
