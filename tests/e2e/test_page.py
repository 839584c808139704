"""The development page in a real browser: what a person does there, with a pointer, with keys alone, and offline."""

import asyncio
import socket
import sqlite3
import uuid
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
from playwright.async_api import APIResponse, BrowserContext, Locator, Page, Request, Route, expect

from backend.auth.tokens import mint
from tests.e2e.conftest import HERE, BetterAuth, serving_app, token_of, url_of
from tests.processes import Server
from tests.settings import make_settings

BATCH = "**/api/tasks/batch"
CHANGES = "**/api/tasks/changes*"
IDLE = """async () => {
    while ((await navigator.locks.query()).held.length > 0) await new Promise((resolve) => setTimeout(resolve, 10));
}"""


@pytest.fixture
def rows(page: Page) -> Locator:
    return page.locator("#tasks li")


@pytest.fixture
async def clock(context: BrowserContext) -> None:
    """Let the clock of all pages be put forward."""
    await context.clock.install()


@pytest.fixture
async def page(context: BrowserContext, server: Server) -> Page:
    """The page, with a user of the test's own signed in, as the address that `make run` prints does it."""
    page = await open_page(context, server.url)
    await sign_in(page, uuid.uuid4().hex)
    return page


@pytest.fixture
async def other(page: Page, context: BrowserContext, server: Server) -> Page:
    """Another tab of the same user."""
    other = await open_page(context, server.url)
    await sign_in(other, await page.evaluate("sessionStorage.user"))
    return other


async def open_page(context: BrowserContext, url: str, better_auth: str = "data:") -> Page:
    page = await context.new_page()
    failures: list[str] = []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: failures.append(message.text) if "Content Security" in message.text else None)
    page.on(
        "request",
        lambda request: failures.append(request.url) if not request.url.startswith((url, better_auth)) else None,
    )
    context.on("close", lambda _: failures.clear())
    page.failures = failures  # type: ignore[attr-defined] # what `no_failures` looks at
    await page.goto(url)
    return page


def failures_of(page: Page) -> list[str]:
    """What the page broke on, what its policy refused, and what it asked other hosts for."""
    failures: list[str] = page.failures  # type: ignore[attr-defined]
    return [each for each in failures if not each.startswith("data:")]


async def sign_in(page: Page, user_id: str) -> None:
    await page.get_by_label("Token").fill(token_of(user_id))
    await page.get_by_role("button", name="Sign in").click()
    await saved(page)


async def elsewhere(page: Page, method: str, path: str, task: dict[str, str] | None = None) -> APIResponse:
    """Have another device of the page's user send a request."""
    token = await page.evaluate("sessionStorage.token")
    url = f"{page.url}api/tasks{path}"
    response = await page.request.fetch(url, method=method, headers={"Authorization": f"Bearer {token}"}, data=task)
    assert response.ok, await response.text()
    return response


async def saved(page: Page) -> None:
    await expect(page.locator("#status")).to_contain_text("Everything is saved.")


async def synchronize(page: Page) -> None:
    await page.evaluate("dispatchEvent(new Event('online'))")


async def idle(page: Page) -> None:
    """Wait until the page has done what it had to, or has failed at it."""
    async with asyncio.timeout(20):
        await page.evaluate(IDLE)


async def fetch_anew(page: Page) -> None:
    """Have the page show what the service has."""
    await page.evaluate("localStorage.clear()")
    await page.reload()
    await saved(page)


async def refuse(route: Route) -> None:
    await route.continue_(headers={**route.request.headers, "authorization": "Bearer x.y.z"})  # as one that expired


async def disown(route: Route) -> None:
    """Respond as something other than the service, which the page does not try again."""
    await route.fulfill(status=404, body="<p>Welcome</p>")


class Held:
    """The next batch of a page, until it is released."""

    def __init__(self) -> None:
        self.arrived, self.released = asyncio.Event(), asyncio.Event()

    async def __call__(self, route: Route) -> None:
        self.arrived.set()
        await self.released.wait()
        await route.continue_()

    async def arrives(self) -> None:
        await asyncio.wait_for(self.arrived.wait(), 30)

    @classmethod
    async def of(cls, page: Page) -> "Held":
        held = cls()
        await page.route(BATCH, held, times=1)
        return held


async def add(page: Page, *titles: str) -> None:
    for title in titles:
        await page.get_by_label("New task").fill(title)
        await page.keyboard.press("Enter")
        await expect(page.locator("#tasks li").first.get_by_label("Title:")).to_have_value(title)


async def titles(page: Page) -> list[str]:
    found: list[str] = await page.locator("#tasks [name=title]").evaluate_all(
        "fields => fields.map(({ value }) => value)"
    )
    return found


async def id_of(page: Page) -> str:
    """The id of the first task that is shown."""
    return str(await page.locator("#tasks li").first.get_attribute("data-id"))


async def violations(page: Page) -> list[str]:
    await page.evaluate((HERE / "node_modules/axe-core/axe.min.js").read_text())
    found: list[str] = await page.evaluate(
        "async () => (await axe.run()).violations.map(({ id, nodes }) => `${id}: ${nodes[0].html}`)"
    )
    return found


