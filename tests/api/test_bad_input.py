"""Bodies and queries that break the rules: the right status, a place to look at, no echo, and nothing stored."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from uuid_utils.compat import uuid7

from tests.api.shared import ABSENT, assert_problem, create, on_one_engine, tasks_of

pytestmark = on_one_engine

CANARY = "zebra-canary"
JSON = {"Content-Type": "application/json"}
MAX_BODY = 64 * 1024

# What is wrong with each body, and the places that the response must point at.
INVALID = {
    "NUL in the title": (rb'{"title": "zebra-canary\u0000"}', "/title", "invalid_character"),
    "NUL in the description": (
        rb'{"title": "x", "description": "zebra-canary\u0000"}',
        "/description",
        "invalid_character",
    ),
    "lone high surrogate": (rb'{"title": "zebra-canary\ud800"}', "/title", "invalid_character"),
    "lone low surrogate": (rb'{"title": "\udfffzebra-canary"}', "/title", "invalid_character"),
    "surrogates in the wrong order": (rb'{"title": "\ude00\ud83d"}', "/title", "invalid_character"),
    "lone surrogate in the description": (
        rb'{"title": "x", "description": "\ud800"}',
        "/description",
        "invalid_character",
    ),
    "lone surrogate in a key": (rb'{"title": "x", "\ud800zebra-canary": 1}', "", "invalid_character"),
    "NUL in a key": (rb'{"title": "x", "\u0000zebra-canary": 1}', "", "unknown_field"),
    "line feed in a key": (rb'{"title": "x", "\nzebra-canary": 1}', "", "unknown_field"),
    "long key": (b'{"title": "x", "%s": 1}' % (b"zebra-canary" * 6), "", "unknown_field"),
    "key with slash and tilde": (b'{"title": "x", "a/b~c": 1}', "/a~1b~0c", "unknown_field"),
    "empty key": (b'{"title": "x", "": 1}', "/", "unknown_field"),
    "key in other letters": (b'{"title": "x", "Title": "zebra-canary"}', "/Title", "unknown_field"),
    "1e400 as the title": (b'{"title": 1e400}', "/title", "not_a_string"),
    "-1e400 as completed": (b'{"title": "x", "completed": -1e400}', "/completed", "not_a_boolean"),
    "1e400 as an unknown field": (b'{"title": "x", "n": 1e400}', "/n", "unknown_field"),
    "2**31 as the title": (b'{"title": 2147483648}', "/title", "not_a_string"),
    "2**63 as completed": (b'{"title": "x", "completed": 9223372036854775808}', "/completed", "not_a_boolean"),
    "4000 digits as the title": (b'{"title": %s}' % (b"7" * 4000), "/title", "not_a_string"),
    "a list as the title": (b'{"title": ["zebra-canary"]}', "/title", "not_a_string"),
    "an object as the title": (b'{"title": {"zebra-canary": 1}}', "/title", "not_a_string"),
    "a deep list as the title": (b'{"title": %s}' % (b"[" * 500 + b"]" * 500), "/title", "not_a_string"),
    "true as the title": (b'{"title": true}', "/title", "not_a_string"),
    "a number as the description": (b'{"title": "x", "description": 7}', "/description", "not_a_string"),
    "completed 1": (b'{"title": "x", "completed": 1}', "/completed", "not_a_boolean"),
    "completed 0": (b'{"title": "x", "completed": 0}', "/completed", "not_a_boolean"),
    "completed 1.0": (b'{"title": "x", "completed": 1.0}', "/completed", "not_a_boolean"),
    "completed yes": (b'{"title": "x", "completed": "yes"}', "/completed", "not_a_boolean"),
    "completed true as text": (b'{"title": "x", "completed": "true"}', "/completed", "not_a_boolean"),
    "completed empty": (b'{"title": "x", "completed": ""}', "/completed", "not_a_boolean"),
    "completed a list": (b'{"title": "x", "completed": [true]}', "/completed", "not_a_boolean"),
    "an owner": (b'{"title": "x", "user_id": "zebra-canary"}', "/user_id", "unknown_field"),
    "__proto__": (b'{"title": "x", "__proto__": {"completed": true}}', "/__proto__", "unknown_field"),
    "a list": (b'[{"title": "zebra-canary"}]', "", "not_an_object"),
    "a string": (b'"zebra-canary"', "", "not_an_object"),
    "a number": (b"7", "", "not_an_object"),
    "false": (b"false", "", "not_an_object"),
    "null": (b"null", "", "not_an_object"),
}
MALFORMED = {
    "no JSON": b"zebra-canary",
    "white space": b"  \n",
    "cut off": b'{"title": "zebra-canary"',
    "two values": b'{"title": "x"} {"title": "y"}',
    "a comma too many": b'{"title": "x",}',
    "a comment": b'{"title": "x"} // zebra-canary',
    "single quotes": b"{'title': 'zebra-canary'}",
    "a raw line feed in a string": b'{"title": "zebra\ncanary"}',
    "a raw NUL in a string": b'{"title": "zebra\x00canary"}',
    "an unknown escape": rb'{"title": "\x41"}',
    "NaN": b'{"title": NaN}',
    "Infinity": b'{"title": "x", "completed": Infinity}',
    "-Infinity": b'{"title": "x", "n": -Infinity}',
    "5000 digits": b'{"title": "x", "n": %s}' % (b"7" * 5000),
    "-5000 digits": b'{"title": "x", "n": -%s}' % (b"7" * 5000),
    "a duplicate key": b'{"title": "zebra", "title": "canary"}',
    "a duplicate key, escaped": rb'{"title": "zebra", "\u0074itle": "canary"}',
    "a duplicate key, nested": b'{"title": "x", "n": {"a": 1, "a": 2}}',
    "60,000 opening brackets": b"[" * 60_000,
    "a byte order mark": b"\xef\xbb\xbf" + b'{"title": "zebra-canary"}',
    "UTF-16": '{"title": "zebra-canary"}'.encode("utf-16"),
    "UTF-16 without a mark": '{"title": "zebra-canary"}'.encode("utf-16-le"),
    "UTF-32": '{"title": "zebra-canary"}'.encode("utf-32"),
    "Latin-1": '{"title": "z\u00e9bra-canary"}'.encode("latin-1"),
    "a cut sequence": b'{"title": "zebra-canary\xe2\x82"}',
    "an overlong sequence": b'{"title": "zebra-canary\xc0\xaf"}',
    "an encoded surrogate": b'{"title": "zebra-canary\xed\xa0\x80"}',
    "past U+10FFFF": b'{"title": "zebra-canary\xf4\x90\x80\x80"}',
    "multipart": b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nzebra-canary\r\n--x--\r\n',
}
NESTED = {
    "30,000 pairs of brackets": b"[" * 30_000 + b"]" * 30_000,
    "30,000 pairs of brackets in a field": b'{"title": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "10,000 nested objects": b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
}


def cases(table: dict[str, object]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", table, ids=lambda case: case)


@cases(dict(INVALID))
async def test_a_body_that_breaks_a_rule_is_422(alice: httpx.AsyncClient, case: str) -> None:
    body, pointer, code = INVALID[case]
    response = await alice.post("/api/tasks", content=body, headers=JSON)
    document = assert_problem(response, 422, "validation_error")
    assert ("body", pointer, code) in {(each["source"], each["pointer"], each["code"]) for each in document["errors"]}
    assert CANARY not in response.text
    assert await tasks_of(alice) == []


@cases(dict(INVALID))
async def test_a_patch_that_breaks_a_rule_is_422(alice: httpx.AsyncClient, case: str) -> None:
    task = await create(alice)
    body, pointer, code = INVALID[case]
    response = await alice.patch(f"/api/tasks/{task['id']}", content=body, headers=JSON)
    assert_problem(response, 422, "validation_error", ("body", pointer, code))
    assert CANARY not in response.text
    assert await tasks_of(alice) == [task]


@cases(dict(MALFORMED))
@pytest.mark.parametrize("path", ["POST /api/tasks", "PATCH /api/tasks/{id}"])
async def test_a_body_that_is_not_strict_json_is_400(alice: httpx.AsyncClient, path: str, case: str) -> None:
    task = await create(alice)
    method, path = path.replace("{id}", task["id"]).split()
    response = await alice.request(method, path, content=MALFORMED[case], headers=JSON)
    assert_problem(response, 400, "malformed_json")
    assert CANARY not in response.text
    assert await tasks_of(alice) == [task]


@cases(dict(NESTED))
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_a_body_of_any_depth_is_refused(alice: httpx.AsyncClient, method: str, case: str) -> None:
    """Python 3.14 reads as deep as its stack allows, the versions before it some thousand levels."""
    task = await create(alice)
    path = "/api/tasks" if method == "POST" else f"/api/tasks/{task['id']}"
    response = await alice.request(method, path, content=NESTED[case], headers=JSON)
    assert (response.status_code, response.json()["code"]) in {(400, "malformed_json"), (422, "validation_error")}
    assert await tasks_of(alice) == [task]


@pytest.mark.parametrize("path", ["/api/tasks/bulk-complete", "/api/tasks/transfer"])
@pytest.mark.parametrize("body", [b"\xef\xbb\xbf{}", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 60_000])
async def test_every_body_is_strict_json(alice: httpx.AsyncClient, path: str, body: bytes) -> None:
    assert_problem(await alice.post(path, content=body, headers=JSON), 400, "malformed_json")


@pytest.mark.parametrize("path", ["", "/batch", "/bulk-complete", "/transfer"])
@pytest.mark.parametrize(
    "body",
    [b'{"title": "x", %s}' % b",".join(b'"%d":0' % number for number in range(6500)), b"[%s]" % (b"[]," * 6500)],
    ids=["names", "lists"],
)
async def test_a_body_of_more_names_than_any_request_has_is_not_read(
    alice: httpx.AsyncClient, path: str, body: bytes
) -> None:
    """Each would be an error of its own, and hold everybody up."""
    assert len(body) < 65_536
    assert_problem(await alice.post(f"/api/tasks{path}", content=body, headers=JSON), 400, "malformed_json")


async def test_the_largest_batch_is_read(alice: httpx.AsyncClient) -> None:
    """Every field, and what looks like many values but is text."""
    task = await create(
        alice,
        title='Say ",[{' + "\\",
        description='",[{\\' * 400,
        priority="high",
        due_date="2026-12-01",
        due_time="09:30",
        remind_at="2026-12-01T09:00",
        recurrence="FREQ=DAILY",
        tags=[f"tag {number}" for number in range(20)],
    )
    task["tags"] *= 5  # equal ones are kept once
    operations = [
        {"op": "put", "id": made, "task": {**task, "id": made}} for made in (str(uuid7()) for _ in range(100))
    ]
    response = await alice.post("/api/tasks/batch", json={"operations": operations})
    assert [each["status"] for each in response.json()["results"]] == [201] * 100


@pytest.mark.parametrize(
    ("path", "body", "pointer", "code"),
    [
        ("/api/tasks/transfer", rb'{"from_token": 1e400}', "/from_token", "not_a_string"),
        ("/api/tasks/bulk-complete", rb'{"task_ids": ["\ud800"]}', "/task_ids/0", "not_a_uuid"),
        ("/api/tasks/bulk-complete", rb'{"task_ids": [1e400]}', "/task_ids/0", "not_a_uuid"),
        ("/api/tasks/bulk-complete", b'{"task_ids": [%s]}' % (b"7" * 4000), "/task_ids/0", "not_a_uuid"),
    ],
)
async def test_the_other_bodies_too(alice: httpx.AsyncClient, path: str, body: bytes, pointer: str, code: str) -> None:
    response = await alice.post(path, content=body, headers=JSON)
    assert_problem(response, 422, "validation_error", ("body", pointer, code))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("", {"title": "x"}),
        ("/transfer", {"from_token": "x"}),
        ("/bulk-complete", {"task_ids": [ABSENT]}),
        (f"/{ABSENT}/move", {"to": "first"}),
        ("/batch", {"operations": [{"op": "toggle", "id": ABSENT}]}),
    ],
)
async def test_who_sends_an_id_where_none_is_taken_is_told_where_one_is(
    alice: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await alice.post(f"/api/tasks{path}", json={**body, "id": ABSENT})
    document = assert_problem(response, 422, "validation_error", ("body", "/id", "unknown_field"))
    assert document["detail"] == "id: is not a field of this request; PUT /api/tasks/{id} takes an id of yours"


BODIES = [
    ("POST", "/api/tasks"),
    ("POST", "/api/tasks/batch"),
    ("POST", "/api/tasks/bulk-complete"),
    ("POST", "/api/tasks/transfer"),
    ("POST", f"/api/tasks/{ABSENT}/move"),
    ("PUT", f"/api/tasks/{ABSENT}"),
    ("PATCH", f"/api/tasks/{ABSENT}"),
    ("PATCH", "/api/tasks/x"),
]


@pytest.mark.parametrize(("method", "path"), BODIES)
@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}])
async def test_no_body_at_all_is_no_json(
    alice: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    assert_problem(await alice.request(method, path, headers=headers), 400, "malformed_json")


@pytest.mark.parametrize(("method", "path"), BODIES)
async def test_what_is_wrong_with_the_body_as_such_comes_before_its_parameters(
    alice: httpx.AsyncClient, method: str, path: str
) -> None:
    text = await alice.request(method, f"{path}?x=1", content="{}", headers={"Content-Type": "text/plain"})
    assert_problem(text, 415, "unsupported_media_type")
    cut = await alice.request(method, f"{path}?x=1", content="{", headers={"Content-Type": "application/json"})
    assert_problem(cut, 400, "malformed_json")


async def test_a_long_query_is_refused_after_the_token_and_the_address(
    alice: httpx.AsyncClient, anonymous: httpx.AsyncClient
) -> None:
    long = "x" * 21_000
    assert_problem(await anonymous.get(f"/api/tasks?{long}"), 401, "token_missing")
    assert_problem(await alice.get(f"/api/nowhere?{long}"), 404, "not_found")
    assert_problem(await alice.request("PROPFIND", f"/api/tasks?{long}"), 405, "method_not_allowed")
    assert_problem(await alice.get(f"/api/tasks?{long}"), 422, "validation_error", ("query", "", "too_long"))


async def test_the_longest_query_is_taken_and_so_is_the_next_pages_address(alice: httpx.AsyncClient) -> None:
    face = "\U0001f600"
    tags = [face * 49 + chr(ord("a") + number) for number in range(20)]
    for _ in range(2):
        await create(alice, title=face * 100, tags=tags)
    query: list[tuple[str, Any]] = [
        ("search", face * 100),
        ("sort", "title,due_date,priority"),
        ("limit", "1"),
        *(("tag", tag) for tag in tags[:10]),
        *(("tag_any", tag) for tag in tags[10:]),
    ]
    first = await alice.get("/api/tasks", params=query)
    assert len(first.json()) == 1
    second = await alice.get(first.links["next"]["url"])
    assert len(second.json()) == 1
    assert second.json() != first.json()


async def test_all_mistakes_of_a_body_are_told_at_once(alice: httpx.AsyncClient) -> None:
    response = await alice.post("/api/tasks", json={"title": " ", "description": 1, "completed": 2, "x": 3})
    document = assert_problem(response, 422, "validation_error")
    assert {each["pointer"] for each in document["errors"]} == {"/title", "/description", "/completed", "/x"}


async def test_a_body_with_very_many_unknown_fields_gets_a_brief_response(alice: httpx.AsyncClient) -> None:
    body = {"title": "x", **{f"f{number}": 0 for number in range(5000)}}
    response = await alice.post("/api/tasks", json=body)
    assert len(assert_problem(response, 422, "validation_error")["errors"]) == 20


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/xml",
        "application/merge-patch+json",
        "application/vnd.api+json",
        "application/jsonp",
        "application/json; charset=utf-16",
        "application/json; charset=iso-8859-1",
        "application/json; charset=utf-8; charset=iso-8859-1",
        "application/json, text/plain",
        "json",
        "*/*",
        "",
        None,
    ],
)
async def test_another_content_type_or_none_is_415(alice: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await alice.post("/api/tasks", content=b'{"title": "zebra-canary"}', headers=headers)
    assert_problem(response, 415, "unsupported_media_type")
    assert await tasks_of(alice) == []


@pytest.mark.parametrize("coding", ["gzip", "deflate, gzip", "br", "zstd", "identity, gzip"])
async def test_a_compressed_body_is_415(alice: httpx.AsyncClient, coding: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": coding}
    response = await alice.post("/api/tasks", content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported_media_type")
    assert response.headers["Accept-Encoding"] == "identity"
    plain = await alice.post("/api/tasks", json={"title": "x"}, headers={"Content-Encoding": "identity"})
    assert plain.status_code == 201


async def test_two_content_types_are_415(alice: httpx.AsyncClient) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Type", "application/json")]
    response = await alice.post("/api/tasks", content=b'{"title": "x"}', headers=headers)
    assert_problem(response, 415, "unsupported_media_type")
    assert await tasks_of(alice) == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        "application/json;charset=UTF-8",
        'application/json; charset="utf-8"',
        "application/json; charset=utf8",
        "application/json; odata.metadata=minimal; charset=utf-8",
        "application/json;",
        "Application/JSON",
        " application/json ",
    ],
)
async def test_the_ways_to_write_the_content_type(alice: httpx.AsyncClient, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    response = await alice.post("/api/tasks", content='{"title": "\u00e9"}'.encode(), headers=headers)
    assert (response.status_code, response.json()["title"]) == (201, "\u00e9")


async def chunks(body: bytes, size: int = 4096) -> AsyncIterator[bytes]:
    for start in range(0, len(body), size):
        yield body[start : start + size]


def body_of_size(size: int) -> bytes:
    body = json.dumps({"title": "x"}).encode()
    return body + b" " * (size - len(body))


@pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "chunked"])
@pytest.mark.parametrize("size", [MAX_BODY, MAX_BODY + 1, 100_000, 1_000_000])
async def test_a_body_has_64_kib_at_most(alice: httpx.AsyncClient, size: int, chunked: bool) -> None:
    body = body_of_size(size)
    response = await alice.post("/api/tasks", content=chunks(body) if chunked else body, headers=JSON)
    if size <= MAX_BODY:
        assert response.status_code == 201
    else:
        assert_problem(response, 413, "body_too_large")
        assert response.headers["Connection"] == "close"
        assert await tasks_of(alice) == []


async def test_100_000_brackets_are_too_large(alice: httpx.AsyncClient) -> None:
    assert_problem(await alice.post("/api/tasks", content=b"[" * 100_000, headers=JSON), 413, "body_too_large")


async def test_an_endless_body_gets_its_response_before_its_end(alice: httpx.AsyncClient) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * MAX_BODY

    assert_problem(await alice.post("/api/tasks", content=endless(), headers=JSON), 413, "body_too_large")
    assert sent < 100
