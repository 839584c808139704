"""Sixteen clients of two processes on one database: nothing is lost between them, nothing mixed up, nothing revived."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest

from tests.faults.load import ROUNDS, Service, pooled_url
from tests.neon import Neon

CLIENTS = 16
TIMES = 2 * ROUNDS


class Pair:
    """Two processes on one database."""

    def __init__(self, services: tuple[Service, Service]) -> None:
        self.services = services
        self.stack = AsyncExitStack()

    async def clients(self, *users: str) -> list[httpx.AsyncClient]:
        """Return a client for each of the users, of the two processes by turns."""
        made = (self.services[number % 2].client(user) for number, user in enumerate(users))
        return [await self.stack.enter_async_context(client) for client in made]

    async def clients_of_one(self) -> list[httpx.AsyncClient]:
        """Return all the clients of a new user."""
        return await self.clients(*[f"user-{uuid.uuid4()}"] * CLIENTS)


@pytest.fixture(scope="module", params=["SQLite", "NullPool", "pool"])
def pair_of_services(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    """Two processes on an SQLite file, and on PostgreSQL behind PgBouncer with and without a pool."""
    folders = [tmp_path_factory.mktemp("service") for _ in range(2)]
    url = f"sqlite+aiosqlite:///{folders[0] / 'todo.db'}"
    if request.param != "SQLite":
        neon: Neon = request.getfixturevalue("neon")
        url = pooled_url(neon)
    one, other = (Service(folder, url, 5 if request.param == "pool" else 0) for folder in folders)
    yield one, other
    one.stop()
    other.stop()


@pytest.fixture
async def pair(pair_of_services: tuple[Service, Service]) -> AsyncIterator[Pair]:
    """Two processes, and clients that are closed after the test."""
    pair = Pair(pair_of_services)
    yield pair
    await pair.stack.aclose()


async def new_task(client: httpx.AsyncClient) -> str:
    response = await client.post("/api/tasks", json={"title": "old"})
    return f"/api/tasks/{response.json()['id']}"


async def test_no_toggle_is_lost(pair: Pair) -> None:
    clients = await pair.clients_of_one()
    task = await new_task(clients[0])

    async def toggle(client: httpx.AsyncClient, times: int) -> list[bool]:
        responses = [await client.post(f"{task}/toggle") for _ in range(times)]
        assert {response.status_code for response in responses} == {200}
        return [response.json()["completed"] for response in responses]

    times = [TIMES + 1, *[TIMES] * (CLIENTS - 1)]
    assert sum(times) % 2 == 1
    responses = await asyncio.gather(*map(toggle, clients, times))
    states = [state for states in responses for state in states]
    # One after the other in whatever order, each finds what the one before it left.
    assert states.count(True) - states.count(False) == 1
    assert {(await client.get(task)).json()["completed"] for client in clients} == {True}


async def test_changes_of_different_fields_all_survive(pair: Pair) -> None:
    clients = await pair.clients_of_one()
    for number in range(TIMES):
        task = await new_task(clients[0])
        changes = ({"title": f"new {number}"}, {"description": f"new {number}"}, {"completed": True})
        patches = (client.patch(task, json=changes[at % 3]) for at, client in enumerate(clients))
        assert {response.status_code for response in await asyncio.gather(*patches)} == {200}
        after = (await clients[-1].get(task)).json()
        assert {name: after[name] for change in changes for name in change} == {
            name: value for change in changes for name, value in change.items()
        }


async def test_a_deleted_task_stays_deleted_whatever_changes_it_at_the_same_time(pair: Pair) -> None:
    clients = await pair.clients_of_one()
    for number in range(TIMES):
        task = await new_task(clients[0])
        deleting = number % CLIENTS
        requests = [
            client.delete(task)
            if at == deleting
            else client.patch(task, json={"title": "new"})
            if at % 2
            else client.post(f"{task}/toggle")
            for at, client in enumerate(clients)
        ]
        statuses = [response.status_code for response in await asyncio.gather(*requests)]
        assert statuses.pop(deleting) == 204
        assert set(statuses) <= {200, 404}
        assert {(await client.get(task)).status_code for client in clients[:2]} == {404}
        assert (await clients[1].get("/api/tasks")).json() == []


async def test_users_between_one_another_see_nothing_of_each_other(pair: Pair) -> None:
    users = [f"user-{number}-{uuid.uuid4()}" for number in range(CLIENTS)]
    here, there = await pair.clients(*users), await pair.clients("", *users)  # each user in both processes
    neighbours = [here[-1], *here[:-1]]

    async def work(
        user: str, mine: httpx.AsyncClient, also_mine: httpx.AsyncClient, not_mine: httpx.AsyncClient
    ) -> None:
        ids: list[str] = []
        for _ in range(TIMES):
            response = await mine.post("/api/tasks", json={"title": user})
            assert (response.status_code, response.json()["title"]) == (201, user)
            ids.insert(0, response.json()["id"])
            assert [(task["id"], task["title"]) for task in (await also_mine.get("/api/tasks")).json()] == [
                (task_id, user) for task_id in ids[:100]
            ]
            path = f"/api/tasks/{ids[0]}"
            attempts = (not_mine.get(path), not_mine.patch(path, json={"title": "x"}), not_mine.delete(path))
            assert [response.status_code for response in await asyncio.gather(*attempts)] == [404] * 3

    await asyncio.gather(*map(work, users, here, there[1:], neighbours))