async def test_a_task_is_added_changed_completed_deleted_and_taken_back(page: Page, rows: Locator):
    await add(page, "Buy milk", "Pay the rent <b>now</b>")
    await rows.nth(1).get_by_label("Title:").fill("Buy bread")
    await page.keyboard.press("Enter")
    await rows.nth(1).get_by_label("Tags,").fill("home, shop ,")
    await page.keyboard.press("Enter")
    await rows.nth(0).get_by_label("Priority:").select_option("High")
    await rows.nth(0).get_by_label("Due date:").fill("2020-01-02")
    await expect(rows.nth(0).get_by_text("Overdue")).to_be_visible()
    await expect(rows.nth(1).get_by_text("Overdue")).to_be_hidden()
    await rows.nth(1).get_by_role("checkbox").check()
    await saved(page)
    await page.reload()
    await saved(page)
    assert await titles(page) == ["Pay the rent <b>now</b>", "Buy bread"]
    await expect(rows.nth(1).get_by_label("Tags,")).to_have_value("home, shop")
    await expect(rows.nth(1).get_by_role("checkbox")).to_be_checked()
    await expect(rows.nth(0).get_by_label("Priority:")).to_have_value("high")
    await expect(rows.nth(0).get_by_text("Overdue")).to_be_visible()
    await rows.nth(0).get_by_label("Due date:").fill("")
    await expect(rows.nth(0).get_by_text("Overdue")).to_be_hidden()

    await rows.nth(0).get_by_role("button", name="Delete").click()
    await saved(page)
    await expect(rows).to_have_count(1)
    await page.get_by_role("button", name="Undo").click()
    await saved(page)
    await page.reload()
    await expect(rows).to_have_count(2)
    assert failures_of(page) == []


async def test_tasks_are_found_and_put_in_order(page: Page, rows: Locator):
    await add(page, "Call the doctor", "Answer the letter", "Buy milk")
    await rows.nth(0).get_by_label("Tags,").fill("shop")
    await page.keyboard.press("Enter")
    await rows.nth(1).get_by_label("Due date:").fill("2020-01-02")
    await rows.nth(2).get_by_role("checkbox").check()
    for name, value, found in (
        ("search", "DOC the", ["Call the doctor"]),
        ("search", "shop", ["Buy milk"]),
        ("search", "none", []),
        ("show", "done", ["Call the doctor"]),
        ("show", "open", ["Buy milk", "Answer the letter"]),
        ("show", "overdue", ["Answer the letter"]),
        ("tag", "shop", ["Buy milk"]),
        ("sort", "title", ["Answer the letter", "Buy milk", "Call the doctor"]),
        ("sort", "due", ["Answer the letter", "Buy milk", "Call the doctor"]),
        ("sort", "newest", ["Buy milk", "Answer the letter", "Call the doctor"]),
    ):
        field = page.locator(f"#filters [name={name}]")
        await (field.fill(value) if name == "search" else field.select_option(value))
        assert (name, value, await titles(page)) == (name, value, found)
        first = {"search": "", "show": "all", "tag": "", "sort": "position"}[name]
        await (field.fill(first) if name == "search" else field.select_option(first))


async def test_the_order_is_changed_by_dragging_and_by_keys(page: Page, rows: Locator):
    await add(page, "Three", "Two", "One")
    await rows.nth(2).locator(".handle").drag_to(rows.nth(0), target_position={"x": 100, "y": 3})
    assert await titles(page) == ["Three", "One", "Two"]
    await saved(page)
    await rows.nth(0).get_by_role("button", name="Move").focus()
    await page.keyboard.press("ArrowDown")
    await expect(page.locator("#spoken")).to_have_text("Moved to place 2 of 3.")
    await page.keyboard.press("ArrowDown")  # the button still has the focus
    assert await titles(page) == ["One", "Two", "Three"]
    await saved(page)
    await page.reload()
    await saved(page)
    assert await titles(page) == ["One", "Two", "Three"]


async def test_everything_can_be_done_with_keys_alone(page: Page, rows: Locator):
    await page.get_by_label("New task").focus()
    await page.keyboard.type("Buy milk")
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(1)
    for _ in range(7):  # over the button and the filters, to the task
        await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await expect(rows.get_by_role("checkbox")).to_be_checked()
    delete = rows.get_by_role("button", name="Delete")
    for _ in range(9):  # over the fields; a date has several
        await page.keyboard.press("Tab")
        if await delete.evaluate("button => button === document.activeElement"):
            break
    await page.keyboard.press("Enter")
    await expect(rows).to_have_count(0)
    await expect(page.get_by_label("New task")).to_be_focused()


