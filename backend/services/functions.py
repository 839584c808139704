"""SQL functions that PostgreSQL and SQLite write in different ways."""

from typing import Any

from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import Boolean, Text


class bytewise(FunctionElement[str]):  # noqa: N801 # used like a function
    """A text that is compared by its characters' numbers, on every server the same, as SQLite does."""

    type = Text()
    inherit_cache = True


class texts(FunctionElement[str]):  # noqa: N801 # used like a function
    """The texts of a JSON array as rows: one parameter and one statement, however many they are."""

    inherit_cache = True


class has_all(FunctionElement[bool]):  # noqa: N801 # used like a function
    """Whether a JSON array has all of another one's texts. A row's array is read once, however many they are."""

    type = Boolean()
    inherit_cache = True


class has_any(FunctionElement[bool]):  # noqa: N801 # used like a function
    """Whether a JSON array has at least one of another one's texts."""

    type = Boolean()
    inherit_cache = True


def _written(function: type[FunctionElement[Any]], *, sqlite: str, postgresql: str) -> None:
    """Have each engine write a function in its form, in which `{0}` and `{1}` are the arguments."""

    def writer(form: str) -> Any:
        def write(element: Any, compiler: Any, **options: Any) -> str:
            return form.format(*(compiler.process(clause, **options) for clause in element.clauses))

        return write

    compiles(function, "sqlite")(writer(sqlite))
    compiles(function, "postgresql")(writer(postgresql))


_written(bytewise, sqlite="{0}", postgresql='({0} COLLATE "C")')
_written(texts, sqlite="json_each({0})", postgresql="json_array_elements_text(CAST({0} AS json))")
_written(
    has_all,
    sqlite="NOT EXISTS (SELECT value FROM json_each({1}) EXCEPT SELECT value FROM json_each({0}))",
    postgresql="CAST({0} AS jsonb) ?& ARRAY(SELECT json_array_elements_text(CAST({1} AS json)))",
)
_written(
    has_any,
    sqlite="EXISTS (SELECT value FROM json_each({1}) INTERSECT SELECT value FROM json_each({0}))",
    postgresql="CAST({0} AS jsonb) ?| ARRAY(SELECT json_array_elements_text(CAST({1} AS json)))",
)
