"""Refusals of requests that have not begun, because no place is free: they cost a tenth of what the guard's would.

The server asks as soon as it has a request's head (serving/protocol.py). At four times the load that a service can
bear, the guard's refusals would leave no time for what is accepted (specs/decisions/0006-guard.md).
"""

import asyncio
import logging
from collections.abc import Mapping

from backend.api.cors import CORS, Headers, is_preflight
from backend.api.exchange import PROBES, Observe, common_headers, request_id_of
from backend.api.limits import ConcurrencyLimit
from backend.api.paths import API, MCP
from backend.api.problems import Problem, instance_of, problem_response
from backend.config import Settings
from backend.observation import Observation

LOG_INTERVAL = 1.0
"""Seconds whose refusals share one line of the log: a line for each would add to the load."""

_PROBES = frozenset(path.encode() for path in PROBES)
_API = f"{API}/".encode()

logger = logging.getLogger(__name__)


class Overload:
    """Tells which requests may begin, and what the others get as their response."""

    def __init__(self, places: ConcurrencyLimit, settings: Settings, observe: Observe | None = None) -> None:
        self._places = places
        self.cors = CORS(settings.allowed_origins)
        """That of any refusal, which a browser hides from the frontend without its headers."""
        self._prefix = settings.root_path.encode()
        self._agents = (MCP.encode(), f"{MCP}/".encode()) if settings.mcp else ()
        self._observe = observe
        self._refused = 0
        # Written once: only the path, the request id and the length differ from refusal to refusal.
        response = problem_response(Problem("overloaded"), {"raw_path": b"%"}, "%")
        self._parts = bytes(response.body).split(b"%")
        headers = [header for header in response.raw_headers if header[0] != b"content-length"]
        self._heads = {
            is_api: b"HTTP/1.1 503 Service Unavailable\r\n"
            + _lines([*headers, *common_headers("%b", is_api=is_api, failed=True)])
            + b"content-length: %d\r\n%b\r\n%b"
            for is_api in (False, True)
        }

    def admits(self, method: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> bool:
        """Tell whether a request may begin. It may yet be refused: the guard has the last word.

        Probes and preflights need no place. A request without a token is refused under overload, but takes no place
        either: otherwise strangers could have users refused.
        """
        if path.removeprefix(self._prefix) in _PROBES or is_preflight(method.decode(), headers):
            return True
        return self._places.admit() if b"authorization" in headers else not self._places.is_overloaded

    def refusal(self, method: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> bytes:
        """Return the whole response to a request that may not begin, as the guard would write it."""
        request_id = request_id_of(headers.get(b"x-request-id", b""))
        before, between, after = self._parts
        body = b"".join((before, instance_of(path).encode(), between, request_id.encode(), after))
        cors = _lines(self.cors.headers(headers.get(b"origin")))
        self._count(method.decode())
        sent = b"" if method == b"HEAD" else body
        path = path.removeprefix(self._prefix)
        is_api = (path + b"/").startswith(_API) or path in self._agents
        return self._heads[is_api] % (request_id.encode(), len(body), cors, sent)

    def _count(self, method: str) -> None:
        if self._observe is not None:
            self._observe(method, None, 503, 0.0, Observation(code="overloaded"))
        if not self._refused:
            asyncio.get_running_loop().call_later(LOG_INTERVAL, self._log)
        self._refused += 1

    def _log(self) -> None:
        logger.warning("overloaded: %d refused in a second: no place was free (MAX_CONCURRENT_REQUESTS)", self._refused)
        self._refused = 0


def _lines(headers: Headers) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])
