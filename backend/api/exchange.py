"""One request and its response, on their way through the guard."""

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus

from starlette._utils import get_route_path
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.body import max_size, read_body, received_again
from backend.api.cors import CORS, is_preflight
from backend.api.incidents import log_error
from backend.api.limits import ConcurrencyLimit
from backend.api.paths import API, MCP
from backend.api.problems import problem_of, problem_response
from backend.api.routers import mcp
from backend.auth.identity import Identity
from backend.config import Settings
from backend.errors import TokenError
from backend.observation import Observation

DRAIN = "todo_backend.drain"
"""The extension of ASGI by which our server tells when a client has taken nearly all that it was sent."""
PROBES = frozenset({"/health", "/health/ready", "/health/db"})

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_API_HEADERS = ((b"cache-control", b"private, no-cache"), (b"vary", b"Authorization, Origin"))
_API_ERROR_HEADERS = ((b"cache-control", b"no-store"), (b"vary", b"Authorization, Origin"))
_OTHER_HEADERS = ((b"vary", b"Origin"),)

request_logger = logging.getLogger("backend.request")


Observe = Callable[[str, str | None, int | None, float, Observation], None]
"""Told of each request: its method, route, status, seconds, and what it met."""


def request_id_of(given: bytes) -> str:
    """Return the client's request id, or a new one where it has sent none that can be used."""
    return given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


