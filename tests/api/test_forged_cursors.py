"""Cursors that somebody has made up, with a right check sum: it is no secret, and finds mistakes alone."""

import json
from typing import Any

import httpx
import pytest

from backend.api.cursors import _sealed
from backend.api.queries import ListQuery
from tests.api.shared import assert_problem, create

ID = "0192f0c123457abc8def0123456789ab"
TIME = "2026-12-01T00:00:00+00:00"
GOOD: dict[str, Any] = {
    "created_at": TIME,
    "updated_at": TIME,
    "completed_at": TIME,
    "due_date": "2026-12-0109:30",
    "priority": 2,
    "title": "x",
    "position": 0,
    "completed": 1,
}
ODD: list[Any] = [
    None,
    1.5,
    True,
    [],
    {},
    [[]] * 50,
    10**30,
    -(10**30),
    "\0",
    "\ud800",
    "2026-12-01T00:00:00",
    "x" * 9,
    "NaN",
    TIME,
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    5,
]


def forged(key: str, *content: Any) -> str:
    return _sealed(json.dumps(content).encode(), ListQuery(sort=key).canonical())


@pytest.mark.parametrize("key", GOOD)
async def test_what_a_forged_cursor_holds_makes_no_error_of_ours(alice: httpx.AsyncClient, key: str) -> None:
    await create(alice)
    response = await alice.get("/api/tasks", params={"sort": key, "cursor": forged(key, GOOD[key], ID)})
    assert response.status_code == 200
    for content in (
        *((odd, ID) for odd in ODD),
        (ID,),
        (),
        (GOOD[key], 1),
        (GOOD[key], "x"),
        (GOOD[key], GOOD[key], ID),
    ):
        response = await alice.get("/api/tasks", params={"sort": key, "cursor": forged(key, *content)})
        if response.status_code != 200:  # some are good values of some keys
            assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"1", b"null", b"[" * 2000, b"\xff", b'"x"', b"NaN", b'{"a": 1}']
)
async def test_what_is_no_list_of_values_is_refused(alice: httpx.AsyncClient, content: bytes) -> None:
    for query in (ListQuery(), ListQuery(sort="title")):
        params = {"cursor": _sealed(content, query.canonical())} | ({"sort": query.sort} if query.sort else {})
        response = await alice.get("/api/tasks", params=params)
        assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))
