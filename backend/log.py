"""Logs: one line an event, as text for people or JSON for machines.

No line holds what a user wrote (specs/decisions/0008-logs.md).
"""

import json
import logging
import os
import select
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, TextIO

from backend.config import Settings

MAX_WAITING = 10_000
"""Lines that may wait to be written: some 2 MB."""
PAUSE = 0.05
"""Seconds between two writes of several lines: to wake a thread for each line would cost more than to write it."""
LAST_LINES = 1.0
"""Seconds that the end of the process waits for the last lines to be written."""
WRITTEN_WHOLE: int = getattr(select, "PIPE_BUF", 512)
"""Bytes of one write that those of other processes, such as workers, to the same pipe do not take apart."""

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
    """Return an exception's type and where it came from, its causes behind it; no message, which can quote the data."""
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


class LogHandler(logging.StreamHandler[TextIO]):
    """Writes to standard error: at once, or, `in_background`, from a thread.

    A reader that is slow, or has stopped to read, must not stop the service. So what finds no room there is dropped; a
    line says how many were.
    """

    def __init__(self) -> None:
        super().__init__()
        self._waiting: SimpleQueue[str | None] | None = None
        self.dropped = 0
        """Lines that found no room since the start."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line, or have it written."""
        if self._waiting is None:
            super().emit(record)
        elif self._waiting.qsize() < MAX_WAITING:
            self._waiting.put(self.format(record))
        else:
            self.dropped += 1

    @property
    def has_descriptor(self) -> bool:
        """Tell whether standard error is the system's, and not something that a test has put there."""
        try:
            return self.stream.fileno() >= 0
        except OSError:
            return False

    @contextmanager
    def in_background(self) -> Iterator[None]:
        """Have a thread write, if none does yet. At the end it has `LAST_LINES` seconds for the lines that wait."""
        if self._waiting is not None:
            yield
            return
        # Not by the stream, whose lock a thread that nobody reads would hold beyond the process's end.
        descriptor = self.stream.fileno()
        waiting: SimpleQueue[str | None] = SimpleQueue()
        self._waiting = waiting
        thread = threading.Thread(target=self._write, args=[descriptor, waiting], name="log", daemon=True)
        thread.start()
        try:
            yield
        finally:
            waiting.put(None)
            thread.join(LAST_LINES)
            if not thread.is_alive():
                self._waiting = None

    def _write(self, descriptor: int, waiting: SimpleQueue[str | None]) -> None:
        said = 0
        line = waiting.get()
        while line is not None:
            lines = [line]
            while not waiting.empty() and (line := waiting.get()) is not None:
                lines.append(line)
            if self.dropped > said:
                lines.append(self._note(self.dropped - said))
                said = self.dropped
            for chunk in _chunks(lines):
                _write_all(descriptor, chunk)
            if line is not None:
                time.sleep(PAUSE)
                line = waiting.get()

    def _note(self, dropped: int) -> str:
        note = "%d lines were dropped here, because nobody read the log"
        return self.format(logging.LogRecord(__name__, logging.WARNING, __file__, 0, note, (dropped,), None))


def _chunks(lines: Iterable[str]) -> Iterator[bytes]:
    """Put lines together for writing: as many as fit into what is written whole; a longer one is alone."""
    chunk = b""
    for line in lines:
        data = f"{line}\n".encode(errors="backslashreplace")
        if len(chunk) + len(data) > WRITTEN_WHOLE:
            yield chunk
            chunk = b""
        chunk += data
    yield chunk


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # whoever started the service has made it so
            time.sleep(PAUSE)
        except OSError:  # closed: there is nobody to tell
            return


def dropped_lines() -> int:
    """Return how many lines the log has dropped since the start."""
    handler = _handler()
    return 0 if handler is None else handler.dropped


def _handler() -> LogHandler | None:
    return next((each for each in logging.getLogger().handlers if isinstance(each, LogHandler)), None)


@contextmanager
def logging_in_background() -> Iterator[None]:
    """Let no line of the log hold up the process, however slowly it is read."""
    handler = _handler()
    with handler.in_background() if handler is not None and handler.has_descriptor else nullcontext():
        yield


def configure_logging(settings: Settings) -> None:
    """Send all logs to standard error in one format; uvicorn's access log gives way to the guard's line."""
    handler = LogHandler()
    handler.setFormatter(JSONFormatter() if settings.json_logs else TextFormatter())
    # What Python's manual names for speed: none of our lines says where it was written. Those of other servers, such as
    # Gunicorn and Hypercorn, have the process's number.
    logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001 # as above
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)  # at DEBUG libraries would log statements, values and headers
    for name in ("backend", "uvicorn"):
        logging.getLogger(name).setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = name != "uvicorn.access"
