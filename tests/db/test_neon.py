"""The connection to a stand-in for Neon: TLS, passwords, a pooler in transaction mode, and how little it may cost."""

import asyncio
import os
import random
import socket
import ssl
import uuid
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy import literal_column, select, text
from uuid_utils.compat import uuid7

from backend.db import connection as connection_module
from backend.db.connection import closed_connections
from backend.db.migrating import run_on_schema
from backend.db.session import Database, check_db_health
from backend.errors import DatabaseUnavailable
from backend.models.task import TaskCreate, TaskPut
from backend.observation import Observation, observation
from backend.services.tasks import TaskService
from tests.api.operations import OPERATIONS, RESTORE, Operation
from tests.api.shared import token_of
from tests.applications import client_of, running
from tests.db.conftest import NewDatabase
from tests.neon import HOST, Neon, certificate_of_localhost
from tests.network import proxy_to
from tests.processes import DEADLINE
from tests.settings import make_settings

NULL_POOL_ROUND_TRIPS = 5
"""TLS, start, password (2), statement. TCP's own is not seen here."""


@pytest.fixture
def neon_host(neon: Neon, monkeypatch: pytest.MonkeyPatch) -> str:
    """A host name of Neon's that is this machine, trusted by it, and of which nothing is known yet."""
    monkeypatch.setenv("SSL_CERT_FILE", str(neon.certificate))  # where OpenSSL looks for the system's authorities
    resolve = socket.getaddrinfo
    addresses = {HOST: "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: resolve(addresses.get(host, host), *rest, **more)
    )
    monkeypatch.setattr(connection_module, "_without_direct_tls", set())
    return HOST


@pytest.mark.parametrize(
    ("parameters", "refused", "connections", "round_trips", "warnings"),
    [
        ("sslmode=require&channel_binding=require", False, 1, 5, 0),
        ("sslmode=require&channel_binding=require", True, 2, 6, 1),
        ("sslmode=require&sslnegotiation=postgres", False, 1, 6, 0),
        ("sslmode=require&sslnegotiation=direct", False, 1, 5, 0),
    ],
)
async def test_tls_on_neon_begins_at_once_where_the_server_lets_it(
    neon: Neon,
    neon_host: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    parameters: str,
    refused: bool,
    connections: int,
    round_trips: int,
    warnings: int,
) -> None:
    monkeypatch.setattr(neon.edge, "takes_direct_tls", not refused)
    monkeypatch.setattr(neon.edge, "connections", 0)
    database = Database(make_settings(neon.url(parameters, neon_host)))
    await asyncio.gather(*(TaskService(database.executor, "somebody").stats() for _ in range(2)))
    assert neon.edge.connections == 2 * connections
    await closed_connections()
    neon.edge.connections = neon.edge.round_trips = 0
    await TaskService(database.executor, "somebody").stats()
    assert (neon.edge.connections, neon.edge.round_trips) == (1, round_trips), "what was refused is not tried again"
    assert [record.levelname for record in caplog.records] == ["WARNING"] * warnings
    await database.close()


async def test_a_look_at_the_schema_leaves_no_limit_behind(neon: Neon, open_database: NewDatabase) -> None:
    settings = make_settings(neon.url())
    assert await run_on_schema(settings, lambda connection: connection.scalar(text("SHOW lock_timeout"))) == "2s"
    shown = await open_database(neon.url()).executor.exec(text("SHOW lock_timeout"))  # on the server's same session
    assert shown.scalar_one() == "0"


