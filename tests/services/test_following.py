"""Following, the trash and the transfer: a replica that applies the changes equals the list, whatever happens."""

import asyncio
import itertools
import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import delete, literal_column, select, text, update
from uuid_utils.compat import uuid7

from backend.db.session import Database
from backend.errors import CheckpointExpired, PreconditionFailed, TaskNotFound, TodoError, TooManyTasks
from backend.models.queries import Destination, Order, TaskFilter
from backend.models.task import TaskCreate, TaskPut, TaskUpdate
from backend.services import maintenance
from backend.services.batch import Operation, OperationFailed, Written
from backend.services.changes import Checkpoint
from backend.services.maintenance import purge, resync
from backend.services.rows import Limits, owners, tasks
from backend.services.tasks import TaskService
from tests.databases import connect, create_tables, new_postgres_database
from tests.neon import until
from tests.services.conftest import ServiceOf, all_of, make, new, page_of
from tests.services.following import Replica, expire, write_anything
from tests.settings import make_settings

Writes = dict[str, Callable[[], Awaitable[object]]]


async def test_changes_come_in_order_each_task_once_as_it_is_now(alice: TaskService) -> None:
    a, b, c = [await make(alice, title) for title in "abc"]
    first = await alice.changes(None, limit=10)
    assert (first.changes, first.more) == ([a, b, c], False)
    a = (await alice.update(a["id"], TaskUpdate(title="x"))).task
    a = (await alice.update(a["id"], TaskUpdate(title="y"))).task
    await alice.delete(b["id"])
    changes = await alice.changes(first.last, limit=10)
    assert changes.changes == [a, {"id": b["id"], "deleted": True}]
    idle = await alice.changes(changes.last, limit=10)
    assert (idle.changes, idle.more, idle.last) == ([], False, changes.last)
    assert await alice.head() == idle.head
    await alice.restore(b["id"])
    changes = await alice.changes(changes.last, limit=10)
    assert changes.changes == [await alice.get(b["id"])]


async def test_a_page_can_end_inside_one_write(alice: TaskService) -> None:
    await alice.batch([new({"title": str(number)}) for number in range(7)])
    replica = Replica(alice)
    await replica.follow(limit=2)
    assert replica.tasks == {task["id"]: task for task in await all_of(alice)}
    await alice.complete(list(replica.tasks))
    await replica.assert_equal()
    assert replica.restarts == 0


async def test_a_user_without_tasks_can_be_followed(alice: TaskService, bob: TaskService) -> None:
    replica = Replica(alice)
    await replica.follow()
    assert (replica.since, replica.tasks) == (Checkpoint(0), {})
    await make(alice)
    await replica.assert_equal()
    assert replica.restarts == 0
    assert await all_of(bob) == []


@pytest.mark.parametrize("seed", range(3))
async def test_replicas_equal_the_list_whatever_is_written(
    service_of: ServiceOf, database: Database, seed: int
) -> None:
    """Writers at once, among them transfers there and back, beside followers of which some come seldom."""
    names = ("alice", "bob")
    chance = random.Random(seed)
    for name in names:
        await service_of(name).batch([new({"title": str(number)}) for number in range(6)])
    replicas = [Replica(service_of(name)) for name in names for _ in range(3)]
    ids = {name: [task["id"] for task in await all_of(service_of(name))] for name in names}
    everything = [*ids["alice"], *ids["bob"]]

    services = {name: service_of(name) for name in names}

    async def write(number: int) -> None:
        with suppress(TodoError):  # much is deleted or moved by then
            await write_anything(services, everything, database, random.Random(seed * 1000 + number))

    for start in range(0, 60, 6):
        await asyncio.gather(*(write(number) for number in range(start, start + 6)), *_some(replicas, chance))
    for replica in replicas:
        await replica.assert_equal()


def _some(replicas: list[Replica], chance: random.Random) -> list[Any]:
    return [replica.follow(limit=4) for replica in replicas if chance.random() < 0.3]


