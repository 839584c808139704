"""SQLAlchemy's statements without SQLAlchemy's execution: compiled once, run by asyncpg itself.

What is compiled is kept by the statement object, so statements are module constants or come from a cached function
keyed by their shape; one that is built for each request would be compiled for each
(specs/decisions/0014-cost-of-a-request.md).
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import CompoundSelect, Executable, Float, IteratorResult, Numeric, Select
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine.result import SimpleResultMetaData
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine
from sqlmodel.sql.expression import Select as SQLModelSelect
from sqlmodel.sql.expression import SelectOfScalar

MAX_KEPT = 512
"""Statements that stay compiled."""

DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call] # SQLAlchemy has not typed it
DIALECT._backslash_escapes = False  # noqa: SLF001 # what it would ask a server of this century
DIALECT.supports_native_json_deserialization = False  # SQLAlchemy gives its connections a codec; the pool's have none

Process = Callable[[Any], Any] | None
"""What makes of a value what the driver takes, or of the driver's value what the column's type promises."""

_FLOAT8, _NUMERIC = 701, 1700

_ROWS = re.compile(r"\d+$")


class DriverResult(IteratorResult[*tuple[Any, ...]]):
    """Rows that have all been fetched, and how many rows the statement has found or changed."""

    def __init__(self, metadata: SimpleResultMetaData, rows: Iterable[Any], status: str) -> None:
        super().__init__(metadata, iter(rows))
        self._status = status

    @property
    def rowcount(self) -> int:
        """The number in the server's last word, such as `UPDATE 3`."""
        found = _ROWS.search(self._status)
        return int(found[0]) if found else -1


@dataclass(frozen=True, slots=True)
class CompiledStatement:
    """A statement as SQL, and what is known of its parameters and columns."""

    compiled: SQLCompiler
    writes: bool
    """Whether running it twice could differ from running it once: also for a SELECT around a CTE that writes."""
    parameters: tuple[tuple[str, Process], ...]
    own_values: Mapping[str, Any]
    metadata: SimpleResultMetaData | None
    """The columns' names; None for a text, whose columns the server tells."""
    processors: tuple[Process, ...] | None
    """One for each column; None where no column's value has to be converted."""

    def result(self, rows: Sequence[Any], prepared: PreparedStatement) -> DriverResult:
        """Return rows of the driver as SQLAlchemy would."""
        status = prepared.get_statusmsg()
        if self.metadata is None:
            return DriverResult(SimpleResultMetaData([each.name for each in prepared.get_attributes()]), rows, status)
        if self.processors is None:
            return DriverResult(self.metadata, rows, status)
        converted = (
            tuple(process(value) if process else value for process, value in zip(self.processors, row, strict=True))
            for row in rows
        )
        return DriverResult(self.metadata, converted, status)

    def driver_form(self, values: Mapping[str, Any]) -> tuple[str, Sequence[Any]]:
        """Return the SQL and its arguments, in order."""
        if self.compiled.post_compile_params:  # a list of values, each of which is a parameter of its own
            expanded = self.compiled.construct_expanded_state({**self.own_values, **values})
            names = expanded.positiontup or ()
            return expanded.statement, _processed(
                ((name, expanded.processors.get(name)) for name in names), expanded.parameters
            )
        if self.own_values:
            values = {**self.own_values, **values}
        return self.compiled.string, _processed(self.parameters, values)


def _processed(parameters: Iterable[tuple[str, Process]], values: Mapping[str, Any]) -> list[Any]:
    return [process(values[name]) if process else values[name] for name, process in parameters]


def is_read(statement: Any) -> bool:
    """Tell whether a statement, its CTEs apart, does nothing but read. A text may hold anything.

    A function that writes is not recognized: call it in an INSERT, UPDATE or DELETE, or not at all.
    """
    return isinstance(statement, Select | CompoundSelect)


def _result_processor(type_: TypeEngine[Any]) -> Process:
    # Processors of numbers, and they alone, ask for the number of the type on the wire.
    oid = _FLOAT8 if isinstance(type_, Float) else _NUMERIC if isinstance(type_, Numeric) else None
    return type_.result_processor(DIALECT, oid)


@functools.lru_cache(maxsize=MAX_KEPT)
def compile_statement(statement: Executable, names: tuple[str, ...]) -> CompiledStatement:
    """Compile a statement with parameters of these names.

    Raises `TypeError` for what only SQLAlchemy can run, in a session: entities, and defaults that Python computes.
    """
    if isinstance(statement, SQLModelSelect | SelectOfScalar):
        raise TypeError("SQLModel's select loads entities: run it in a session, or select columns with SQLAlchemy's")
    compiled = statement.compile(dialect=DIALECT, column_keys=list(names) or None)  # type: ignore[attr-defined] # of every statement
    if not isinstance(compiled, SQLCompiler):
        raise TypeError(f"not a statement on rows: {type(statement).__name__}")
    if compiled.prefetch or compiled.literal_execute_params or any(b.callable for b in compiled.binds.values()):
        raise TypeError("a default is computed in Python: give its value as a parameter, or use a session")
    columns = compiled._result_columns  # noqa: SLF001 # what SQLAlchemy itself reads rows by
    processors = tuple(_result_processor(column.type.dialect_impl(DIALECT)) for column in columns)
    return CompiledStatement(
        compiled,
        writes=not all(map(is_read, (statement, *(cte.element for cte in compiled.ctes or ())))),
        parameters=tuple(
            (name, compiled.binds[name].type.dialect_impl(DIALECT).bind_processor(DIALECT))
            for name in compiled.positiontup or ()
            if name in compiled.binds
        ),
        own_values={name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required},
        metadata=SimpleResultMetaData([column.keyname for column in columns]) if columns else None,
        processors=processors if any(processors) else None,
    )
