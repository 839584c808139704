"""Log lines: what they look like, and what never gets into them."""

import json
import logging
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from backend.db.session import Database, create_db_and_tables
from backend.log import WRITTEN_WHOLE, JSONFormatter, LogHandler, TextFormatter, configure_logging, describe_exception
from tests.settings import make_settings


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Leave the process's logging as it was."""
    names = ["", "backend", "uvicorn", "uvicorn.error", "uvicorn.access"]
    before = [(name, logging.getLogger(name)) for name in names]
    states = [(logger.level, logger.handlers, logger.propagate) for _, logger in before]
    yield
    for (_, logger), (level, handlers, propagate) in zip(before, states, strict=True):
        logger.setLevel(level)
        logger.handlers = handlers
        logger.propagate = propagate


def record(message: str, *arguments: Any, error: BaseException | None = None, **fields: Any) -> logging.LogRecord:
    made = logging.LogRecord(
        "backend.test", logging.INFO, __file__, 1, message, arguments, (type(error), error, None) if error else None
    )
    made.__dict__.update(fields)
    made.created = 1_767_323_045.678
    return made


def test_a_line_of_text_has_time_level_logger_message_and_fields() -> None:
    line = TextFormatter().format(record("hello %s", "world", request_id="id", status=200, route=None))
    assert line == "2026-01-02T03:04:05.678Z INFO backend.test hello world request_id=id status=200"


def test_a_line_of_json_has_the_same() -> None:
    line = JSONFormatter().format(
        record("hello %s", "world", request_id="id", status=200, route=None, other="not this")
    )
    assert json.loads(line) == {
        "time": "2026-01-02T03:04:05.678Z",
        "level": "INFO",
        "logger": "backend.test",
        "message": "hello world",
        "request_id": "id",
        "route": None,
        "status": 200,
    }


CONTROL = "".join(map(chr, [*range(32), *range(127, 160)]))


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_no_character_can_forge_a_line_or_colour_a_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record(f"a{CONTROL}b", request_id=f"x{CONTROL}y"))
    assert not set(line) & set(CONTROL)
    assert len(line.splitlines()) == 1


def fail(message: str) -> None:
    raise ValueError(message)


def caught(message: str) -> BaseException:
    try:
        try:
            fail(message)
        except ValueError as error:
            raise KeyError(message) from error
    except KeyError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize("formatter", [TextFormatter(), JSONFormatter()])
def test_an_exception_is_its_type_and_its_places_without_a_message(formatter: logging.Formatter) -> None:
    line = formatter.format(record("unexpected", error=caught("c4n4ry")))
    assert "c4n4ry" not in line
    assert "builtins.KeyError at " in line
    assert "caused by builtins.ValueError at " in line
    assert "test_log.py" in line
    assert "fail" in line


def test_a_cause_that_was_hidden_stays_hidden() -> None:
    error = KeyError()
    error.__context__ = ValueError()
    assert "ValueError" in describe_exception(error)
    error.__suppress_context__ = True  # as `raise … from None` sets it
    assert "ValueError" not in describe_exception(error)


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_the_level_is_that_of_our_own_loggers(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings("sqlite+aiosqlite://", log_level=level))
    logger = logging.getLogger("backend.anything")
    for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        logger.log(logging.getLevelNamesMapping()[name], "at %s", name)
    written = [line.rpartition(" ")[2] for line in capsys.readouterr().err.splitlines()]
    names = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
    assert written == names[names.index(level) :]


@pytest.mark.parametrize(
    "name",
    ["sqlalchemy.engine", "sqlalchemy.pool", "aiosqlite", "asyncio", "asyncpg", "httpx", "httpcore.http11", "alembic"],
)
def test_libraries_write_nothing_below_a_warning_whatever_the_level(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(make_settings("sqlite+aiosqlite://", log_level="DEBUG"))
    logging.getLogger(name).debug("c4n4ry")
    logging.getLogger(name).info("c4n4ry")
    logging.getLogger(name).warning("a warning")
    error = capsys.readouterr().err
    assert "c4n4ry" not in error
    assert "a warning" in error


async def test_a_statement_writes_nothing_at_debug(sqlite_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    settings = make_settings(sqlite_url, log_level="DEBUG")
    database = Database(settings)
    await create_db_and_tables(database)
    configure_logging(settings)
    await database.executor.exec(text("SELECT :value").columns(), params={"value": "c4n4ry"})
    await database.close()
    assert capsys.readouterr().err == ""


def test_the_servers_own_access_log_gives_way_to_ours(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(make_settings("sqlite+aiosqlite://"))
    logging.getLogger("uvicorn.access").info("GET /c4n4ry")
    logging.getLogger("uvicorn.error").info("started")
    error = capsys.readouterr().err
    assert "c4n4ry" not in error
    assert "started" in error


def test_to_configure_twice_does_not_write_twice(capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        configure_logging(make_settings("sqlite+aiosqlite://", log_format="json"))
    logging.getLogger("backend").info("once")
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_what_json_cannot_hold_does_not_lose_the_line() -> None:
    line = JSONFormatter().format(record("half a character: %s", "\ud800", route="\udcff"))
    assert json.loads(line)["message"] == "half a character: \ud800"
    assert line.encode()


def test_what_other_servers_write_into_their_lines_is_there() -> None:
    """Gunicorn's and Hypercorn's formats have numbers; one that is missing is a traceback for each line."""
    configure_logging(make_settings("sqlite+aiosqlite://"))
    record = logging.getLogger("gunicorn.error").makeRecord("gunicorn.error", logging.INFO, "", 0, "up", (), None)
    line = logging.Formatter("[%(process)d] %(thread)d %(lineno)d %(message)s").format(record)
    assert line.startswith(f"[{os.getpid()}] ")


def test_lines_are_written_whole_in_what_a_pipe_keeps_together() -> None:
    """Each datagram is a write: into a pipe, those of several workers come between one another's."""
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    lines = [f"{number} " + "x" * (number if number % 100 else 10_000) for number in range(300)]
    handler = LogHandler()
    writes: list[bytes] = []
    with reader, writer.makefile("w") as stream, writer:
        handler.setStream(stream)
        reader.settimeout(30)
        with handler.in_background():
            for line in lines:
                handler.emit(record(line))
            while b"".join(writes).count(b"\n") < len(lines):
                writes.append(reader.recv(1_000_000))
    assert b"".join(writes).decode().splitlines() == lines
    assert len(writes) < len(lines) / 2
    for write in writes:
        assert write.endswith(b"\n")
        assert len(write) <= WRITTEN_WHOLE or write.count(b"\n") == 1
