"""The schema's history, run with Alembic from wherever this package is installed.

Each function takes a connection. `upgrade` and `downgrade` commit each revision by itself, so that a revision can leave
its transaction (`op.get_context().autocommit_block()`, for CREATE INDEX CONCURRENTLY) and a table is locked as shortly
as can be. Which revision a database has is in a table of our own: others use Alembic's, and migrate in the same place.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from sqlmodel import SQLModel

from backend.models import task  # noqa: F401 # to have its table in the metadata

VERSION_TABLE = "todo_backend_version"
_ALEMBICS_TABLE = "alembic_version"
_FUNCTION = "next_revision(text)"
_FEW = 4
"""Names that a message has of all that is missing."""


class Unusable(Exception):
    """A schema that cannot be brought up to date: what was found, and what to do."""


def upgrade(connection: Connection, revision: str = "head", *, adopt: bool = False) -> str | None:
    """Bring the schema up to `revision`, and return the one that it has then.

    Does nothing where it is there already, or newer than this package. With `adopt`, tables without a version are taken
    over where they are equal to the newest revision's. Raises `Unusable`.
    """
    _require_known(revision)
    version = examine(connection, adopt=adopt)
    if is_newer(version):
        return version
    _rename_alembics_table(connection)
    if adopt and _tables(connection) and not _unequal(connection):
        command.stamp(_config(connection), "head")
    connection.commit()
    command.upgrade(_config(connection), revision)
    return current(connection)


def examine(connection: Connection, *, adopt: bool = False) -> str | None:
    """Return the revision that the database has. Raises `Unusable` where `upgrade` would not know what to do."""
    version = current(connection)
    found = _tables(connection)
    if version is None and not found:
        _require_search_path(connection)
    elif version is None:
        if unequal := _unequal(connection):
            raise Unusable(
                f"there is a table {found[0]} that todo-backend did not make, or a part of what it made: it {unequal};"
                " restore the rest, rename it, or use another database"
            )
        if not adopt:
            raise Unusable(
                f"there is a table tasks without {VERSION_TABLE}; it is equal to revision {head()}'s: to go on with it,"
                " run todo-backend migrate --adopt"
            )
    elif is_newer(version):
        if lacking := missing(connection):
            raise Unusable(f"the database is at the unknown revision {version}, and has no {_some(lacking)}")
    elif "tasks" not in found:
        raise Unusable(
            f"{VERSION_TABLE} says {version}, but there is no table tasks: restore it, or drop {VERSION_TABLE} to begin"
            " with an empty one"
        )
    elif version == head() and (lacking := missing(connection) or _retyped(connection)):
        raise Unusable(
            f"the database is at revision {version}, but has no {_some(lacking)}: restore what is lost; what is new in"
            " the model needs a migration"
        )
    return version


def downgrade(connection: Connection, revision: str) -> None:
    """Take the schema down to `revision`; "base" leaves nothing of it."""
    _rename_alembics_table(connection)
    connection.commit()
    command.downgrade(_config(connection), revision)


def sql(connection: Connection, revision: str) -> str:
    """Return the statements that `upgrade` would run, for who runs them by hand. Raises `Unusable`."""
    _require_known(revision)
    version = current(connection)
    if is_newer(version):
        return ""
    output = io.StringIO()
    config = _config(output=output)
    config.attributes["dialect"] = connection.dialect.name
    command.upgrade(config, f"{version or 'base'}:{revision}", sql=True)
    return output.getvalue()


def current(connection: Connection) -> str | None:
    """Return the revision that the database has, None for none. Raises `Unusable` where that cannot be told."""
    versions = _versions(connection, VERSION_TABLE)
    if versions is None:
        raise Unusable(f"there is a table {VERSION_TABLE} that todo-backend did not make: rename it")
    if len(versions) > 1:
        raise Unusable(f"{VERSION_TABLE} has {len(versions)} rows, where one tells the revision: delete the wrong ones")
    if not versions and _alembics_table_is_ours(connection):
        versions = _versions(connection, _ALEMBICS_TABLE) or ()
    return versions[0] if versions else None


def head() -> str | None:
    """Return the newest revision that this package knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def revisions() -> frozenset[str]:
    """Return all revisions that this package knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def is_newer(version: str | None) -> bool:
    """Tell whether a database's revision is one that this package does not know."""
    return version is not None and version not in revisions()