async def test_require_on_neon_is_no_impostor(neon: Neon, neon_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with certificate_of_localhost() as (_, other):
        monkeypatch.setenv("SSL_CERT_FILE", str(other))
        database = Database(make_settings(neon.url("sslmode=require", neon_host)))
        with pytest.raises(DatabaseUnavailable, match=r"not trusted: install .* sslrootcert; sslmode=no-verify"):
            await check_db_health(database)
        database = Database(make_settings(neon.url("sslmode=no-verify", neon_host)))
        await TaskService(database.executor, "somebody").stats()


async def test_a_server_without_tls_is_not_asked_again(neon: Neon) -> None:
    seen = Observation()
    token = observation.set(seen)
    url = neon.url("sslmode=require").replace(str(neon.edge.port), str(neon.pgbouncer.port))
    with pytest.raises(DatabaseUnavailable, match="has no TLS"):
        await TaskService(Database(make_settings(url)).executor, "somebody").stats()
    observation.reset(token)
    assert seen.retries == 0


@pytest.mark.parametrize("parameters", ["sslmode=require&sslnegotiation=direct", "sslmode=verify-full"])
async def test_what_was_asked_for_is_not_done_in_another_way(
    neon: Neon, neon_host: str, monkeypatch: pytest.MonkeyPatch, parameters: str
) -> None:
    direct = "direct" in parameters
    monkeypatch.setattr(neon.edge, "takes_direct_tls", not direct)
    if not direct:
        monkeypatch.delenv("SSL_CERT_FILE")  # then its certificate is the matter
    monkeypatch.setattr(neon.edge, "connections", 0)
    database = Database(make_settings(neon.url(parameters, neon_host)))
    with pytest.raises(DatabaseUnavailable):
        await database.executor.exec(select(literal_column("1")), retry=False)
    assert neon.edge.connections == 1
    await database.close()


@pytest.mark.parametrize(
    "parameters",
    [
        "sslmode=require&channel_binding=require",
        "sslmode=require",
        "application_name=tasks&sslmode=require&connect_timeout=15",
        "sslmode=verify-full&sslrootcert={certificate}",
        "sslmode=verify-ca&sslrootcert={certificate}",
        "",
    ],
)
async def test_a_console_string_works_as_it_is(neon: Neon, parameters: str) -> None:
    neon.edge.server_names.clear()
    database = Database(make_settings(neon.url(parameters.format(certificate=neon.certificate))))
    await check_db_health(database)
    assert set(neon.edge.server_names) == {"localhost"}  # by its name (SNI) Neon's proxy finds the server
    await database.close()


@pytest.mark.parametrize(
    ("parameters", "host"),
    [
        ("sslmode=verify-full", "localhost"),  # this machine's authorities do not know the certificate
        ("sslmode=verify-full&sslrootcert={certificate}", "127.0.0.1"),  # which is not this address's
        ("sslmode=verify-ca&sslrootcert={other}", "localhost"),
        ("sslmode=disable", "localhost"),  # the edge does not speak without TLS
    ],
)
async def test_an_impostor_is_refused_and_never_asked_twice(neon: Neon, parameters: str, host: str) -> None:
    with certificate_of_localhost() as (_, other):
        parameters = parameters.format(certificate=neon.certificate, other=other)
        database = Database(make_settings(neon.url(parameters, host), database_connect_timeout=3))
        with pytest.raises(DatabaseUnavailable):
            await check_db_health(database)
        await database.close()


async def test_the_tls_context_is_made_once_and_searches_no_authorities(
    neon: Neon, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[ssl.SSLContext] = []
    connect = asyncpg.connect

    async def note(**arguments: Any) -> Any:
        used.append(arguments["ssl"])
        return await connect(**arguments)

    monkeypatch.setattr(asyncpg, "connect", note)
    database = Database(make_settings(neon.url()))
    for _ in range(3):
        await TaskService(database.executor, "somebody").stats()
        await closed_connections()
    await database.close()
    assert len(used) == 3
    assert len(set(map(id, used))) == 1
    assert used[0].cert_store_stats()["x509"] == 0


RECURRING = {"due_date": "2026-12-01", "recurrence": "FREQ=DAILY"}
VARIANTS = [
    Operation("GET", "/api/tasks", 200, query={"search": "a", "tag": "b", "sort": "due_date,title", "count": "true"}),
    Operation("PATCH", "/api/tasks/{id}", 200, {}),
    Operation("PUT", "/api/tasks/01990000-0000-7000-8000-000000000001", 201, {"title": "New"}),
    Operation("GET", "/health/db", 200),
]
TOGGLED = Operation("POST", "/api/tasks/{id}/toggle", 200, statements=6)
"""Of a task that recurs: tried, looked at, then in a transaction locked, read, completed, and followed by the next."""
COMPLETED = Operation("POST", "/api/tasks/bulk-complete", 200, {"task_ids": ["{id}"]}, statements=6)
"""The same. Other requests go on while the next dates are searched for, so without a pool it connects once more."""
READS = ("/api/tasks", "/api/tasks/stats", "/api/tasks/tags", "/api/tasks/changes")
KNOWN = [Operation("GET", path, 304) for path in READS]
STALE = [Operation("GET", path, 200, statements=2) for path in READS]
"""With the entity tag of what was read before a write: the owner's revision is asked for first."""


@pytest.mark.parametrize("pool_size", [0, 1])
async def test_every_endpoint_costs_the_fewest_round_trips(neon: Neon, neon_host: str, pool_size: int) -> None:
    settings = make_settings(neon.url(host=neon_host), database_pool_size=pool_size, database_max_overflow=0)
    expected, counted = {}, {}
    async with running(settings) as app, client_of(app, settings, f"giver-{uuid.uuid4()}") as giver:
        for _ in range(2):  # the types of a statement are asked for once; then it is one round trip
            async with client_of(app, settings, f"counter-{uuid.uuid4()}") as client:
                for operation in [*OPERATIONS, RESTORE, *VARIANTS, TOGGLED, COMPLETED, *KNOWN, *STALE]:
                    fields = RECURRING if operation in (TOGGLED, COMPLETED) else {"completed": True}
                    task = (await client.post("/api/tasks", json={"title": "x", **fields})).json()
                    if operation is RESTORE:
                        await client.delete(f"/api/tasks/{task['id']}")
                    headers = {}
                    if operation in (*KNOWN, *STALE):
                        headers["If-None-Match"] = (await client.get(operation.path)).headers["ETag"]
                    if operation in STALE:
                        await client.post("/api/tasks", json={"title": "since"})
                    await closed_connections()
                    neon.edge.round_trips = 0
                    response = await operation.call(client, task["id"], token_of(giver), headers=headers)
                    assert response.status_code == operation.status, response.text
                    name = f"{operation.name} {operation.query} {operation.body} {operation.status} {list(headers)}"
                    counted[name] = neon.edge.round_trips
                    connections = 0 if pool_size else 2 if operation is COMPLETED else 1
                    of_transaction = 2 if operation.statements > 1 and operation not in STALE else 0
                    expected[name] = connections * (NULL_POOL_ROUND_TRIPS - 1) + operation.statements + of_transaction
    assert counted == expected


async def test_ids_that_both_have_cost_a_transfer_no_round_trip_each(neon: Neon) -> None:
    """Both users' other writes wait for it."""
    database = Database(make_settings(neon.url(), database_pool_size=1))
    counted = []
    for shared in (2, 2, 60):
        giver, taker = (TaskService(database.executor, f"{name}-{uuid.uuid4()}") for name in ("giver", "taker"))
        for task_id in [uuid7() for _ in range(shared)]:
            for service in (giver, taker):
                await service.put(task_id, TaskPut(title="x"))
        neon.edge.round_trips = 0
        assert await giver.transfer_to(taker._user_id) == shared
        counted.append(neon.edge.round_trips)
    await database.close()
    _, few, many = counted
    assert few == many


TOTAL = 10_000 if "FAULT_ROUNDS" in os.environ else 1_000


@pytest.mark.parametrize("pool_size", [0, 5])
async def test_many_requests_through_a_pool_of_two_meet_no_error_and_no_foreign_task(
    neon: Neon, pool_size: int
) -> None:
    settings = make_settings(neon.url(), database_pool_size=pool_size, log_level="WARNING")
    total, workers = (TOTAL // 10, 8) if pool_size == 0 else (TOTAL * 9 // 10, 18)
    async with running(settings) as app:

        async def work(number: int) -> None:
            name = f"worker-{number}-{uuid.uuid4()}"
            choose = random.Random(number)
            async with client_of(app, settings, name) as client:
                ids: list[str] = []
                for _ in range(total // workers):
                    await one_request(client, name, ids, choose)

        await asyncio.gather(*(work(number) for number in range(workers)))


async def one_request(client: httpx.AsyncClient, name: str, ids: list[str], choose: random.Random) -> None:
    action = choose.choice(["create", "list", "get", "patch", "toggle", "delete", "stats"]) if ids else "create"
    some = choose.choice(ids) if ids else ""
    match action:
        case "create":
            response = await client.post("/api/tasks", json={"title": name})
            assert response.status_code == 201, response.text
            ids.append(response.json()["id"])
        case "list":
            response = await client.get("/api/tasks?limit=20")
            assert [task["id"] for task in response.json()] == ids[::-1][:20]
        case "get":
            response = await client.get(f"/api/tasks/{some}")
        case "patch":
            response = await client.patch(f"/api/tasks/{some}", json={"description": name})
        case "toggle":
            response = await client.post(f"/api/tasks/{some}/toggle")
        case "delete":
            response = await client.delete(f"/api/tasks/{some}")
            ids.remove(some)
        case _:
            response = await client.get("/api/tasks/stats")
            assert response.json()["total"] == len(ids)
    assert response.status_code in {200, 201, 204}, response.text
    if action in {"create", "get", "patch", "toggle"}:
        assert response.json()["title"] == name


async def test_a_response_does_not_wait_for_the_goodbye(neon: Neon) -> None:
    database = Database(make_settings(neon.url()))
    service = TaskService(database.executor, "somebody")
    await service.stats()
    assert len(neon.edge.open) >= 1  # the response is here, and the connection is not closed yet
    await database.close()


async def test_a_connection_that_died_while_idle_is_not_used(neon: Neon) -> None:
    settings = make_settings(neon.url(), database_pool_size=3)
    database = Database(settings)
    service = TaskService(database.executor, "somebody")
    await asyncio.gather(*(TaskService(database.executor, "somebody").stats() for _ in range(3)))
    neon.edge.cut_all()
    await asyncio.sleep(0)  # the sockets are closed now; the service's event loop has not been told
    await service.create(TaskCreate(title="a write: it is never tried twice"))
    await database.close()


async def test_waking_up_is_waited_for(neon: Neon) -> None:
    neon.pgbouncer.kill()
    database = Database(make_settings(neon.url()))
    writing = asyncio.create_task(TaskService(database.executor, "somebody").create(TaskCreate(title="patient")))
    before = neon.edge.connections
    async with asyncio.timeout(20):
        while neon.edge.connections < before + 2:  # it has tried, failed and tried again  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    neon.pgbouncer.start()
    assert (await writing)["title"] == "patient"
    await database.close()


async def test_a_wrong_password_is_refused_at_once(neon: Neon) -> None:
    url = neon.url().replace("odd", "even")
    database = Database(make_settings(url))
    before = neon.edge.connections
    with pytest.raises(DatabaseUnavailable):
        await TaskService(database.executor, "somebody").stats()
    assert neon.edge.connections == before + 1
    await database.close()


async def test_a_probe_is_not_repeated(neon: Neon) -> None:
    neon.pgbouncer.kill()
    database = Database(make_settings(neon.url()))
    before = neon.edge.connections
    with pytest.raises(DatabaseUnavailable):
        await check_db_health(database)
    assert neon.edge.connections == before + 1
    neon.pgbouncer.start()
    await check_db_health(database)  # whole again, without a restart
    await database.close()


async def test_a_black_hole_does_not_make_clients_queue(neon: Neon) -> None:
    database = Database(make_settings(neon.url(), database_connect_timeout=DEADLINE))
    neon.edge.flowing.clear()
    before = neon.edge.connections
    clients = [asyncio.create_task(TaskService(database.executor, "somebody").stats()) for _ in range(20)]
    try:
        async with asyncio.timeout(DEADLINE):
            while neon.edge.connections < before + 20:  # all are in it before the first is given up  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    finally:
        neon.edge.flowing.set()
        await asyncio.gather(*clients)
    await database.close()


async def test_a_lost_commit_is_an_unknown_outcome_and_a_lost_read_is_read_again(neon: Neon) -> None:
    async with proxy_to(port=neon.pgbouncer.port) as proxy:
        url = neon.url("sslmode=disable").replace(f":{neon.edge.port}/", f":{proxy.port}/")
        settings = make_settings(url, database_pool_size=1)
        async with running(settings) as app, client_of(app, settings, f"cut-{uuid.uuid4()}") as client:
            first = (await client.post("/api/tasks", json={"title": "first"})).json()
            for cut, stored in (("cut_before", ["first"]), ("cut_after", ["cut_after", "first"])):
                setattr(proxy, cut, cut.encode())  # in the message that runs the INSERT: it carries the title
                response = await client.post("/api/tasks", json={"title": cut})
                assert (response.status_code, response.json()["code"]) == (503, "outcome_unknown")
                assert [task["title"] for task in (await client.get("/api/tasks")).json()] == stored
            proxy.cut_after = b"SELECT"
            assert (await client.get(f"/api/tasks/{first['id']}")).json()["title"] == "first"
            assert proxy.cut_after is None
