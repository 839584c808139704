"""A response that says a write succeeded leaves after the commit: where the commit fails, no response says so."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.api.operations import OPERATIONS, Operation
from tests.api.shared import assert_problem, create, tasks_of, token_of
from tests.applications import client_of, running
from tests.databases import connect, create_tables, new_postgres_database
from tests.settings import make_settings

WRITES = [operation for operation in OPERATIONS if operation.method != "GET"]
# Deferred: each statement succeeds, and its commit does not.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN RAISE EXCEPTION 'zebra-canary' USING ERRCODE = '{code}', DETAIL = 'zebra-canary'; END$$;
CREATE CONSTRAINT TRIGGER refuse AFTER INSERT OR UPDATE OR DELETE ON tasks
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse();
"""
ACCEPT = "DROP TRIGGER IF EXISTS refuse ON tasks; DROP FUNCTION IF EXISTS refuse();"


@pytest.fixture(scope="module")
async def own_database(postgres_server_url: str) -> AsyncIterator[tuple[str, Any]]:
    """The address of a migrated database, and a connection to it that may change its tables."""
    async with new_postgres_database(postgres_server_url) as address:
        await create_tables(address)
        connection = await connect(address)
        yield address, connection
        await connection.close()


@pytest.fixture
async def users(own_database: tuple[str, Any], user_id: Any) -> AsyncIterator[tuple[httpx.AsyncClient, ...]]:
    settings = make_settings(own_database[0])
    async with (
        running(settings) as app,
        client_of(app, settings, user_id("alice")) as alice,
        client_of(app, settings, user_id("bob")) as bob,
    ):
        yield alice, bob


@pytest.mark.parametrize(
    ("sqlstate", "status", "code"),
    [("40001", 503, "database_unavailable"), ("P0001", 500, "internal_error")],
    ids=["a conflict", "an error nobody foresaw"],
)
@pytest.mark.parametrize("operation", WRITES, ids=lambda operation: operation.name)
async def test_a_write_whose_commit_fails_is_not_said_to_have_succeeded(
    own_database: tuple[str, Any],
    users: tuple[httpx.AsyncClient, httpx.AsyncClient],
    operation: Operation,
    sqlstate: str,
    status: int,
    code: str,
) -> None:
    alice, bob = users
    task = await create(alice, completed=True)
    given = await create(bob)
    _address, connection = own_database
    await connection.execute(REFUSE.format(code=sqlstate))
    try:
        response = await operation.call(alice, task["id"], token_of(bob))
        assert_problem(response, status, code)
        assert "zebra" not in response.text
    finally:
        await connection.execute(ACCEPT)
    assert await tasks_of(alice) == [task]
    assert await tasks_of(bob) == [given]
    assert (await operation.call(alice, task["id"], token_of(bob))).status_code == operation.status
