"""`GET /`: what this service is; to a browser in development, the development page of `backend/static`."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend import __version__
from backend.api.openapi import documented
from backend.api.requests import Route, accepted_types
from backend.api.routers.docs import Files
from backend.auth.tokens import authorization_server
from backend.config import Settings

STATIC = Path(str(files("backend") / "static"))


def _headers(better_auth: str = "") -> dict[str, str]:
    return {
        # Nothing from another host, nothing inline, no page that shows this one in a frame, and nobody to talk to but
        # the service and, from the page that signs in there, Better Auth.
        "Content-Security-Policy": (
            f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'{better_auth}; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


_HTML = {"schema": {"type": "string"}, "example": "<!doctype html>"}
_BY_ACCEPT = {"Vary": "Accept"}


class ServiceDescription(TypedDict):
    """What this service is."""

    name: str
    version: str
    documentation: NotRequired[Annotated[str, Field(description="In development: where to read it.")]]


class _Files(Files):
    """Files that get nothing from anywhere else."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_headers())
        return response


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the route of `/` and, in development, those of the page's files."""
    development, server = not settings.production, authorization_server(settings)
    description = {"name": "todo-backend", "version": __version__}
    page, headers = (STATIC / "index.html").read_text("utf-8"), _headers() | _BY_ACCEPT
    if server is not None:
        page, headers = page.replace('hidden data-url=""', f'data-url="{server}"'), _headers(f" {server}/") | _BY_ACCEPT

    async def read_root(request: Request) -> Response:
        """Say what this service is: in development a browser gets a page to try it on."""
        if development and "text/html" in accepted_types(request):
            return HTMLResponse(page, headers=headers)
        documentation = {"documentation": f"{request.scope.get('root_path', '')}/docs"} if development else {}
        return JSONResponse(description | documentation, headers=_BY_ACCEPT)

    root = Route(
        "/",
        read_root,
        response_model=ServiceDescription,
        responses={200: {"content": {"text/html": _HTML}}} if development else {},
        tags=["service"],
        **documented(description, "overloaded"),
    )
    return [root, *([Mount("/static", _Files(directory=STATIC))] if development else [])]
