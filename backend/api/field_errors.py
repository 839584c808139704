"""The places of a request that break a rule, in our words. pydantic's own can repeat a piece of the value."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic_core.core_schema import ErrorType

MAX_ERRORS = 20
"""How many places one 422 points at; more would make a small request a large response."""
MAX_POINTED_NAME = 64
"""The longest field name that a pointer repeats; past it, it points at the object that holds the field."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One place of the request that breaks a rule. `pointer` is a JSON pointer (RFC 6901) into `source`."""

    source: str
    pointer: str
    code: str
    detail: str


_RULES: Mapping[str, tuple[str, str]] = {
    "missing": ("required", "is required"),
    "extra_forbidden": ("unknown_field", "is not a field of this request"),
    "string_type": ("not_a_string", "must be a string"),
    "string_unicode": ("invalid_character", "must not contain NUL or a lone surrogate"),
    "bool_type": ("not_a_boolean", "must be true or false"),
    "int_type": ("not_an_integer", "must be a whole number"),
    "list_type": ("not_a_list", "must be a list"),
    "model_attributes_type": ("not_an_object", "must be a JSON object"),
    "model_type": ("not_an_object", "must be a JSON object"),
    "union_tag_invalid": ("unknown_operation", "must have an op that is put, patch, delete, toggle or restore"),
    "union_tag_not_found": ("required", "must have an op"),
}
"""pydantic's error types that can occur here."""

_PYDANTICS = frozenset(get_args(ErrorType))
"""All other error types are of our own validators, whose messages hold nothing that was sent."""

_BOUNDS = {
    "string_too_long": ("too_long", "must have at most {max_length} characters"),
    "too_long": ("too_long", "must have at most {max_length} entries"),
    "too_short": ("too_short", "must not be empty"),
    "greater_than_equal": ("out_of_range", "must be at least {ge}"),
    "less_than_equal": ("out_of_range", "must be at most {le}"),
}


def field_errors(errors: Sequence[Mapping[str, Any]], *place: str | int) -> list[FieldError]:
    """Return pydantic's errors in our words, `MAX_ERRORS` at most.

    Their places, behind `place`, begin with the source: `body`, `query` and so on.
    """
    return [_field_error({**each, "loc": (*place, *each["loc"])}) for each in errors[:MAX_ERRORS]]


def _field_error(error: Mapping[str, Any]) -> FieldError:
    source, *path = error["loc"]
    if path[:1] == ["operations"]:
        del path[2:3]  # which kind of operation it is: a tag of pydantic's, and no part of the body
    rule = error["type"]
    if rule in _BOUNDS:
        code, detail = _BOUNDS[rule]
        detail = detail.format(**error["ctx"])
    elif rule not in _PYDANTICS:
        code, detail = rule, error["msg"]
        # Raised of a whole operation of a batch, whose `task` has another id than the operation itself.
        path += ["task", "id"] if rule == "id_mismatch" else []
    elif rule == "literal_error":
        code, detail = "unknown_value", f"must be {error['ctx']['expected'].replace(chr(39), '')}"
    elif rule == "extra_forbidden" and (source, path) == ("body", ["id"]):
        code, detail = "unknown_field", "is not a field of this request; PUT /api/tasks/{id} takes an id of yours"
    else:
        code, detail = _RULES.get(rule, ("invalid", "is not valid"))
    return FieldError(source, _pointer(path), code, detail)


def _pointer(path: Sequence[str | int]) -> str:
    if path and isinstance(path[-1], str) and not (len(path[-1]) <= MAX_POINTED_NAME and path[-1].isprintable()):
        path = path[:-1]
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)
