"""Every log line and every response of the whole suite is looked at: none holds a secret, a token, or a user's text.

`install` puts an eye on every log record and on every response that httpx gets; `processes.py` shows the rest. What is
found is kept until a fixture of `conftest.py` takes it, and fails the test.
"""

import contextlib
import json
import logging
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

import backend
from backend.log import JSONFormatter, TextFormatter

SECRET = "a-secret-for-tests-that-is-long-enough"
"""What the tests sign tokens with."""
PASSWORD = "a p@ssword/with:odd?characters"
"""What the tests' database asks for."""

SHORTEST_TEXT = 10
"""Characters from which on a text is looked for: shorter ones are words of ours, too."""

OWN_TEXT = "\n".join(file.read_text() for file in Path(backend.__file__).parent.rglob("*.py"))
"""What we say ourselves gives nobody away: Hypothesis makes titles of our own constants, such as `about:blank`."""

_TOKEN = re.compile(r"\beyJ[\w-]{8,}\.[\w-]{4,}\.[\w-]{8,}")
_DATE = re.compile(r"\d{4}-\d\d-\d\d(T\d\d:\d\d)?")
"""Nobody's secret: where a test sends one, each line that is logged on that day holds it."""
_FORMATTERS = (TextFormatter(), JSONFormatter())

_texts: deque[str] = deque(maxlen=500)
"""What was sent of late as a value in a body or in a query."""
_leaks: list[str] = []


def take_leaks() -> list[str]:
    """Return what has been found since the last call."""
    found = _leaks.copy()
    _leaks.clear()
    return found


def forget_texts() -> None:
    """Look for no text that was sent until now."""
    _texts.clear()


def look_at_log(lines: str) -> None:
    """Look at what was logged."""
    _note(
        "a log line",
        lines,
        [*_secrets(lines), *_TOKEN.findall(lines), *(each for each in set(_texts) if each in lines)],
    )


def look_at_response(response: str) -> None:
    """Look at a response, its head included."""
    _note("a response", response, [*_secrets(response), *_TOKEN.findall(response)])


def look_at_output(output: str) -> None:
    """Look at what a command printed; some are there to print a token."""
    _note("what was printed", output, _secrets(output))


def _secrets(shown: str) -> list[str]:
    return [secret for secret in (SECRET, PASSWORD, quote(PASSWORD, safe="")) if secret in shown]


def _note(where: str, shown: str, found: list[str]) -> None:
    _leaks.extend(f"{where} holds {each!r}: {shown[:2000]}" for each in found)


def _values(request: httpx.Request) -> set[str]:
    """The texts of a request that nobody else should see again."""
    values = {value for _, value in request.url.params.multi_items()}
    with contextlib.suppress(httpx.RequestNotRead, ValueError, RecursionError):
        values |= set(_strings(json.loads(request.content)))
    return {
        value
        for value in values
        if len(value) >= SHORTEST_TEXT and value not in OWN_TEXT and not _DATE.fullmatch(value)
    }


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)


def _look_at_exchange(values: set[str], response: httpx.Response) -> None:
    if "x-request-id" not in response.headers or not response.is_stream_consumed:
        return  # somebody else's response, or one that is still to come
    look_at_response(f"{response.headers}\n{response.text}")
    if response.content and response.headers.get("content-type") == "application/problem+json":
        # The task of a failed precondition is the user's own, and meant to be shown.
        document = json.dumps(response.json() | {"instance": "", "current": None}, ensure_ascii=False)
        _note("a problem", document, [value for value in values if value in document])


def install() -> None:
    """Begin to look."""
    handle, send, send_async = logging.Logger.handle, httpx.Client.send, httpx.AsyncClient.send

    def looking_handle(logger: logging.Logger, record: logging.LogRecord) -> None:
        for formatter in _FORMATTERS:
            look_at_log(formatter.format(record))
        handle(logger, record)

    def looking_send(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        values = _values(request)
        _texts.extend(values)
        response = send(client, request, **options)
        _look_at_exchange(values, response)
        return response

    async def looking_send_async(client: httpx.AsyncClient, request: httpx.Request, **options: Any) -> httpx.Response:
        values = _values(request)
        _texts.extend(values)
        response = await send_async(client, request, **options)
        _look_at_exchange(values, response)
        return response

    patch = pytest.MonkeyPatch()  # for good
    patch.setattr(logging.Logger, "handle", looking_handle)  # and no handler, which configure_logging would take away
    patch.setattr(httpx.Client, "send", looking_send)
    patch.setattr(httpx.AsyncClient, "send", looking_send_async)
