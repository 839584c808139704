"""The indexes that followers and the trash read by, and the folded text of the rows that lower() would not fold.

Both are made while the table is in use. Each step can be run again after it was cut off.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

BATCH = 1000
_INDEXES = (
    ("tasks_revision", ["user_id", "revision", "id"], None),
    ("tasks_trash", ["user_id", "deleted_at", "id"], sa.text("deleted_at IS NOT NULL")),
)

_tasks = sa.table(
    "tasks", *map(sa.column, ("user_id", "id", "title", "description", "title_folded", "description_folded"))
)
_key = sa.tuple_(_tasks.c.user_id, _tasks.c.id)


def _has_other_than_ascii(text: Any, dialect: str) -> Any:
    octets = sa.func.octet_length(text) if dialect == "postgresql" else sa.func.length(sa.cast(text, sa.BLOB))
    return octets != sa.func.length(text)


def _fold() -> None:
    """Fill the folded columns where that needs Unicode. ASCII is folded by lower(), when it is searched."""
    context = op.get_context()
    if context.as_sql:  # and no SQL folds as Python does
        context.impl.static_output(
            "-- Afterwards run: todo-backend resync. It folds what search and order by title compare."
        )
        return
    connection = op.get_bind()
    dialect = connection.dialect.name
    found = (
        sa.select(_tasks)
        .where(
            _tasks.c.title_folded.is_(None),
            sa.or_(*(_has_other_than_ascii(text, dialect) for text in (_tasks.c.title, _tasks.c.description))),
        )
        .order_by(_tasks.c.user_id, _tasks.c.id)
        .limit(BATCH)
    )
    change = (
        sa.update(_tasks)
        .where(_tasks.c.user_id == sa.bindparam("owner"), _tasks.c.id == sa.bindparam("task_id"))
        # What somebody has written meanwhile is folded already.
        .where(_tasks.c.title_folded.is_(None), _tasks.c.title == sa.bindparam("read_title"))
        .values(title_folded=sa.bindparam("new_title"), description_folded=sa.bindparam("new_description"))
    )
    last: sa.RowMapping | None = None
    while True:
        # A greater owner, or the same one and a greater id: SQLite has ids as text, in which they sort the same.
        after = (
            found
            if last is None
            else found.where(_key > sa.tuple_(sa.literal(last["user_id"]), sa.literal(last["id"])))
        )
        rows = connection.execute(after).mappings().all()
        if not rows:
            return
        connection.execute(
            change,
            [
                {
                    "owner": row["user_id"],
                    "task_id": row["id"],
                    "read_title": row["title"],
                    "new_title": row["title"].casefold(),
                    "new_description": (row["description"] or "").casefold(),
                }
                for row in rows
            ],
        )
        last = rows[-1]


def _create_indexes(**options: Any) -> None:
    for name, columns, where in _INDEXES:
        # One that was cut off is there, and serves nobody.
        op.drop_index(name, "tasks", if_exists=True, **options)
        op.create_index(name, "tasks", columns, postgresql_where=where, sqlite_where=where, **options)


def upgrade() -> None:
    context = op.get_context()
    if context.dialect.name == "postgresql":
        with context.autocommit_block():
            _create_indexes(postgresql_concurrently=True)
            _fold()
        return
    _create_indexes()
    _fold()


def downgrade() -> None:
    for name, _, _ in _INDEXES:
        op.drop_index(name, "tasks", if_exists=True)
