"""The page of this directory in a real browser: Better Auth at the page's origin, the API at another."""

import asyncio
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import BrowserContext, Error, Page, Response, Route, expect

from backend.services.tasks import TaskService
from tests.e2e.conftest import BetterAuth, serving_app, url_of
from tests.settings import make_settings

FETCH = """async ([url, options]) => {
    const { token } = options.anonymous ? {} : await (await fetch("/api/auth/token")).json();
    const headers = { ...(token && { Authorization: `Bearer ${token}` }), ...options.headers };
    try {
        const response = await fetch(url, { ...options, headers });
        return {
            status: response.status,
            headers: Object.fromEntries(response.headers),
            body: response.status === 204 ? null : await response.json(),
        };
    } catch (error) {
        return { error: String(error) };
    }
}"""
"""A call of the API as any script of the page could make it; what it returns is what a browser lets a page see."""


@pytest.fixture(scope="module")
async def api(
    frontend: BetterAuth, listener: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of the API, which lets the frontend's origin in and no other."""
    settings = make_settings(
        f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('browser') / 'todo.db'}",
        better_auth_secret=None,
        better_auth_url=frontend.origin,
        allowed_origins=(frontend.origin,),
    )
    async with serving_app(listener, settings):
        yield url_of(listener)


@pytest.fixture
async def page(context: BrowserContext, frontend: BetterAuth, api: str) -> Page:
    """The page, with somebody signed up."""
    page = await context.new_page()
    await page.goto(frontend.origin)
    await sign_up(page)
    return page


async def sign_up(page: Page) -> None:
    email = f"{uuid.uuid4().hex}@example.com"
    for name, value in {"name": "Ada", "email": email, "password": "correct horse"}.items():
        await page.fill(f"#sign-up [name={name}]", value)
    await page.click("#sign-up button")
    await page.wait_for_selector("main:not([hidden])")


async def add(page: Page, title: str) -> None:
    await page.fill("#add [name=title]", title)
    await page.click("#add button")


async def fetch(page: Page, url: str, **options: Any) -> dict[str, Any]:
    response: dict[str, Any] = await page.evaluate(FETCH, [url, options])
    return response


async def test_a_user_signs_up_and_keeps_tasks(page: Page, api: str, tmp_path: Path):
    methods: list[tuple[str, str, int]] = []
    page.on("response", lambda response: _note(methods, response, api))
    tasks = page.locator("#tasks li")
    for number in range(7):
        await add(page, f"Task {number} <b>& more</b>")
        await expect(tasks).to_have_count(number + 1)
    await expect(tasks.first).to_contain_text("Task 6 <b>& more</b>")

    await tasks.nth(1).locator("input").check()
    await expect(tasks.nth(1)).to_have_class("completed")
    await tasks.nth(0).locator("button").click()
    await expect(tasks).to_have_count(6)

    await page.reload()  # the session outlives the page, and the tasks are at the API
    await expect(tasks).to_have_count(5)
    await expect(tasks.first).to_have_class("completed")
    await page.click("#more")
    await expect(tasks).to_have_count(6)
    await expect(page.locator("#more")).to_be_hidden()
    await tasks.first.locator("input").uncheck()
    await expect(tasks.first).not_to_have_class("completed")
    await expect(page.locator("#error")).to_have_text("")

    screenshot = tmp_path / "tasks.png"
    await page.screenshot(path=screenshot)
    assert screenshot.stat().st_size > 5_000
    assert {method for method, _, _ in methods} >= {"GET", "PUT", "POST", "DELETE"}
    assert {status for _, _, status in methods} == {200, 201, 204}


def _note(methods: list[tuple[str, str, int]], response: Response, api: str) -> None:
    if response.url.startswith(api):
        methods.append((response.request.method, response.url, response.status))


WATCH = """() => {
    window.shown = [];
    new MutationObserver(() => window.shown.push(document.querySelector("#tasks").innerText))
        .observe(document.querySelector("#tasks"), { childList: true, subtree: true, characterData: true });
}"""


async def sign_out(page: Page) -> None:
    await page.click("#sign-out")
    await page.wait_for_selector("#sign-up:not([hidden])")
    await sign_up(page)


