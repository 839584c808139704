"""What a failure of the database means: will it pass, can the statement have run, and what is it in our words.

SQLAlchemy wraps some errors of asyncpg and leaves others as they are; Neon's proxy gives every error of its own the
SQLSTATE XX000, so that only the message tells them apart (specs/decisions/0004-neon-connection.md).
SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

import errno
import os
import re
import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from backend.errors import DatabaseError, DatabaseNotMigrated, DatabaseRefused, DatabaseUnavailable, OutcomeUnknown
from backend.observation import observation

_DRIVER_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)

DATABASE_FAILURES = (OSError, SQLAlchemyError, *_DRIVER_FAILURES)
"""Whatever a statement can raise for the database's sake: DNS, TCP, TLS and time limits are all OSErrors."""

_CONNECTION_LOST = ("08", "57P", "XX", "40003")
_ROLLED_BACK = ("25006", "40000", "40001", "40002", "40P01")  # read-only server, deadlock, serialization failure
_UNAVAILABLE = ("28", "3D000", "53", "55", "57014", "58")
_REFUSED = ("42501",)  # a right is missing: no waiting helps
_NOT_MIGRATED = ("42P01", "42703", "42804", "42883", "3F000")  # a table, column, type or function
_SQLITE_NOT_MIGRATED = ("no such table", "no such column", "has no column named", "user-defined function raised")

NOT_SENT = "cannot switch to state"
"""asyncpg's words for a connection to which the server has said goodbye, while its end has not arrived yet."""

_NEVER_RAN = ("server login has been failing", "query_wait_timeout")
"""PgBouncer's words for a statement that it could give to no server."""

_FAILOVER = ("25006", "53300", "57P")
"""The server is a replica by now, full, or going away: every connection to it is of no more use."""

_LOCK_NOT_AVAILABLE = "55P03"

_OTHER_TYPES = ("08P01", "0A000", "22", "42")  # in the protocol, of a plan, in the values, in the statement

_STARTING_OR_FULL = ("57P", "53300", "08000", "08003", "08006")
_NOT_YET = (
    "Couldn't connect to compute node",
    "Control plane request failed",
    "Too many connections to this endpoint",
    "Failed to acquire permit",
    "Authentication timed out",
    "server login has been failing",  # PgBouncer
    "no more connections allowed",  # PgBouncer
)
_LOOK_AT = ": does the server run, and are host and port right in the URL?"
_NUMBER = re.compile(r"\[Errno (\d+)\]")
NO_CONNECTION = "no connection of the pool became free in time"
NO_TLS = "rejected SSL upgrade"
"""asyncpg's words for a server that has no TLS, where the URL asks for it."""
_NEVER = ("endpoint is disabled", "cannot be found")

_UNTRUSTED = (
    "the server's certificate is not trusted: install the system's authorities (ca-certificates), or name its own in "
    "sslrootcert; sslmode=no-verify takes any"
)


def _driver_error(error: BaseException | None) -> BaseException | None:
    """Return the driver's own error, which SQLAlchemy may have wrapped."""
    return error.driver_exception if isinstance(error, DBAPIError) and error.orig is not None else error


def _sqlstate(error: BaseException | None) -> str | None:
    sqlstate: str | None = getattr(_driver_error(error), "sqlstate", None)
    return sqlstate


def reason_of(error: BaseException) -> str:
    """Say what happened: the error's type, its SQLSTATE, and the driver's message.

    That alone: the statement, DETAIL and HINT, which str() would add, can hold the values of a row.
    """
    driver = _driver_error(error)
    message = driver.args[0] if driver is not None and driver.args else ""
    return " ".join(filter(None, (type(driver).__name__, _sqlstate(driver), str(message))))


def in_plain_words(error: BaseException) -> str:
    """Say what was tried, what happened, and where that helps, what to look at.

    `connect` notes on an error where it was going.
    """
    if not isinstance(error, OSError):
        return reason_of(error)
    where = "".join(getattr(error, "__notes__", ())) or "the database"
    if isinstance(error, TimeoutError):
        # `connect` has put there what every attempt met.
        tried = error.args[0] if len(error.args) == 1 else None
        return f"{tried} (tried until the time was over)" if tried else f"{where} did not respond in time"
    if isinstance(error, socket.gaierror):
        return f"{where}: the host's name leads nowhere ({error.strerror}): is it spelt right in the URL?"
    if NO_TLS in str(error):
        return f"{where} has no TLS, which the URL's sslmode asks for"
    if isinstance(error, ssl.SSLError):
        return f"TLS with {where} failed ({error.reason or error.strerror}): is that PostgreSQL's port?"
    # Of a name that has several addresses asyncio tells what each has met in one error, which has no number.
    numbers = {error.errno} if error.errno else {int(number) for number in _NUMBER.findall(str(error))}
    what = " or ".join(sorted(os.strerror(number).lower() for number in numbers)) or "connection lost"
    return f"{where}: {what}" + (_LOOK_AT if numbers & {errno.ECONNREFUSED, errno.ENOENT} else "")


