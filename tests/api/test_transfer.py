"""Taking over another user's tasks, with both users' tokens."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from jose import jwt

from backend.auth.tokens import mint
from backend.config import Settings
from tests.api.shared import assert_problem, create, tasks_of, token_of
from tests.applications import client_of
from tests.settings import SECRET

TRANSFER = "/api/tasks/transfer"
FAR = 4_000_000_000
CLAIMS = {"sub": "zebra-canary", "exp": FAR}


async def test_all_tasks_move_to_the_client(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    old = [await create(bob, title, description="Some", completed=title == "b") for title in "abc"]
    own = await create(alice, "own")
    response = await alice.post(TRANSFER, json={"from_token": token_of(bob)})
    assert (response.status_code, response.json()) == (200, {"transferred": 3})
    after = await tasks_of(alice)
    assert [task["title"] for task in after] == ["own", "c", "b", "a"]
    assert after[0] == own
    for task, before in zip(after[1:], reversed(old), strict=True):
        assert task == {**before, "updated_at": task["updated_at"], "etag": task["etag"]}
        assert task["updated_at"] > before["updated_at"]
    assert await tasks_of(bob) == []
    assert_problem(await bob.get(f"/api/tasks/{old[0]['id']}"), 404, "task_not_found")
    assert (await alice.patch(f"/api/tasks/{old[0]['id']}", json={"title": "mine"})).status_code == 200


async def test_a_second_transfer_finds_nothing(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    await create(bob)
    body = {"from_token": token_of(bob)}
    assert (await alice.post(TRANSFER, json=body)).json() == {"transferred": 1}
    assert (await alice.post(TRANSFER, json=body)).json() == {"transferred": 0}


async def test_more_tasks_than_a_page_move_too(alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    for number in range(120):
        await create(bob, str(number))
    assert (await alice.post(TRANSFER, json={"from_token": token_of(bob)})).json() == {"transferred": 120}
    assert (await alice.get("/api/tasks/stats")).json()["total"] == 120


async def test_a_third_users_tasks_stay(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient, app: FastAPI, settings: Settings, user_id: Callable[[str], str]
) -> None:
    async with client_of(app, settings, user_id("carol")) as carol:
        kept = await create(carol)
        await create(bob)
        await alice.post(TRANSFER, json={"from_token": token_of(bob)})
        assert await tasks_of(carol) == [kept]


async def test_a_user_cannot_transfer_to_themselves(alice: httpx.AsyncClient) -> None:
    task = await create(alice)
    response = await alice.post(TRANSFER, json={"from_token": token_of(alice)})
    assert_problem(response, 422, "same_user", ("body", "/from_token", "same_user"))
    assert await tasks_of(alice) == [task]


async def test_another_token_of_the_same_user_is_the_same_user(
    alice: httpx.AsyncClient, settings: Settings, app: FastAPI, user_id: Callable[[str], str]
) -> None:
    name = user_id("carol")
    async with client_of(app, settings, name) as carol:
        response = await carol.post(TRANSFER, json={"from_token": mint(settings, name, 60)})
    assert_problem(response, 422, "same_user", ("body", "/from_token", "same_user"))


def encoded(claims: dict[str, Any], secret: str = SECRET, algorithm: str = "HS256") -> str:
    token: str = jwt.encode(claims, secret, algorithm=algorithm)
    return token


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("zebra-canary", id="no token"),
        pytest.param("a.b.c", id="three parts of nothing"),
        pytest.param("zebra-canary-\u00e9\U0001f600\0", id="odd characters"),
        pytest.param("x" * 60_000, id="60,000 letters"),
        pytest.param(encoded({**CLAIMS, "exp": 1}), id="expired"),
        pytest.param(encoded(CLAIMS, "another-secret-that-is-long-enough"), id="another secret"),
        pytest.param(encoded(CLAIMS, algorithm="HS512"), id="another algorithm"),
        pytest.param(encoded({"exp": FAR}), id="no sub"),
        pytest.param(encoded({"sub": "zebra-canary"}), id="no exp"),
        pytest.param(encoded({**CLAIMS, "sub": "x" * 256}), id="sub too long"),
        pytest.param(encoded({**CLAIMS, "nbf": FAR}), id="not yet valid"),
        pytest.param("Bearer " + encoded(CLAIMS), id="with the scheme"),
        pytest.param(encoded(CLAIMS) + " ", id="a space behind"),
        pytest.param(encoded(CLAIMS)[:-4] + "AAAA", id="altered signature"),
    ],
)
async def test_a_token_that_is_not_valid_is_422_and_moves_nothing(alice: httpx.AsyncClient, token: str) -> None:
    response = await alice.post(TRANSFER, json={"from_token": token})
    assert_problem(response, 422, "invalid_from_token", ("body", "/from_token", "invalid_from_token"))
    assert "has expired, or is not valid" in response.json()["detail"]
    assert "zebra" not in response.text
    assert await tasks_of(alice) == []


@pytest.mark.parametrize(
    ("body", "pointer", "code"),
    [
        pytest.param({}, "/from_token", "required", id="nothing"),
        pytest.param({"from_token": None}, "/from_token", "not_a_string", id="null"),
        pytest.param({"from_token": 1}, "/from_token", "not_a_string", id="a number"),
        pytest.param({"from_token": ["x"]}, "/from_token", "not_a_string", id="a list"),
        pytest.param({"from_token": "x", "to": "y"}, "/to", "unknown_field", id="an unknown field"),
    ],
)
async def test_a_body_without_a_token_is_422(
    alice: httpx.AsyncClient, body: dict[str, Any], pointer: str, code: str
) -> None:
    response = await alice.post(TRANSFER, json=body)
    assert_problem(response, 422, "validation_error", ("body", pointer, code))


async def test_a_token_of_half_a_character_is_not_valid(alice: httpx.AsyncClient) -> None:
    headers = {"Content-Type": "application/json"}
    response = await alice.post(TRANSFER, content=rb'{"from_token": "\ud800"}', headers=headers)
    assert_problem(response, 422, "invalid_from_token", ("body", "/from_token", "invalid_from_token"))


async def test_the_other_users_token_alone_is_not_enough(anonymous: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    task = await create(bob)
    response = await anonymous.post(TRANSFER, json={"from_token": token_of(bob)})
    assert_problem(response, 401, "token_missing")
    headers = {"Authorization": f"Bearer {encoded({**CLAIMS, 'exp': 1})}"}
    response = await anonymous.post(TRANSFER, json={"from_token": token_of(bob)}, headers=headers)
    assert_problem(response, 401, "token_expired")
    assert await tasks_of(bob) == [task]
