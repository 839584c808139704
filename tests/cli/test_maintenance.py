"""What an operator does with users' data: purge, resync, export, erase."""

import json
from pathlib import Path

from backend.db.session import Database, create_db_and_tables
from backend.models.task import TaskCreate
from backend.services.changes import Checkpoint
from backend.services.tasks import TaskService
from tests.databases import execute
from tests.processes import backend
from tests.settings import make_settings, settings_of


async def test_the_commands_of_an_operator(tmp_path: Path) -> None:
    variables = settings_of(tmp_path)
    database = Database(make_settings(variables["DATABASE_URL"]))
    await create_db_and_tables(database)
    alice, bob = TaskService(database.executor, "alice"), TaskService(database.executor, "bob")
    kept, trashed, expired = [await alice.create(TaskCreate(title=title)) for title in ("kept", "trashed", "expired")]
    other = await bob.create(TaskCreate(title="other"))
    for task in (trashed, expired):
        await alice.delete(task["id"])
    expire = "UPDATE tasks SET deleted_at = '2020-01-01 00:00:00' WHERE title = 'expired'"
    as_first_version_left_it = "DELETE FROM owners WHERE user_id = 'bob'"
    execute(tmp_path / "todo.db", f"{expire}; {as_first_version_left_it}")

    assert backend("purge", cwd=tmp_path, **variables).stdout == "erased 1 tasks\n"
    assert backend("purge", cwd=tmp_path, **variables).stdout == "erased 0 tasks\n"

    lines = backend("export", "alice", cwd=tmp_path, **variables).stdout.splitlines()
    assert [(json.loads(line)["title"], "deleted_at" in json.loads(line)) for line in lines] == [
        ("trashed", True),
        ("kept", False),
    ]
    assert json.loads(lines[1])["id"] == str(kept["id"])
    assert backend("export", "nobody", cwd=tmp_path, **variables).stdout == ""

    refused = backend("transfer", "alice", "bob", cwd=tmp_path, **variables, MAX_TASKS_PER_USER="1")
    assert "no task was transferred: TO would have more" in refused.stderr

    before = await bob.changes(Checkpoint(), limit=10)
    assert backend("resync", cwd=tmp_path, **variables).stdout == "users whose followers start anew: 2\n"
    after = await bob.changes(Checkpoint(), limit=10)
    assert before is not None
    assert after is not None
    assert after.head > before.head

    assert backend("erase", "alice", cwd=tmp_path, **variables).stdout == "erased 2 tasks\n"
    assert backend("export", "alice", cwd=tmp_path, **variables).stdout == ""
    renewed = await bob.get(other["id"])
    assert renewed["etag"] != other["etag"]
    assert renewed == other | {"etag": renewed["etag"]}
    await database.close()