async def test_who_missed_what_was_erased_starts_anew_and_nobody_else(alice: TaskService, database: Database) -> None:
    task = await make(alice, "gone")
    behind, ahead = Replica(alice), Replica(alice)
    await behind.follow()
    await alice.delete(task["id"])
    await ahead.follow()
    await expire(database, alice)
    await make(alice, "after")
    for replica, restarts in ((ahead, 0), (behind, 1), (Replica(alice), 0)):
        await replica.assert_equal()
        assert replica.restarts == restarts


async def test_what_is_erased_during_a_first_reading_ends_it_not(alice: TaskService, database: Database) -> None:
    for number in range(4):
        await make(alice, str(number))
    deleted = await make(alice)
    await alice.delete(deleted["id"])
    page = await alice.changes(None, limit=2)
    assert page.more
    await expire(database, alice)
    rest = await alice.changes(page.last, limit=10)
    assert [change["title"] for change in rest.changes if "deleted" not in change] == ["2", "3"]


async def test_what_is_erased_between_two_pages_of_one_write_is_not_kept(
    alice: TaskService, database: Database
) -> None:
    made = [await make(alice, str(number)) for number in range(5)]
    replica = Replica(alice)
    await replica.follow()
    await alice.batch([Operation("delete", task["id"]) for task in made])
    assert replica.since is not None
    page = await alice.changes(replica.since, limit=2)
    assert page.more
    replica.since = page.last
    await expire(database, alice)
    await make(alice, "after")
    await replica.assert_equal()
    assert replica.restarts == 1


async def left_by_first_version(service: TaskService, database: Database) -> None:
    """Have a user's tasks as the version before revisions writes them: it knows no owners."""
    mine = service._user_id
    await database.executor.exec(update(tasks).where(tasks.c.user_id == mine).values(revision=1))
    await database.executor.exec(delete(owners).where(owners.c.user_id == mine))


@pytest.mark.parametrize("limit", [1, 10])
async def test_tasks_of_the_first_version_are_followed_and_forgotten(
    alice: TaskService, bob: TaskService, database: Database, limit: int
) -> None:
    for title in "abc":
        await make(alice, title)
    await left_by_first_version(alice, database)
    replica = Replica(alice)
    await replica.follow(limit)
    await replica.follow(limit)
    assert (len(replica.tasks), replica.restarts) == (3, 0)
    await alice.transfer_to(bob._user_id)
    await replica.assert_equal()
    assert (replica.tasks, replica.restarts) == ({}, 1)


async def test_tasks_of_the_first_version_that_are_all_erased_are_kept_by_nobody(
    alice: TaskService, database: Database
) -> None:
    """The user has no owner's row, before and after."""
    await make(alice)
    await left_by_first_version(alice, database)
    replica = Replica(alice)
    await replica.follow()
    known = (await page_of(alice)).head
    assert await alice.delete_all() == 1
    await replica.assert_equal()
    assert (replica.tasks, replica.restarts) == ({}, 1)
    assert await alice.head() != known
    assert (await page_of(alice)).tasks == []


async def test_a_resync_tells_what_the_first_version_has_deleted(alice: TaskService, database: Database) -> None:
    gone, kept = await make(alice), await make(alice)
    await left_by_first_version(alice, database)
    replica = Replica(alice)
    await replica.follow()
    await database.executor.exec(delete(tasks).where(tasks.c.id == gone["id"]))
    await resync(database.executor)
    await replica.assert_equal()
    assert (list(replica.tasks), replica.restarts) == ([kept["id"]], 1)


