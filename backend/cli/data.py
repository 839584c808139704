"""An operator's commands on the database: to change its schema, and to move, export or erase users' tasks."""

from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.common import checked_user, fail, on_database, read_settings, run
from backend.config import Settings
from backend.db.url import SQLiteURL, direct_database_url
from backend.errors import SameUser, TooManyTasks

if TYPE_CHECKING:
    from backend.db.session import Database

UNCHANGED = "the database was not brought up to date"

User = Annotated[str, typer.Argument(metavar="USER", help="The user's id: the token's `sub`.", callback=checked_user)]


def migrate(
    to: Annotated[str, typer.Option(help="The revision to go up to.")] = "head",
    adopt: Annotated[
        bool, typer.Option(help="Take over tables that are equal to this version's, but have no revision.")
    ] = False,
    sql: Annotated[bool, typer.Option("--sql", help="Print the statements instead of running them.")] = False,
) -> None:
    """Bring the database up to date, over the direct address: a pooler would not do. Safe to repeat."""
    settings = read_settings()
    if sql:
        from backend.db import migrating, migrations
        from backend.db.sqlite import require_file

        async def statements() -> str:
            url = direct_database_url(settings)
            if isinstance(url, SQLiteURL):
                require_file(url)
            return await migrating.run_on_schema(settings, lambda connection: migrations.sql(connection, to))

        print(run(statements(), UNCHANGED), end="")
    else:
        migrate_to(settings, to, adopt=adopt)


def migrate_to(settings: Settings, to: str = "head", *, adopt: bool = False) -> None:
    """Bring the schema up to this revision, and print which one it has then."""
    from backend.db import migrating, migrations

    change = migrating.migrate(settings, lambda connection: migrations.upgrade(connection, to, adopt=adopt))
    revision = run(change, UNCHANGED)
    note = ""
    if migrations.is_newer(revision):
        note = f", which is newer than this version's {migrations.head()}: nothing was changed"
    print(f"the database is at revision {revision}{note}")


def transfer(
    giver: Annotated[str, typer.Argument(metavar="FROM", help="Whose tasks.", callback=checked_user)],
    taker: Annotated[str, typer.Argument(metavar="TO", help="Who gets them.", callback=checked_user)],
) -> None:
    """Give all tasks of one user but the trash to another, in one transaction."""
    settings = read_settings()
    from backend.api.deps import tasks_of_user

    nothing_done = "no task was transferred"
    try:
        moved = on_database(settings, lambda database: tasks_of_user(database, giver).transfer_to(taker), nothing_done)
    except SameUser:
        fail("FROM and TO are the same user")
    except TooManyTasks:
        fail(f"{nothing_done}: TO would have more than MAX_TASKS_PER_USER allows")
    print(f"transferred {moved} tasks")


def purge() -> None:
    """Erase the tasks that have been in the trash for TRASH_DAYS, and users who have had none for as long."""
    settings = read_settings()
    from backend.services import maintenance

    erased = on_database(
        settings, lambda database: maintenance.purge(database.executor, settings.trash_days), "nothing more was erased"
    )
    print(f"erased {erased} tasks")


def resync() -> None:
    """Have all that clients keep start anew: after a restore to an earlier time, or a rolling upgrade."""
    settings = read_settings()
    from backend.services import maintenance

    users = on_database(settings, lambda database: maintenance.resync(database.executor), "not all start anew")
    print(f"users whose followers start anew: {users}")


def export(user: User) -> None:
    """Print all of a user's tasks, those in the trash too, as JSON lines."""
    settings = read_settings()
    from pydantic_core import to_json

    from backend.services.tasks import TaskService

    async def write(database: "Database") -> None:
        async for task in TaskService(database.executor, user).export():
            print(to_json(task).decode())

    on_database(settings, write, "not all was printed")


def erase(user: User) -> None:
    """Erase all that there is of a user, for good."""
    settings = read_settings()
    from backend.api.deps import tasks_of_user

    erased = on_database(settings, lambda database: tasks_of_user(database, user).delete_all(), "nothing was erased")
    print(f"erased {erased} tasks")
