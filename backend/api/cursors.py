"""Cursors and checkpoints: where a page ended, and what a follower has seen. Opaque to the client.

A cursor is bound to its query, a checkpoint to its user: the check sum covers them. It finds mistakes and protects
nothing, and need not: whose tasks are read is the token's business alone.
"""

import base64
import json
import struct
from datetime import UTC, datetime
from hashlib import blake2s
from typing import Any
from uuid import UUID

from backend.errors import CheckpointExpired
from backend.models.queries import Cursor, Order
from backend.services.changes import Checkpoint
from backend.services.lists import is_time, is_value

MAX_CURSOR = 4096
"""Characters. The longest that is made holds a folded title."""
_CHECK_SUM_SIZE = 7
_CHECKPOINT = struct.Struct(">q16sq")


def encode_cursor(cursor: Cursor, query: str) -> str:
    """Make the text of a cursor, under this query in its canonical form."""
    values: list[Any] = [value.isoformat() if isinstance(value, datetime) else value for value in cursor.values]
    content = json.dumps([*values, cursor.task_id.hex], ensure_ascii=False, separators=(",", ":")).encode()
    return _sealed(content, query)


def decode_cursor(text: str, order: tuple[Order, ...], query: str) -> Cursor:
    """Return a cursor. Raises `ValueError` for a cursor that was not made for this query."""
    try:
        *sent, task_id = json.loads(_opened(text, query))
        pairs = list(zip(order, sent, strict=True))
        values = [datetime.fromisoformat(each).astimezone(UTC) if is_time(key) else each for key, each in pairs]
        cursor = Cursor(tuple(values), UUID(task_id))
    except (TypeError, AttributeError, RecursionError, OverflowError):
        raise ValueError("holds something else") from None
    if not all(map(is_value, order, values)):
        raise ValueError("holds no values of these keys")
    return cursor


def encode_checkpoint(checkpoint: Checkpoint, user_id: str) -> str:
    """Make the text of a checkpoint of this user."""
    return _sealed(_CHECKPOINT.pack(checkpoint.revision, checkpoint.task_id.bytes, checkpoint.base), user_id)


def decode_checkpoint(text: str, user_id: str) -> Checkpoint:
    """Return a checkpoint. Raises `CheckpointExpired` for one that was altered, or is not of this user."""
    try:
        revision, task_id, base = _CHECKPOINT.unpack(_opened(text, user_id))
    except (ValueError, struct.error):
        raise CheckpointExpired("not a checkpoint of this user") from None
    return Checkpoint(revision, UUID(bytes=task_id), base)


def _sealed(content: bytes, bound_to: str) -> str:
    return base64.urlsafe_b64encode(content + _check_sum(content, bound_to)).decode().rstrip("=")


def _opened(text: str, bound_to: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    content, check_sum = data[:-_CHECK_SUM_SIZE], data[-_CHECK_SUM_SIZE:]
    # The last character has bits that mean nothing: only one way to write it is the right one.
    if check_sum != _check_sum(content, bound_to) or _sealed(content, bound_to) != text:
        raise ValueError("altered, or made for something else")
    return content


def _check_sum(content: bytes, bound_to: str) -> bytes:
    return blake2s(content + b"\0" + bound_to.encode(), digest_size=_CHECK_SUM_SIZE).digest()