def missing(connection: Connection) -> list[str]:
    """Name what this package's statements need and the database lacks: tables, columns, the function."""
    found = []
    inspector = inspect(connection)
    for table in SQLModel.metadata.sorted_tables:
        if not inspector.has_table(table.name):
            found.append(f"table {table.name}")
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        found += [f"column {table.name}.{column.name}" for column in table.columns if column.name not in columns]
    find_function = text(f"SELECT to_regprocedure('{_FUNCTION}')")
    if connection.dialect.name == "postgresql" and connection.scalar(find_function) is None:
        found.append(f"function {_FUNCTION}")
    return found


def _some(names: list[str]) -> str:
    """Name a few, and tell how many more there are."""
    return ", ".join(names[:_FEW]) + (f" and {len(names) - _FEW} more" if len(names) > _FEW else "")


def elsewhere(connection: Connection) -> str | None:
    """Name a schema outside the search path that has our tables, None where there is none."""
    if connection.dialect.name != "postgresql":
        return None
    query = text(
        "SELECT n.nspname FROM pg_namespace n JOIN pg_class t ON t.relnamespace = n.oid AND t.relname = 'tasks'"
        " JOIN pg_class v ON v.relnamespace = n.oid AND v.relname IN (:ours, :alembics)"
        " WHERE n.nspname <> ALL (current_schemas(true)) ORDER BY 1 LIMIT 1"
    )
    names = {"ours": VERSION_TABLE, "alembics": _ALEMBICS_TABLE}
    schema: str | None = connection.scalar(query, names)
    return schema


def _require_known(revision: str) -> None:
    if revision != "head" and revision not in revisions():
        raise Unusable(f"this version knows no such revision; it knows {', '.join(sorted(revisions()))}")


def _require_search_path(connection: Connection) -> None:
    """Refuse to make a second set of tables where the first is only out of sight."""
    if inspect(connection).has_table(VERSION_TABLE):
        return  # somebody wants one here
    if schema := elsewhere(connection):
        raise Unusable(
            f"schema {schema} has the tables, and search_path does not lead there: change it (for another set of tables"
            f" here, first create an empty table {VERSION_TABLE} (version_num varchar(32) not null))"
        )


def _unequal(connection: Connection) -> str | None:
    """Say what keeps the tables from being taken over as they are; None where they are the newest revision's."""
    if lacking := missing(connection):
        return f"has no {_some(lacking)}"
    return "differs from this version's" if _differences(connection) else None


def _differences(connection: Connection) -> list[Any]:
    names = set(SQLModel.metadata.tables)

    def ours(_object: Any, name: str | None, kind: str, _reflected: bool, _compare_to: Any) -> bool:
        return kind != "table" or name in names

    options: dict[str, Any] = {"compare_type": True, "include_object": ours}
    differences: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), SQLModel.metadata)
    inspector = inspect(connection)
    for table in SQLModel.metadata.sorted_tables:  # Alembic compares no primary key
        key = inspector.get_pk_constraint(table.name)["constrained_columns"]
        if key != [column.name for column in table.primary_key]:
            differences.append(("primary key", key))
    return differences


def _retyped(connection: Connection) -> list[str]:
    """Name columns whose type is another one by now."""
    changes = [each[0] for each in _differences(connection) if isinstance(each, list) and each[0][0] == "modify_type"]
    return [f"column {change[2]}.{change[3]} of type {change[6]}" for change in changes]


def _tables(connection: Connection) -> list[str]:
    inspector = inspect(connection)
    return [name for name in ("tasks", "owners") if inspector.has_table(name)]


def _versions(connection: Connection, table: str) -> Sequence[str] | None:
    """Return what the table says, None where it is no table of Alembic's."""
    if not inspect(connection).has_table(table):
        return ()
    if "version_num" not in {column["name"] for column in inspect(connection).get_columns(table)}:
        return None
    return connection.execute(text(f"SELECT version_num FROM {table}")).scalars().all()  # noqa: S608 # ours


def _alembics_table_is_ours(connection: Connection) -> bool:
    """Tell whether Alembic's table is from an earlier version of this package, which used it."""
    versions = _versions(connection, _ALEMBICS_TABLE) or ()
    if len(versions) != 1 or versions[0] not in revisions() or "tasks" not in _tables(connection):
        return False
    columns = {column["name"] for column in inspect(connection).get_columns("tasks")}
    return {"user_id", "id", "title", "description", "completed", "created_at", "updated_at"} <= columns


def _rename_alembics_table(connection: Connection) -> None:
    if not inspect(connection).has_table(VERSION_TABLE) and _alembics_table_is_ours(connection):
        connection.execute(text(f"ALTER TABLE {_ALEMBICS_TABLE} RENAME TO {VERSION_TABLE}"))


def _config(connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    config = Config(output_buffer=output)
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
