"""A task: the table, what may be sent, and what is answered."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar
from uuid import UUID

from pydantic import AfterValidator, ConfigDict, Field, StrictBool, WithJsonSchema
from pydantic_core import PydanticCustomError
from sqlalchemy import CheckConstraint, DateTime, Dialect, PrimaryKeyConstraint, Text, TypeDecorator, Uuid
from sqlmodel import Field as ColumnField
from sqlmodel import SQLModel
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

TITLE_MAX = 200
DESCRIPTION_MAX = 2000
OWNER_MAX = 255

# A character that str.strip() leaves: `\S` means something else in every language, and the schema must mean this. It is
# written as what may be, because generators write U+2028 as it is into a regular expression, where it ends the line.
_NO_SPACE = (
    r"(?:[\x01-\x08\x0e-\x1b\x21-\x84\x86-\x9f\xa1-\u167f\u1681-\u1fff\u200b-\u2027\u202a-\u202e\u2030-\u205e\u2060-\u2fff]"
    r"|[^\x00-\u3000])"
)


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
"""NUL, which PostgreSQL cannot store and SQLite can; and surrogates, which are half a character and have no UTF-8."""


def _storable(text: str) -> str:
    if _UNSTORABLE.search(text):
        raise PydanticCustomError("invalid_character", "must not contain NUL or a lone surrogate")
    return text


def _too_long(limit: int) -> PydanticCustomError:
    return PydanticCustomError("too_many_characters", "must have at most {limit} characters", {"limit": limit})


def _title(text: str) -> str:
    trimmed = _storable(text).strip()
    if not trimmed:
        raise PydanticCustomError("blank", "must not be blank")
    if len(trimmed) > TITLE_MAX:
        raise _too_long(TITLE_MAX)
    return trimmed


def _description(text: str) -> str:
    if len(_storable(text)) > DESCRIPTION_MAX:
        raise PydanticCustomError(
            "too_many_characters", "must have at most {limit} characters", {"limit": DESCRIPTION_MAX}
        )
    return text


Title = Annotated[
    str,
    AfterValidator(_title),
    WithJsonSchema(
        {
            "type": "string",
            "minLength": 1,
            "maxLength": TITLE_MAX,
            "pattern": rf"^[^\x00]*{_NO_SPACE}[^\x00]*$",
            "description": "Surrounding white space is trimmed, and must leave something. No NUL.",
            "examples": ["Buy milk"],
        }
    ),
]
"""1 to 200 code points after trimming."""

_DESCRIPTION_SCHEMA = {
    "maxLength": DESCRIPTION_MAX,
    "pattern": r"^[^\x00]*$",
    "description": "Stored as sent. No NUL.",
    "examples": ["Two litres, the blue one"],
}

Description = Annotated[
    Annotated[str, AfterValidator(_description)] | None,
    WithJsonSchema({"anyOf": [{"type": "string", **_DESCRIPTION_SCHEMA}, {"type": "null"}]}),
]
"""Up to 2000 code points, stored as sent, or null."""

Completed = Annotated[StrictBool, Field(examples=[False])]


class _TextInUtc(TypeDecorator[datetime]):
    """SQLite's text for a moment knows no zone: it is stored in UTC, and says so again when it is read."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store in UTC."""
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Say UTC."""
        return value.replace(tzinfo=UTC) if value is not None else None


UTC_DATE_TIME = DateTime(timezone=True).with_variant(_TextInUtc(), "sqlite")
"""A moment in UTC, as PostgreSQL's timestamptz is."""


class TaskBase(SQLModel):
    """What a person writes into a task."""

    title: str = ColumnField(sa_type=Text)
    description: str | None = ColumnField(default=None, sa_type=Text)
    completed: bool = False


class Task(TaskBase, table=True):
    """The table. A SQLModel table does not validate: `TaskCreate` and `TaskUpdate` do, before anything reaches it.

    The primary key is the only index: it serves isolation, order and paging, and is what the table would be sharded by
    (specs/decisions/0003-primary-key.md).
    """

    __tablename__ = "tasks"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="tasks_pkey"),
        CheckConstraint(f"length(user_id) between 1 and {OWNER_MAX}", name="tasks_user_id_length"),
        CheckConstraint(f"length(title) between 1 and {TITLE_MAX}", name="tasks_title_length"),
        CheckConstraint(f"length(description) <= {DESCRIPTION_MAX}", name="tasks_description_length"),
    )

    user_id: str = ColumnField(sa_type=Text, primary_key=True)
    id: UUID = ColumnField(sa_type=Uuid, primary_key=True)
    created_at: datetime = ColumnField(sa_type=UTC_DATE_TIME, nullable=False)
    updated_at: datetime = ColumnField(sa_type=UTC_DATE_TIME, nullable=False)


def drop_defaults(schema: dict[str, Any]) -> None:
    """Leave defaults out of a body's schema: generated clients would demand those fields, or send them."""
    for field in schema["properties"].values():
        field.pop("default", None)


class TaskCreate(TaskBase):
    """A new task. It has no owner: that is the caller."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)  # type: ignore[assignment] # SQLModel's own type is narrower

    title: Title
    description: Description = None
    completed: Completed = False


class TaskUpdate(SQLModel):
    """A JSON merge patch (RFC 7396) of a task: what is absent is kept, null clears the description."""

    # The defaults below only mean "absent", which is told apart by `model_fields_set`; they are no value of the API.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)  # type: ignore[assignment] # as above

    title: Title = ""
    description: Description = None
    completed: Completed = False

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, with their values."""
        return {name: getattr(self, name) for name in self.model_fields_set}


class TaskPublic(TypedDict):
    """A task as its owner sees it."""

    # A typed dict, because a row needs no validation on its way out.

    id: Annotated[UUID, Field(description="UUID version 7: newer tasks have greater ids.")]
    title: Annotated[str, Field(min_length=1, max_length=TITLE_MAX, examples=["Buy milk"])]
    description: Annotated[str | None, Field(examples=["Two litres, the blue one"])]
    completed: bool
    created_at: Annotated[datetime, Field(description="RFC 3339, in UTC.")]
    updated_at: Annotated[datetime, Field(description="Moves with every write to the task.")]


class TaskStats(TypedDict):
    """How many tasks the caller has."""

    total: Annotated[int, Field(ge=0)]
    completed: Annotated[int, Field(ge=0)]
    active: Annotated[int, Field(ge=0)]
