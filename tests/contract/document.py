"""The application's OpenAPI document, and its operations with the responses that they share."""

from typing import Any

from backend.main import app as application

DOCUMENT: dict[str, Any] = application.openapi()


def _resolved(response: dict[str, Any]) -> dict[str, Any]:
    shared: dict[str, Any] = DOCUMENT["components"]["responses"]
    return shared[response["$ref"].rpartition("/")[2]] if "$ref" in response else response


OPERATIONS: dict[str, dict[str, Any]] = {
    f"{method.upper()} {path}": operation
    | {"responses": {status: _resolved(response) for status, response in operation["responses"].items()}}
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
