"""uvicorn's HTTP protocol, with limits on a request's head, and with problem answers for what is no HTTP.

uvicorn takes a head of any size, from a caller of any patience, and answers what it cannot parse in plain text. Used by
`todo-backend serve` and `dev`; under `uvicorn backend.main:app` the guard's limits hold, and these do not.
"""

import asyncio
import json
import logging
from typing import Any
from urllib.parse import quote

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backend.api.middleware import request_id_of
from backend.api.problems import KINDS, MEDIA_TYPE

MAX_HEAD = 32 * 1024
"""Bytes that the request line and the headers may have together."""
MAX_PATH = 1024
"""Bytes of a bad request's path that its answer repeats."""
HEAD_TIMEOUT = 10.0
"""Seconds in which they must have arrived, from the connection's first moment or the request's first byte."""

logger = logging.getLogger(__name__)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    url = b""
    _too_large = False
    _head_size = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for no more."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it goes on with a head that is too large already."""
        if self.transport.is_closing():
            return
        self._too_large = self._head_timer is not None and self._head_size > MAX_HEAD
        if self._too_large:
            self.send_400_response("")
            return
        self._head_size += len(data)
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._head_size = 0
        if self._head_timer is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Go on to the request, if its head is of an acceptable size."""
        self._end_head()
        self._too_large = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD
        if self._too_large:
            raise ValueError("head too large")  # uvicorn then calls send_400_response
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, with a problem, and close."""
        self._end_head()
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self.transport.write(self._problem())
        self.transport.close()

    def _problem(self) -> bytes:
        kind = KINDS["head_too_large" if self._too_large else "malformed_request"]
        given_id = dict(getattr(self, "headers", ())).get(b"x-request-id", b"")
        request_id = request_id_of(given_id)
        logger.warning("%s", kind.code, extra={"request_id": request_id, "status": kind.status})
        path = quote(self.url.partition(b"?")[0][:MAX_PATH], safe="/%") or "/"
        body = json.dumps(kind.document(path, request_id)).encode()
        head = (
            f"HTTP/1.1 {kind.status} {kind.title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
            f"X-Request-ID: {request_id}\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_TIMEOUT, self._give_up)

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._await_head()
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
