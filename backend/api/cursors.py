"""Cursors: where a page of the list ended. Opaque to the caller, and of no use for anything but going on.

24 bytes, which base64url writes as 32 characters in exactly one way: the filter, the id of the last task, a check sum.
The check sum finds mistakes; it protects nothing, and need not: whose tasks are listed is the token's business alone.
"""

import base64
import re
from hashlib import blake2s
from uuid import UUID

_FORM = re.compile(r"[A-Za-z0-9_-]{32}")
_FILTERS = {None: b"\x00", False: b"\x01", True: b"\x02"}
_CHECK_SUM_SIZE = 7


def encode_cursor(task_id: UUID, completed: bool | None) -> str:
    """Make the cursor of a page that ended with this task, under this filter."""
    content = _FILTERS[completed] + task_id.bytes
    return base64.urlsafe_b64encode(content + _check_sum(content)).decode()


def decode_cursor(cursor: str, completed: bool | None) -> UUID:
    """Return the id of the task that the page ended with. Raises `ValueError` for a cursor not made for this filter."""
    if _FORM.fullmatch(cursor) is None:
        raise ValueError("not a cursor")
    data = base64.urlsafe_b64decode(cursor)
    content, check_sum = data[:-_CHECK_SUM_SIZE], data[-_CHECK_SUM_SIZE:]
    if check_sum != _check_sum(content) or content[:1] != _FILTERS[completed]:
        raise ValueError("altered, or of another filter")
    return UUID(bytes=content[1:])


def _check_sum(content: bytes) -> bytes:
    return blake2s(content, digest_size=_CHECK_SUM_SIZE).digest()
