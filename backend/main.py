"""The application: `create_app(settings)`, and `app` for `uvicorn backend.main:app`.

To import this module reads the settings and makes `app` of them. A wrong one ends the process (`SystemExit`), with one
line that names it: also for who embeds the service, and wants nothing but `create_app`.
"""

from backend import __version__
from backend.auth.tokens import TokenVerifier
from backend.check.settings import checked_settings
from backend.config import Settings

# Before the imports below, which take a second: a wrong setting is reported at once.
settings = checked_settings()

import asyncio
import functools
import logging
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute

from backend.api.guard import Guard
from backend.api.limits import ConcurrencyLimit
from backend.api.openapi import DESCRIPTION, make_openapi
from backend.api.overload import Overload
from backend.api.routers import batch, docs, health, mcp, page, tasks
from backend.api.tracing import send_the_last, telemetry
from backend.db.session import Database, create_db_and_tables
from backend.db.sqlite import require_file
from backend.db.url import SQLiteURL
from backend.errors import DatabaseError
from backend.log import configure_logging, dropped_lines, logging_in_background

LAST_RESPONSES = 1.0
"""Seconds at the end in which requests that are cut off still get a response."""

logger = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Make the application. It connects to nothing before it is asked, so it starts while the database sleeps."""
    configure_logging(settings)
    verifier, places = TokenVerifier(settings), ConcurrencyLimit(settings.max_concurrent_requests)
    metrics = _make_metrics()
    observe = None if metrics is None else metrics.observe

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        with logging_in_background():
            database = app.state.database = Database(settings)
            if isinstance(database.url, SQLiteURL):
                await _prepare_file(database, database.url)

            def state() -> dict[str, float]:
                of_process = {"places_taken": places.taken, "log_lines_dropped_total": dropped_lines()}
                return of_process | database.state() | verifier.state()

            sampling = None if metrics is None else asyncio.create_task(metrics.sample(state))
            yield {"overload": Overload(places, settings, observe)}  # the server asks it
            if sampling is not None:
                sampling.cancel()
            await places.emptied(within=LAST_RESPONSES)  # of requests that the server has just cut off
            await database.close()
            await send_the_last(traces)

    # Given as a list rather than included: an included router matches every request twice.
    routes = [
        *tasks.router.routes,
        *batch.router.routes,
        *health.router.routes,
        *_agent_routes(settings),
        *page.routes(settings),
        *docs.routes(development=not settings.production),
    ]
    traces = telemetry(settings, routes)
    app = FastAPI(
        title=docs.TITLE,
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        routes=routes,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={HTTPException: _raise, RequestValidationError: _raise},
        telemetry=traces,
    )
    app.state.settings, app.state.verifier = settings, verifier
    # For servers that run no lifespan (serverless adapters, a TestClient without `with`); the lifespan replaces it.
    app.state.database = Database(settings)
    app.openapi = lambda: make_openapi(app)  # type: ignore[method-assign] # FastAPI's documented way
    app.add_middleware(Guard, settings=settings, verifier=verifier, places=places, observe=observe)
    return app


def _agent_routes(settings: Settings) -> list[BaseRoute]:
    if not settings.mcp:
        return []
    from backend.agents.server import http_application  # takes half a second and 30 MB

    return mcp.routes(http_application(), settings)


@functools.cache
def _make_metrics() -> Any:
    """Make the process's metrics where there is an admin port; elsewhere nothing of them is imported."""
    if not os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)  # set to nothing it would mean the working directory
        return None
    from backend.metrics import Metrics

    try:
        return Metrics()
    except OSError as error:
        sys.exit(f"todo-backend: wrong setting: PROMETHEUS_MULTIPROC_DIR: cannot be written to: {error.strerror}")


async def _raise(_request: Request, error: Exception) -> NoReturn:
    """Leave an error to the guard, which turns all of them into responses."""
    raise error


async def _prepare_file(database: Database, url: SQLiteURL) -> None:
    """Bring an SQLite file up to date in development; in production it must be there."""
    try:
        if database.settings.production:
            require_file(url)
        else:
            await create_db_and_tables(database)
    except DatabaseError as error:  # it says so on every request, too, and may pass
        logger.error("the database cannot be used: %s", error)


app = create_app(settings)