async def test_what_is_done_offline_is_there_and_is_sent_later(page: Page, rows: Locator, context: BrowserContext):
    await add(page, "Buy milk", "Pay the rent")
    await saved(page)
    await context.set_offline(True)
    await add(page, "Written offline")
    await rows.nth(1).get_by_role("checkbox").check()
    await rows.nth(2).get_by_role("button", name="Delete").click()
    await rows.nth(1).locator(".handle").focus()
    await page.keyboard.press("ArrowUp")
    await expect(page.locator("#status")).to_contain_text("Offline. 4 of your changes wait to be sent.")
    assert await titles(page) == ["Pay the rent", "Written offline"]
    await context.set_offline(False)
    await saved(page)
    await fetch_anew(page)
    assert await titles(page) == ["Pay the rent", "Written offline"]
    await expect(rows.nth(0).get_by_role("checkbox")).to_be_checked()


async def test_what_is_refused_is_said_and_shown_as_it_is(page: Page, rows: Locator):
    await add(page, "Buy milk")
    await saved(page)
    await rows.get_by_label("Tags,").fill("x" * 51)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_have_text("“Buy milk”: tags.0: must have at most 50 characters")
    await expect(rows.get_by_label("Tags,")).to_have_value("")


async def test_everything_that_is_refused_is_said_although_nothing_can_be_read_then(page: Page, rows: Locator):
    await add(page, "Buy milk", "Pay the rent")
    await saved(page)
    await page.route("**/api/**", disown)
    for number in range(2):
        await rows.nth(number).get_by_label("Tags,").fill("x" * 51)
        await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_contain_text("2 of your changes wait")
    await idle(page)
    await page.unroute("**/api/**")
    await page.route(CHANGES, disown)
    await synchronize(page)
    for title in ("“Pay the rent”: ", "“Buy milk”: "):
        await expect(page.get_by_role("alert")).to_contain_text(title)


async def test_a_change_of_a_task_that_is_gone_is_refused_by_its_title(page: Page, rows: Locator):
    await add(page, "Buy milk")
    await saved(page)
    await elsewhere(page, "DELETE", f"/{await id_of(page)}")
    await rows.get_by_label("Tags,").fill("shop")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_contain_text("“Buy milk”: ")
    await expect(rows).to_have_count(0)


async def test_what_was_deleted_elsewhere_before_the_first_reading_is_gone(context: BrowserContext, server: Server):
    page = await open_page(context, server.url)
    await page.route(CHANGES, disown)
    await page.goto(f"{server.url}/#token={token_of(uuid.uuid4().hex)}")
    async with page.expect_response(BATCH):
        await add(page, "Buy milk")
    await elsewhere(page, "DELETE", f"/{await id_of(page)}")
    await idle(page)
    await page.unroute(CHANGES)
    await synchronize(page)
    await saved(page)
    assert await titles(page) == []


async def test_a_deletion_that_was_taken_back_elsewhere_is_taken_back(page: Page, rows: Locator):
    await add(page, "Buy milk")
    task_id = await id_of(page)
    await rows.get_by_role("button", name="Delete").click()
    await saved(page)
    await elsewhere(page, "POST", f"/{task_id}/restore")
    await page.get_by_role("button", name="Undo").click()
    await saved(page)
    assert await titles(page) == ["Buy milk"]
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_a_deletion_that_cannot_be_taken_back_is_said(page: Page, rows: Locator):
    await add(page, "Buy milk")
    task_id = await id_of(page)
    await rows.get_by_role("button", name="Delete").click()
    await saved(page)
    await elsewhere(page, "DELETE", f"/{task_id}?permanent=true")
    await page.get_by_role("button", name="Undo").click()
    await expect(page.get_by_role("alert")).to_have_text("“Buy milk” is not in the trash any more.")
    await expect(rows).to_have_count(0)


async def test_what_there_is_no_room_for_waits_until_there_is(context: BrowserContext, tmp_path: Path):
    settings = make_settings(f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}", max_tasks_per_user=2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with serving_app(listener, settings):
            page = await open_page(context, url_of(listener))
            await sign_in(page, "ada")
            await add(page, "One", "Two")
            await saved(page)
            task_id = await id_of(page)
            await add(page, "Three", "Four")
            four = page.locator("#tasks li").first
            await four.get_by_role("checkbox").check()
            status = page.locator("#status")
            await expect(status).to_contain_text("more tasks than one may have. 3 of your changes wait to be sent.")
            await page.get_by_role("button", name="Delete: Three").click()  # which makes no room, but needs none
            await expect(status).to_contain_text("more tasks than one may have. 2 of your changes wait to be sent.")
            await elsewhere(page, "DELETE", f"/{task_id}")
            await elsewhere(page, "DELETE", f"/{task_id}?permanent=true")
            await synchronize(page)
            await saved(page)
            await expect(page.get_by_role("alert")).to_be_hidden()
            await fetch_anew(page)
            assert await titles(page) == ["Four", "One"]
            await expect(four.get_by_role("checkbox")).to_be_checked()


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (200, "Offline."),
        (401, "Something other than the tasks API has answered."),
        (403, "Something other than the tasks API has answered."),
        (404, "Something other than the tasks API has answered."),
        (413, "Something other than the tasks API has answered."),
        (422, "Something other than the tasks API has answered."),
    ],
)
@pytest.mark.usefixtures("clock")
async def test_what_responds_in_the_services_place_refuses_nothing(page: Page, status: int, said: str):
    await page.route("**/api/**", lambda route: route.fulfill(status=status, body="<p>Welcome</p>"))
    await add(page, "One", "Two")
    await expect(page.locator("#status")).to_contain_text(f"{said} 2 of your changes wait to be sent.")
    await idle(page)
    await page.unroute("**/api/**")
    await page.clock.fast_forward(10_000)  # to the next try
    await saved(page)
    await fetch_anew(page)
    assert sorted(await titles(page)) == ["One", "Two"]