def common_headers(request_id: str, *, is_api: bool, failed: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of every response."""
    headers = [(b"x-request-id", request_id.encode()), (b"x-content-type-options", b"nosniff")]
    headers += (_API_ERROR_HEADERS if failed else _API_HEADERS) if is_api else _OTHER_HEADERS
    return headers


class Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, cors: CORS, settings: Settings) -> None:
        self._started_at = time.perf_counter()
        self._settings = settings
        self.observation = Observation()
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._places: ConcurrencyLimit | None = None
        self._is_passed_on = False
        self._more_headers: list[tuple[bytes, bytes]] = []
        self._method: str = scope["method"]
        headers = dict(scope["headers"])  # of a repeated header the last; the ones that must not be are looked at apart
        self.headers: dict[bytes, bytes] = headers
        self.request_id = request_id_of(headers.get(b"x-request-id", b""))
        self.origin: bytes | None = headers.get(b"origin")
        self._cors = cors.headers(self.origin)
        path = get_route_path(scope)  # without the prefix that a proxy has or has not taken off: as the router sees it
        self.is_mcp = settings.mcp and path in {MCP, f"{MCP}/"}
        self.needs_token = path == API or path.startswith(f"{API}/") or self.is_mcp
        # A path in percent-encoding is not treated as a probe: a proxy with rules for probes would not know it as one.
        self.is_probe = path in PROBES and b"%" not in scope.get("raw_path", b"")
        self.is_preflight = is_preflight(self._method, headers)
        self._original_scope = scope
        # HEAD is GET without the body. A copy, because the server must go on knowing that it was HEAD.
        self.scope = {**scope, "method": "GET"} if self._method == "HEAD" else scope
        if self.needs_token and path.endswith("/") and not path.endswith("//"):
            self.scope = {**self.scope, "path": scope["path"][:-1]}
        if self.is_probe or path == "/":
            self.scope = {**self.scope, "query_string": b""}  # nothing is asked there, and parsing costs
        self.scope["request_id"] = self.request_id
        self._max_body = max_size(path.removesuffix("/"))

    def add_headers(self, headers: Mapping[str, str]) -> None:
        """Add headers to the response, whatever it will be."""
        self._more_headers += [(name.lower().encode(), value.encode()) for name, value in headers.items()]

    async def pass_on(self, app: ASGIApp, places: ConcurrencyLimit | None = None) -> None:
        """Have the application handle the request, in one of the places where there are some.

        The place is held until the response begins: a client that reads slowly, or not at all, must hold none.
        """
        if places is not None:
            places.acquire()
            self._places = places
        self._is_passed_on = True
        await app(self.scope, self._receive, self.send)

    def give_place_back(self) -> None:
        """Give the place back, if one is taken."""
        if self._places is not None:
            self._places.release()
            self._places = None

    @property
    def may_have_written(self) -> bool:
        """True where a route has the request, whole, and its method can change something."""
        return self._is_passed_on and self._method not in {"GET", "HEAD", "OPTIONS"}

    async def send(self, message: Message) -> None:
        """Send a message of the response, with the headers that every response has."""
        if message["type"] == "http.response.start":
            self.give_place_back()
            self._status = message["status"]
            failed = message["status"] >= HTTPStatus.BAD_REQUEST
            extra = common_headers(self.request_id, is_api=self.needs_token, failed=failed)
            extra += self._cors + self._more_headers
            if self._settings.server_timing:
                extra.append((b"server-timing", b"db;dur=%.1f" % (self.observation.database * 1000)))
            message = {**message, "headers": [*message["headers"], *extra]}
        elif self._method == "HEAD":
            message = {**message, "body": b""}
        await self._send(message)

    async def taken(self) -> None:
        """Wait until the client has taken nearly all of the response, where the server can tell.

        A user who reads none fills the memory then with as many as may be under way at once, instead of one for each
        connection. The ending server does not wait for it: the response is complete.
        """
        extension = self._original_scope.get("extensions", {}).get(DRAIN)
        if extension is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await extension["wait"]()

    async def respond(self, response: Response) -> None:
        """Send a whole response."""
        await response(self.scope, self._receive, self.send)

    async def respond_to_error(self, error: Exception) -> None:
        """Respond with the problem that the error is. A bug is logged with its request id, and is the only 500."""
        problem = problem_of(error)
        self.observation.code = problem.type.code
        if isinstance(error, TokenError):
            self.observation.reason = str(error) or None
        if self.is_mcp and problem.type.status == HTTPStatus.UNAUTHORIZED:
            problem.headers = mcp.challenge(self.scope, problem)
        log_error(error, problem, self.request_id)
        if self._status is None:
            await self.respond(problem_response(problem, self._original_scope, self.request_id))

    async def read_body(self) -> None:
        """Read the whole body, for whoever receives it next. Raises `Problem` past the limits."""
        started = time.perf_counter()
        try:
            body = await read_body(self.headers, self._receive, self._max_body)
        finally:  # of one that never came to its end, too
            self.observation.body = time.perf_counter() - started
        # Also where there is none: who asked the server would hear of a client that has gone, which Starlette raises.
        self._receive = received_again(body, self._receive)

    def log(self, observe: Observe | None) -> None:
        """Count the request, and write its line: nothing of what the client wrote but the method and two ids."""
        status = self._status
        seconds = time.perf_counter() - self._started_at
        milliseconds = seconds * 1000
        if observe is not None:
            observe(self._method, route_of(self.scope), status, seconds, self.observation)
        server_error = status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR
        failed = server_error or status == HTTPStatus.UNAUTHORIZED
        which = self._settings.log_requests
        if not (failed or which == "all" or (which == "slow" and milliseconds > self._settings.log_slow_ms)):
            return
        level = logging.ERROR if server_error else logging.INFO
        if request_logger.isEnabledFor(level):
            line = {
                "request_id": self.request_id,
                "method": self._method,
                "route": route_of(self.scope),
                "status": status,
                "duration_ms": round(milliseconds, 2),
            }
            request_logger.log(level, "request", extra=line | self.observation.fields() | self._identifiers())

    def _identifiers(self) -> dict[str, str]:
        """Return what ties the line to others: the trace, and the user under LOG_USER_KEY."""
        found = {}
        if trace := _TRACEPARENT.fullmatch(self.headers.get(b"traceparent", b"")):
            found["trace_id"] = trace[1].decode()
        identity: Identity | None = self.scope.get("identity")
        if identity is not None and self._settings.log_user_key is not None:
            key = self._settings.log_user_key.get_secret_value().encode()
            found["user"] = hmac.digest(key, identity.user_id.encode(), "sha256").hex()[:16]
        return found


def route_of(scope: Scope) -> str | None:
    """Return the template of the request's address, also where the guard has refused it."""
    route = scope.get("route")
    if route is None and "app" in scope:
        matches = ((route.matches(scope)[0], route) for route in scope["app"].routes)
        route = next((route for match, route in matches if match is not Match.NONE), None)
    return getattr(route, "path_format", None)