async def test_a_resync_renews_what_the_first_version_has_changed(
    service_of: ServiceOf, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(maintenance, "RENEWED_AT_ONCE", 2)
    services = [service_of(name) for name in ("alice", "bob", "carol")]
    made = [(service, await make(service, "Buy milk", tags=["\u00c4"])) for service in services for _ in range(3)]
    for service, task in made:  # as an old process does
        values = {"title": "\u00dcBUNG", "description": "Stra\u00dfe"}
        mine = (tasks.c.user_id == service._user_id, tasks.c.id == task["id"])
        await database.executor.exec(update(tasks).where(*mine).values(values))
    await resync(database.executor)
    for service, before in made:
        task = await service.get(before["id"])
        assert (task["title"], task["updated_at"]) == ("\u00dcBUNG", before["updated_at"])
        with pytest.raises(PreconditionFailed):
            await service.update(task["id"], TaskUpdate(title="x"), match=service.revisions([before["etag"]]))
        await service.update(task["id"], TaskUpdate(priority="low"), match=service.revisions([task["etag"]]))
    for service in services:
        await make(service, "V")
        titles = [task["title"] for task in await all_of(service, order=(Order("title", descending=False),))]
        assert titles == ["V", *["\u00dcBUNG"] * 3]
        assert len(await all_of(service, TaskFilter(words=("\u00fcbung", "strasse", "\u00e4")))) == 3
        assert await all_of(service, TaskFilter(words=("milk",))) == []


async def test_a_follower_of_a_later_state_starts_anew(alice: TaskService) -> None:
    """As after a restore of the database to an earlier time."""
    await make(alice)
    head = (await page_of(alice)).head
    for since in (Checkpoint(head + 1, base=head + 1), Checkpoint(head - 10**9, base=head + 1)):
        with pytest.raises(CheckpointExpired):
            await alice.changes(since, limit=1)


@dataclass
class Copied:
    """A migrated database of the test's own, which an operator dumps and restores while nobody is connected to it."""

    url: str
    dump: Callable[[], Awaitable[None]]
    restore: Callable[[], Awaitable[None]]


@pytest.fixture(params=["sqlite", "postgres"])
async def copied(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Copied]:
    if request.param == "sqlite":
        stored, dump = tmp_path / "todo.db", tmp_path / "dump.db"
        url = f"sqlite+aiosqlite:///{stored}"
        await create_tables(url)
        yield Copied(url, partial(copy_file, stored, dump), partial(copy_file, dump, stored))
        return
    server_url = request.getfixturevalue("postgres_server_url")
    async with new_postgres_database(server_url) as url, closing_connection(server_url) as server:
        await create_tables(url)
        name = url.rpartition("=")[2]
        dumped = f"{name}_dump"
        yield Copied(url, partial(copy_database, server, name, dumped), partial(copy_database, server, dumped, name))
        await server.execute(f"DROP DATABASE IF EXISTS {dumped}")


async def copy_file(source: Path, target: Path) -> None:
    with closing(sqlite3.connect(source)) as read, closing(sqlite3.connect(target)) as written:
        read.backup(written)


async def copy_database(server: asyncpg.Connection, source: str, target: str) -> None:
    await server.execute(f"DROP DATABASE IF EXISTS {target}")
    await server.execute(f"CREATE DATABASE {target} TEMPLATE {source}")


async def test_after_a_restore_and_resync_every_follower_ends_equal(copied: Copied) -> None:
    """Later writes pass the followers' checkpoints, so that only `resync` tells them what the restore took back."""
    settings = make_settings(copied.url)
    database = Database(settings)
    service = TaskService(database.executor, "alice")
    seldom, always = Replica(service), Replica(service)
    changed, deleted = await make(service, "changed"), await make(service, "deleted")
    await seldom.follow()
    await database.close()
    await copied.dump()
    await make(service, "lost")
    await service.toggle(changed["id"])
    await service.delete(deleted["id"])
    await always.follow()
    await database.close()

    await copied.restore()
    database = Database(settings)
    service = seldom.service = always.service = TaskService(database.executor, "alice")
    await make(service, "after the restore")
    assert await resync(database.executor) == 1
    for replica in (seldom, always):
        await replica.assert_equal()
        assert replica.restarts == 1
        assert {task["title"] for task in replica.tasks.values()} == {"changed", "deleted", "after the restore"}
    await database.close()


async def test_all_of_a_user_can_be_erased(alice: TaskService, bob: TaskService) -> None:
    kept = await make(bob)
    for title in "ab":
        task = await make(alice, title)
    await alice.delete(task["id"])
    replica, fresh = Replica(alice), Replica(alice)
    await replica.follow()
    fresh.since = Checkpoint(0)
    head = (await page_of(alice)).head
    assert await alice.delete_all() == 2
    assert (await page_of(alice)).head == 0
    assert await all_of(alice, deleted=True) == []
    with pytest.raises(CheckpointExpired):
        await alice.changes(replica.since, limit=1)
    await make(alice, "new")
    assert (await page_of(alice)).head > head
    for each, restarts in ((replica, 1), (fresh, 0)):
        await each.assert_equal()
        assert each.restarts == restarts
    assert await all_of(bob) == [kept]


async def test_a_purge_forgets_users_who_have_had_no_task_for_long(
    alice: TaskService, bob: TaskService, service_of: ServiceOf, database: Database
) -> None:
    carol = service_of("carol")
    for service in (alice, bob, carol):
        task = await make(service)
        if service is not bob:
            await service.delete(task["id"])
            await expire(database, service)
    replica = Replica(alice)
    await replica.follow()
    for service in (alice, bob):
        long_ago = update(owners).where(owners.c.user_id == service._user_id).values(revision=5, forgotten=4)
        await database.executor.exec(long_ago)
    for trash_days in (0, 30):
        await purge(database.executor, trash_days)
    assert [len(await left_of(service, database)) for service in (alice, bob, carol)] == [0, 2, 1]
    await make(alice)
    await replica.assert_equal()
    assert replica.restarts == 1


async def left_of(service: TaskService, database: Database) -> list[Any]:
    """Return what any table has of a user."""
    rows: list[Any] = []
    for table in (tasks, owners):
        rows += (await database.executor.exec(select(table).where(table.c.user_id == service._user_id))).all()
    return rows


async def test_a_resync_waits_for_transfers_and_they_for_it(service_of: ServiceOf, database: Database) -> None:
    services = [service_of(f"user {number}") for number in range(10)]
    for service in services:
        await make(service)

    async def transfer(seed: int) -> None:
        pick = random.Random(seed)
        for _ in range(10):
            giver, taker = pick.sample(services, 2)
            await giver.transfer_to(taker._user_id)
            guest = service_of(f"guest {pick.random()}")  # of whom there is no owner's row yet
            await make(guest)
            await guest.transfer_to(taker._user_id)

    async def start_anew() -> None:
        for _ in range(10):
            await resync(database.executor)

    async with asyncio.TaskGroup() as group:
        for seed in range(3):
            group.create_task(transfer(seed))
        group.create_task(start_anew())
    assert sum([len(await all_of(service)) for service in services]) == len(services) + 3 * 10


# ----------------------------------------------------------------------------------------------------------- the trash


async def test_what_is_deleted_is_in_the_trash_and_can_be_restored(alice: TaskService, bob: TaskService) -> None:
    task = await make(alice, "x", tags=["a"])
    await alice.delete(task["id"])
    for attempt in (
        alice.get(task["id"]),
        alice.update(task["id"], TaskUpdate(title="y")),
        alice.update(task["id"], TaskUpdate()),
        alice.toggle(task["id"]),
        alice.delete(task["id"]),
        bob.restore(task["id"]),
        bob.delete(task["id"], permanent=True),
    ):
        with pytest.raises(TaskNotFound):
            await attempt
    assert await alice.complete([task["id"]]) == 0
    restored = await alice.restore(task["id"])
    assert restored == {**task, "etag": restored["etag"], "updated_at": restored["updated_at"]}
    with pytest.raises(TaskNotFound):
        await alice.restore(task["id"])
    with pytest.raises(TaskNotFound):
        await alice.delete(task["id"], permanent=True)
    assert await alice.get(task["id"]) == restored


async def test_a_restore_can_need_a_state(alice: TaskService) -> None:
    task = await make(alice)
    await alice.delete(task["id"])
    [deleted] = await all_of(alice, deleted=True)
    with pytest.raises(PreconditionFailed):
        await alice.restore(task["id"], match=alice.revisions([task["etag"]]))
    await alice.restore(task["id"], match=alice.revisions([deleted["etag"]]))


@pytest.mark.parametrize("write", ["create", "put", "update", "toggle", "delete", "batch"])
async def test_what_has_expired_is_erased_by_the_users_own_writes(
    alice: TaskService, bob: TaskService, database: Database, write: str
) -> None:
    expired, kept, others = await make(alice, "a"), await make(alice, "b"), await make(bob, "c")
    await alice.delete(expired["id"])
    await bob.delete(others["id"])
    replica = Replica(alice)
    await replica.follow()
    # To whom what was deleted a moment ago has expired.
    impatient = TaskService(database.executor, alice._user_id, Limits(trash_days=-1))
    writes: Writes = {
        "create": lambda: impatient.create(TaskCreate(title="new")),
        "put": lambda: impatient.put(uuid7(), TaskPut(title="new")),
        "update": lambda: impatient.update(kept["id"], TaskUpdate(title="new")),
        "toggle": lambda: impatient.toggle(kept["id"]),
        "delete": lambda: impatient.delete(kept["id"]),
        "batch": lambda: impatient.batch([Operation("toggle", kept["id"])]),
    }
    await writes[write]()
    assert await all_of(alice, deleted=True) == []
    assert [task["id"] for task in await all_of(bob, deleted=True)] == [others["id"]]
    await replica.assert_equal()


@pytest.mark.parametrize("write", ["create", "put", "batch"])
async def test_what_has_expired_makes_room(alice: TaskService, database: Database, write: str) -> None:
    await alice.delete((await make(alice))["id"])
    full = TaskService(database.executor, alice._user_id, Limits(max_tasks=1, trash_days=-1))
    writes: Writes = {
        "create": lambda: full.create(TaskCreate(title="new")),
        "put": lambda: full.put(uuid7(), TaskPut(title="new")),
        "batch": lambda: full.batch([new({"title": "new"})]),
    }
    await writes[write]()
    assert [task["title"] for task in await all_of(alice)] == ["new"]


async def test_a_write_stands_where_what_has_expired_cannot_be_erased(
    alice: TaskService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write whose response was that it had failed would be sent again, and a task be there twice."""
    await alice.delete((await make(alice))["id"])
    monkeypatch.setattr("backend.services.trash.forget", select(literal_column("no_such_column")).select_from(owners))
    impatient = TaskService(database.executor, alice._user_id, Limits(trash_days=-1))
    task = await impatient.create(TaskCreate(title="new"))
    assert await alice.get(task["id"]) == task
    assert len(await all_of(alice, deleted=True)) == 1


@pytest.mark.parametrize("way", ["delete", "clear", "batch"])
async def test_where_nothing_is_kept_in_the_trash_it_is_erased_at_once(
    alice: TaskService, database: Database, way: str
) -> None:
    keeps_nothing = TaskService(database.executor, alice._user_id, Limits(trash_days=0))
    task = await make(alice, completed=True)
    replica = Replica(alice)
    await replica.follow()
    if way == "delete":
        await keeps_nothing.delete(task["id"])
    elif way == "clear":
        assert await keeps_nothing.delete_completed() == 1
    else:
        await keeps_nothing.batch([Operation("delete", task["id"])])
    assert await all_of(alice, deleted=True) == []
    await replica.assert_equal()
    assert replica.restarts == 1


# -------------------------------------------------------------------------------------------------------- the transfer


async def test_a_transfer_moves_all_but_the_trash(alice: TaskService, bob: TaskService) -> None:
    own = await make(bob, "own")
    moved = await make(alice, "moved", tags=["a"], priority="high", due_date="2030-01-30", completed=True)
    deleted = await make(alice, "deleted")
    await alice.delete(deleted["id"])
    giver, taker = Replica(alice), Replica(bob)
    await giver.follow()
    await taker.follow()
    assert await alice.transfer_to(bob._user_id) == 1
    assert await all_of(alice) == []
    assert [task["id"] for task in await all_of(alice, deleted=True)] == [deleted["id"]]
    listed = {task["title"]: task for task in await all_of(bob)}
    assert listed["own"] == own
    changed = {name: listed["moved"][name] for name in ("etag", "updated_at")}
    assert listed["moved"] == {**moved, **changed}
    await giver.assert_equal()
    await taker.assert_equal()
    assert (giver.restarts, taker.restarts) == (1, 0)
    head = (await page_of(alice)).head
    assert await alice.transfer_to(bob._user_id) == 0
    assert (await page_of(alice)).head == head


async def test_an_id_that_both_have_becomes_a_new_one(alice: TaskService, bob: TaskService) -> None:
    shared, in_trash = uuid7(), uuid7()
    for service, title in ((alice, "hers"), (bob, "his")):
        for task_id in (shared, in_trash):
            await service.put(task_id, TaskPut(title=title))
    await bob.delete(in_trash)
    assert await alice.transfer_to(bob._user_id) == 2
    listed = await all_of(bob)
    assert sorted(task["title"] for task in listed) == ["hers", "hers", "his"]
    assert [task["title"] for task in listed if task["id"] in {shared, in_trash}] == ["his"]
    assert (await bob.restore(in_trash))["title"] == "his"


async def test_new_ids_keep_the_order_of_the_old_ones(alice: TaskService, bob: TaskService, database: Database) -> None:
    shared = [uuid7() for _ in range(100)]
    for task_id in random.Random(1).sample(shared, len(shared)):  # not as they lie in the table
        for service in (alice, bob):
            await service.put(task_id, TaskPut(title=f"{shared.index(task_id):02}"))
    await database.executor.exec(text("ANALYZE tasks"))  # or PostgreSQL, which knows of no row, reads in order of ids
    assert await alice.transfer_to(bob._user_id) == len(shared)
    titles = [task["title"] for task in await all_of(bob) if task["id"] not in shared]
    assert titles == sorted(titles, reverse=True)


async def test_what_has_expired_in_the_takers_trash_makes_room(
    alice: TaskService, bob: TaskService, database: Database
) -> None:
    task = await make(alice)
    await bob.delete((await make(bob))["id"])
    impatient = TaskService(database.executor, alice._user_id, Limits(max_tasks=1, trash_days=-1))
    assert await impatient.transfer_to(bob._user_id) == 1
    assert [each["id"] for each in await all_of(bob)] == [task["id"]]
    assert await all_of(bob, deleted=True) == []


@pytest.mark.parametrize("write", ["create", "put", "batch", "each alone"])
async def test_far_beyond_the_limit_each_write_erases_some_of_what_has_expired(
    alice: TaskService, database: Database, write: str
) -> None:
    """As where the limit was lowered."""
    for _ in range(5):
        made = await alice.batch([new({"title": "old"}) for _ in range(50)])
        await alice.batch([Operation("delete", written.task["id"]) for written in made if isinstance(written, Written)])
    impatient = TaskService(database.executor, alice._user_id, Limits(max_tasks=1, trash_days=-1))
    writes: Writes = {
        "create": lambda: impatient.create(TaskCreate(title="new")),
        "put": lambda: impatient.put(uuid7(), TaskPut(title="new")),
        "batch": lambda: impatient.batch([new({"title": "new"})]),
        "each alone": lambda: impatient.batch([new({"title": "new"})], atomic=False),
    }
    for _ in range(3):
        with suppress(TooManyTasks, OperationFailed):
            await writes[write]()
    assert [task["title"] for task in await all_of(alice)] == ["new"]
    assert await all_of(alice, deleted=True) == []


async def test_what_changes_nothing_leaves_the_revision_though_something_has_expired(
    alice: TaskService, database: Database
) -> None:
    task = await make(alice)
    await alice.delete((await make(alice))["id"])
    impatient = TaskService(database.executor, alice._user_id, Limits(trash_days=-1))
    before = (await alice.list(limit=1)).head
    await impatient.put(task["id"], TaskPut(title=task["title"]))
    await impatient.batch([Operation("put", task["id"], {"title": task["title"]})])
    await impatient.batch([Operation("toggle", uuid7())], atomic=False)
    assert (await alice.list(limit=1)).head == before


async def test_a_dry_run_at_the_limit_erases_nothing(alice: TaskService, database: Database) -> None:
    for _ in range(2):
        await alice.delete((await make(alice))["id"])
    impatient = TaskService(database.executor, alice._user_id, Limits(max_tasks=0, trash_days=-1))
    with pytest.raises(OperationFailed):
        await impatient.batch([new({"title": "new"})], dry_run=True)
    assert len(await all_of(alice, deleted=True)) == 2


async def test_where_both_have_too_many_nothing_moves(alice: TaskService, bob: TaskService, database: Database) -> None:
    for service in (alice, alice, bob):
        await make(service)
    limited = TaskService(database.executor, alice._user_id, Limits(max_tasks=2))
    heads = [(await page_of(service)).head for service in (alice, bob)]
    with pytest.raises(TooManyTasks):
        await limited.transfer_to(bob._user_id)
    assert [(await page_of(service)).head for service in (alice, bob)] == heads
    assert [len(await all_of(service)) for service in (alice, bob)] == [2, 1]


async def test_transfers_in_a_ring_at_once_lose_nothing(service_of: ServiceOf) -> None:
    ring = ("alice", "bob", "carol", "alice")
    for name in ring[:3]:
        await service_of(name).batch([new({"title": f"{name} {number}"}) for number in range(5)])
    for _ in range(3):
        await asyncio.gather(
            *(service_of(a).transfer_to(service_of(b)._user_id) for a, b in itertools.pairwise(ring)),
            *(service_of(name).create(TaskCreate(title="new")) for name in ring[:3]),
        )
    titles = [task["title"] for name in ring[:3] for task in await all_of(service_of(name))]
    assert sorted(titles) == sorted([f"{name} {number}" for name in ring[:3] for number in range(5)] + ["new"] * 9)


# ------------------------------------------------------------------------------------ what waits for somebody's commit

WAITS = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND position($1 in query) > 0"


only_postgres = pytest.mark.parametrize("database_url", ["postgres"], indirect=True, scope="session")


@asynccontextmanager
async def closing_connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def until_waiting(watcher: asyncpg.Connection, statement: str) -> None:
    """Wait until a statement that contains this text waits for a lock."""
    await until(lambda: watcher.fetchval(WAITS, statement), f"{statement} waits")


@asynccontextmanager
async def beside_a_transaction(
    database: Database, sql: str, *parameters: Any, until_waits: str
) -> AsyncIterator[asyncpg.Connection]:
    """Run the block beside an open transaction of another connection; commit as soon as the block's statement waits."""
    url = database.settings.database_url.get_secret_value()
    async with closing_connection(url) as other, closing_connection(url) as watcher:
        transaction = other.transaction()
        await transaction.start()
        await other.execute(sql, *parameters)

        async def commit() -> None:
            await until_waiting(watcher, until_waits)
            await transaction.commit()

        committing = asyncio.create_task(commit())
        yield other
        await committing


@only_postgres
async def test_what_was_deleted_meanwhile_is_not_completed(alice: TaskService, database: Database) -> None:
    """READ COMMITTED asks the conditions on the row again where it had to wait for it, and nothing else."""
    task = await make(alice)
    deletion = "UPDATE tasks SET deleted_at = now(), revision = revision + 1 WHERE id = $1"
    async with beside_a_transaction(database, deletion, task["id"], until_waits="UPDATE tasks"):
        assert await alice.complete([task["id"]]) == 0
    assert [task["completed"] for task in await all_of(alice, deleted=True)] == [False]


@only_postgres
async def test_an_own_id_that_arrives_with_a_transfer_meanwhile_is_one_task(
    alice: TaskService, bob: TaskService, database: Database
) -> None:
    """The look for the id has not seen it, and the insert fails: it is an equal PUT then, not an error."""
    task = await make(alice, "given")
    await make(bob)
    arrival = (
        "WITH locked AS (SELECT next_revision($2) AS revision) INSERT INTO tasks (user_id, id, title, title_folded, "
        "description_folded, tags, tags_folded, completed, position, revision, created_at, updated_at) "
        "SELECT $2, id, title, title_folded, description_folded, tags, tags_folded, completed, position, "
        "locked.revision, created_at, updated_at FROM tasks, locked WHERE id = $1 AND user_id <> $2"
    )
    async with beside_a_transaction(database, arrival, task["id"], bob._user_id, until_waits="INSERT INTO tasks"):
        written = await bob.put(task["id"], TaskPut(title="given"))
    assert not written.created
    assert sorted(task["title"] for task in await all_of(bob)) == ["A task", "given"]


@only_postgres
async def test_erasing_all_waits_for_a_users_first_write(alice: TaskService, database: Database) -> None:
    """There is no owner's row yet that it could wait for: what is written then would stay, and nobody be told."""
    first_write = (
        "INSERT INTO tasks (user_id, id, title, completed, revision, created_at, updated_at) "
        "SELECT $1, $2, 'first', false, next_revision($1), now(), now()"
    )
    async with beside_a_transaction(database, first_write, alice._user_id, uuid7(), until_waits="next_revision"):
        assert await alice.delete_all() == 1
    assert await left_of(alice, database) == []


ERASURE = "WITH owner AS (DELETE FROM owners WHERE user_id = $1) DELETE FROM tasks WHERE user_id = $1"
UPDATES: dict[str, Callable[[TaskService, UUID], Awaitable[object]]] = {
    "update": lambda alice, task_id: alice.update(task_id, TaskUpdate(title="x")),
    "toggle": lambda alice, task_id: alice.toggle(task_id),
    "delete": lambda alice, task_id: alice.delete(task_id),
    "move": lambda alice, task_id: alice.move(task_id, Destination("first")),
    "complete": lambda alice, task_id: alice.complete([task_id], completed=False),
    "delete_completed": lambda alice, task_id: alice.delete_completed(),
}


@only_postgres
@pytest.mark.parametrize("name", UPDATES)
async def test_a_write_that_waits_for_an_erasure_leaves_nothing(
    name: str, alice: TaskService, database: Database
) -> None:
    task = await make(alice, completed=True)
    async with beside_a_transaction(database, ERASURE, alice._user_id, until_waits="UPDATE tasks"):
        with suppress(TaskNotFound):
            assert await UPDATES[name](alice, task["id"]) == 0
    assert await left_of(alice, database) == []


@only_postgres
async def test_a_purge_leaves_a_user_who_comes_back_meanwhile(alice: TaskService, database: Database) -> None:
    """Its statement sees no task. It does not wait for the one that is made, either: others would wait for it."""
    await make(alice)
    await alice.transfer_to(f"taker of {alice._user_id}")
    await database.executor.exec(update(owners).where(owners.c.user_id == alice._user_id).values(revision=5))
    return_ = (
        "INSERT INTO tasks (user_id, id, title, completed, revision, created_at, updated_at) "
        "SELECT $1, $2, 'back', false, next_revision($1), now(), now()"
    )
    url = database.settings.database_url.get_secret_value()
    async with closing_connection(url) as other, other.transaction():
        await other.execute(return_, alice._user_id, uuid7())
        await purge(database.executor, 0)
    assert len(await left_of(alice, database)) == 2


@only_postgres
async def test_a_purge_leaves_a_user_who_writes_meanwhile_to_the_next(
    alice: TaskService, bob: TaskService, database: Database
) -> None:
    for user in (alice, bob):
        await user.delete((await make(user))["id"])
    url = database.settings.database_url.get_secret_value()
    async with closing_connection(url) as other, other.transaction():
        await other.execute("SELECT next_revision($1)", alice._user_id)
        await purge(database.executor, 0)
        assert [len(await all_of(user, deleted=True)) for user in (alice, bob)] == [1, 0]
    await purge(database.executor, 0)
    assert await all_of(alice, deleted=True) == []


@only_postgres
async def test_a_user_who_was_erased_meanwhile_begins_with_a_greater_revision(
    alice: TaskService, database: Database
) -> None:
    """The clock is read once the row is locked: a number from before the wait was given already."""
    await make(alice)
    url = database.settings.database_url.get_secret_value()
    async with closing_connection(url) as other, closing_connection(url) as watcher:
        async with other.transaction():
            await other.execute("SELECT next_revision($1)", alice._user_id)
            writing = asyncio.create_task(alice.create(TaskCreate(title="late")))
            await until_waiting(watcher, "INSERT INTO tasks")
            last = await other.fetchval("SELECT next_revision($1)", alice._user_id)
            await other.execute("DELETE FROM owners WHERE user_id = $1", alice._user_id)
        task = await writing
    assert int(task["etag"].partition("-")[0]) > last


@only_postgres
async def test_a_resync_waits_for_the_first_write_of_a_user_whom_only_the_first_version_knew(
    alice: TaskService, database: Database
) -> None:
    await make(alice)
    await left_by_first_version(alice, database)
    first_write = "SELECT next_revision($1)"
    async with beside_a_transaction(database, first_write, alice._user_id, until_waits="next_revision"):
        assert await resync(database.executor) >= 1
