"""What the log says of a request that failed, where the response must not say why."""

import logging
import time
from http import HTTPStatus

from backend.api.problems import Problem

TELL_AGAIN_AFTER = 60.0
"""Seconds after which a missing right is logged again."""

logger = logging.getLogger(__name__)

_told_at = float("-inf")


def _may_tell() -> bool:
    """Tell whether a missing right was not told in the last minute: every request meets it until somebody grants it."""
    global _told_at  # noqa: PLW0603 # one log for the process
    now = time.monotonic()
    told = now - _told_at < TELL_AGAIN_AFTER
    if not told:
        _told_at = now
    return not told


def log_error(error: Exception, problem: Problem, request_id: str) -> None:
    """Log why a request failed, where the response must not say it."""
    if problem.type.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error("unexpected error", exc_info=error, extra={"request_id": request_id})
    elif problem.type.code == "overloaded":
        return  # a service with too much to do has its request lines
    elif problem.type.code == "database_refused" and not _may_tell():
        return
    elif problem.type.status == HTTPStatus.SERVICE_UNAVAILABLE:
        logger.warning("%s: %s", problem.type.code, error, extra={"request_id": request_id})
