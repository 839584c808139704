"""uvicorn's HTTP protocol, with a bound in bytes and in time for whatever a client sends, or fails to read.

uvicorn parses and queues all requests that arrive together, takes a head of any size from a client of any patience,
waits for ever for one that does not read, and responds to what is no HTTP in plain text. Here the parser gets a head
when it is whole and the request before it has had its response, so no state of one message survives into the next
(specs/decisions/0017-the-edge.md). Used by `todo-backend serve` and `dev`, not by `uvicorn backend.main:app`.
"""

import logging
import math
import re
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backend.api.body import content_length
from backend.api.exchange import DRAIN
from backend.api.overload import Overload
from backend.serving.heads import HOST, MAX_HEAD, BadHead, Unparsed, refusal
from backend.serving.sockets import SmallReads, Unsent

HEAD_TIMEOUT = 10.0
"""Seconds in which a head must have arrived, from the connection's first moment or the head's first byte."""
MAX_DISCARDED = 2 * 1024 * 1024
"""Bytes of a body that are still read, and dropped, when its request has had its response."""
DISCARD_TIMEOUT = 5.0
"""Seconds for which they are."""
CHECK_INTERVAL = 1.0
"""Seconds between two looks at a connection's times: timers for each request would cost more."""
REFUSED_PAUSE = 0.1
"""Seconds for which nothing more is heard from a client that was refused for overload: most ask again at once."""
QUIET = 60.0
"""Seconds in which too many connections are logged once."""

_UPGRADE = re.compile(rb"\r\nUpgrade:[^\r\n]*", re.IGNORECASE)

logger = logging.getLogger(__name__)


