"""Entity tags in requests (RFC 9110, section 13): `If-Match` for safe writes, `If-None-Match` for what is known."""

import re
from collections.abc import Iterable
from itertools import islice

from starlette.requests import Request
from starlette.responses import Response

from backend.api.responses import not_modified
from backend.services.rows import Match, OwnedTasks

# It begins with what is no blank: of a run of blanks each would be tried as the beginning, for seconds.
_ENTITY_TAG = re.compile(r'(W/)?"([^"]*)"[ \t]*(?:,|$)')
MAX_TAGS = 100
"""Entity tags of one header that are looked at."""


def if_match(request: Request, tasks: OwnedTasks) -> Match:
    """Return the revisions of which a task must have one; None where any will do.

    Weak tags match nothing. A tag may come without its quotes, as a task's `etag` holds it.
    """
    if "if-match" not in request.headers or must_exist(request):
        return None
    header = _header(request, "if-match")  # an empty one names none
    return tasks.revisions(tag for weak, tag in _tags(header) if not weak)


def must_exist(request: Request) -> bool:
    """Tell whether the request is for a task that is there, in whatever state."""
    return _header(request, "if-match").strip() == "*"


def must_not_exist(request: Request) -> bool:
    """Tell whether the request is for a task that is not there yet."""
    return _header(request, "if-none-match").strip() == "*"


def is_known(request: Request, etag: str) -> bool:
    """Tell whether the client has a task of this entity tag."""
    header = _header(request, "if-none-match")
    return bool(header) and (header.strip() == "*" or etag in {tag for _, tag in _tags(header)})


async def known(request: Request, tasks: OwnedTasks, suffix: str = "") -> Response | None:
    """Return the response to a client that has all of its tasks as they are now: 304. None to any other client.

    Only entity tags that end in `suffix` are looked at.
    """
    if must_not_exist(request) and not suffix:  # what every user has is there, in whatever state
        return not_modified(tasks.etag(await tasks.head()) + suffix)
    header = _header(request, "if-none-match")
    tags = (tag.removesuffix(suffix) for _, tag in _tags(header) if tag.endswith(suffix)) if header else ()
    revisions = tasks.revisions(tags)
    if not revisions or (head := await tasks.head()) not in revisions:
        return None
    return not_modified(tasks.etag(head) + suffix)


def _header(request: Request, name: str) -> str:
    return ", ".join(request.headers.getlist(name))


def _tags(header: str) -> Iterable[tuple[str, str]]:
    found = [(each[1] or "", each[2]) for each in islice(_ENTITY_TAG.finditer(header), MAX_TAGS)]
    return found or [("", header.strip())]
