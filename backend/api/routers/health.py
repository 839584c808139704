"""The probes: no token, no place among the requests under way, and never a reason."""

from typing import Literal

from fastapi import APIRouter, Request
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.api.deps import CurrentDatabase
from backend.api.openapi import documented_probe
from backend.api.requests import Route
from backend.db.session import check_db_health
from backend.errors import DatabaseUnavailable


class Alive(TypedDict):
    """The process answers."""

    status: Literal["ok"]


class Healthy(TypedDict):
    """The database answers."""

    status: Literal["healthy"]
    database: Literal["connected"]


router = APIRouter(
    prefix="/health", tags=["health"], route_class=Route, generate_unique_id_function=lambda route: route.name
)


@router.get("", **documented_probe({"status": "ok"}))
async def health() -> Alive:
    """Tell that the process is alive. Touches no database."""
    return {"status": "ok"}


@router.get("/db", **documented_probe({"status": "healthy", "database": "connected"}, ("database_unavailable",)))
async def health_db(request: Request, database: CurrentDatabase) -> Healthy:
    """Tell that the database answers, and that the process is not about to end. Probes at once share one query."""
    if getattr(request.state, "draining", False):
        raise DatabaseUnavailable("the service is about to end")
    await check_db_health(database)
    return {"status": "healthy", "database": "connected"}
