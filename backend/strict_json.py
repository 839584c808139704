"""Strict JSON (RFC 8259): refuses names that come twice, NaN and Infinity, which Python's own reader takes."""

import json
from typing import Any, NoReturn


def loads(data: bytes) -> Any:
    """Read JSON in UTF-8. Raises `ValueError` for anything else, and `RecursionError` for what is nested too deep."""
    return json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a name is given twice")
    return value


def _refuse(_name: str) -> NoReturn:
    raise ValueError("NaN and Infinity are no JSON")
