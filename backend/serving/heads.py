"""The bytes of a connection that wait to be parsed, and what a request's head may be before a parser sees it."""

import json
import logging
import re
from urllib.parse import quote

from backend.api.exchange import common_headers, request_id_of
from backend.api.overload import Overload
from backend.api.problems import MEDIA_TYPE, PROBLEM_TYPES

MAX_HEAD = 32 * 1024
"""Bytes that the request line and the headers may have together."""
MAX_HEADERS = 100
MAX_PATH = 1024
"""Bytes of a bad request's path that its response repeats."""

HOST = re.compile(rb"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
"""What the `Host` header may be: RFC 9110, section 7.2."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]"  # a character of it: RFC 9110, section 5.6.2
_BEGINNING = re.compile(_TOKEN + rb"|\r?\Z")
# RFC 9112, section 3: no fragment, no version 2
_REQUEST_LINE = re.compile(_TOKEN + rb"+ ([!-\"$-~]+) HTTP/1\.[01]\r\n")
_METHODS = (b"DELETE", b"GET", b"HEAD", b"OPTIONS", b"PATCH", b"POST", b"PUT")
_COMMON = re.compile(rb"(?:%b) /" % b"|".join(_METHODS))
# The parser takes a blank behind it, but no tab (RFC 9110, section 5.5: either may be there).
_CHUNKED = re.compile(rb"(\ntransfer-encoding:[ \t]*chunked)[ \t]+(?=\r\n)", re.IGNORECASE)
_EMPTY_PATH = re.compile(rb"\Ahttps?://[^/? ]+(?=[? ])", re.IGNORECASE)  # RFC 9110, section 4.2.3: it is "/"

logger = logging.getLogger(__name__)


class BadHead(Exception):
    """A head that no parser gets to see. `code` is the problem's."""

    def __init__(self, code: str, head: bytes) -> None:
        super().__init__(code)
        self.code = code
        self.head = head


class Unparsed:
    """What has come and was not parsed yet."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._searched = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        """Keep what has come."""
        self._bytes += data

    def take(self, size: int) -> bytes:
        """Take the first bytes, as many as there are."""
        taken = bytes(self._bytes[:size])
        del self._bytes[:size]
        return taken

    def take_head(self) -> bytes | None:
        """Take a head, as the parser takes it, with the blank line behind it. Raises `BadHead`.

        Returns None while it is not whole.
        """
        start = 2 if self._bytes.startswith(b"\r\n") else 0  # one is ignored (RFC 9112, section 2.2)
        found = self._bytes.find(b"\r\n\r\n", max(start, self._searched))
        size = len(self._bytes) if found < 0 else found + 4
        head = bytes(self._bytes[start : min(size, MAX_HEAD)])
        if size > MAX_HEAD or head.count(b"\n") > MAX_HEADERS + 2:
            raise BadHead("head_too_large", head)
        if not (_REQUEST_LINE if b"\n" in head else _BEGINNING).match(head):
            raise BadHead("malformed_request", head)
        if found < 0:
            self._searched = max(0, size - 3)
            return None
        self._searched = 0
        del self._bytes[:size]
        if b"\t" in head:
            head = _CHUNKED.sub(rb"\1", head)
        return head if _COMMON.match(head) else _as_the_parser_takes_it(head)


def _as_the_parser_takes_it(head: bytes) -> bytes:
    method, rest = head.split(b" ", 1)
    if method == b"CONNECT":  # what comes behind it is meant for a tunnel, and no request (RFC 9110, section 9.3.6)
        rest = rest.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    # The parser knows methods of other protocols and refuses them, and does not know every one of HTTP's. TRACE it
    # knows, and no address has it.
    method = method if method in _METHODS else b"TRACE"
    return b"%b %b" % (method, _EMPTY_PATH.sub(rb"\g<0>/", rest))


def _value(name: bytes, head: bytes) -> bytes | None:
    """Return the value of a header that has come whole: of a repeated one the last, as in requests that are taken."""
    # With a pattern of their own before the value, blanks would be tried as both: of 32 KiB for seconds.
    values: list[bytes] = re.findall(rb"\n%b:([^\r\n]*)\r" % name, head, re.IGNORECASE)
    return values[-1].strip(b" \t") if values else None


def refusal(code: str, head: bytes, overload: Overload | None) -> bytes:
    """Return the whole response to what is no HTTP, or too much of it: a problem. It is logged."""
    problem = PROBLEM_TYPES[code]
    request_id = request_id_of(_value(b"X-Request-ID", head) or b"")
    logger.warning("%s", problem.code, extra={"request_id": request_id, "status": problem.status})
    line = _REQUEST_LINE.match(head)
    path = quote(line[1].partition(b"?")[0][:MAX_PATH], safe="/%") if line else "/"
    body = json.dumps(problem.document(path, request_id)).encode()
    headers = common_headers(request_id, is_api=True, failed=True)  # whose address it is may be unknown: the strictest
    headers += overload.cors.headers(_value(b"Origin", head)) if overload is not None else []
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    first = (
        f"HTTP/1.1 {problem.status} {problem.title}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n"
    )
    content = b"" if head.startswith(b"HEAD ") else body
    return first.encode() + lines + b"connection: close\r\n\r\n" + content
