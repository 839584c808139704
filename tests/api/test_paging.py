"""The list: order, filters, limits, and walking through it by cursor."""

import re
import string
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from tests.api.shared import assert_common_headers, assert_problem, create, on_one_engine, tasks_of

LINK = re.compile(r'<(/api/tasks\?[^>]*)>; rel="next"')
ALPHABET = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"


def next_page(response: httpx.Response) -> str | None:
    assert response.status_code == 200, response.text
    assert_common_headers(response)
    if "Link" not in response.headers:
        return None
    match = LINK.fullmatch(response.headers["Link"])
    assert match is not None
    return match[1]


def cursor_of(response: httpx.Response) -> str:
    page = next_page(response)
    assert page is not None
    return parse_qs(urlsplit(page).query)["cursor"][0]


async def titles_by_page(
    client: httpx.AsyncClient, path: str, between: Callable[[int], Any] | None = None
) -> list[list[str]]:
    pages: list[list[str]] = []
    page: str | None = path
    while page is not None:
        response = await client.get(page)
        pages.append([task["title"] for task in response.json()])
        assert len(pages) < 10, "the walk does not end"
        page = next_page(response)
        if between is not None:
            await between(len(pages))
    return pages


async def make(client: httpx.AsyncClient, titles: str) -> dict[str, dict[str, Any]]:
    """Make a task for each letter; the capital ones are completed."""
    return {title: await create(client, title, completed=title.isupper()) for title in titles}


async def test_the_list_is_a_bare_array_newest_first(alice: httpx.AsyncClient) -> None:
    response = await alice.get("/api/tasks")
    assert (response.json(), next_page(response)) == ([], None)
    made = await make(alice, "aBc")
    response = await alice.get("/api/tasks")
    assert response.json() == [made["c"], made["B"], made["a"]]
    assert next_page(response) is None


@pytest.mark.parametrize(("query", "expected"), [("", "dCbA"), ("completed=true", "CA"), ("completed=false", "db")])
async def test_the_list_can_be_filtered(alice: httpx.AsyncClient, query: str, expected: str) -> None:
    await make(alice, "AbCd")
    tasks = (await alice.get(f"/api/tasks?{query}")).json()
    assert "".join(task["title"] for task in tasks) == expected


@pytest.mark.parametrize(
    ("query", "pages"),
    [
        ("limit=1", ["g", "F", "e", "D", "c", "B", "A"]),
        ("limit=3", ["gFe", "DcB", "A"]),
        ("limit=6", ["gFeDcB", "A"]),
        ("limit=7", ["gFeDcBA"]),
        ("limit=500", ["gFeDcBA"]),
        ("limit=2&completed=true", ["FD", "BA"]),
        ("limit=2&completed=false", ["ge", "c"]),
        ("limit=3&skip=2", ["eDc", "BA"]),
        ("limit=3&skip=7", [""]),
        ("limit=3&skip=0", ["gFe", "DcB", "A"]),
        ("limit=3&skip=10000", [""]),
        ("skip=6", ["A"]),
    ],
)
async def test_pages_meet_every_task_once_and_in_order(alice: httpx.AsyncClient, query: str, pages: list[str]) -> None:
    await make(alice, "ABcDeFg")
    assert ["".join(page) for page in await titles_by_page(alice, f"/api/tasks?{query}")] == pages


async def test_a_page_has_100_tasks_unless_told(alice: httpx.AsyncClient) -> None:
    for number in range(101):
        await create(alice, str(number))
    pages = await titles_by_page(alice, "/api/tasks")
    assert [len(page) for page in pages] == [100, 1]
    assert [title for page in pages for title in page] == [str(number) for number in reversed(range(101))]


async def test_the_link_keeps_filter_and_limit(alice: httpx.AsyncClient) -> None:
    await make(alice, "ABC")
    page = next_page(await alice.get("/api/tasks?completed=true&limit=2&skip=0"))
    assert page is not None
    query = parse_qs(urlsplit(page).query)
    assert set(query) == {"completed", "limit", "cursor"}
    assert (query["completed"], query["limit"]) == (["true"], ["2"])


