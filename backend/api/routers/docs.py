"""`/docs`: Swagger UI from files of this machine, so that it works offline and tells no other host who reads it."""

from importlib.resources import files
from pathlib import Path

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

TITLE = "Tasks API"


async def docs(_request: Request) -> HTMLResponse:
    """Return the page."""
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title=TITLE,
        swagger_js_url="/docs/assets/swagger-ui-bundle.js",
        swagger_css_url="/docs/assets/swagger-ui.css",
        swagger_favicon_url="/docs/assets/favicon.png",
        swagger_ui_parameters={"persistAuthorization": True, "tryItOutEnabled": True},
    )


def routes() -> list[BaseRoute]:
    """Return the page's route and its assets', which fastapi-offline carries."""
    assets = Path(str(files("fastapi_offline") / "static"))
    return [Route("/docs", docs), Mount("/docs/assets", StaticFiles(directory=assets))]