@pytest.mark.parametrize("status", [403, 406])
@pytest.mark.usefixtures("clock")
async def test_a_change_that_a_firewall_refuses_holds_up_no_other(page: Page, rows: Locator, status: int):
    async def guard(route: Route) -> None:
        refused = "<script>" in (route.request.post_data or "") or route.request.url.endswith("/move")
        await (route.fulfill(status=status, body="<h1>Forbidden</h1>") if refused else route.continue_())

    await page.route("**/api/**", guard)
    await add(page, "Learn <script>", "Buy milk", "Pay the rent")
    await rows.nth(0).locator(".handle").focus()
    await page.keyboard.press("ArrowDown")
    waiting = "Something other than the tasks API has answered. 2 of your changes wait to be sent."
    await expect(page.locator("#status")).to_contain_text(waiting)
    tasks = await (await elsewhere(page, "GET", "?sort=title")).json()
    assert [task["title"] for task in tasks] == ["Buy milk", "Pay the rent"]
    await idle(page)
    await page.unroute("**/api/**")
    await page.clock.fast_forward(10_000)  # to the next try
    await saved(page)
    await fetch_anew(page)
    assert sorted(await titles(page)) == ["Buy milk", "Learn <script>", "Pay the rent"]


async def test_a_new_task_that_is_sent_again_takes_nothing_back(page: Page):
    async def lose(route: Route) -> None:
        await route.fetch()
        await disown(route)

    await page.route(BATCH, lose)
    await add(page, "Mlik")
    await expect(page.locator("#status")).to_contain_text("1 of your changes waits to be sent.")
    await idle(page)
    await elsewhere(page, "PATCH", f"/{await id_of(page)}", {"title": "Milk"})
    await page.unroute(BATCH)
    await synchronize(page)
    await saved(page)
    assert await titles(page) == ["Milk"]
    await expect(page.get_by_role("alert")).to_be_hidden()


async def test_what_was_done_before_the_service_is_lost_does_not_wait(page: Page):
    async def guard(route: Route) -> None:
        """Refuse what is more than the first change."""
        one, two = ((title in (route.request.post_data or "")) for title in ('"One"', '"Two"'))
        await (route.fulfill(status=403 if one else 404) if two else route.continue_())

    await page.route("**/api/**", disown)
    await add(page, "One", "Two")
    await expect(page.locator("#status")).to_contain_text("2 of your changes wait to be sent.")
    await idle(page)
    await page.unroute("**/api/**")
    await page.route(BATCH, guard)
    await synchronize(page)
    await expect(page.locator("#status")).to_contain_text("1 of your changes waits to be sent.")
    await idle(page)
    await page.unroute(BATCH)
    await synchronize(page)
    await saved(page)
    assert sorted(await titles(page)) == ["One", "Two"]


async def test_two_tabs_of_one_user_agree(page: Page, other: Page):
    await add(page, "Buy milk")
    await expect(other.locator("#tasks li")).to_have_count(1)
    await add(other, "Buy bread")
    await expect(page.locator("#tasks li")).to_have_count(2)


FULL = """(room) => {
    let filler = "";
    for (let size = 2 ** 23; size >= 1; size /= 2)
        try {
            localStorage.setItem("filler", filler + "x".repeat(size));
            filler += "x".repeat(size);
        } catch {} // too much
    localStorage.setItem("filler", filler.slice(room));
}"""


async def test_what_the_browser_has_no_room_for_is_fetched_anew(page: Page, other: Page, rows: Locator):
    await page.evaluate(FULL, 1500)
    names = [f"Task {number}" for number in range(5)]
    for name in names:
        await add(page, name)
        await saved(page)
    assert await page.evaluate("Object.entries(localStorage).filter(([key]) => key.endsWith('/copy'))[0][1]") == "{}"
    await expect(other.locator("#tasks li")).to_have_count(5)  # who is not signed out by that
    await page.reload()
    await saved(page)
    assert await titles(page) == names[::-1]


