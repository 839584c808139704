"""Agents: the SDK's own client, and bare requests, to an application that has `/mcp`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import httpx
import httpx2
import pytest
from fastapi import FastAPI
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from backend.auth.tokens import mint
from backend.config import Settings
from backend.db.session import Database
from tests.applications import client_of, running
from tests.settings import make_settings

Agent = Callable[[str], AbstractAsyncContextManager[Client]]


@pytest.fixture(scope="session")
def agent_settings(database_url: str) -> Settings:
    return make_settings(database_url, mcp=True)


@pytest.fixture(scope="session")
async def agent_app(agent_settings: Settings, database: Database) -> AsyncIterator[FastAPI]:
    async with running(agent_settings) as app:
        yield app


@pytest.fixture(params=["auto", "legacy"])
def agent(request: pytest.FixtureRequest, agent_app: FastAPI, agent_settings: Settings) -> Agent:
    """A maker of clients that speak for a user: by the newest protocol, and by the one with a handshake."""

    @asynccontextmanager
    async def connected(user_id: str) -> AsyncIterator[Client]:
        headers = {"Authorization": f"Bearer {mint(agent_settings, user_id, 3600)}"}
        transport = httpx2.ASGITransport(agent_app, raise_app_exceptions=False)
        async with (
            httpx2.AsyncClient(transport=transport, base_url="http://test", headers=headers) as http,
            Client(streamable_http_client("http://test/mcp", http_client=http), mode=request.param) as client,
        ):
            yield client

    return connected


@pytest.fixture
async def raw(user_id: Callable[[str], str]) -> AsyncIterator[httpx.AsyncClient]:
    """A client of bare requests, to an application in memory: what they meet is before any database."""
    settings = make_settings("sqlite+aiosqlite://", mcp=True)
    async with running(settings) as app, client_of(app, settings, user_id("alice")) as client:
        yield client
