"""`/openapi.json`; and `/docs`: Swagger UI from files of this machine, which works offline and tells no other host."""

import base64
import hashlib
import json
import re
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from backend.api.requests import whole

TITLE = "Tasks API"


class Files(StaticFiles):
    """Whole files. A `Range` is ignored, as it may be: Starlette's refusals of a bad one are no problem documents."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond as to a request without a `Range`."""
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        """Return the file, or that the client has it already."""
        response = super().file_response(*arguments, **options)
        response.headers["Accept-Ranges"] = "none"
        return response


def _document_route() -> Route:
    made: dict[str, tuple[bytes, str]] = {}  # once for each prefix that the service is reached under

    async def document(request: Request) -> Response:
        prefix = request.scope.get("root_path", "")
        if prefix not in made:
            document: dict[str, Any] = request.app.openapi()
            if prefix:
                document = document | {"servers": [document["servers"][0] | {"url": prefix}]}
            content = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
            made[prefix] = content, f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        content, etag = made[prefix]
        headers = {"ETag": etag, "Cache-Control": "no-cache"}
        known = request.headers.get("if-none-match", "")
        if etag in known or known.strip() == "*":
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type="application/json")

    return whole(Route("/openapi.json", document))


async def docs(request: Request) -> HTMLResponse:
    """Return the page."""
    prefix = request.scope.get("root_path", "")
    page = get_swagger_ui_html(
        openapi_url=f"{prefix}/openapi.json",
        title=TITLE,
        swagger_js_url=f"{prefix}/docs/assets/swagger-ui-bundle.js",
        swagger_css_url=f"{prefix}/docs/assets/swagger-ui.css",
        swagger_favicon_url=f"{prefix}/docs/assets/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )
    # Its one script in the page itself is known by its hash; Swagger UI sets styles of its own.
    (script,) = re.findall(r"<script>(.*?)</script>", bytes(page.body).decode(), re.DOTALL)
    known = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'self' 'sha256-{known}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page


def routes(*, development: bool) -> list[BaseRoute]:
    """Return the document's route and, in development, the page's and its assets', which fastapi-offline carries."""
    if not development:
        return [_document_route()]
    assets = Files(packages=[("fastapi_offline", "static")])
    return [_document_route(), whole(Route("/docs", docs)), Mount("/docs/assets", assets)]