async def test_what_the_browser_cannot_keep_stays_where_it_was_typed(context: BrowserContext, server: Server):
    page = await open_page(context, server.url)
    await page.evaluate(FULL, 0)
    await sign_in(page, uuid.uuid4().hex)
    field, alert = page.get_by_label("New task"), page.get_by_role("alert")
    await field.fill("Buy milk")
    await page.keyboard.press("Enter")
    await expect(alert).to_have_text("This browser has no room left to keep this change: it was not made.")
    await expect(field).to_have_value("Buy milk")
    await page.evaluate("localStorage.setItem('filler', localStorage.filler.slice(1500))")
    await page.keyboard.press("Enter")
    await saved(page)
    await expect(alert).to_be_hidden()
    await expect(field).to_have_value("")

    await page.evaluate(FULL, 0)
    tags = page.locator("#tasks li").get_by_label("Tags,")
    await tags.fill("x" * 1000)  # more than the room that the copy leaves when it goes
    await page.keyboard.press("Enter")
    await expect(alert).to_be_visible()
    await elsewhere(page, "POST", f"/{await id_of(page)}/toggle")
    await synchronize(page)
    await expect(page.locator("#tasks li").get_by_role("checkbox")).to_be_checked()
    await expect(tags).to_have_value("x" * 1000)
    await expect(tags).to_be_focused()
    assert failures_of(page) == []


WAITING = """async (number) => {
    while ((await navigator.locks.query()).pending.length !== number)
        await new Promise((resolve) => setTimeout(resolve, 10));
}"""


async def waiting_tabs(page: Page, number: int) -> None:
    """Wait until so many tabs wait for another one to send what there is."""
    async with asyncio.timeout(20):
        await page.evaluate(WAITING, number)


@pytest.mark.parametrize("leaving", [False, True], ids=["", "of which one has another user by then"])
async def test_a_change_is_sent_by_one_of_two_tabs(page: Page, other: Page, leaving: bool, context: BrowserContext):
    sent: list[Request] = []
    context.on("request", lambda request: sent.append(request) if request.url.endswith("/batch") else None)
    held = await Held.of(page)
    await add(page, "Ada's")
    await held.arrives()
    await synchronize(other)
    await waiting_tabs(other, 1)
    if leaving:  # which ends the other one, too
        await other.get_by_role("button", name="Sign out").click()
        await expect(page.get_by_role("alert")).to_contain_text("1 of your changes waits to be sent: sign in again.")
        await waiting_tabs(other, 0)
        await sign_in(other, uuid.uuid4().hex)
        assert await titles(other) == []
    held.released.set()
    await saved(other if leaving else page)
    await waiting_tabs(other, 0)
    assert await titles(other) == ([] if leaving else ["Ada's"])
    assert len(sent) == 1


async def test_changes_keep_their_order_when_the_clock_is_set_back(page: Page, context: BrowserContext, server: Server):
    await context.route("**/api/**", lambda route: route.abort())
    await add(page, "Buy milk")
    token = await page.evaluate("sessionStorage.token")
    await page.close()
    await context.add_init_script("const now = Date.now; Date.now = () => now() - 86_400_000;")
    later = await open_page(context, f"{server.url}/#token={token}")
    for title in ("Buy tea", "Buy bread"):
        await later.locator("#tasks li").get_by_label("Title:").fill(title)
        await later.keyboard.press("Enter")
    await expect(later.locator("#status")).to_contain_text("3 of your changes wait")
    keys = await later.evaluate("Object.keys(localStorage).filter((key) => !key.endsWith('/copy'))")
    assert len({len(key) for key in keys}) == 1  # or many changes fill the browser's room with keys
    await context.unroute_all()
    await synchronize(later)
    await saved(later)
    assert await titles(later) == ["Buy bread"]


async def test_what_one_tab_sends_late_undoes_nothing_of_another(page: Page, other: Page, rows: Locator):
    title = rows.get_by_label("Title:")
    await add(page, "One")
    await saved(page)
    held = await Held.of(other)
    await page.route(BATCH, lambda route: route.abort())
    await title.fill("Two")
    await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_contain_text("Offline. 1 of your changes waits to be sent.")
    await synchronize(other)
    await held.arrives()
    await page.unroute(BATCH)
    await title.fill("Three")
    await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_contain_text("2 of your changes wait")
    held.released.set()
    for tab in (page, other):
        await saved(tab)
        assert await titles(tab) == ["Three"]
    await fetch_anew(page)
    assert await titles(page) == ["Three"]


async def test_nothing_is_called_saved_before_another_tab_has_sent_it(page: Page, other: Page):
    held = await Held.of(page)
    await add(page, "Buy milk")
    await expect(other.locator("#tasks li")).to_have_count(1)
    await expect(other.locator("#status")).to_contain_text("Saving…")
    held.released.set()
    await saved(other)


async def test_what_is_refused_is_said_in_all_tabs_whichever_has_sent_it(page: Page, other: Page, rows: Locator):
    await add(page, "Buy milk")
    for tab in (page, other):  # or the first, still sending, would send what the other adds
        await saved(tab)
    await expect(other.locator("#tasks li")).to_have_count(1)
    held = await Held.of(other)
    await add(other, "Buy bread")
    await held.arrives()
    await rows.nth(1).get_by_label("Tags,").fill("x" * 51)
    await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_contain_text("Saving…")
    held.released.set()  # so the other tab sends both
    for tab in (page, other):
        await saved(tab)
        await expect(tab.get_by_role("alert")).to_contain_text("“Buy milk”: ")
    await page.reload()
    await expect(page.get_by_role("alert")).to_contain_text("“Buy milk”: ")
    await add(other, "Buy tea")  # who goes on has seen it
    for tab in (page, other):
        await expect(tab.get_by_role("alert")).to_be_hidden()


