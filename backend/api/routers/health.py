"""The probes: no token, no place among the requests under way, and never a reason."""

import hmac
from typing import Any, Literal

from fastapi import APIRouter, Request
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.api.openapi import WITH_DATABASE, documented
from backend.api.problems import ENDING, Problem
from backend.api.requests import Route


class Alive(TypedDict):
    """The process responds."""

    status: Literal["ok"]


class Ready(TypedDict):
    """The process can serve."""

    status: Literal["ready"]


class Healthy(TypedDict):
    """The database responds."""

    status: Literal["healthy"]
    database: Literal["connected"]


class _Hidden(Route):
    """A route that is not there, by any method, without `HEALTH_DB_TOKEN`, where that is set."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        token = request.app.state.settings.health_db_token
        if token is not None:
            scheme, _, sent = request.headers.get("authorization", "").encode("latin-1").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(sent, token.get_secret_value().encode()):
                raise Problem("not_found")
        await super().handle(scope, receive, send)


HEALTHY: Healthy = {"status": "healthy", "database": "connected"}

router = APIRouter(prefix="/health", tags=["health"], route_class=Route)


@router.get("", **documented({"status": "ok"}))
async def health() -> Alive:
    """Tell that the process is alive. Touches no database."""
    return {"status": "ok"}


@router.get("/ready", **documented({"status": "ready"}, *WITH_DATABASE))
async def health_ready(request: Request) -> Ready:
    """Tell that the process can serve. Asks the database until it has responded once, and then never again."""
    _refuse_while_draining(request)
    if not request.app.state.database.has_responded:
        await _ping(request)
    return {"status": "ready"}


async def health_db(request: Request) -> Healthy:
    """Tell that the database has the columns that the service needs. Probes at once share one query.

    The outcome is kept for `HEALTH_DB_TTL` seconds: it is the one address at which strangers reach the database. Where
    `HEALTH_DB_TOKEN` is set, it is required as a bearer token; without it there is nothing here.
    """
    _refuse_while_draining(request)
    await _ping(request)
    return HEALTHY


MAY_HAVE_TOKEN: list[dict[str, Any]] = [{}, {"Probe": []}]
router.add_api_route(
    "/db",
    health_db,
    route_class_override=_Hidden,
    **documented(HEALTHY, "not_found", *WITH_DATABASE, security=MAY_HAVE_TOKEN),
)


async def _ping(request: Request) -> None:
    state = request.app.state
    await state.database.ping(max_age=state.settings.health_db_ttl)


def _refuse_while_draining(request: Request) -> None:
    if getattr(request.state, "draining", False):
        raise Problem("database_unavailable", detail=ENDING)