def is_transient(error: BaseException) -> bool:
    """Tell whether an error of connecting means "not yet", so that trying again soon makes sense, or "never"."""
    if isinstance(error, asyncpg.PostgresError):
        message = str(error.args[0]) if error.args else ""
        if any(text in message for text in _NEVER):
            return False
        return (error.sqlstate or "").startswith(_STARTING_OR_FULL) or any(text in message for text in _NOT_YET)
    if isinstance(error, socket.gaierror):
        return error.errno == socket.EAI_AGAIN
    if NO_TLS in str(error):
        return False
    # A server that restarts refuses connections or drops them half made; its socket's file is gone for a moment.
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError | PermissionError | TimeoutError)


def may_be_refused_tls(error: OSError) -> bool:
    """Tell whether a server may have hung up because it does not know TLS that begins without being asked for."""
    hung_up = isinstance(error, ssl.SSLError | ConnectionError)
    return hung_up and not isinstance(error, ssl.SSLCertVerificationError | ConnectionRefusedError)


def is_failover(error: BaseException | None) -> bool:
    """Tell whether an error means that the server, not the statement, is the matter."""
    return (_sqlstate(error) or "").startswith(_FAILOVER)


def is_lock_timeout(error: Exception) -> bool:
    """Tell whether a statement has given up waiting for a lock."""
    return _sqlstate(error.__cause__) == _LOCK_NOT_AVAILABLE


def is_unreadable(error: Exception) -> bool:
    """Tell whether asyncpg could not read the rows that the server has sent: its decoders raise whatever they meet."""
    return isinstance(error, asyncpg.ProtocolError) or not isinstance(error, DATABASE_FAILURES)


def may_mean_other_types(error: Exception) -> bool:
    """Tell whether a statement can have failed because it has other types than when they were asked for."""
    sqlstate = _sqlstate(error)
    return is_unreadable(error) if sqlstate is None else sqlstate.startswith(_OTHER_TYPES)


@contextmanager
def translated(may_have_run: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Raise what happens in the block in the service's words; what can only be a bug goes through as it is.

    `may_have_run` tells, when something has happened, whether a write had been sent.
    """
    try:
        yield
    except DATABASE_FAILURES as error:
        _observe(error)
        meaning = translate(error, may_have_run=may_have_run())
        if meaning is not None:
            raise meaning from error
        if isinstance(error, asyncpg.IntegrityConstraintViolationError):
            # As SQLAlchemy says it: one class for both engines, and without the DETAIL, which shows the row.
            raise IntegrityError(None, None, Exception(reason_of(error))) from error
        raise


def _observe(error: Exception) -> None:
    observed = observation.get()
    observed.sqlstate = _sqlstate(error)
    observed.constraint = getattr(_driver_error(error), "constraint_name", None)


def translate(error: Exception, *, may_have_run: bool) -> DatabaseError | None:
    """Say in the service's words what happened; None where it can only be a bug.

    `may_have_run` tells that a write has been sent: then a lost connection leaves its outcome unknown.
    """
    if isinstance(error, PoolTimeoutError):
        return DatabaseUnavailable(NO_CONNECTION)
    if isinstance(error, TimeoutError):
        reason = in_plain_words(error)
        return OutcomeUnknown(reason) if may_have_run else DatabaseUnavailable(reason)
    if isinstance(error, ssl.SSLCertVerificationError):
        return DatabaseUnavailable(_UNTRUSTED)
    if isinstance(error, OSError):
        return _lost(in_plain_words(error), may_have_run=may_have_run)
    driver, sqlstate, reason = _driver_error(error), _sqlstate(error), reason_of(error)
    if sqlstate is not None:
        return _translate_sqlstate(sqlstate, reason, may_have_run=may_have_run)
    if isinstance(driver, sqlite3.OperationalError) or type(driver) is sqlite3.DatabaseError:  # no database, damaged
        not_migrated = any(text in reason for text in _SQLITE_NOT_MIGRATED)
        return DatabaseNotMigrated(reason) if not_migrated else DatabaseUnavailable(reason)
    if NOT_SENT in reason:
        return DatabaseUnavailable(reason, repeatable=True)
    if isinstance(driver, _DRIVER_FAILURES) and not isinstance(driver, ValueError):
        return _lost(reason, may_have_run=may_have_run)
    return None  # a broken constraint, a parameter that asyncpg cannot encode: a statement of ours is wrong


def is_repeatable(error: Exception, *, may_have_run: bool) -> bool:
    """Tell whether what failed surely had no effect, and can succeed if it is run once more."""
    meaning = translate(error, may_have_run=may_have_run)
    return isinstance(meaning, DatabaseUnavailable) and meaning.repeatable


def _translate_sqlstate(sqlstate: str, reason: str, *, may_have_run: bool) -> DatabaseError | None:
    if any(text in reason for text in _NEVER_RAN):
        return DatabaseUnavailable(reason, repeatable=True)
    if sqlstate.startswith(_NOT_MIGRATED):
        return DatabaseNotMigrated(reason)
    if sqlstate.startswith(_REFUSED):
        return DatabaseRefused(reason)
    if sqlstate.startswith(_UNAVAILABLE):
        return DatabaseUnavailable(reason)
    if sqlstate.startswith(_ROLLED_BACK):
        return DatabaseUnavailable(reason, repeatable=True)
    if sqlstate.startswith(_CONNECTION_LOST):
        return _lost(reason, may_have_run=may_have_run)
    return None


def _lost(reason: str, *, may_have_run: bool) -> DatabaseError:
    return OutcomeUnknown(reason) if may_have_run else DatabaseUnavailable(reason, repeatable=True)