async def sign_up_over(page: Page) -> None:
    """Sign somebody else up without signing out: the form is there, but hidden."""
    await page.evaluate(
        """email => {
        const form = document.querySelector("#sign-up");
        const fields = { name: "Bob", email, password: "correct horse" };
        for (const [name, value] of Object.entries(fields)) form.querySelector(`[name=${name}]`).value = value;
        form.requestSubmit();
    }""",
        f"{uuid.uuid4().hex}@example.com",
    )
    await expect(page.locator("#tasks")).to_have_text("")


async def sign_out_in_another_tab(page: Page) -> None:
    other = await page.context.new_page()
    await other.goto(page.url)
    await other.wait_for_selector("main:not([hidden])")
    await sign_out(other)
    await expect(page.locator("#tasks")).to_have_text("")
    assert not any(await page.evaluate("window.shown"))
    await page.reload()
    await page.evaluate(WATCH)


@pytest.mark.parametrize("change", [sign_out, sign_up_over, sign_out_in_another_tab])
@pytest.mark.parametrize("late", [False, True], ids=["", "with a response under way"])
async def test_the_next_user_of_the_page_sees_nothing_of_the_one_before(
    page: Page, api: str, change: Callable[[Page], Awaitable[None]], late: bool
):
    for number in range(7):
        await add(page, f"Ada's {number}")
        await expect(page.locator("#tasks li")).to_have_count(number + 1)
    await page.reload()
    await expect(page.locator("#tasks li")).to_have_count(5)
    arrived, changed = asyncio.Event(), asyncio.Event()

    async def hold(route: Route) -> None:
        arrived.set()
        await changed.wait()
        with suppress(Error):  # the page has given it up
            await route.continue_()

    if late:
        await page.route(f"{api}/api/tasks?*cursor=*", hold)
        await page.click("#more")
        await arrived.wait()
    await page.evaluate(WATCH)
    await change(page)
    changed.set()
    await add(page, "Bob's")
    await expect(page.locator("#tasks li")).to_have_count(1)
    await add(page, "Bob's other")
    await expect(page.locator("#tasks li")).to_have_count(2)
    assert not any("Ada" in text for text in await page.evaluate("window.shown"))


async def test_what_goes_wrong_is_shown(page: Page, api: str):
    await add(page, " ")
    await expect(page.locator("#error")).to_contain_text("/title must not be blank (validation_error, ")
    await add(page, "Buy milk")
    await expect(page.locator("#tasks li")).to_have_count(1)
    await expect(page.locator("#error")).to_have_text("")
    tasks = (await fetch(page, f"{api}/api/tasks"))["body"]
    await fetch(page, f"{api}/api/tasks/{tasks[0]['id']}", method="DELETE")  # in another window, say
    await page.locator("#tasks li input").click()
    await expect(page.locator("#error")).to_contain_text("task_not_found")


async def test_a_token_that_expired_is_replaced_without_the_user_noticing(
    page: Page, api: str, context: BrowserContext
):
    refused: list[str] = []

    async def refuse_once(route: Any) -> None:
        # The response of the API itself to this request with a broken token.
        headers = {**route.request.headers, "authorization": "Bearer x.y.z"} if not refused else None
        refused.append(route.request.method)
        await route.continue_(headers=headers)

    await page.route(f"{api}/api/tasks/*", refuse_once)
    await add(page, "Buy milk")
    await expect(page.locator("#tasks li")).to_have_count(1)
    await expect(page.locator("#error")).to_have_text("")
    assert refused == ["PUT", "PUT"]


async def test_a_page_can_read_the_headers_that_it_needs(page: Page, api: str):
    json = {"Content-Type": "application/json", "X-Request-ID": "from-the-page"}
    for _ in range(2):
        created = await fetch(page, f"{api}/api/tasks", method="POST", headers=json, body='{"title": "Buy milk"}')
    assert created["status"] == 201
    assert created["headers"]["location"] == f"/api/tasks/{created['body']['id']}"
    assert created["headers"]["x-request-id"] == "from-the-page"
    listed = await fetch(page, f"{api}/api/tasks?limit=1")
    assert 'rel="next"' in listed["headers"]["link"]
    assert listed["headers"]["x-request-id"]


