"""A task: the table, what may be sent, and what is sent back. Each field's rule is in `fields.py`."""

from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal, NotRequired
from uuid import UUID

from pydantic import ConfigDict, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticCustomError
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Index,
    PrimaryKeyConstraint,
    Text,
    TypeDecorator,
    text,
)
from sqlalchemy import Uuid as UuidColumn
from sqlmodel import Field as ColumnField
from sqlmodel import SQLModel
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.models.fields import (
    DESCRIPTION_MAX,
    OWNER_MAX,
    TITLE_MAX,
    Completed,
    Description,
    DueDate,
    DueTime,
    Position,
    Priority,
    Recurrence,
    RemindAt,
    Tags,
    Title,
)


class _TextInUtc(TypeDecorator[datetime]):
    """SQLite's text for a moment knows no zone: it is stored in UTC, and says so again when it is read."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None else None


UTC_DATE_TIME = DateTime(timezone=True).with_variant(_TextInUtc(), "sqlite")
"""A moment in UTC, as PostgreSQL's timestamptz is."""


class TaskBase(SQLModel):
    """What a person writes into a task: each field's rule, its column, and what a new task has where nobody says."""

    title: Title = ColumnField(sa_type=Text)
    description: Description = ColumnField(default=None, sa_type=Text)
    completed: Completed = False
    priority: Priority = ColumnField(default=None, sa_type=Text)
    due_date: DueDate = ColumnField(default=None, sa_type=Text)
    due_time: DueTime = ColumnField(default=None, sa_type=Text)
    remind_at: RemindAt = ColumnField(default=None, sa_type=Text)
    tags: Tags = []
    recurrence: Recurrence = ColumnField(default=None, sa_type=Text)
    position: Position = ColumnField(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})


class Owner(SQLModel, table=True):
    """One row for each user: the revision of the user's last change, which the writers of a user queue for.

    `forgotten` is the greatest revision of which something was erased: a follower that is older must start anew.
    """

    __tablename__ = "owners"
    __table_args__ = (CheckConstraint(f"length(user_id) between 1 and {OWNER_MAX}", name="owners_user_id_length"),)

    user_id: str = ColumnField(sa_type=Text, primary_key=True)
    revision: int = ColumnField(sa_type=BigInteger)
    forgotten: int = ColumnField(default=0, sa_type=BigInteger, sa_column_kwargs={"server_default": "0"})


_DELETED = text("deleted_at IS NOT NULL")
_WHERE_DELETED: dict[str, Any] = {"postgresql_where": _DELETED, "sqlite_where": _DELETED}
"""Holds the trash alone: a task that lives costs it nothing."""


class Task(TaskBase, table=True):
    """The table. A SQLModel table does not validate: `TaskCreate` and its kin do, before anything reaches it.

    The primary key serves isolation, order and paging, and is what the table would be sharded by
    (specs/decisions/0003-primary-key.md). Dates and times are text in their own form: they have no zone, sort as they
    are, and are the same on both engines. The columns `…_folded` hold what search and order by title compare.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        PrimaryKeyConstraint("user_id", "id", name="tasks_pkey"),
        CheckConstraint(f"length(user_id) between 1 and {OWNER_MAX}", name="tasks_user_id_length"),
        CheckConstraint(f"length(title) between 1 and {TITLE_MAX}", name="tasks_title_length"),
        CheckConstraint(f"length(description) <= {DESCRIPTION_MAX}", name="tasks_description_length"),
        Index("tasks_revision", "user_id", "revision", "id"),
        Index("tasks_trash", "user_id", "deleted_at", "id", **_WHERE_DELETED),
    )

    user_id: str = ColumnField(sa_type=Text, primary_key=True)
    id: UUID = ColumnField(sa_type=UuidColumn, primary_key=True)
    tags: str = ColumnField(default="[]", sa_type=Text, sa_column_kwargs={"server_default": "[]"})  # type: ignore[assignment] # a JSON list, as text
    completed_at: datetime | None = ColumnField(default=None, sa_type=UTC_DATE_TIME)
    title_folded: str | None = ColumnField(default=None, sa_type=Text)
    description_folded: str | None = ColumnField(default=None, sa_type=Text)
    tags_folded: str | None = ColumnField(default=None, sa_type=Text)
    revision: int = ColumnField(default=1, sa_type=BigInteger, sa_column_kwargs={"server_default": "1"})
    deleted_at: datetime | None = ColumnField(default=None, sa_type=UTC_DATE_TIME)
    created_at: datetime = ColumnField(sa_type=UTC_DATE_TIME, nullable=False)
    updated_at: datetime = ColumnField(sa_type=UTC_DATE_TIME, nullable=False)


ABSENT = ""
"""The due date of a body that says nothing of one: that of the stored task decides."""
NEED_DATE = ("due_time", "recurrence")
"""Fields that need a due date."""

READ_ONLY = frozenset({"created_at", "updated_at", "completed_at", "deleted_at", "etag"})
"""Fields that a task may be sent back with, whatever they hold: they are the server's."""