async def test_what_a_tab_has_sent_stays_on_the_screen_of_another(page: Page, other: Page):
    held = Held()

    async def hold_what_follows(route: Route) -> None:
        await page.route(CHANGES, held, times=1)
        await route.continue_()

    await page.route(BATCH, hold_what_follows, times=1)
    await add(page, "Buy milk")
    await held.arrives()
    await other.wait_for_function("Object.keys(localStorage).every((key) => key.endsWith('/copy'))")
    assert await titles(other) == ["Buy milk"]
    held.released.set()
    await saved(page)


async def test_typing_goes_on_while_other_rows_are_deleted_and_moved_elsewhere(page: Page, other: Page, rows: Locator):
    await add(page, "One", "Two", "Three")
    await saved(page)
    title = rows.nth(1).get_by_label("Title:")
    await title.focus()
    await page.keyboard.press("End")
    await page.keyboard.type(" and")
    await other.get_by_role("button", name="Delete: Three").click()
    await expect(rows).to_have_count(2)
    await page.keyboard.type(" a")
    await other.get_by_role("button", name="Move: One").focus()
    await other.keyboard.press("ArrowUp")
    await expect(rows.nth(0).get_by_label("Title:")).to_have_value("One")
    await page.keyboard.type(" half")
    assert await titles(page) == ["One", "Two and a half"]
    assert await titles(other) == ["One", "Two"]  # until the typing ends
    await page.keyboard.press("Enter")
    await expect(other.locator("#tasks li").nth(1).get_by_label("Title:")).to_have_value("Two and a half")
    assert failures_of(page) == []


async def test_what_is_typed_into_a_task_that_is_deleted_elsewhere_is_no_change(page: Page, other: Page, rows: Locator):
    await add(page, "Buy milk")
    await rows.get_by_label("Title:").fill("Buy bread")
    await other.get_by_role("button", name="Delete").click()
    await expect(rows).to_have_count(0)
    await saved(page)
    await expect(page.get_by_role("alert")).to_be_hidden()
    assert failures_of(page) == []


async def test_a_row_is_dragged_on_while_changes_arrive(page: Page, rows: Locator):
    await add(page, "Three", "Two")
    await saved(page)
    held = await Held.of(page)
    await add(page, "One")
    last = await rows.nth(2).bounding_box()
    assert last is not None
    await rows.nth(0).locator(".handle").hover()
    await page.mouse.down()
    await page.mouse.move(last["x"] + 100, last["y"] + last["height"] - 3)
    held.released.set()
    await saved(page)
    await page.mouse.up()
    assert await titles(page) == ["Two", "Three", "One"]
    await saved(page)
    await fetch_anew(page)
    assert await titles(page) == ["Two", "Three", "One"]


async def test_signing_out_signs_out_all_tabs_and_leaves_nothing(page: Page, other: Page, rows: Locator):
    await add(page, "Buy milk")
    await saved(page)
    await rows.get_by_label("Tags,").fill("x" * 51)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_be_visible()  # what is refused is kept, too
    await other.locator("#tasks li").get_by_label("Title:").fill("Half")
    await page.get_by_role("button", name="Sign out").click()
    await expect(other.get_by_role("alert")).to_have_text("You have signed out in another tab.")
    await expect(rows).to_have_count(0)
    await expect(other.locator("#tasks li")).to_have_count(0)
    for tab in (page, other):
        assert await tab.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"
        assert failures_of(tab) == []


async def test_signing_out_reaches_a_tab_that_has_not_reached_the_service(context: BrowserContext, server: Server):
    await context.route("**/api/**", lambda route: route.abort())
    page, other = [await open_page(context, server.url) for _ in range(2)]
    for tab in (page, other):
        await tab.get_by_label("Token").fill(token_of("ada"))
        await tab.get_by_role("button", name="Sign in").click()
        await expect(tab.locator("#status")).to_contain_text("Signed in as ada.")
    await page.get_by_role("button", name="Sign out").click()
    await expect(other.get_by_role("alert")).to_have_text("You have signed out in another tab.")
    assert await other.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"


async def test_a_copy_that_is_damaged_is_fetched_anew(page: Page, rows: Locator):
    await add(page, "Buy milk")
    await saved(page)
    await page.evaluate("Object.keys(localStorage).forEach((key) => localStorage.setItem(key, '{damaged'))")
    await page.reload()
    await saved(page)
    assert await titles(page) == ["Buy milk"]
    assert failures_of(page) == []


async def test_changes_wait_for_a_new_token_where_the_old_one_has_expired(page: Page, context: BrowserContext):
    user = await page.evaluate("sessionStorage.user")
    await context.set_offline(True)
    await add(page, "Written offline")
    await page.route("**/api/**", refuse)
    await context.set_offline(False)
    await expect(page.get_by_role("alert")).to_contain_text("1 of your changes waits to be sent: sign in again.")
    await page.unroute("**/api/**")
    await sign_in(page, user)
    await fetch_anew(page)
    assert await titles(page) == ["Written offline"]


