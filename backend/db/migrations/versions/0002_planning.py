"""What people plan with, and revisions.

No column rewrites the table: each is nullable or has a constant default. The defaults stay, because processes of the
version before write rows without these columns while a deployment lasts; what they write is in no revision, so run
`todo-backend resync` once the last of them has ended.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NEXT_REVISION = """
CREATE FUNCTION next_revision(owner text) RETURNS bigint LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO owners AS o (user_id, revision, forgotten)
    SELECT owner, clock.now, clock.now - 1
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
    ON CONFLICT (user_id) DO UPDATE SET revision = greatest(o.revision + 1, excluded.revision)
    RETURNING revision;
END
"""
"""Of a user: the greater of the last one and 1 and of the clock in microseconds, so that a database that was restored
gives none twice. A new row forgets all that lies before its first revision."""


def _new_columns() -> tuple[sa.Column[Any], ...]:
    return (
        sa.Column("priority", sa.Text),
        sa.Column("due_date", sa.Text),
        sa.Column("due_time", sa.Text),
        sa.Column("remind_at", sa.Text),
        sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
        sa.Column("recurrence", sa.Text),
        sa.Column("position", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.Column("title_folded", sa.Text),
        sa.Column("description_folded", sa.Text),
        sa.Column("tags_folded", sa.Text),
        sa.Column("revision", sa.BigInteger, nullable=False, server_default="1"),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
    )


def upgrade() -> None:
    postgresql = op.get_context().dialect.name == "postgresql"
    op.create_table(
        "owners",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("forgotten", sa.BigInteger, nullable=False, server_default="0"),
        sa.CheckConstraint("length(user_id) between 1 and 255", name="owners_user_id_length"),
    )
    op.execute("INSERT INTO owners (user_id, revision) SELECT user_id, 1 FROM tasks GROUP BY user_id")
    if postgresql:
        op.execute(NEXT_REVISION)
    # Last, because from here on nobody else can use the table: a few milliseconds, however many rows there are.
    for column in _new_columns():
        op.add_column("tasks", column)


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP FUNCTION next_revision(text)")
    op.execute("DELETE FROM tasks WHERE deleted_at IS NOT NULL")  # or the trash would come back to life
    with op.batch_alter_table("tasks") as tasks:
        for column in reversed(_new_columns()):
            tasks.drop_column(column.name)
    op.drop_table("owners")
