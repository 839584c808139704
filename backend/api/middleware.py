"""The guard: what every request passes before a route, and every answer before the network. Pure ASGI, for its cost.

In order: a request id; a browser's preflight; framing that cannot be misread; the token, for `/api`; the whole body,
within its limits; a place among the requests under way. Whatever goes wrong, here or behind, becomes a problem answer
with all the headers of a good one, because without the CORS headers a browser hides it from the frontend.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus

from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.api.problems import Problem, problem_of, problem_response
from backend.auth.identity import Identity
from backend.auth.tokens import TokenVerifier
from backend.config import Settings
from backend.errors import TokenError, TokenInvalid, TokenMissing
from backend.observation import Observation, observation

MAX_BODY = 64 * 1024
"""Bytes that a body may have."""
MAX_BATCH = 1024 * 1024
"""Bytes that the body of a batch may have."""
MAX_DISCARDED = 2 * 1024 * 1024
"""Bytes of a body that is too large which are still read, and dropped."""
BODY_TIMEOUT = 10.0
"""Seconds in which a body must have arrived."""
REFUSED_PAUSE = 0.1
"""Seconds for which nothing more is heard on the connection of a caller that was refused a place."""
PREFLIGHT_MAX_AGE = 600
"""Seconds for which a browser may keep a preflight's answer."""
PROBES = frozenset({"/health", "/health/ready", "/health/db"})

_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_API_HEADERS = ((b"cache-control", b"private, no-cache"), (b"vary", b"Authorization, Origin"))
_OTHER_HEADERS = ((b"vary", b"Origin"),)
_PREFLIGHT_HEADERS = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
    # Those of the API, and those that browsers' tracing and MCP libraries add by themselves.
    "Access-Control-Allow-Headers": (
        "Authorization, Content-Type, X-Request-ID, If-Match, If-None-Match, Cache-Control, X-Requested-With, "
        "traceparent, tracestate, baggage, sentry-trace, Mcp-Protocol-Version, Mcp-Method, Mcp-Name"
    ),
    "Access-Control-Max-Age": str(PREFLIGHT_MAX_AGE),
}
_EXPOSED_HEADERS = (
    b"WWW-Authenticate, Location, Link, ETag, Retry-After, RateLimit, X-Next-Cursor, X-Total-Count, "
    b"X-Successor, X-Request-ID"
)

logger = logging.getLogger(__name__)
request_logger = logging.getLogger("backend.request")


Observe = Callable[[str, str | None, int | None, float, Observation], None]
"""Told of each request: its method, route, status, seconds, and what it met."""


def request_id_of(given: bytes) -> str:
    """Return the caller's request id, or a new one where it has sent none that can be used."""
    return given.decode() if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


class Places:
    """The places among the requests under way. Past the last of them a request is refused at once."""

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._emptied = asyncio.Event()

    def take(self) -> None:
        """Take a place. Raises `Problem` where none is free."""
        if self._free == 0:
            raise Problem("overloaded")
        self._free -= 1

    def give_back(self) -> None:
        """Give a place back."""
        self._free += 1
        if self._free == self._limit:
            self._emptied.set()

    @property
    def taken(self) -> int:
        """How many are taken."""
        return self._limit - self._free

    async def emptied(self, within: float) -> None:
        """Wait until no place is taken, `within` seconds at most."""
        self._emptied.clear()
        if self._free < self._limit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), within)


