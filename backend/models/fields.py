"""What a person may write into a task: each field's rule, once as code and once as JSON schema.

Every schema's pattern is one that all generators of clients can compile: no escapes of line separators, no look-ahead.
"""

import re
from collections.abc import Callable
from datetime import date, datetime, time
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictInt, StrictStr, WithJsonSchema
from pydantic_core import PydanticCustomError, PydanticKnownError

from backend.models.recurrence import MAX_RECURRENCE, normal_recurrence

TITLE_MAX = 200
DESCRIPTION_MAX = 2000
OWNER_MAX = 255
TAGS_MAX = 20
TAG_MAX = 50
POSITION_MAX = 2**53 - 1
"""JavaScript's greatest safe integer."""

_Priority = Literal["low", "medium", "high", "urgent"]
PRIORITIES: tuple[str, ...] = get_args(_Priority)

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, which PostgreSQL cannot store and SQLite can; and surrogates, which are half a character and have no UTF-8."""

_BLANK = (
    r"\u0000-\u0020\u007f-\u00a0\u00ad\u034f\u061c\u115f\u1160\u1680\u17b4\u17b5\u180b-\u180f"
    r"\u2000-\u200f\s\u202a-\u202f\u205f-\u206f\u2800\u3000\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb"
)
r"""Characters that show nothing: controls, spaces, zero widths, fillers. Written out, so that the JSON schema means the
same in every language; what languages take for `\s` in different ways is among them. It stands for the line separators:
generators of clients write an escaped one raw into JavaScript, where it ends the line."""
# Not in the schema: without a flag JavaScript takes what is past U+FFFF for two characters.
_MORE_BLANK = "\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d159\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
_VISIBLE = re.compile(f"[^{_BLANK}{_MORE_BLANK}]")


def is_storable(text: str) -> bool:
    """Tell whether databases store the text."""
    return _UNSTORABLE.search(text) is None


def is_visible(text: str) -> bool:
    """Tell whether something of the text shows."""
    return _VISIBLE.search(text) is not None


def storable(text: str) -> str:
    """Return the text. Raises `PydanticCustomError` for one that no database stores."""
    if not is_storable(text):
        raise PydanticCustomError("invalid_character", "must not contain NUL or a lone surrogate")
    return text


def at_most(text: str, limit: int) -> str:
    """Return the text. Raises `PydanticKnownError` for one of more characters than `limit`."""
    if len(text) > limit:
        raise PydanticKnownError("string_too_long", {"max_length": limit})
    return text


def _title(text: str) -> str:
    trimmed = storable(text).strip()
    if not is_visible(trimmed):
        raise PydanticCustomError("blank", "must not be blank")
    return at_most(trimmed, TITLE_MAX)


def _description(text: str) -> str:
    return at_most(storable(text), DESCRIPTION_MAX)


def tag(text: str) -> str:
    """Return a tag, trimmed. Raises `PydanticCustomError`, or pydantic's own for one that is too long."""
    trimmed = storable(text).strip()
    if not trimmed:
        raise PydanticCustomError("blank", "must not be blank")
    if "," in trimmed:
        raise PydanticCustomError("comma", "must not contain a comma")
    return at_most(trimmed, TAG_MAX)


def unique(texts: list[str]) -> list[str]:
    """Return each text once, in the order in which they first come."""
    return list(dict.fromkeys(texts))


def _matching(pattern: str, check: Callable[[str], object], code: str, detail: str) -> BeforeValidator:
    """Take a text of exactly this form that is also a real date or time."""
    form = re.compile(pattern)

    def validate(value: Any) -> Any:
        try:
            if isinstance(value, str) and form.fullmatch(value):
                check(value)
                return value
        except ValueError:
            pass
        raise PydanticCustomError(code, detail)

    return BeforeValidator(validate)


_DATE = "(19|[2-9][0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"  # Python 3.13 would take 24:00
NOT_A_DATE = "must be a date in the form YYYY-MM-DD, from 1900 to 9999, without a time or zone"
NOT_A_TIME = "must be a time of day in the form HH:MM"
NOT_A_WALL_CLOCK_TIME = "must be a local time in the form YYYY-MM-DDTHH:MM, from 1900 to 9999, without a zone"

IsDate = _matching(_DATE, date.fromisoformat, "not_a_date", NOT_A_DATE)


def _recurrence(text: str) -> str:
    try:
        return normal_recurrence(storable(text))
    except ValueError as error:
        raise PydanticCustomError("unsupported_recurrence", "{reason}", {"reason": str(error)}) from None


def not_blank(but: str = "") -> str:
    """Return the pattern of a text that is not all white space, and has no NUL and none of the characters `but`.

    To JavaScript U+FEFF is white space, and U+001C to U+001F and U+0085 are none: here it is as Python has it.
    """
    return rf"^[^\u0000{but}]*([^\u0000{but}\s\u001c-\u001f\u0085]|\ufeff)[^\u0000{but}]*$"


