"""CORS: what browsers on other origins may send, and read. An origin that is not listed gets no header at all.

It is our own for the reasons in specs/decisions/0006-guard.md.
"""

import re
from collections.abc import Mapping

from starlette.responses import Response

MAX_AGE = 600
"""Seconds for which a browser may keep a preflight's response."""
METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
HEADERS = (
    "Authorization, Content-Type, X-Request-ID, If-Match, If-None-Match, Cache-Control, X-Requested-With, "
    "traceparent, tracestate, baggage, sentry-trace, Mcp-Protocol-Version, Mcp-Method, Mcp-Name"
)
"""Those of the API, and those that browsers' tracing and MCP libraries add by themselves."""
EXPOSED = (
    b"WWW-Authenticate, Location, Link, ETag, Retry-After, RateLimit, X-Next-Cursor, X-Total-Count, "
    b"X-Successor, X-Request-ID"
)

Headers = list[tuple[bytes, bytes]]


def is_preflight(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Tell whether a browser asks what it may send."""
    return method == "OPTIONS" and b"origin" in headers and b"access-control-request-method" in headers


class CORS:
    """The origins that are allowed: exactly, or by a pattern with `*` for one label of a host."""

    def __init__(self, origins: tuple[str, ...], more_headers: tuple[str, ...] = ()) -> None:
        self._exact = frozenset(origin.encode() for origin in origins if "*" not in origin)
        patterns = (re.escape(origin).replace(r"\*", "[a-z0-9-]+") for origin in origins if "*" in origin)
        self._patterns = [re.compile(pattern.encode()) for pattern in patterns]
        self._allowed_headers = ", ".join((HEADERS, *more_headers))

    def headers(self, origin: bytes | None) -> Headers:
        """Return the headers of a response to this origin."""
        if origin is None:
            return []
        is_exact = origin in self._exact
        if not is_exact and not any(pattern.fullmatch(origin) for pattern in self._patterns):
            return []
        found: Headers = [(b"access-control-allow-origin", origin), (b"access-control-expose-headers", EXPOSED)]
        if is_exact:
            # Many frontends send `credentials: include`, and the browser would hide every response. No cookie is read.
            found.append((b"access-control-allow-credentials", b"true"))
        return found

    def preflight(self, origin: bytes | None) -> Response:
        """Respond to a browser that asks what it may send."""
        allowed = {
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": self._allowed_headers,
            "Access-Control-Max-Age": str(MAX_AGE),
        }
        return Response(status_code=204, headers=allowed if self.headers(origin) else None)