@pytest.mark.parametrize("late", [False, True], ids=["", "with a response under way"])
async def test_the_next_user_sees_nothing_of_the_one_before(page: Page, rows: Locator, late: bool, server: Server):
    await add(page, "Ada's")
    await saved(page)
    if late:
        held = asyncio.Event()
        await page.route(CHANGES, lambda _route: held.set())
        await synchronize(page)
        await asyncio.wait_for(held.wait(), 30)
    await page.get_by_role("button", name="Sign out").click()
    assert "Ada's" not in await page.content()
    assert await page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"
    await page.unroute_all(behavior="ignoreErrors")
    await sign_in(page, uuid.uuid4().hex)
    await add(page, "Bob's")
    await saved(page)
    assert await titles(page) == ["Bob's"]


async def test_an_address_that_signs_in_another_user_erases_the_copy_of_the_one_before(page: Page, server: Server):
    await add(page, "Ada's")
    await saved(page)
    await page.goto(f"{server.url}/#token={token_of('bob')}")  # which loads nothing
    await expect(page.locator("#status")).to_contain_text("Signed in as bob. Everything is saved.")
    assert await page.evaluate("Object.keys(localStorage)") == ["tasks/bob/copy"]
    assert page.url == f"{server.url}/"


async def test_a_token_that_is_no_good_is_refused_in_words(context: BrowserContext, server: Server):
    page = await open_page(context, server.url)
    for token in ("x", token_of("ada")[:-1]):
        await page.get_by_label("Token").fill(token)
        await page.get_by_role("button", name="Sign in").click()
        await expect(page.get_by_role("alert")).to_contain_text(".")
        await expect(page.get_by_label("Token")).to_be_visible()


async def test_the_address_that_is_printed_signs_in_and_is_not_kept(context: BrowserContext, server: Server):
    page = await context.new_page()
    await page.goto(f"{server.url}/#token={token_of('dev-user')}")
    await saved(page)
    assert page.url == f"{server.url}/"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.usefixtures("node")  # axe is one of its packages
async def test_everybody_can_use_it(page: Page, rows: Locator, context: BrowserContext, scheme: str, width: int):
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 800})
    await add(page, "Buy milk", "Pay the rent", "Call the doctor")
    await rows.nth(0).get_by_label("Due date:").fill("2020-01-02")
    await rows.nth(1).get_by_role("checkbox").check()
    await rows.nth(2).get_by_role("button", name="Delete").click()
    assert await violations(page) == []
    await page.get_by_role("button", name="Sign out").click()
    await page.get_by_label("Token").fill("x")
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("alert")).to_be_visible()
    assert await violations(page) == []


FETCH = """async ([token, title]) => {
    const headers = { Authorization: `Bearer ${token}` };
    if (title !== null) {
        const json = { ...headers, "Content-Type": "application/json" };
        await fetch("/api/tasks", { method: "POST", headers: json, body: JSON.stringify({ title }) });
    }
    const response = await fetch("/api/tasks", { headers });
    return [response.headers.get("ETag"), (await response.json()).map(({ title }) => title)];
}"""


async def test_the_browsers_store_shows_no_user_what_is_anothers(context: BrowserContext, server: Server) -> None:
    page = await context.new_page()
    await page.goto(server.url)
    users = [uuid.uuid4().hex, uuid.uuid4().hex]
    alice, bob = map(token_of, users)
    await page.evaluate(FETCH, [alice, "alice's"])
    await page.evaluate(FETCH, [bob, "bob's"])
    with closing(sqlite3.connect(server.stdout_file.parent / "todo.db")) as file, file:
        file.execute(
            "UPDATE owners SET revision = (SELECT max(revision) FROM owners) WHERE user_id IN (?, ?)", users
        )  # a number alone would be the tag of both
    first = await page.evaluate(FETCH, [alice, None])
    assert first[1] == ["alice's"]
    # The browser sends what it stored for the one with the token of the other.
    assert (await page.evaluate(FETCH, [bob, None]))[1] == ["bob's"]
    assert await page.evaluate(FETCH, [alice, None]) == first


@pytest.fixture(scope="module")
async def service(
    frontend: BetterAuth, listener: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[str]:
    """The address of a service that is told where that Better Auth is."""
    url = f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('page') / 'todo.db'}"
    async with serving_app(listener, make_settings(url, better_auth_secret=None, better_auth_url=frontend.origin)):
        yield url_of(listener)


async def enter(page: Page, email: str, *, password: str = "correct horse", button: str = "Sign in") -> None:
    await page.get_by_label("E-mail").fill(email)
    await page.get_by_label("Password").fill(password)
    await page.get_by_role("button", name=button, exact=True).click()


