"""A revision is read from the clock once the owner's row is locked.

Before, the clock was read first. A write that waited while others wrote, and while all that there was of the user was
erased, then began the user's new row with a number that was given already, and followers were not told to start anew.
"""

from alembic import op

revision = "0004"
down_revision = "0003"

NEXT_REVISION = """
CREATE OR REPLACE FUNCTION next_revision(owner text) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    given bigint;
    is_new boolean;
BEGIN
    INSERT INTO owners AS o (user_id, revision, forgotten)
    VALUES (owner, 0, 0)
    ON CONFLICT (user_id) DO UPDATE
    SET revision = greatest(o.revision + 1, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint)
    RETURNING o.revision, o.xmax = 0 INTO given, is_new;
    IF is_new THEN
        UPDATE owners AS o SET revision = clock.now, forgotten = clock.now - 1
        FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now) AS clock
        WHERE o.user_id = owner
        RETURNING o.revision INTO given;
    END IF;
    RETURN given;
END
$$
"""
"""Of a user: the greater of the last one and 1 and of the clock in microseconds, so that a database that was restored
gives none twice. A new row forgets all that lies before its first revision."""


def upgrade() -> None:
    if op.get_context().dialect.name == "postgresql":  # SQLite's is made for each connection, under the write lock
        op.execute(NEXT_REVISION)


def downgrade() -> None:
    """Keep the function: it is as good for the version before."""