WANTED: dict[str, Any] = {"title": "milk Straße", "due_date": "2026-12-01", "tags": ["home", "a b", "é", "😀" * 50]}
"""A task that every one of the queries below finds."""
TAG_VALUES = st.builds(
    "{1}{0}{2}".format,
    st.sampled_from(WANTED["tags"]),
    *[st.sampled_from(["", " ", "\u3000\t", " " * 800])] * 2,
)
QUERIES = st.tuples(
    st.lists(st.tuples(st.just("tag"), TAG_VALUES), max_size=10),
    st.lists(st.tuples(st.just("tag_any"), TAG_VALUES), max_size=10),
    st.lists(
        st.tuples(st.just("priority"), st.sampled_from(["none", "none,low", "none," * 500 + "none"])), max_size=90
    ),
    *(
        st.lists(st.tuples(st.just(name), st.sampled_from(values)), max_size=1)
        for name, values in {
            "search": ["MILK", " strasse  milk " + " " * 80, "milk " * 20],
            "completed": ["false"],
            "due_from": ["2026-12-01"],
            "due_to": ["9999-12-31"],
            "sort": ["title", "due_date,priority,completed_at", "created_at,position"],
            "skip": ["0", "1"],
            "count": ["true", "false"],
            "deleted": ["false"],
        }.items()
    ),
).map(lambda lists: "&".join(f"{name}={quote(value, safe=',')}" for each in lists for name, value in each))


@on_one_engine
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=QUERIES)
@example(query="&".join(["priority=none"] * 99))
@example(query="priority=" + ",".join(["none"] * 3500))
@example(query=f"tag={'+' * 20_000}home")
async def test_the_link_of_a_query_that_is_taken_is_taken(alice: httpx.AsyncClient, query: str) -> None:
    if not await tasks_of(alice):
        for _ in range(3):
            await create(alice, **WANTED)
    whole = await alice.get(f"/api/tasks?{query}")
    assume(whole.status_code == 200)  # it may be too long by itself
    response = await alice.get(f"/api/tasks?{query}&limit=1")
    assume(response.status_code == 200)
    found = response.json()
    while (page := next_page(response)) is not None:
        response = await alice.get(page)
        found += response.json()
        assert response.headers.get("X-Total-Count") == whole.headers.get("X-Total-Count")
    assert found == whole.json()
    assert len(found) == (2 if "skip=1" in query else 3)


async def test_the_link_says_what_is_repeated_once_and_in_order(alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        await create(alice, tags=["b", "a"], priority="low")
    query = "tag=b&priority=none,low&tag=%20a&tag=b&priority=low&limit=1"
    page = next_page(await alice.get(f"/api/tasks?{query}"))
    assert page is not None
    kept = parse_qs(urlsplit(page).query)
    assert (kept["tag"], kept["priority"]) == (["b", "a"], ["none", "low"])


async def test_a_page_goes_on_where_the_last_one_ended_though_tasks_come_and_go(alice: httpx.AsyncClient) -> None:
    made = await make(alice, "abcdef")

    async def change(page: int) -> None:
        if page == 1:
            await create(alice, "new")
            for title in "fec":  # seen, the last one seen, and one not seen yet
                await alice.delete(f"/api/tasks/{made[title]['id']}")

    assert await titles_by_page(alice, "/api/tasks?limit=2", change) == [["f", "e"], ["d", "b"], ["a"]]


async def test_a_filtered_walk_is_not_disturbed_by_the_change_of_its_last_task(alice: httpx.AsyncClient) -> None:
    made = await make(alice, "ABCD")

    async def change(page: int) -> None:
        if page == 1:
            await alice.post(f"/api/tasks/{made['C']['id']}/toggle")

    assert await titles_by_page(alice, "/api/tasks?limit=2&completed=true", change) == [["D", "C"], ["B", "A"]]


async def test_the_limit_may_change_between_pages(alice: httpx.AsyncClient) -> None:
    await make(alice, "abcdef")
    cursor = cursor_of(await alice.get("/api/tasks?limit=1"))
    response = await alice.get("/api/tasks", params={"cursor": cursor, "limit": 3})
    assert [task["title"] for task in response.json()] == ["e", "d", "c"]
    response = await alice.get("/api/tasks", params={"cursor": cursor_of(response)})
    assert [task["title"] for task in response.json()] == ["b", "a"]


async def test_a_cursor_does_not_show_what_it_is_made_of(alice: httpx.AsyncClient) -> None:
    made = await make(alice, "ab")
    cursor = cursor_of(await alice.get("/api/tasks?limit=1"))
    assert re.fullmatch("[A-Za-z0-9_-]+", cursor)
    assert made["b"]["id"] not in cursor


async def test_another_users_cursor_shows_only_ones_own_tasks(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await make(alice, "ab")
    await make(bob, "xy")
    await make(alice, "cd")
    cursor = cursor_of(await bob.get("/api/tasks?limit=1"))
    response = await alice.get("/api/tasks", params={"cursor": cursor})
    assert [task["title"] for task in response.json()] == ["b", "a"]


@pytest.mark.parametrize("position", range(0, 58, 3))
async def test_a_cursor_altered_anywhere_is_refused(alice: httpx.AsyncClient, position: int) -> None:
    await make(alice, "ab")
    cursor = cursor_of(await alice.get("/api/tasks?limit=1"))
    assert len(cursor) == 58
    for step in (1, 2, 13, 32, 63):
        letter = ALPHABET[(ALPHABET.index(cursor[position]) + step) % 64]
        altered = cursor[:position] + letter + cursor[position + 1 :]
        response = await alice.get("/api/tasks", params={"cursor": altered})
        assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))
        assert altered not in response.text