async def test_a_user_of_better_auth_signs_up_and_out_and_in(
    context: BrowserContext, service: str, frontend: BetterAuth
):
    page, email = await open_page(context, service, frontend.origin), f"{uuid.uuid4().hex}@example.com"
    await enter(page, email, button="Sign up")
    await saved(page)
    await add(page, "Buy milk")
    await saved(page)
    await page.reload()  # the session outlives the page
    await saved(page)
    assert await titles(page) == ["Buy milk"]

    async with page.expect_response(f"{frontend.origin}/api/auth/sign-out") as signed_out:
        await page.get_by_role("button", name="Sign out").click()
    assert (await signed_out.value).status == 200
    await expect(page.get_by_label("E-mail")).to_be_visible()
    assert await page.evaluate("JSON.stringify([localStorage, sessionStorage])") == "[{},{}]"
    assert (await page.request.get(f"{frontend.origin}/api/auth/token")).status == 401

    await enter(page, email, password="another")
    await expect(page.get_by_role("alert")).to_have_text("Invalid email or password")
    await page.get_by_label("Password").fill("correct horse")
    await page.keyboard.press("Enter")
    await saved(page)
    assert await titles(page) == ["Buy milk"]
    assert failures_of(page) == []


async def test_a_new_token_is_fetched_where_one_is_needed_and_another_users_is_not_taken(
    context: BrowserContext, service: str, frontend: BetterAuth
):
    ada, bob = await open_page(context, service, frontend.origin), await open_page(context, service, frontend.origin)
    await enter(ada, f"{uuid.uuid4().hex}@example.com", button="Sign up")
    await saved(ada)
    await ada.route(f"{service}/api/tasks/batch", refuse, times=1)
    async with ada.expect_response(f"{frontend.origin}/api/auth/token"):
        await add(ada, "Ada's")
    await saved(ada)

    await enter(bob, f"{uuid.uuid4().hex}@example.com", button="Sign up")  # the browser's session is Bob's from now on
    await saved(bob)
    await ada.route(f"{service}/api/tasks/batch", refuse, times=1)
    await ada.get_by_label("New task").fill("Ada's other")
    await ada.keyboard.press("Enter")
    await expect(ada.get_by_role("alert")).to_contain_text("Another user has signed in.")
    await bob.reload()
    await saved(bob)
    assert [await titles(ada), await titles(bob)] == [[], []]


async def test_a_better_auth_that_cannot_be_reached_signs_nobody_out(
    context: BrowserContext, service: str, frontend: BetterAuth
):
    page = await open_page(context, service, frontend.origin)
    await enter(page, f"{uuid.uuid4().hex}@example.com", button="Sign up")
    await saved(page)
    await add(page, "Buy milk")
    await saved(page)
    await page.route(f"{frontend.origin}/**", lambda route: route.abort())
    await page.reload()
    await add(page, "Buy bread")
    await expect(page.locator("#status")).to_contain_text(
        "Better Auth does not respond to this page. 1 of your changes waits to be sent."
    )
    await page.unroute(f"{frontend.origin}/**")
    await synchronize(page)
    await saved(page)
    await fetch_anew(page)
    assert await titles(page) == ["Buy bread", "Buy milk"]


@pytest.mark.parametrize(
    ("status", "body"), [(401, "<h1>Log in</h1>"), (401, '{"message": "Log in"}'), (200, "<h1>Welcome</h1>")]
)
@pytest.mark.usefixtures("clock")
async def test_a_portal_in_better_auths_place_signs_nobody_out(
    context: BrowserContext, service: str, frontend: BetterAuth, status: int, body: str
):
    page = await open_page(context, service, frontend.origin)
    await enter(page, f"{uuid.uuid4().hex}@example.com", button="Sign up")
    await saved(page)
    await add(page, "Buy milk")
    await saved(page)
    headers = {"Access-Control-Allow-Origin": service, "Access-Control-Allow-Credentials": "true"}
    await page.route(f"{frontend.origin}/**", lambda route: route.fulfill(status=status, body=body, headers=headers))
    await page.reload()
    await add(page, "Buy bread")
    await expect(page.locator("#status")).to_contain_text("1 of your changes waits to be sent.")
    assert sorted(await titles(page)) == ["Buy bread", "Buy milk"]
    await idle(page)
    await page.unroute(f"{frontend.origin}/**")
    await page.clock.fast_forward(10_000)  # to the next try
    await saved(page)


async def test_a_better_auth_that_does_not_let_the_page_in_is_said(
    context: BrowserContext, better_auth: BetterAuth, tmp_path: Path
):
    url = f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = make_settings(url, better_auth_url=better_auth.origin)
        async with serving_app(listener, settings):
            page = await open_page(context, url_of(listener), better_auth.origin)
            await enter(page, "ada@example.com")
            await expect(page.get_by_role("alert")).to_have_text("Better Auth does not respond to this page.")
            await page.get_by_label("Token").fill(mint(settings, "ada", 3600))
            await page.keyboard.press("Enter")
            await saved(page)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
async def test_everybody_can_sign_in(
    context: BrowserContext, service: str, frontend: BetterAuth, scheme: str, width: int
):
    page = await open_page(context, service, frontend.origin)
    await page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    await page.set_viewport_size({"width": width, "height": 800})
    for written in ("ada@example.com", "no password of hers"):
        await page.keyboard.press("Tab")
        await page.keyboard.type(written)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert")).to_be_visible()
    assert await violations(page) == []
