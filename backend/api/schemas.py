"""The JSON of requests and responses that is no task: that is in `models/`, a batch in `routers/batch.py`."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict  # pydantic cannot read typing.TypedDict before Python 3.12

from backend.api.deps import CanonicalUUID
from backend.models.queries import Destination
from backend.models.task import DeletedChange, TaskPublic, drop_defaults

MAX_BULK = 500


class BulkComplete(BaseModel):
    """Which tasks to set to which state."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)

    task_ids: Annotated[list[CanonicalUUID], Field(min_length=1, max_length=MAX_BULK)]
    completed: StrictBool = True


def _exactly_one(schema: dict[str, Any]) -> None:
    drop_defaults(schema)
    schema |= {"minProperties": 1, "maxProperties": 1}


class Move(BaseModel):
    """Where to put a task: before or after another, or to an end. One of the three."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_exactly_one)

    # The defaults mean "absent": what is sent is not null.
    before: CanonicalUUID = None  # type: ignore[assignment] # as above
    after: CanonicalUUID = None  # type: ignore[assignment] # as above
    to: Literal["first", "last"] = None  # type: ignore[assignment] # as above

    @model_validator(mode="before")
    @classmethod
    def _is_one(cls, value: Any) -> Any:
        known = {"before", "after", "to"}
        if isinstance(value, dict) and value.keys() <= known and len(value) != 1:
            raise PydanticCustomError("one_of", "must have one of before, after and to")
        return value

    def destination(self) -> Destination:
        """Return where that is."""
        if self.to is not None:
            return Destination(self.to)
        return Destination("before", self.before) if self.before is not None else Destination("after", self.after)


class Transfer(BaseModel):
    """The proof that whoever asks was the other user, too."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=drop_defaults)

    from_token: Annotated[
        str, Field(description="A token of the user who has the tasks now.", examples=["eyJhbGciOiJFZERTQSJ9.e30.c2ln"])
    ]


class Updated(TypedDict):
    """How many tasks changed."""

    updated: Annotated[int, Field(ge=0)]


class Deleted(TypedDict):
    """How many tasks were deleted."""

    deleted: Annotated[int, Field(ge=0)]


class Transferred(TypedDict):
    """How many tasks changed hands."""

    transferred: Annotated[int, Field(ge=0)]


class TagCount(TypedDict):
    """A tag, and how many tasks have it."""

    tag: str
    count: Annotated[int, Field(ge=1)]


class ChangesPage(TypedDict):
    """What has changed, and where to go on."""

    changes: list[TaskPublic | DeletedChange]
    checkpoint: Annotated[str, Field(description="Send it as `since` next time.")]
    more: Annotated[bool, Field(description="Whether more changes follow already.")]