class LimitedProtocol(HttpToolsProtocol):
    """One connection. To its requests it is the transport, too: it knows when closing would lose their responses.

    What it does with what comes depends on two things: `_receives`, whether there is more of a request's body to come,
    and `_idle`, whether the last request has had its response.

    | `_receives` | `_idle` | what comes is |
    |---|---|---|
    | no | yes | the next head |
    | yes | no | the body, read when the request asks for it |
    | no | no | kept, and not read further, until the response has been sent |
    | yes | yes | the rest of a body that nobody wants: dropped |

    At the end of a connection that must not close yet, `_ignores_input`, all that comes is dropped.
    """

    # The request
    _head = b""
    _parses_head = False
    _receives = False
    _length: int | None = 0  # of the body, what has not come yet; None if it comes in chunks
    _overhead = 0  # of a body, how many bytes more may be no content, as the sizes of chunks are
    _discarded = 0  # bytes that were dropped
    # The response
    _held: bytes | None = None  # None until its head comes; the head until its body comes; then empty
    # The connection
    waiting_since: float | None = None
    """When it began to wait for its client, to send or to read; None while the client waits for a response."""
    _waits_until = math.inf
    _pauses = False  # it was refused for overload a moment ago
    _ended = False  # the client's side
    _ignores_input = False
    _half_closed = False
    _warned_at: ClassVar[float] = -math.inf

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        super().connection_made(transport)
        transport.set_protocol(SmallReads(self))
        self._unparsed, self._unsent = Unparsed(), Unsent(transport)
        self.waiting_since = self.loop.time()
        self._waits_until = self.waiting_since + HEAD_TIMEOUT
        self._timer = self.loop.call_later(CHECK_INTERVAL, self._check)
        if len(self.connections) > self.config.max_connections:  # type: ignore[attr-defined] # of our Config
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop to look at the times."""
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Keep what came, and parse it if it is its turn."""
        if self._ignores_input or (self._receives and self._idle):
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED:
                self.transport.abort()
        if self._ignores_input or self.transport.is_closing():
            return
        if not self._receives and self._idle and not self._unparsed:
            self._waits_until = self.loop.time() + HEAD_TIMEOUT
        self._unparsed.add(data)
        self._parse()

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio reads what is returned; uvicorn returns nothing
        """Keep the way back open for a client that has sent its requests and closed its own side."""
        self._ended = True
        self._parse()
        return True

    # What the parser calls

    def on_message_begin(self) -> None:
        """Begin a request, unless it came in one read with the end of a body in chunks, which only the parser sees."""
        if not self._parses_head:
            raise ValueError("a request behind a body in chunks")  # the response before it says that it is the last
        super().on_message_begin()
        self.scope["extensions"] = {DRAIN: {"wait": self.flow.drain}}

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header of the head, and drop those behind the body (RFC 9110, section 6.5.1)."""
        if self._parses_head:
            super().on_header(name, value.rstrip(b" \t"))  # which the parser leaves (RFC 9110, section 5.5)

    def on_headers_complete(self) -> None:
        """Go on to the request, if its head is acceptable."""
        headers = dict(self.headers)
        # Of two hosts, a proxy before this server may have looked at the other (RFC 9112, section 3.2).
        hosts = [value for name, value in self.headers if name == b"host"]
        is_1_0 = self.parser.get_http_version() == "1.0"
        if len(hosts) > 1 or not (hosts or is_1_0) or not HOST.fullmatch(b"".join(hosts)):
            raise ValueError("not one host")
        if is_1_0:
            self.expect_100_continue = False  # its client would take a 100 for the response (RFC 9110, section 10.1.1)
        if self.parser.should_upgrade():
            return  # it will be parsed again
        self._parses_head = False
        self._length = None if b"transfer-encoding" in headers else content_length(headers)
        self._overhead, self._discarded = MAX_HEAD, 0
        overload = self._overload
        if overload is not None:
            method, path = self.parser.get_method(), httptools.parse_url(self.url).path
            if not overload.admits(method, path, headers):
                self._receives = True
                self._shed(overload.refusal(method, path, headers))
                return
        super().on_headers_complete()
        self._receives = True
        self.cycle.transport = self  # type: ignore[assignment] # it has what is called
        if self.app_state.get("draining"):
            self.cycle.keep_alive = False
        self._waits_until = math.inf  # from here on the guard has limits

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._overhead += len(body) * 9 // 8
        if not self._idle:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request. It may have had its response."""
        if self._parses_head:
            return
        self._receives = False
        if self._idle:
            self._await_request()
            return
        super().on_message_complete()
        if not self.flow.write_paused:
            self.waiting_since = None

    # What a request calls

    def write(self, data: bytes) -> None:
        """Send. The head of a response goes with the first piece of its body: one call of the kernel, one packet."""
        self._unsent.written += len(data)
        if self._held:
            self.transport.writelines((self._held, data))
            self._held = b""
        elif self._held is None and self.cycle.response_started:
            if self._receives and self.cycle.keep_alive and self._end_is_unknown:
                self.cycle.keep_alive = False
                data = data.removesuffix(b"\r\n") + b"connection: close\r\n\r\n"
            self._held = data
            self.waiting_since = self.loop.time()
        else:
            self.transport.write(data)

    def is_closing(self) -> bool:
        """Tell whether nothing can be sent any more."""
        return self._half_closed or self.transport.is_closing()

    def close(self) -> None:
        """Close. Who still sends is heard for a while: it would be reset, and could lose the response.

        The request that is under way, if one is, learns that its client has gone.
        What is unsent keeps its deadline: of a closed connection the kernel would keep it for as long as it likes.
        """
        self._send_held()
        sends = not self._ended and (self._receives or self._ignores_input or len(self._unparsed) > 0)
        if not sends and not self._unsent.size():
            self.transport.close()
        elif not self.transport.is_closing():
            self._waits_until = self.loop.time() + DISCARD_TIMEOUT if sends else 0
            if not self._half_closed:
                self._ignores_input = self._half_closed = True
                self.flow.resume_reading()
                self.transport.write_eof()
        if not self._idle:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def on_response_complete(self) -> None:
        """Go on to what has come meanwhile."""
        self.server_state.total_requests += 1
        self.cycle.body.clear()  # of a body that nobody has asked for
        self._send_held()
        if self.is_closing():
            return
        if not self._receives:
            self._await_request()
        else:
            self._waits_until = self.loop.time() + DISCARD_TIMEOUT
        self._go_on()

    # Our own

    def _send_held(self) -> None:
        if self._held:
            self.transport.write(self._held)
        self._held = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    @property
    def _overload(self) -> Overload | None:
        """What the application says of its own before its requests begin, once it has started."""
        overload: Overload | None = self.app_state.get("overload")
        return overload

    @property
    def _end_is_unknown(self) -> bool:
        """Whether the next request cannot be found behind a body that nobody has read.

        Chunks would have to be parsed, and a client that waits for a 100 may send its body, or not.
        """
        return self._length is None or self.expect_100_continue

    def _await_request(self) -> None:
        self.waiting_since = self.loop.time()
        if not self._half_closed:
            self._waits_until = self.waiting_since + (HEAD_TIMEOUT if self._unparsed else self.timeout_keep_alive)

    def _parse(self) -> None:
        """Feed the parser with the body that is due, or with one head, if no request is under way.

        Close when nothing is due that has come whole and nothing more will come.
        """
        while self._unparsed and not self._ignores_input:
            if self._receives:
                self._feed_body()
            elif not self._idle or self._pauses:
                self.flow.pause_reading()
                return
            else:
                try:
                    head = self._unparsed.take_head()
                except BadHead as error:
                    self._refuse(error.code, error.head)
                    return
                if head is None:
                    break
                self._head = head
                self._feed_head(head)
        if self._receives and not self._idle and not self._ignores_input and self.cycle.body:
            self.flow.pause_reading()  # until the request takes this piece of its body; of framing alone it never hears
        if self._ended and (self._idle or self._receives):
            self.close()

    def _shed(self, response: bytes) -> None:
        """Respond to a request that does not begin, and hear nothing of its client for a moment."""
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        if not keeps or self._end_is_unknown or self.app_state.get("draining"):
            self._receives = self._length != 0
            self._respond(response.replace(b"\r\n", b"\r\nconnection: close\r\n", 1))
            self.close()
            return
        self._respond(response)
        self._waits_until = self.loop.time() + DISCARD_TIMEOUT
        self._pauses = True
        self.loop.call_later(REFUSED_PAUSE, self._go_on)

    def _go_on(self) -> None:
        self._pauses = False
        if not self.transport.is_closing():
            self.flow.resume_reading()
            self._parse()

    def _feed_head(self, head: bytes) -> None:
        # A new one: after a `Connection: close`, in trailers too, a parser takes whatever it is fed without a word.
        self.parser = httptools.HttpRequestParser(self)
        self._parses_head = True
        try:
            self.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            # Nothing else is spoken here, and who asks goes on with HTTP/1.1 (RFC 9110, section 7.8). The parser would
            # take the body for the other protocol.
            self._feed_head(_UPGRADE.sub(b"", head))
        except httptools.HttpParserError:
            self._refuse("malformed_request", head)

    def _feed_body(self) -> None:
        # What is no content is counted after each piece: a whole read, in chunks of a byte, takes long to parse.
        piece = self._unparsed.take(MAX_HEAD if self._length is None else self._length)
        if self._length is not None:
            self._length -= len(piece)
        self._overhead -= len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserError:
            self._refuse("malformed_request", self._head)
        else:
            if self._overhead < 0:
                self._refuse("head_too_large", self._head)

    def _refuse(self, code: str, head: bytes) -> None:
        """Hear nothing more; respond with a problem, unless there is a response before it, which then is the last."""
        self._ignores_input = True
        self._unparsed = Unparsed()
        if not self._idle and (self.cycle.response_started or not self._receives):
            self.cycle.keep_alive = False
            self.flow.pause_reading()
            return
        if not (self._idle and self._receives):
            self._respond(refusal(code, head, self._overload))
        self.close()

    def _respond(self, response: bytes) -> None:
        self._unsent.written += len(response)
        self.transport.write(response)

    def _check(self) -> None:
        """Look at the connection's times, now and then."""
        self._timer = self.loop.call_later(CHECK_INTERVAL, self._check)
        now = self.loop.time()
        if self._unsent.is_overdue(now):
            self._unsent.forget()
            self._abort()
        elif now > self._waits_until and not self._unsent.size():
            self.transport.close()

    def _abort(self) -> None:
        if self.cycle is not None:
            self.cycle.disconnected = True  # or the next piece of the response would be an error
        self.transport.abort()

    def _make_room(self) -> None:
        """Close the tenth of the connections that has waited the longest for its client; the new one if none has."""
        waiting = [each for each in self.connections if isinstance(each, LimitedProtocol) and each.waiting_since]
        waiting.sort(key=lambda each: each.waiting_since or 0)
        for connection in waiting[:-1][: len(self.connections) // 10 + 1] or waiting:
            connection._abort()  # noqa: SLF001 # of this class
        if self.loop.time() > LimitedProtocol._warned_at + QUIET:
            LimitedProtocol._warned_at = self.loop.time()
            logger.warning("%d connections: those that wait the longest are closed", len(self.connections))