async def test_every_method_passes_its_preflight(page: Page, api: str):
    json = {"Content-Type": "application/json"}
    created = await fetch(page, f"{api}/api/tasks", method="POST", headers=json, body='{"title": "Buy milk"}')
    url = f"{api}/api/tasks/{created['body']['id']}"
    changed = await fetch(page, url, method="PATCH", headers=json, body='{"title": "Buy bread"}')
    merged = await fetch(
        page, url, method="PATCH", headers={"Content-Type": "application/merge-patch+json"}, body='{"completed": true}'
    )
    toggled = await fetch(page, f"{url}/toggle", method="POST")
    read = await fetch(page, url)
    deleted = await fetch(page, url, method="DELETE")
    responses = (created, changed, merged, toggled, read, deleted)
    assert [response.get("status") for response in responses] == [201, 200, 200, 200, 200, 204]
    assert read["body"] | {"title": "Buy bread", "completed": False} == read["body"]


async def test_a_page_can_read_every_error(page: Page, api: str, monkeypatch: pytest.MonkeyPatch):
    async def break_down(*_arguments: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(TaskService, "stats", break_down)
    json = {"Content-Type": "application/json"}
    absent = f"{api}/api/tasks/0192f0c1-2345-7abc-8def-0123456789ab"
    responses = [
        await fetch(page, f"{api}/api/tasks", method="POST", headers=json, body="{"),
        await fetch(page, f"{api}/api/tasks", anonymous=True),
        await fetch(page, f"{api}/api/tasks", headers={"Authorization": "Bearer x.y.z"}),
        await fetch(page, absent),
        await fetch(page, f"{api}/nowhere", anonymous=True),
        await fetch(page, absent, method="POST"),
        await fetch(page, f"{api}/api/tasks", method="POST", headers=json, body='"' + "x" * 70_000 + '"'),
        await fetch(page, f"{api}/api/tasks", method="POST", body="title=x"),
        await fetch(page, f"{api}/api/tasks", method="POST", headers=json, body='{"title": ""}'),
        await fetch(page, f"{api}/api/tasks/stats"),
    ]
    statuses = [response.get("status", response) for response in responses]
    assert statuses == [400, 401, 401, 404, 404, 405, 413, 415, 422, 500]
    for response in responses:
        assert response["body"]["status"] == response["status"]
        assert response["body"]["request_id"] == response["headers"]["x-request-id"]


async def test_a_page_of_another_origin_learns_nothing(
    page: Page, context: BrowserContext, api: str, frontend: BetterAuth
):
    token = (await fetch(page, f"{frontend.origin}/api/auth/token"))["body"]["token"]
    for title in ("Done", "Buy milk"):
        await add(page, title)
        await expect(page.locator("#tasks li").first).to_contain_text(title)
    await page.locator("#tasks li input").last.check()
    await expect(page.locator("#tasks li").last).to_have_class("completed")
    stranger = await context.new_page()
    await stranger.goto(frontend.origin.replace("127.0.0.1", "localhost"))  # the same page, but another origin
    headers = {"Authorization": f"Bearer {token}"}
    for url, options in (
        (f"{api}/api/tasks", {"headers": headers}),
        (f"{api}/api/tasks?completed=true", {"headers": headers, "method": "DELETE"}),
        (f"{api}/api/tasks", {}),
        (f"{api}/api/tasks", {"credentials": "include"}),
        (f"{api}/health", {}),
        (f"{api}/openapi.json", {}),
        (f"{api}/nowhere", {}),
    ):
        response = await fetch(stranger, url, anonymous=True, **options)
        assert response == {"error": "TypeError: Failed to fetch"}
    listed = await fetch(page, f"{api}/api/tasks", headers=headers)  # the same call, let in
    assert [task["title"] for task in listed["body"]] == ["Buy milk", "Done"]


async def test_a_frontend_that_sends_cookies_can_read_the_response(page: Page, api: str):
    """Many frontends send `credentials: include`. The API takes tokens, and reads no cookie."""
    response = await fetch(page, f"{api}/api/tasks", credentials="include")
    assert (response["status"], response["body"]) == (200, [])
