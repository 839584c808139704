"""`/mcp`, for agents: what a request must be before the protocol's SDK sees it, and who issues its tokens.

Only what concerns HTTP is refused with a problem. What concerns the JSON-RPC message is told as JSON-RPC, because
clients read the body of a 400 to choose the protocol's version.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.api.body import received_again
from backend.api.cors import CORS
from backend.api.paths import MCP
from backend.api.problems import Problem
from backend.api.requests import JSON, StrictRequest, accepted_types, check_media_type, whole
from backend.auth.tokens import authorization_server
from backend.config import Settings

METADATA = "/.well-known/oauth-protected-resource"
"""https://www.rfc-editor.org/rfc/rfc9728#section-3.1"""

_PARSE_ERROR = -32700
_INVALID_REQUEST = -32600


def resource(request: Request) -> str:
    """Return the address of `/mcp` as its clients know it."""
    settings: Settings = request.app.state.settings
    return (settings.public_url or str(request.base_url).rstrip("/")) + MCP


def challenge(scope: Scope, problem: Problem) -> dict[str, str]:
    """Return the headers of a 401, which say where the document on tokens is (RFC 9728, section 5.1)."""
    address = resource(Request(scope)).removesuffix(MCP) + METADATA + MCP
    scheme, _, reason = problem.type.headers["WWW-Authenticate"].partition(" ")
    parameters = [*([reason] if reason else []), f'resource_metadata="{address}"']
    return {"WWW-Authenticate": f"{scheme} {', '.join(parameters)}"}


class _Endpoint:
    """The ASGI endpoint. `handle` speaks the protocol."""

    def __init__(self, handle: ASGIApp, cors: CORS) -> None:
        self._handle = handle
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = StrictRequest(scope, receive)
        if request.method != "POST":
            raise Problem("method_not_allowed", headers={"Allow": "POST"})
        origin = request.headers.get("origin")
        if origin is not None and not self._cors.headers(origin.encode("latin-1")):
            raise Problem("origin_not_allowed")
        if accepted_types(request).isdisjoint({JSON, "application/*", "*/*"}):
            raise Problem("not_acceptable")
        check_media_type(request, (JSON,))
        try:
            message = await request.json()
        except Problem as problem:
            await _json_rpc_error(_PARSE_ERROR, problem.detail)(scope, receive, send)
            return
        if not _is_message(message):
            refusal = _json_rpc_error(_INVALID_REQUEST, "Send one JSON-RPC 2.0 request or notification.")
            await refusal(scope, receive, send)
            return
        await self._handle(scope, received_again(await request.body(), receive), send)


def _is_message(message: Any) -> bool:
    """Tell whether it is a request or a notification. The SDK would repeat in its refusal what was sent."""
    return (
        isinstance(message, dict)
        and message.get("jsonrpc") == "2.0"
        and isinstance(message.get("method"), str)
        and (isinstance(message.get("params", {}), dict) or message["params"] is None)
        and ("id" not in message or type(message["id"]) in {int, str})
    )


def _json_rpc_error(code: int, message: str) -> Response:
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": {"code": code, "message": message}}, 400)


def routes(handle: ASGIApp, settings: Settings) -> list[BaseRoute]:
    """Return the route of `/mcp`, and those of the document that says who issues its tokens (RFC 9728)."""
    endpoint = Route(MCP, _Endpoint(handle, CORS(settings.allowed_origins)))
    server = authorization_server(settings)

    async def metadata(request: Request) -> Response:
        document = {"resource": resource(request), "bearer_methods_supported": ["header"]}
        return JSONResponse(document | ({"authorization_servers": [server]} if server is not None else {}))

    return [whole(each) for each in (endpoint, Route(METADATA + MCP, metadata), Route(METADATA, metadata))]