def nullable(schema: dict[str, Any]) -> WithJsonSchema:
    """Return the schema of a field that may be null."""
    return WithJsonSchema({"anyOf": [schema, {"type": "null"}]})


TITLE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": TITLE_MAX,
    "pattern": rf"^[^\u0000]*[^{_BLANK}][^\u0000]*$",
    "description": "Surrounding white space is trimmed, and must leave something visible. No NUL.",
    "examples": ["Buy milk"],
}
DESCRIPTION_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": DESCRIPTION_MAX,
    "pattern": r"^[^\u0000]*$",
    "description": "Stored as sent. No NUL.",
    "examples": ["Two litres, the blue one"],
}
PRIORITY_SCHEMA: dict[str, Any] = {"type": "string", "enum": list(PRIORITIES), "examples": ["high"]}
DUE_DATE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "format": "date",
    "pattern": f"^{_DATE}$",
    "description": "A calendar date without a zone, from 1900 to 9999. Never converted.",
    "examples": ["2026-12-01"],
}
DUE_TIME_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_TIME}$",
    "description": "Wall-clock time on the due date, which it needs.",
    "examples": ["09:30"],
}
REMIND_AT_SCHEMA: dict[str, Any] = {
    "type": "string",
    "pattern": f"^{_DATE}T{_TIME}$",
    "description": "Wall-clock time without a zone. Kept for the client, which reminds; the server sends nothing.",
    "examples": ["2026-11-30T18:00"],
}
TAG_SCHEMA: dict[str, Any] = {
    "type": "string",
    "minLength": 1,
    "maxLength": TAG_MAX,
    "pattern": not_blank(but=","),
}
TAGS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": TAG_SCHEMA,
    "maxItems": TAGS_MAX,
    "description": "Each is trimmed; equal ones are kept once. No comma.",
    "examples": [["home", "shopping"]],
}
_PART = r"[A-Za-z]+=[A-Za-z0-9+,\-]+"  # a bare hyphen is an error to JavaScript's flag v, as in HTML's `pattern`
RECURRENCE_SCHEMA: dict[str, Any] = {
    "type": "string",
    "maxLength": MAX_RECURRENCE,
    # What else a rule must be no plain pattern can say.
    "pattern": rf"^[\u0000-\u0020]*([Rr][Rr][Uu][Ll][Ee]:)?{_PART}(;{_PART})*[\u0000-\u0020]*$",
    "description": (
        "An RRULE (RFC 5545) with FREQ=DAILY, WEEKLY, MONTHLY or YEARLY, and INTERVAL, BYDAY, BYMONTHDAY, BYMONTH, "
        "COUNT or UNTIL (a date). Needs a due date. Completing the task makes the next one."
    ),
    "examples": ["FREQ=WEEKLY;BYDAY=MO"],
}
POSITION_SCHEMA: dict[str, Any] = {
    "type": "integer",
    "minimum": -POSITION_MAX,
    "maximum": POSITION_MAX,
    "description": "The manual order, smallest first.",
    "examples": [-1806000000000000],
}

Title = Annotated[str, AfterValidator(_title), WithJsonSchema(TITLE_SCHEMA)]
"""1 to 200 code points after trimming, of which one shows."""
Description = Annotated[Annotated[str, AfterValidator(_description)] | None, nullable(DESCRIPTION_SCHEMA)]
"""Up to 2000 code points, stored as sent, or null."""
Completed = Annotated[StrictBool, Field(examples=[False])]
Priority = Annotated[_Priority | None, nullable(PRIORITY_SCHEMA)]
DueDate = Annotated[Annotated[str, IsDate] | None, nullable(DUE_DATE_SCHEMA)]
"""A calendar date, as text in every place: a date has no zone that it could be converted by."""
DueTime = Annotated[
    Annotated[str, _matching(_TIME, time.fromisoformat, "not_a_time", NOT_A_TIME)] | None, nullable(DUE_TIME_SCHEMA)
]
RemindAt = Annotated[
    Annotated[
        str, _matching(f"{_DATE}T{_TIME}", datetime.fromisoformat, "not_a_wall_clock_time", NOT_A_WALL_CLOCK_TIME)
    ]
    | None,
    nullable(REMIND_AT_SCHEMA),
]
Tag = Annotated[StrictStr, AfterValidator(tag)]
Tags = Annotated[
    list[Tag], Field(max_length=500), AfterValidator(unique), Field(max_length=TAGS_MAX), WithJsonSchema(TAGS_SCHEMA)
]
"""Up to 20 after equal ones were dropped; the outer limit bounds the work."""
Recurrence = Annotated[Annotated[str, AfterValidator(_recurrence)] | None, nullable(RECURRENCE_SCHEMA)]


def _whole(value: Any) -> Any:
    # To JSON Schema, and to JavaScript, 1.0 is an integer.
    return int(value) if isinstance(value, float) and value.is_integer() else value


Position = Annotated[
    Annotated[StrictInt, Field(ge=-POSITION_MAX, le=POSITION_MAX)],
    BeforeValidator(_whole),
    WithJsonSchema(POSITION_SCHEMA),
]
