"""SQLAlchemy's statements without SQLAlchemy's execution: compiled once, run by asyncpg itself.

For a statement of one round trip SQLAlchemy's connection, execution context and cursor cost several times what the
driver does (specs/decisions/0014-cost-of-a-request.md). A session takes this way on PostgreSQL for whatever needs
nothing of SQLAlchemy but its SQL; everything else, and SQLite, goes SQLAlchemy's own way.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Boolean,
    DateTime,
    Delete,
    Dialect,
    Executable,
    Insert,
    Integer,
    IteratorResult,
    Select,
    String,
    Update,
    Uuid,
)
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import NullType
from sqlmodel.sql.expression import Select as SQLModelSelect
from sqlmodel.sql.expression import SelectOfScalar

ENTITY_SELECTS = (SQLModelSelect, SelectOfScalar)
"""What SQLModel's `select` makes."""

AS_THE_DRIVER_GIVES = (Boolean, DateTime, Integer, NullType, String, Uuid)
"""Types of columns whose values asyncpg gives as SQLAlchemy would."""

MAX_KEPT = 256
"""Statements that stay compiled."""

Parameter = tuple[str, Callable[[Any], Any] | None]
"""A parameter's name, and what makes of its value what the driver takes."""

_ROWS = re.compile(r"\d+$")


class DriverResult(IteratorResult[*tuple[Any, ...]]):
    """Rows that have all been fetched, and how many rows the statement has found or changed."""

    def __init__(self, metadata: SimpleResultMetaData, rows: Sequence[Any], status: str) -> None:
        super().__init__(metadata, iter(rows))
        self._status = status

    @property
    def rowcount(self) -> int:
        """The number in the server's answer, such as `UPDATE 3`."""
        found = _ROWS.search(self._status)
        return int(found[0]) if found else -1


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """A statement as SQL, and what is known of its parameters and columns."""

    compiled: SQLCompiler
    parameters: tuple[Parameter, ...]
    own_values: Mapping[str, Any]
    metadata: SimpleResultMetaData

    def result(self, rows: Sequence[Any], status: str) -> DriverResult:
        """Return rows of the driver, and its last word on them, as SQLAlchemy would."""
        return DriverResult(self.metadata, rows, status)

    def driver_form(self, values: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Return the SQL and its arguments, in order."""
        if self.compiled.post_compile_params:  # a list of values, each of which is a parameter of its own
            expanded = self.compiled.construct_expanded_state(values)
            names = expanded.positiontup or ()
            return expanded.statement, _processed(
                ((name, expanded.processors.get(name)) for name in names), expanded.parameters
            )
        if self.own_values:
            values = {**self.own_values, **values}
        return self.compiled.string, _processed(self.parameters, values)


def _processed(parameters: Iterable[Parameter], values: Mapping[str, Any]) -> list[Any]:
    return [process(values[name]) if process else values[name] for name, process in parameters]


@functools.lru_cache(maxsize=MAX_KEPT)
def compile_statement(statement: Executable, dialect: Dialect, names: tuple[str, ...]) -> CompiledStatement | None:
    """Compile a statement with parameters of these names; None where SQLAlchemy has to run it.

    That is where it is of another kind, loads entities, has defaults to be computed, or columns whose values must be
    converted.
    """
    if not isinstance(statement, Select | Insert | Update | Delete) or isinstance(statement, ENTITY_SELECTS):
        return None
    compiled = statement.compile(dialect=dialect, column_keys=list(names) or None)
    if (
        not isinstance(compiled, SQLCompiler)
        or compiled.prefetch
        or compiled.literal_execute_params
        or any(bind.callable for bind in compiled.binds.values())
    ):
        return None
    columns = compiled._result_columns  # noqa: SLF001 # what SQLAlchemy itself reads rows by
    processors = {
        name: bind.type.dialect_impl(dialect).bind_processor(dialect) for name, bind in compiled.binds.items()
    }
    for column in columns:
        converts = column.type.dialect_impl(dialect).result_processor
        if not isinstance(column.type, AS_THE_DRIVER_GIVES) or converts(dialect, None) is not None:
            return None
    return CompiledStatement(
        compiled,
        parameters=tuple((name, processors[name]) for name in compiled.positiontup or ()),
        own_values={name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required},
        metadata=SimpleResultMetaData([column.keyname for column in columns]),
    )
