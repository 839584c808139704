"""`GET /`: what the service is, and to a browser in development, the page."""

import httpx
import pytest

from tests.api.shared import assert_problem
from tests.applications import client_of, running
from tests.settings import make_settings

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


async def test_a_program_learns_what_this_is(anonymous: httpx.AsyncClient) -> None:
    response = await anonymous.get("/")
    assert response.json()["name"] == "todo-backend"
    assert response.json()["documentation"] == "/docs"


async def test_a_browser_gets_a_page_that_fetches_nothing_from_elsewhere(anonymous: httpx.AsyncClient) -> None:
    page = await anonymous.get("/", headers=BROWSER)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert "connect-src 'self';" in page.headers["Content-Security-Policy"]
    for file, media_type in {"app.js": "text/javascript", "style.css": "text/css"}.items():
        assert f'"static/{file}"' in page.text
        response = await anonymous.get(f"/static/{file}")
        assert response.headers["Content-Type"].startswith(media_type)
    assert (await anonymous.get("/static/../main.py")).status_code == 404


@pytest.mark.parametrize("wanted", ["bytes=a-b", "bytes=99999999-", "bytes=0-1", "lines=1-2"])
@pytest.mark.parametrize("path", ["/static/tasks.ts", "/docs/assets/favicon.png"])
async def test_a_range_of_a_file_is_ignored(path: str, wanted: str, anonymous: httpx.AsyncClient) -> None:
    whole = await anonymous.get(path)
    part = await anonymous.get(path, headers={"Range": wanted})
    assert (part.status_code, part.content) == (200, whole.content)
    assert part.headers["Accept-Ranges"] == "none"


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("TEXT/HTML", "text/html; charset=utf-8"),
        ("application/json;q=0.9, text/html ; q=0.01", "text/html; charset=utf-8"),
        ("text/html;q=0, */*", "application/json"),
        ("text/html; level=1; Q=0.000", "application/json"),
        ("text/html5", "application/json"),
        ("*/*", "application/json"),
    ],
)
async def test_whoever_takes_html_gets_it(anonymous: httpx.AsyncClient, accept: str, media_type: str) -> None:
    response = await anonymous.get("/", headers={"Accept": accept})
    assert response.headers["Content-Type"] == media_type
    assert response.headers["Vary"] == "Accept, Origin"


@pytest.mark.parametrize(
    ("url", "allowed"),
    {
        "https://app.example.com": "https://app.example.com/api/auth/",
        "http://localhost:3000/auth%3Bscript-src%2A": "http://localhost:3000/auth%3Bscript-src%2A/",
    }.items(),
)
async def test_the_page_may_ask_better_auth_where_there_is_one(url: str, allowed: str) -> None:
    settings = make_settings("sqlite+aiosqlite://", better_auth_url=url)
    async with running(settings) as app, client_of(app, settings) as client:
        page = await client.get("/", headers=BROWSER)
        assert f"connect-src 'self' {allowed};" in page.headers["Content-Security-Policy"]
        assert f'data-url="{allowed.removesuffix("/")}"' in page.text


@pytest.mark.parametrize("path", ["/static/app.js", "/static/", "/docs"])
async def test_production_has_no_page(path: str) -> None:
    settings = make_settings("sqlite+aiosqlite://", environment="production")
    async with running(settings) as app, client_of(app, settings) as client:
        response = await client.get("/", headers=BROWSER)
        assert set(response.json()) == {"name", "version"}
        assert (await client.get(path)).status_code == 404


async def test_a_line_feed_behind_an_address_makes_another_one() -> None:
    settings = make_settings("sqlite+aiosqlite://", mcp=True)
    async with running(settings) as app, client_of(app, settings) as client:
        well_known = "/.well-known/oauth-protected-resource"
        for path in ("/docs", "/openapi.json", well_known, f"{well_known}/mcp", "/static/app.js", "/health"):
            assert (await client.get(path)).status_code == 200
            assert_problem(await client.get(f"{path}%0a"), 404, "not_found")