class Guard:
    """The middleware. `verifier` says who is calling; whom it has identified is `scope["identity"]` from then on."""

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        verifier: TokenVerifier,
        places: Places,
        observe: Observe | None = None,
    ) -> None:
        self._app = app
        self._observe = observe
        self._verifier = verifier
        self._settings = settings
        self._origins = frozenset(origin.encode() for origin in settings.allowed_origins)
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request; whatever happens, answer it and write its line into the log."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send, self._origins, self._settings)
        observation.set(exchange.seen)
        try:
            await self._handle(exchange)
        except Disconnected:
            pass
        except asyncio.CancelledError:
            # The server is ending, and has waited as long as it may. The answer is all that can still be done.
            await exchange.answer_error(Problem("database_unavailable" if exchange.reads else "outcome_unknown"))
        except Exception as error:  # noqa: BLE001 # the last place where an error can become an answer
            await exchange.answer_error(error)
        finally:
            exchange.give_place_back()
            exchange.log(self._observe)
        await exchange.end()

    async def _handle(self, exchange: "Exchange") -> None:
        if exchange.is_preflight:
            # Starlette's CORSMiddleware would answer strangers in plain text, and with CORS headers.
            await exchange.answer(
                Response(status_code=204, headers=_PREFLIGHT_HEADERS if exchange.allowed_origin else {})
            )
            return
        exchange.refuse_ambiguous_length()
        if exchange.is_api:
            exchange.scope["identity"] = await self._identify(exchange)
        receive = await exchange.read_body()
        if exchange.scope["path"] in PROBES:
            await self._app(exchange.scope, receive, exchange.send)
            return
        exchange.take_place(self._places)
        await self._app(exchange.scope, receive, exchange.send)

    async def _identify(self, exchange: "Exchange") -> Identity:
        values = [value for name, value in exchange.scope["headers"] if name == b"authorization"]
        if len(values) > 1:
            raise TokenInvalid("more than one Authorization header")
        scheme, _, token = (values[0] if values else b"").partition(b" ")
        if scheme.lower() != b"bearer" or not token.strip():
            raise TokenMissing
        return await self._verifier.verify(token.strip(b" ").decode("latin-1"))


class Disconnected(Exception):
    """The caller went away before its body had arrived: there is nobody to answer."""


