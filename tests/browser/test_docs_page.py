"""The docs page in a real browser: it works, and asks no other host for anything."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Page, Request, Route, async_playwright, expect

from backend.auth.tokens import mint
from backend.main import app as application
from tests.processes import FORKED, Server, serving
from tests.programs import CHROMIUM_ARGUMENTS, CHROMIUM_NAMES, needed_program
from tests.settings import make_settings, settings_of

TIMEOUT = 60_000.0
"""Milliseconds after which the page has failed: no measure of how fast it must be."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server in development."""
    folder = tmp_path_factory.mktemp("docs")
    settings = settings_of(folder)
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
        yield server


class Visit:
    """A page, and what its browser asked for and complained about on the way."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.elsewhere: list[str] = []
        self.failures: list[str] = []


@asynccontextmanager
async def visiting(server: Server, folder: Path) -> AsyncIterator[Visit]:
    """Open the docs page in a browser that reaches nothing but the server."""

    chromium = needed_program("chromium", *CHROMIUM_NAMES)
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            folder, executable_path=chromium, args=CHROMIUM_ARGUMENTS, headless=True
        )
        try:
            page = context.pages[0]
            visit = Visit(page)

            async def route(route: Route, request: Request) -> None:
                if f"{urlsplit(request.url).scheme}://{urlsplit(request.url).netloc}" == server.url:
                    await route.continue_()
                else:
                    visit.elsewhere.append(request.url)
                    await route.abort()

            await context.route(lambda url: not url.startswith(("data:", "blob:")), route)
            page.on("pageerror", lambda error: visit.failures.append(str(error)))
            page.on("requestfailed", lambda request: visit.failures.append(request.url))
            page.set_default_timeout(TIMEOUT)
            expect.set_options(timeout=TIMEOUT)
            await page.goto(f"{server.url}/docs")
            yield visit
        finally:
            await context.close()


async def execute(page: Page, operation: str, status: int) -> None:
    """Open an operation, execute it as it is, and wait until the page shows this status."""
    block = page.locator(f"#operations-tasks-{operation}")
    if not await block.locator(".opblock-body").is_visible():
        await block.locator(".opblock-summary-control").click()
    await block.get_by_role("button", name="Execute").click()
    await expect(block.locator(".live-responses-table tbody .response-col_status").first).to_contain_text(str(status))


async def authorize(page: Page, token: str) -> None:
    await page.get_by_role("button", name="Authorize", exact=True).first.click()
    dialog = page.locator(".dialog-ux")  # the first of its forms; the second is for /health/db
    await dialog.locator("input").first.fill(token)
    await dialog.get_by_role("button", name="Apply credentials").first.click()
    await dialog.get_by_role("button", name="Close").last.click()


async def test_tasks_are_created_and_listed_from_the_page(server: Server, tmp_path: Path) -> None:
    token = mint(make_settings("sqlite+aiosqlite://"), "browser", 3600)
    async with visiting(server, tmp_path) as visit:
        await execute(visit.page, "list_tasks", 401)
        await authorize(visit.page, token)
        await execute(visit.page, "create_task", 201)
        await execute(visit.page, "list_tasks", 200)
        body = await visit.page.locator("#operations-tasks-list_tasks .live-responses-table").inner_text()
        assert "Buy milk" in body
    assert visit.elsewhere == []
    assert visit.failures == []


async def test_the_page_shows_every_operation(server: Server, tmp_path: Path) -> None:
    async with visiting(server, tmp_path) as visit:
        await visit.page.locator(".opblock").first.wait_for()
        shown = await visit.page.locator(".opblock-summary-path").all_inner_texts()
        assert len(shown) == sum(len(methods) for methods in application.openapi()["paths"].values())
        assert await visit.page.title() == "Tasks API"
    assert visit.elsewhere == []
    assert visit.failures == []
