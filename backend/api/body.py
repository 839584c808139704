"""Request bodies: whole before anything is done with them, within bounds of size, time and memory."""

import asyncio
from collections.abc import Mapping

from starlette.types import Message, Receive, Scope

from backend.api.paths import BATCH, MCP
from backend.api.problems import Problem

MAX_BODY = 64 * 1024
"""Bytes that a body may have."""
MAX_BATCH = 1024 * 1024
"""Bytes that the body of a batch, or of an agent's message, may have."""
MAX_HELD = 64 * 1024 * 1024
"""Bytes of all bodies that are under way together, in this process."""
BODY_TIMEOUT = 10.0
"""Seconds in which a body must have arrived."""

_held = 0


class Disconnected(Exception):
    """The client went away before its body had arrived: there is nobody to respond to."""


def max_size(path: str) -> int:
    """Return how many bytes a body at this address may have."""
    return MAX_BATCH if path in {BATCH, MCP} else MAX_BODY


def content_length(headers: Mapping[bytes, bytes]) -> int:
    """Return the length that a request announces, 0 for none. Its parser has checked that it is a number."""
    return int(headers.get(b"content-length", b"").lstrip(b"0") or 0)  # int() refuses to read very many zeros


def received_again(body: bytes, receive: Receive) -> Receive:
    """Return what an application receives of a request whose whole body has been read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def refuse_ambiguous_length(scope: Scope, headers: Mapping[bytes, bytes]) -> None:
    """Refuse a request whose end two servers could see in two places (RFC 9112, section 6.1)."""
    if b"transfer-encoding" not in headers:
        return
    codings = [value.lower() for name, value in scope["headers"] if name == b"transfer-encoding"]
    if b"content-length" in headers or codings != [b"chunked"] or scope["http_version"] == "1.0":
        raise Problem("ambiguous_length")


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, limit: int) -> bytes:
    """Read the whole body. Raises `Problem` past the limits, `Disconnected`.

    One that is announced as too large is refused before it is read.
    """
    length = content_length(headers)
    if length == 0 and b"transfer-encoding" not in headers:
        return b""
    if length > limit:
        raise Problem("body_too_large")
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            return await _collect(receive, limit)
    except TimeoutError:
        raise Problem("request_timeout") from None


async def _collect(receive: Receive, limit: int) -> bytes:
    global _held  # noqa: PLW0603 # one budget for the process
    body = bytearray()
    try:
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk = message.get("body", b"")
            if len(body) + len(chunk) > limit:
                raise Problem("body_too_large")
            if _held + len(chunk) > MAX_HELD:
                raise Problem("overloaded")
            body += chunk
            _held += len(chunk)
            more = message.get("more_body", False)
        return bytes(body)
    finally:
        _held -= len(body)