@pytest.mark.parametrize(
    "alter",
    [
        pytest.param(lambda cursor: "", id="empty"),
        pytest.param(lambda cursor: cursor[:-1], id="one shorter"),
        pytest.param(lambda cursor: cursor + "A", id="one longer"),
        pytest.param(lambda cursor: cursor + "=", id="padded"),
        pytest.param(lambda cursor: cursor + "\n", id="a line feed behind"),
        pytest.param(lambda cursor: " " + cursor, id="a space before"),
        pytest.param(lambda cursor: cursor + cursor, id="twice"),
        pytest.param(lambda cursor: "\0" * 32, id="NUL"),
        pytest.param(lambda cursor: "\u00e9" * 32, id="not ASCII"),
        pytest.param(lambda cursor: "\uff21" * 32, id="full width letters"),
        pytest.param(lambda cursor: "A" * 32, id="all zero"),
        pytest.param(lambda cursor: "A" * 4000, id="4000 letters"),
        pytest.param(lambda cursor: "0192f0c1-2345-7abc-8def-0123456789ab", id="an id"),
    ],
)
async def test_what_is_no_cursor_is_refused(alice: httpx.AsyncClient, alter: Callable[[str], str]) -> None:
    await make(alice, "ab")
    cursor = alter(cursor_of(await alice.get("/api/tasks?limit=1")))
    response = await alice.get("/api/tasks", params={"cursor": cursor})
    assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))


FILTERS = ["", "&completed=true", "&completed=false"]


@pytest.mark.parametrize("made_for", FILTERS)
@pytest.mark.parametrize("used_for", FILTERS)
async def test_a_cursor_serves_the_filter_it_was_made_for_only(
    alice: httpx.AsyncClient, made_for: str, used_for: str
) -> None:
    await make(alice, "aBcDeF")
    cursor = cursor_of(await alice.get(f"/api/tasks?limit=1{made_for}"))
    response = await alice.get(f"/api/tasks?cursor={cursor}{used_for}")
    if made_for == used_for:
        assert response.status_code == 200
    else:
        assert_problem(response, 422, "validation_error", ("query", "/cursor", "invalid_cursor"))


async def test_a_cursor_excludes_skip_but_for_zero(alice: httpx.AsyncClient) -> None:
    await make(alice, "ab")
    cursor = cursor_of(await alice.get("/api/tasks?limit=1"))
    assert (await alice.get(f"/api/tasks?cursor={cursor}&skip=0")).status_code == 200
    response = await alice.get(f"/api/tasks?cursor={cursor}&skip=1")
    assert_problem(response, 422, "validation_error", ("query", "/cursor", "conflict"))


async def test_head_of_a_page_has_its_link(alice: httpx.AsyncClient) -> None:
    await make(alice, "ab")
    response = await alice.head("/api/tasks?limit=1")
    assert next_page(response) == next_page(await alice.get("/api/tasks?limit=1"))
    assert len(await tasks_of(alice)) == 2
