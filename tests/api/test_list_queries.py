"""The list's filters, orders and pages, as an address says them."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from tests.api.shared import assert_problem, create, tasks_of

TASKS: list[dict[str, Any]] = [
    {"title": "a milk", "priority": "high", "due_date": "2030-01-02", "tags": ["home", "shop"]},
    {"title": "B Milk", "priority": "urgent", "due_date": "2030-01-01", "due_time": "09:30", "tags": ["home"]},
    {"title": "c 100%", "completed": True, "due_date": "2030-01-01", "description": "MILK"},
    {"title": "D", "priority": "low", "tags": ["shop"]},
]


async def titles(client: httpx.AsyncClient, query: str) -> str:
    response = await client.get(f"/api/tasks?{query}")
    assert response.status_code == 200, response.text
    return "".join(task["title"][0] for task in response.json())


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", "DcBa"),
        ("search=milk", "cBa"),
        ("search=MILK%20a", "a"),
        ("search=100%25", "c"),
        ("search=%25", "c"),
        ("search=_", ""),
        ("search=hom", "Ba"),
        ("tag=home", "Ba"),
        ("tag=home&tag=shop", "a"),
        ("tag=Home", ""),
        ("tag=%20home%20", "Ba"),
        ("tag_any=home&tag_any=shop", "DBa"),
        ("priority=high&priority=none", "ca"),
        ("due_from=2030-01-02", "a"),
        ("due_to=2030-01-01", "cB"),
        ("due=none", "D"),
        ("completed=false&tag=home&search=b", "B"),
        ("sort=title", "aBcD"),
        ("sort=title&order=desc", "DcBa"),
        ("sort=due_date", "cBaD"),
        ("sort=due_date&order=desc", "aBcD"),
        ("sort=priority", "BaDc"),
        ("sort=priority&order=asc", "DaBc"),
        ("sort=completed,title&order=asc,desc", "DBac"),
        ("sort=position", "DcBa"),
        ("order=asc", "aBcD"),
        ("sort=created_at", "DcBa"),
        ("sort=completed_at,title", "caBD"),
        ("skip=1&limit=2", "cB"),
    ],
)
async def test_what_an_address_says_is_listed_page_by_page(alice: httpx.AsyncClient, query: str, expected: str) -> None:
    for task in TASKS:
        await create(alice, **task)
    assert await titles(alice, query) == expected
    if "limit" in query:
        return
    page, walked = f"/api/tasks?{query}&limit=1".replace("?&", "?"), ""
    while page:
        response = await alice.get(page)
        walked += "".join(task["title"][0] for task in response.json())
        page = response.links.get("next", {}).get("url", "")
        assert ("X-Next-Cursor" in response.headers) == bool(page)
        if page:
            assert parse_qs(urlsplit(page).query)["cursor"] == [response.headers["X-Next-Cursor"]]
        assert len(walked) <= len(expected)
    assert walked == expected
    if "sort" not in query and "order" not in query:
        counts = (await alice.get(f"/api/tasks/stats?{query}")).json()
        assert counts["total"] == len(expected)


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("search=", "/search"),
        ("search=%20", "/search"),
        (f"search={'x' * 101}", "/search"),
        ("search=%00", "/search"),
        ("search=a&search=b", "/search"),
        ("tag=", "/tag/0"),
        ("tag=a,b", "/tag/0"),
        (f"tag={'x' * 51}", "/tag/0"),
        ("&".join(f"tag={number}" for number in range(11)), "/tag"),
        ("tag_any=%00", "/tag_any/0"),
        ("priority=High", "/priority"),
        ("priority=", "/priority"),
        ("due_from=2030-1-1", "/due_from"),
        ("due_to=2030-01-01T00:00:00Z", "/due_to"),
        ("due_to=2030-02-30", "/due_to"),
        ("due=today", "/due"),
        ("due=none&due=none", "/due"),
        ("sort=", "/sort"),
        ("sort=user_id", "/sort"),
        ("sort=deleted_at", "/sort"),
        ("sort=title,title", "/sort"),
        ("sort=title,%20priority", "/sort"),
        ("sort=title,priority,position,completed", "/sort"),
        ("sort=title&order=asc,desc", "/order"),
        ("sort=title,priority&order=asc", "/order"),
        ("order=asc,desc", "/order"),
        ("order=up", "/order"),
        ("order=ASC", "/order"),
        ("skip=10001", "/skip"),
        ("count=1", "/count"),
        ("deleted=yes", "/deleted"),
        ("deleted=true&completed=true", "/completed"),
        ("deleted=true&sort=title", "/sort"),
        ("deleted=true&tag=a", "/tag"),
    ],
)
async def test_what_breaks_a_rule_is_pointed_at(alice: httpx.AsyncClient, query: str, pointer: str) -> None:
    document = assert_problem(await alice.get(f"/api/tasks?{query}"), 422, "validation_error")
    assert [(error["source"], error["pointer"]) for error in document["errors"]] == [("query", pointer)]


async def test_a_cursor_serves_the_filters_and_the_order_it_was_made_for_only(alice: httpx.AsyncClient) -> None:
    for task in TASKS:
        await create(alice, **task)
    queries = ["", "sort=created_at", "order=asc", "sort=title", "sort=title&order=desc", "search=milk", "tag=home"]
    queries += ["completed=false", "tag_any=home", "sort=title&tag=home", "due_to=2030-01-01"]
    for made_for in queries:
        cursor = (await alice.get(f"/api/tasks?limit=1&{made_for}")).headers["X-Next-Cursor"]
        for used_for in queries:
            same = {made_for, used_for} <= {"sort=title"} or made_for == used_for
            response = await alice.get(f"/api/tasks?limit=3&count=true&cursor={cursor}&{used_for}")
            if same:
                assert response.status_code == 200
            else:
                assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))


@pytest.mark.parametrize(
    ("made_for", "used_for"),
    [
        ("tag=home&tag=shop", "tag=shop&tag=home&tag=shop"),
        ("tag_any=home&tag_any=shop", "tag_any=shop&tag_any=home"),
        ("priority=none,high", "priority=high&priority=none"),
        ("search=one%20two", "search=TWO%20%20one"),
    ],
)
async def test_a_cursor_serves_the_same_filters_in_other_words(
    alice: httpx.AsyncClient, made_for: str, used_for: str
) -> None:
    for _ in range(2):
        await create(alice, title="One two", tags=["home", "shop"], priority="high")
    cursor = (await alice.get(f"/api/tasks?limit=1&{made_for}")).headers["X-Next-Cursor"]
    assert len((await alice.get(f"/api/tasks?cursor={cursor}&{used_for}")).json()) == 1


async def test_the_count_is_of_all_pages_and_only_where_it_is_asked_for(alice: httpx.AsyncClient) -> None:
    for task in TASKS:
        await create(alice, **task)
    assert "X-Total-Count" not in (await alice.get("/api/tasks?limit=1")).headers
    response = await alice.get("/api/tasks?limit=1&skip=1&count=true&search=milk")
    while True:
        assert response.headers["X-Total-Count"] == "3"
        if "next" not in response.links:
            break
        response = await alice.get(response.links["next"]["url"])


async def test_a_page_ends_before_its_content_passes_a_mebibyte(alice: httpx.AsyncClient) -> None:
    description = "\U0001f600" * 2000  # 8,000 bytes
    for _ in range(140):
        await create(alice, description=description)
    response = await alice.get("/api/tasks?limit=500&sort=title")
    assert len(response.content) <= 2**20
    assert len(response.json()) > 120
    rest = await alice.get(response.links["next"]["url"])
    assert "next" not in rest.links
    walked = [task["id"] for task in (*response.json(), *rest.json())]
    assert len(set(walked)) == 140


async def test_tags_are_counted(alice: httpx.AsyncClient) -> None:
    for task in TASKS:
        await create(alice, **task)
    expected = [{"tag": "home", "count": 2}, {"tag": "shop", "count": 2}]
    assert (await alice.get("/api/tasks/tags")).json() == expected
    assert (await alice.get("/api/tasks/tags?completed=true")).json() == []


async def test_a_move_is_seen_in_the_manual_order(alice: httpx.AsyncClient) -> None:
    made = {task["title"][0]: (await create(alice, **task))["id"] for task in TASKS}
    for letter, body, expected in (
        ("a", {"to": "first"}, "aDcB"),
        ("D", {"to": "last"}, "acBD"),
        ("B", {"before": made["c"]}, "aBcD"),
        ("a", {"after": made["c"].upper()}, "BcaD"),
    ):
        response = await alice.post(f"/api/tasks/{made[letter]}/move", json=body)
        assert response.status_code == 200
        assert response.headers["ETag"] == f'"{response.json()["etag"]}"'
        assert await titles(alice, "sort=position") == expected


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, ""),
        ({"to": "middle"}, "/to"),
        ({"to": "first", "before": "0192f0c1-2345-7abc-8def-0123456789ab"}, ""),
        ({"before": None}, "/before"),
        ({"before": "x"}, "/before"),
        ({"before": "0192f0c1-2345-7abc-8def-0123456789ab"}, "/before"),
        ({"after": "0192f0c1-2345-7abc-8def-0123456789ab"}, "/after"),
        ({"position": 1}, "/position"),
    ],
)
async def test_a_bad_move_is_pointed_at(alice: httpx.AsyncClient, body: dict[str, Any], pointer: str) -> None:
    task = await create(alice)
    response = await alice.post(f"/api/tasks/{task['id']}/move", json=body)
    document = assert_problem(response, 422, "validation_error")
    assert [error["pointer"] for error in document["errors"]] == [pointer]
    assert await tasks_of(alice) == [task]


async def test_the_successors_id_is_in_a_header(alice: httpx.AsyncClient) -> None:
    for way in ("patch", "put", "toggle"):
        task = await create(alice, due_date="2030-01-30", recurrence="FREQ=DAILY")
        path = f"/api/tasks/{task['id']}"
        if way == "toggle":
            response = await alice.post(f"{path}/toggle")
        else:
            response = await alice.request(way.upper(), path, json={"completed": True})
        assert response.status_code == 200, response.text
        successor = (await alice.get(f"/api/tasks/{response.headers['X-Successor']}")).json()
        assert (successor["due_date"], successor["completed"]) == ("2030-01-31", False)
        assert "X-Successor" not in (await alice.request("PATCH", path, json={"completed": True})).headers
