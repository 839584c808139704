"""The floor behind FastAPI's routes: what the framework alone takes, before a service does anything of its own.

Ids, bodies and the limit are validated; the rest, the token included, is the floor's.
"""

from typing import Annotated, Any
from uuid import UUID

from fastapi import FastAPI, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel

from tests.performance import floor

routes = FastAPI(openapi_url=None)


class New(BaseModel):
    title: str
    description: str | None = None


class Patch(BaseModel):
    title: str | None = None
    description: str | None = None


async def respond(request: Request) -> Response:
    async def receive() -> dict[str, bytes]:
        return {"body": await request.body()}

    status, value = await floor.respond(request.scope, receive)
    return Response(floor.written(value), status, media_type="application/json")


@routes.get("/api/tasks/{task_id}")
async def get_task(request: Request, task_id: UUID) -> Response:
    return await respond(request)


@routes.patch("/api/tasks/{task_id}")
async def update_task(request: Request, task_id: UUID, patch: Patch) -> Response:
    return await respond(request)


@routes.post("/api/tasks/{task_id}/toggle")
async def toggle_task(request: Request, task_id: UUID) -> Response:
    return await respond(request)


@routes.get("/api/tasks")
async def list_tasks(request: Request, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Response:
    return await respond(request)


@routes.post("/api/tasks")
async def create_task(request: Request, task: New) -> Response:
    return await respond(request)


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Leave the start, the end and the probe to the floor."""
    of_the_floor = scope["type"] == "lifespan" or scope["path"] == "/health"
    await (floor.app if of_the_floor else routes)(scope, receive, send)
