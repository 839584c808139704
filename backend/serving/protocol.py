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

from backend.api.guard import request_id_of
from backend.api.problems import MEDIA_TYPE, PROBLEM_TYPES

MAX_HEAD = 32 * 1024
"""Bytes that the request line and the headers may have together."""
MAX_PATH = 1024
"""Bytes of a bad request's path that its answer repeats."""
HEAD_TIMEOUT = 10.0
"""Seconds in which they must have arrived, from the connection's first moment or the request's first byte."""
WRITE_TIMEOUT = 10.0
"""Seconds for which an answer may wait for its caller to read on."""

logger = logging.getLogger(__name__)


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    url = b""
    _too_large = False
    _head_size = 0
    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait for no more."""
        self._end_head()
        self._end_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, unless it goes on with a head that is too large already."""
        if self.transport.is_closing():
            return
        if self._head_timer is None and self._idle:
            self._await_head()  # whatever this is the beginning of
        self._too_large = self._head_timer is not None and self._head_size > MAX_HEAD
        if self._too_large:
            self.send_400_response("")
            return
        if self._head_timer is not None:  # what belongs to a body is none of the head's
            self._head_size += len(data)
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads the answer; uvicorn gives none
        """Keep the way back open for a caller that has sent its request and closed its own side."""
        if self._idle or self.cycle.more_body:
            return False
        self.cycle.keep_alive = False
        return True

    def pause_writing(self) -> None:
        """Give the caller `WRITE_TIMEOUT` to read on."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(WRITE_TIMEOUT, self._abandon)

    def resume_writing(self) -> None:
        """Go on; the caller reads."""
        super().resume_writing()
        self._end_write_timer()

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self._head_size = 0
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head, and drop those behind the body (RFC 9110, section 6.5.1)."""
        if self._head_timer is not None:
            super().on_header(name, value)
            return
        self._head_size += len(name) + len(value)
        self._too_large = self._head_size > MAX_HEAD
        if self._too_large:
            raise ValueError("trailers too large")

    def on_headers_complete(self) -> None:
        """Go on to the request, if its head is acceptable."""
        self._end_head()
        self._head_size = 0
        self._too_large = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD
        names = [name for name, _ in self.headers]
        # Behind a head that asks for another protocol the parser reads no body, but the next request.
        with_body = b"content-length" in names or b"transfer-encoding" in names
        # Of two hosts, a proxy before this server may have looked at the other (RFC 9112, section 3.2).
        if self._too_large or names.count(b"host") > 1 or (with_body and self.parser.should_upgrade()):
            raise ValueError("unacceptable head")  # uvicorn then calls send_400_response
        super().on_headers_complete()
        if self.parser.should_upgrade() or self.app_state.get("draining"):
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, or too much of it, with a problem, and close."""
        self._end_head()
        if not self._idle and (self.cycle.response_started or not self.cycle.more_body):
            self.cycle.keep_alive = False  # the request before it is whole: its answer comes first, and is the last
            self.flow.pause_reading()
            return
        self.transport.write(self._problem())
        self.transport.close()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _problem(self) -> bytes:
        kind = PROBLEM_TYPES["head_too_large" if self._too_large else "malformed_request"]
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

    def _end_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _abandon(self) -> None:
        self.cycle.disconnected = True  # or the next piece of the answer would be an error
        self.transport.abort()

    def _give_up(self) -> None:
        self._await_head()
        if self._idle:
            self.transport.close()
