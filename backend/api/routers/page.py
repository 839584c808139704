"""`GET /`: what this service is; to a browser in development, the development page of `backend/static`."""

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

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


class _Files(StaticFiles):
    """Files that get nothing from anywhere else."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return a file, with those headers."""
        response = super().file_response(*arguments, **options)
        response.headers.update(_headers())
        return response


def routes(settings: Settings) -> list[BaseRoute]:
    """Return the route of `/` and, in development, those of the page's files."""
    development, server = not settings.production, authorization_server(settings)
    description = {"name": "todo-backend", "version": version("todo-backend")}
    page, headers = (STATIC / "index.html").read_text(), _headers()
    if server is not None:
        server = quote(server, safe=":/[]%")  # so that it is one word of the policy, and of the page
        page, headers = page.replace('hidden data-url=""', f'data-url="{server}"'), _headers(f" {server}/")

    async def root(request: Request) -> Response:
        if development and "text/html" in request.headers.get("accept", ""):
            return HTMLResponse(page, headers=headers)
        documentation = {"documentation": f"{request.scope.get('root_path', '')}/docs"} if development else {}
        return JSONResponse(description | documentation, headers={"Vary": "Accept"})

    return [Route("/", root), *([Mount("/static", _Files(directory=STATIC))] if development else [])]
