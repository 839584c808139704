"""Better Auth itself, from npm, in a process of its own: what tokens look like is its word, not ours.

Where npm cannot install the packages these tests are skipped.
"""

import asyncio
import json
import os
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from playwright.async_api import Browser, BrowserContext, async_playwright, expect

from backend.auth.tokens import mint
from backend.config import Settings
from backend.main import create_app
from tests.processes import FORKED, Server, serving
from tests.programs import CHROMIUM_ARGUMENTS, CHROMIUM_NAMES, NODE, install_packages, needed_program
from tests.settings import make_settings, settings_of

HERE = Path(__file__).parent

TIMEOUT = 30_000
"""Milliseconds after which a page has failed: no measure of how fast it must be."""


@pytest.fixture(scope="session")
def node() -> str:
    """The path of Node.js, with the packages of package.json installed beside this file."""
    os.environ["PATH"] = f"{Path(NODE).parent}:{os.environ['PATH']}"  # for the packages' own programs
    install_packages(HERE)
    return NODE


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = needed_program("chromium", *CHROMIUM_NAMES)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context()
    context.set_default_timeout(TIMEOUT)
    expect.set_options(timeout=TIMEOUT)
    yield context
    await context.close()


@pytest.fixture(scope="module")
def listener() -> Iterator[socket.socket]:
    """Where the service will be: Better Auth must know before the service, which must know where Better Auth is."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@pytest.fixture(scope="module")
def frontend(node: str, listener: socket.socket) -> Iterator["BetterAuth"]:
    """A Better Auth, with a page of its own, that lets the pages of the service in."""
    with running_better_auth(node, api=url_of(listener)) as better_auth:
        yield better_auth


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as a developer runs it, in a process of its own."""
    folder = tmp_path_factory.mktemp("service")
    settings = settings_of(folder)
    with serving([FORKED, "serve", "--host", "127.0.0.1"], folder, **settings) as server:
        yield server


def token_of(user_id: str) -> str:
    """A token for a user of that service."""
    return mint(make_settings("sqlite+aiosqlite://"), user_id, 3600)


class BetterAuth:
    """A running Better Auth."""

    def __init__(self, origin: str) -> None:
        self.origin = origin

    @asynccontextmanager
    async def user(self) -> AsyncIterator["User"]:
        """Sign somebody up, by e-mail."""
        async with httpx.AsyncClient(base_url=self.origin) as client:
            body = {"name": "Ada", "email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}
            response = await client.post("/api/auth/sign-up/email", json=body)
            assert response.status_code == 200, response.text
            yield User(client, response)

    async def rotate(self) -> None:
        """Have the next token signed with a new key."""
        async with httpx.AsyncClient(base_url=self.origin) as client:
            assert (await client.post("/rotate")).status_code == 204


class User:
    """Somebody who has signed up: `client` has the session's cookies."""

    def __init__(self, client: httpx.AsyncClient, signed_up: httpx.Response) -> None:
        self.client = client
        self.signed_up = signed_up
        self.id: str = signed_up.json()["user"]["id"]

    async def token(self) -> str:
        """Get a token for the API, as a frontend does."""
        response = await self.client.get("/api/auth/token")
        assert response.status_code == 200, response.text
        token: str = response.json()["token"]
        return token


@contextmanager
def running_better_auth(node: str, **options: Any) -> Iterator[BetterAuth]:
    """Run a Better Auth with these options of server.mjs, for as long as the block lasts."""
    command = [node, "server.mjs", json.dumps(options)]
    with subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            origin = process.stdout.readline().strip()
            assert origin, "Better Auth has ended"
            yield BetterAuth(origin)
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def better_auth(node: str) -> Iterator[BetterAuth]:
    """A Better Auth with the JWT plugin as it is when nothing is configured."""
    with running_better_auth(node) as better_auth:
        yield better_auth


@asynccontextmanager
async def serving_app(listener: socket.socket, settings: Settings) -> AsyncIterator[FastAPI]:
    """Serve an application of this process on a socket that listens already."""
    app = create_app(settings)
    server = uvicorn.Server(uvicorn.Config(app, http="httptools", ws="none", lifespan="on", log_config=None))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield app
    finally:
        server.should_exit = True
        await task


def url_of(listener: socket.socket) -> str:
    """The address of a socket as a URL."""
    return f"http://127.0.0.1:{listener.getsockname()[1]}"
