"""Logs: one line an event, as text for people or JSON for machines.

No line holds what a user wrote. So the exception of a bug is logged as its type and the places in the code that it went
through, without its message, which can quote the data; and libraries that would log statements, values or headers at
DEBUG are kept at WARNING whatever `LOG_LEVEL` says.
"""

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

from backend.config import Settings

_FIELDS = (
    *("request_id", "method", "route", "status", "duration_ms", "code", "db_ms", "wait_ms", "body_ms", "attempts"),
    *("sqlstate", "constraint", "pid", "reason", "trace_id", "user"),
)
_CONTROL_CHARACTERS = {code: f"\\x{code:02x}" for code in [*range(32), *range(127, 160)]}


class TextFormatter(logging.Formatter):
    """`time level logger message name=value …`, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line; control characters are escaped, so that no value can forge a line or colour a terminal."""
        values = " ".join(f"{name}={value}" for name, value in _fields(record).items() if value is not None)
        line = f"{_time(record)} {record.levelname} {record.name} {record.getMessage()} {values}".rstrip()
        return line if line.isprintable() else line.translate(_CONTROL_CHARACTERS)


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Write the line."""
        line = {"time": _time(record), "level": record.levelname, "logger": record.name, "message": record.getMessage()}
        return json.dumps(line | _fields(record))


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields = {name: record.__dict__[name] for name in _FIELDS if name in record.__dict__}
    if record.exc_info and record.exc_info[1] is not None:
        fields["exception"] = describe_exception(record.exc_info[1])
    return fields


def describe_exception(error: BaseException) -> str:
    """Return an exception's type and where it came from, its causes behind it; no message of any of them."""
    parts = []
    current: BaseException | None = error
    seen = set()
    while current is not None and current not in seen:  # exceptions can be each other's cause
        seen.add(current)
        frames = [
            f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(current.__traceback__)
        ]
        parts.append(f"{type(current).__module__}.{type(current).__qualname__} at " + " > ".join(frames))
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    return " caused by ".join(parts)


def configure_logging(settings: Settings) -> None:
    """Send all logs to standard error in one format; uvicorn's access log gives way to the guard's line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if settings.json_logs else TextFormatter())
    # What Python's manual names for speed: none of our lines says which thread, process or task wrote it, or where.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 # as above
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    for name in ("backend", "uvicorn"):
        logging.getLogger(name).setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = name != "uvicorn.access"
