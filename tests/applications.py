"""Applications in this process, and their clients."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from backend.auth.tokens import mint
from backend.config import Settings
from backend.main import create_app


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[FastAPI]:
    """An application between its start and its end."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, settings: Settings, user_id: str | None = None) -> httpx.AsyncClient:
    """A client of the application as a user, or as nobody."""
    headers = {} if user_id is None else {"Authorization": f"Bearer {mint(settings, user_id, 3600)}"}
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers)