class Exchange:
    """One request and its answer."""

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, origins: frozenset[bytes], settings: Settings
    ) -> None:
        self._started_at = time.perf_counter()
        self._settings = settings
        self.seen = Observation()
        self._receive = receive
        self._send = send
        self._status: int | None = None
        self._refused = False
        self._places: Places | None = None
        self._method: str = scope["method"]
        headers = dict(scope["headers"])  # of a repeated header the last; the ones that must not be are looked at apart
        self._headers = headers
        self.request_id = request_id_of(headers.get(b"x-request-id", b""))
        origin = headers.get(b"origin")
        self.allowed_origin = origin if origin in origins else None
        self.is_api: bool = scope["path"] == "/api" or scope["path"].startswith("/api/")
        self.is_preflight = (
            self._method == "OPTIONS" and origin is not None and b"access-control-request-method" in headers
        )
        # HEAD is GET without the body. A copy, because the server must go on knowing that it was HEAD.
        self.scope = {**scope, "method": "GET"} if self._method == "HEAD" else scope
        self.scope["request_id"] = self.request_id
        self._max_body = MAX_BATCH if scope["path"] == "/api/tasks/batch" else MAX_BODY

    def take_place(self, places: Places) -> None:
        """Take a place until the answer begins: a caller that reads slowly, or not at all, must hold none."""
        try:
            places.take()
        except Problem:
            self._refused = True
            raise
        self._places = places

    def give_place_back(self) -> None:
        """Give the place back, if one is taken."""
        if self._places is not None:
            self._places.give_back()
            self._places = None

    @property
    def reads(self) -> bool:
        """True where the request's method changes nothing."""
        return self._method in {"GET", "HEAD", "OPTIONS"}

    async def send(self, message: Message) -> None:
        """Send a message of the answer, with the headers that every answer has."""
        if message["type"] == "http.response.start":
            self.give_place_back()
            self._status = message["status"]
            extra = [(b"x-request-id", self.request_id.encode()), (b"x-content-type-options", b"nosniff")]
            extra += _API_HEADERS if self.is_api else _OTHER_HEADERS
            if self.allowed_origin is not None:
                extra.append((b"access-control-allow-origin", self.allowed_origin))
                extra.append((b"access-control-expose-headers", _EXPOSED_HEADERS))
            if self._settings.server_timing:
                extra.append((b"server-timing", b"db;dur=%.1f" % (self.seen.database * 1000)))
            message = {**message, "headers": [*message["headers"], *extra]}
        else:
            if self._method == "HEAD":
                message = {**message, "body": b""}
            if self._refused:
                message = {**message, "more_body": True}
        await self._send(message)

    async def end(self) -> None:
        """End the answer, which a refused caller has in whole by now: until then its connection is not read.

        To refuse costs a quarter of what is refused. Callers that ask again at once, whatever `Retry-After` says, would
        keep the service busy with that (specs/decisions/0006-guard.md).
        """
        if self._refused:
            await asyncio.sleep(REFUSED_PAUSE)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def answer(self, response: Response) -> None:
        """Send a whole answer."""
        await response(self.scope, self._receive, self.send)

    async def answer_error(self, error: Exception) -> None:
        """Answer with the problem that the error is. A bug is logged with its request id, and is the only 500."""
        problem = problem_of(error)
        self.seen.code = problem.type.code
        if isinstance(error, TokenError):
            self.seen.reason = str(error) or None
        log_error(error, problem, self.request_id)
        if self._status is None:
            await self.answer(problem_response(problem, self.scope, self.request_id))

    def refuse_ambiguous_length(self) -> None:
        """Refuse a request whose end two servers could see in two places (RFC 9112, section 6.1)."""
        if b"transfer-encoding" not in self._headers:
            return
        codings = [value.lower() for name, value in self.scope["headers"] if name == b"transfer-encoding"]
        if b"content-length" in self._headers or codings != [b"chunked"] or self.scope["http_version"] == "1.0":
            raise Problem("ambiguous_length")

    async def read_body(self) -> Receive:
        """Read the whole body and return a `receive` that gives it again. Raises `Problem` past the limits."""
        # The server has checked that it is a number, but not for zeros before it: int() refuses to read very many.
        length = int(self._headers.get(b"content-length", b"").lstrip(b"0") or 0)
        if length == 0 and b"transfer-encoding" not in self._headers:
            return self._receive
        if length > self._max_body and b"expect" in self._headers:
            raise Problem("body_too_large")  # before "100 Continue": the caller has not begun to send
        try:
            async with asyncio.timeout(BODY_TIMEOUT):
                started = time.perf_counter()
                body = await self._collect_body()
                self.seen.body = time.perf_counter() - started
        except TimeoutError:
            raise Problem("request_timeout") from None
        messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return messages.pop() if messages else await self._receive()

        return receive

    async def _collect_body(self) -> bytes:
        body = bytearray()
        size = 0
        more = True
        # A body that is too large is read a while longer, and dropped: a caller that is still sending when the
        # connection closes gets a reset, and never sees the answer.
        while more and size <= MAX_DISCARDED:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            size += len(chunk)
            if size <= self._max_body:
                body += chunk
            more = message.get("more_body", False)
        if size > self._max_body:
            raise Problem("body_too_large")
        return bytes(body)

    def log(self, observe: Observe | None) -> None:
        """Count the request, and write its line: nothing of what the caller wrote but the method and two ids."""
        status = self._status
        seconds = time.perf_counter() - self._started_at
        milliseconds = seconds * 1000
        if observe is not None:
            observe(self._method, route_of(self.scope), status, seconds, self.seen)
        failed = status is not None and (
            status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.UNAUTHORIZED
        )
        which = self._settings.log_requests
        if not (failed or which == "all" or (which == "slow" and milliseconds > self._settings.log_slow_ms)):
            return
        server_error = status is not None and status >= HTTPStatus.INTERNAL_SERVER_ERROR
        level = logging.ERROR if server_error else logging.INFO
        if request_logger.isEnabledFor(level):
            line = {
                "request_id": self.request_id,
                "method": self._method,
                "route": route_of(self.scope),
                "status": status,
                "duration_ms": round(milliseconds, 2),
            }
            request_logger.log(level, "request", extra=line | self.seen.fields() | self._identifiers())

    def _identifiers(self) -> dict[str, str]:
        """Return what ties the line to others: the trace, and the user under LOG_USER_KEY."""
        found = {}
        if trace := _TRACEPARENT.fullmatch(self._headers.get(b"traceparent", b"")):
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


def log_error(error: Exception, problem: Problem, request_id: str) -> None:
    """Log why a request failed, where the answer must not say it."""
    if problem.type.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    elif problem.type.code == "overloaded":
        return  # a service with too much to do has its request lines
    elif problem.type.status == HTTPStatus.SERVICE_UNAVAILABLE:
        logger.warning("%s: %s", problem.type.code, error, extra={"request_id": request_id})