def drop_defaults(schema: dict[str, Any]) -> None:
    """Leave defaults out of a body's schema: generated clients would demand those fields, or send them."""
    for field in schema["properties"].values():
        field.pop("default", None)


_IGNORED = {"description": "Ignored, whatever it is: a task may be sent back as it was read."}
_EXAMPLE = {"title": "Buy milk", "priority": "high", "due_date": "2026-12-01", "due_time": "09:30", "tags": ["home"]}


def _describe_body(schema: dict[str, Any]) -> None:
    drop_defaults(schema)
    # Not `readOnly`: generators would make a second type of each body, without these fields.
    schema["properties"] |= dict.fromkeys(sorted(READ_ONLY), _IGNORED)
    schema["examples"] = [_EXAMPLE]


class TaskInput(TaskBase):
    """What the bodies that write a task have in common. There is no owner: that is the token's user.

    Where a field was not sent its value only means "absent", which `model_fields_set` tells apart.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(  # type: ignore[assignment] # SQLModel's own type is narrower
        extra="forbid", json_schema_extra=_describe_body
    )

    @model_validator(mode="before")
    @classmethod
    def _drop_read_only(cls, value: Any) -> Any:
        if isinstance(value, dict) and not READ_ONLY.isdisjoint(value):
            return {name: field for name, field in value.items() if name not in READ_ONLY}
        return value

    @field_validator(*NEED_DATE)
    @classmethod
    def _needs_due_date(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.data.get("due_date", cls.model_fields["due_date"].default) is None:
            raise PydanticCustomError("needs_due_date", "needs a due_date")
        return value

    def changes(self) -> dict[str, Any]:
        """Return the fields that were sent, with their values, and what follows from them."""
        changes = {name: getattr(self, name) for name in self.model_fields_set if name != "id"}
        if "due_date" in changes and changes["due_date"] is None:
            changes |= dict.fromkeys(NEED_DATE)
        return changes


class TaskCreate(TaskInput):
    """A new task."""


class AddressedTask(TaskInput):
    """A task that is written at its own address. It may hold that address, and no other."""

    title: Title = ""
    due_date: DueDate = ABSENT
    id: Annotated[
        Any, WithJsonSchema({"type": "string", "format": "uuid", "description": "The address's id, or absent."})
    ] = None

    def names(self, task_id: UUID) -> bool:
        """Tell whether the body is for the task of this id: it has no id, or this one, in either case."""
        return "id" not in self.model_fields_set or (isinstance(self.id, str) and self.id.lower() == str(task_id))


class TaskUpdate(AddressedTask):
    """A JSON merge patch (RFC 7396) of a task: what is absent is kept, null clears what may be null."""


class TaskPut(AddressedTask):
    """A task to create or to change: what is absent gets its default in a new task, and is kept in an old one."""


_MOMENT = "2026-01-02T03:04:05.678901Z"


class TaskPublic(TypedDict):
    """A task as its owner sees it."""

    # A typed dict, because a row needs no validation on its way out.

    id: Annotated[
        UUID,
        Field(
            description="UUID version 7: newer tasks have greater ids.",
            examples=["0192f0c1-2345-7abc-8def-0123456789ab"],
        ),
    ]
    title: Annotated[str, Field(min_length=1, max_length=TITLE_MAX, examples=["Buy milk"])]
    description: Annotated[str | None, Field(examples=["Two litres, the blue one"])]
    completed: Annotated[bool, Field(examples=[True])]
    priority: Priority
    due_date: DueDate
    due_time: DueTime
    remind_at: RemindAt
    tags: Tags
    recurrence: Recurrence
    position: Position
    completed_at: Annotated[
        datetime | None, Field(description="When it was completed; null while it is active.", examples=[_MOMENT])
    ]
    etag: Annotated[
        str,
        Field(
            description="The entity tag without its quotes: what `If-Match` takes.",
            examples=["1767323045678901-5f2a9c04e1b7"],
        ),
    ]
    created_at: Annotated[datetime, Field(description="RFC 3339, in UTC.", examples=[_MOMENT])]
    updated_at: Annotated[datetime, Field(description="Moves with every write to the task.", examples=[_MOMENT])]


class ListedTask(TaskPublic):
    """A task of a list, which may be that of the trash."""

    deleted_at: NotRequired[Annotated[datetime, Field(description="With `deleted=true`: when it was deleted.")]]


class DeletedChange(TypedDict):
    """A task that is in the trash."""

    id: UUID
    deleted: Literal[True]


class TaskStats(TypedDict):
    """How many tasks the user has."""

    total: Annotated[int, Field(ge=0)]
    completed: Annotated[int, Field(ge=0)]
    active: Annotated[int, Field(ge=0)]
