"""`GET /`: what this service is; to a browser in development, the development page of `backend/static`."""

from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

STATIC = Path(str(files("backend") / "static"))
HEADERS = {
    # Nothing from another host, nothing inline, and no page that shows this one in a frame.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class _Files(StaticFiles):
    """Files whose pages get nothing from anywhere else."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return a file, with those headers."""
        response = super().file_response(*arguments, **options)
        response.headers.update(HEADERS)
        return response


def routes(*, development: bool) -> list[BaseRoute]:
    """Return the route of `/` and, in development, those of the page's files."""
    pages = _Files(directory=STATIC)
    description = {"name": "todo-backend", "version": version("todo-backend")}

    async def root(request: Request) -> Response:
        if development and "text/html" in request.headers.get("accept", ""):
            return await pages.get_response("index.html", request.scope)
        documentation = {"documentation": f"{request.scope.get('root_path', '')}/docs"} if development else {}
        return JSONResponse(description | documentation, headers={"Vary": "Accept"})

    return [Route("/", root), *([Mount("/static", pages)] if development else [])]
