"""What the commands have in common: the settings, one line for a failure, the database."""

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from backend.auth.tokens import usable_subject
from backend.check.settings import checked_settings
from backend.config import Settings
from backend.db.url import SQLiteURL
from backend.errors import DatabaseError, DatabaseNotMigrated, OutcomeUnknown
from backend.log import configure_logging
from backend.models.fields import OWNER_MAX

if TYPE_CHECKING:
    from backend.db.session import Database

T = TypeVar("T")

logger = logging.getLogger(__name__)


def read_settings() -> Settings:
    """Return the settings, and log as they say. Exits with one line where one is wrong."""
    settings = checked_settings()
    configure_logging(settings)
    return settings


def fail(reason: str, cause: Exception | None = None) -> NoReturn:
    """Exit with one line. Where it comes from is in the log, at DEBUG."""
    if cause is not None:
        logger.debug("%s", type(cause).__name__, exc_info=cause)
    sys.exit("todo-backend: " + " ".join(reason.split()))


def checked_user(user_id: str) -> str:
    """Return a user's id. Exits with one line where nobody can have it."""
    if not usable_subject(user_id):
        fail(f"a user's id has 1 to {OWNER_MAX} characters, in UTF-8")
    return user_id


def run(work: Coroutine[Any, Any, T], nothing_done: str) -> T:
    """Run work on the database. Exits with one line where it fails: `nothing_done` and why, if that is sure."""
    try:
        return asyncio.run(work)
    except OutcomeUnknown as error:
        fail(f"nobody knows whether it was done; run it again: {error}", error)
    except DatabaseError as error:
        fail(f"{nothing_done}: {error}", error)


def on_database(settings: Settings, work: Callable[["Database"], Awaitable[T]], nothing_done: str) -> T:
    """Run work on the database that requests use: see `run`. An SQLite file must be there."""
    from backend.db.session import Database
    from backend.db.sqlite import require_file

    async def work_and_close() -> T:
        database = Database(settings)
        if isinstance(database.url, SQLiteURL):
            require_file(database.url)
        try:
            return await work(database)
        except DatabaseNotMigrated as error:
            fail(f"{nothing_done}: {error}; run todo-backend migrate", error)
        finally:
            await database.close()

    return run(work_and_close(), nothing_done)
