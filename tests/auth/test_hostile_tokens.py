"""Whatever bytes a token holds: 401, at once, without asking the database or anybody whom the token names."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.auth.tokens import TokenVerifier
from backend.errors import TokenInvalid
from tests.applications import running
from tests.auth.hostile import LIMIT, Attack, attacks, bearer, padded
from tests.auth.issuer import (
    ORIGIN,
    PUBLIC_KEY_ALGORITHMS,
    Clock,
    Issuer,
    claims,
    running_issuer,
    secret_signer,
    signer,
)
from tests.settings import SECRET, make_settings
from tests.statements import recorded_connections

NAMES = list(attacks("http://127.0.0.1:9"))

GOOD = [secret_signer(SECRET), *(signer(algorithm) for algorithm in PUBLIC_KEY_ALGORITHMS)]


@pytest.fixture(scope="module")
async def issuer() -> AsyncIterator[Issuer]:
    """One for all the tests: they only count what it is asked."""
    async with running_issuer() as issuer:
        yield issuer


@pytest.fixture(scope="module")
async def canary() -> AsyncIterator[Issuer]:
    """A server that tokens name and nobody may ask. It would give away the attacker's key."""
    async with running_issuer(signer("EdDSA", "attacker").jwk()) as canary:
        yield canary


@pytest.fixture(scope="module")
def table(canary: Issuer) -> dict[str, Attack]:
    return attacks(canary.origin)


@pytest.fixture(scope="module")
async def app(
    issuer: Issuer, table: dict[str, Attack], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[FastAPI]:
    """Takes tokens by secret and by key. Its time stands still, so the times in the table mean what they say."""
    settings = make_settings(
        f"sqlite+aiosqlite:///{tmp_path_factory.mktemp('hostile') / 'todo.db'}",
        better_auth_url=ORIGIN,
        better_auth_jwks_url=issuer.origin,
    )
    async with running(settings) as app:
        app.state.verifier._clock = Clock(time.time())
        app.state.verifier.jwks._clock = Clock()  # so there is one fetch for unknown key ids, in the whole module
        yield app


@pytest.fixture(scope="module")
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client


@pytest.fixture
def connections(app: FastAPI) -> Iterator[list[Any]]:
    """What asks for a connection to the database: each time, new or kept."""
    with recorded_connections(app.state.database) as asked:
        yield asked


async def send(
    client: httpx.AsyncClient, attack: Attack, method: str = "GET", path: str = "/api/tasks"
) -> httpx.Response:
    headers = [(b"Authorization", value) for value in attack.values]
    return await client.request(method, path, headers=headers)


def assert_refused(response: httpx.Response, code: str) -> None:
    assert (response.status_code, response.json()["code"]) == (401, code)
    challenge = "Bearer" if code == "token_missing" else 'Bearer error="invalid_token"'
    assert response.headers.get_list("WWW-Authenticate") == [challenge]
    assert response.headers["Content-Type"] == "application/problem+json"


def test_there_are_at_least_300_attacks(table: dict[str, Attack]):
    assert len(set(table.values())) >= 300
    assert list(table) == NAMES


@pytest.mark.parametrize("by", GOOD, ids=lambda by: by.algorithm)
async def test_a_good_token_reaches_the_database(client: httpx.AsyncClient, connections: list[Any], by: Any):
    """Shows that this application lets good tokens in, and that what the tests below count is counted."""
    for number, header in enumerate((by.header(), by.header(typ="JWT"), by.header(typ="at+jwt")), 1):
        response = await send(client, bearer(by.token(header)))
        assert (response.status_code, response.json()) == (200, [])
        assert len(connections) == number


@pytest.mark.parametrize("name", NAMES)
async def test_a_hostile_token_is_refused(
    client: httpx.AsyncClient,
    table: dict[str, Attack],
    connections: list[Any],
    issuer: Issuer,
    canary: Issuer,
    name: str,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    attack = table[name]
    assert_refused(await send(client, attack), attack.code)
    assert not connections
    assert canary.fetches == 0
    assert issuer.fetches <= 2  # the first, and one for unknown key ids
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    token = attack.values[0].decode("latin-1")[-40:] if attack.values else ""
    assert len(token) < 40 or token not in caplog.text


async def test_all_hostile_tokens_at_once_are_refused(
    client: httpx.AsyncClient, table: dict[str, Attack], connections: list[Any], issuer: Issuer, canary: Issuer
):
    responses = await asyncio.gather(*(send(client, attack) for attack in table.values()))
    for response, attack in zip(responses, table.values(), strict=True):
        assert_refused(response, attack.code)
    assert not connections
    assert canary.fetches == 0
    assert issuer.fetches <= 2


async def test_a_hostile_token_is_refused_by_the_verifier_itself(
    app: FastAPI, table: dict[str, Attack], canary: Issuer
):
    for name, attack in table.items():
        for value in attack.values:
            token = value.decode("latin-1")
            assert not await is_good(app.state.verifier, token) or name == "header: the token alone"
            if not name.startswith(("header:", "headers:")):
                assert not await is_good(app.state.verifier, token.removeprefix("Bearer ")), name
    assert canary.fetches == 0


async def is_good(verifier: TokenVerifier, token: str) -> bool:
    try:
        await verifier.verify(token)
    except TokenInvalid:
        return False
    return True


async def test_a_hostile_token_takes_over_nobodys_tasks(
    client: httpx.AsyncClient, table: dict[str, Attack], connections: list[Any], canary: Issuer
):
    headers = {"Authorization": f"Bearer {GOOD[0].token(payload=claims(sub='user-2'))}"}
    for name, attack in table.items():
        for value in attack.values:
            hostile = value.decode("latin-1")
            if not name.startswith(("header:", "headers:")):
                hostile = hostile.removeprefix("Bearer ")
            if name == "header: the token alone" or not 0 < len(hostile) < 50_000:
                continue  # a good one; and what is no question of tokens
            response = await client.post("/api/tasks/transfer", headers=headers, json={"from_token": hostile})
            assert (response.status_code, response.json()["code"]) == (422, "invalid_from_token"), name
    assert not connections
    assert canary.fetches == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\ud800",
        "a.b.\udfff",
        "\0",
        "🙂.🙂.🙂",
        "\uff41.\uff42.\uff43",
        "\u0661.\u0662.\u0663",
        "\ud83d.\ude42.x",
        "a" * 10_000_000,
    ],
    ids=["empty", "surrogate", "surrogate signature", "NUL", "smileys", "full width", "digits", "halves", "10 MB"],
)
async def test_a_text_that_no_header_can_carry_is_refused(app: FastAPI, text: str):
    for token in (text, f"{text}.{text}.{text}", GOOD[0].token() + text + "."):
        with pytest.raises(TokenInvalid):
            await app.state.verifier.verify(token)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "OPTIONS", "QUERY"])
@pytest.mark.parametrize("path", ["/api", "/api/", "/api/tasks", "/api/tasks/x", "/api/tasks?limit=x", "/api/nowhere"])
async def test_401_comes_before_every_other_response(client: httpx.AsyncClient, method: str, path: str):
    for attack, code in ((bearer("x"), "token_invalid"), (Attack(()), "token_missing")):
        response = await send(client, attack, method, path)
        assert response.status_code == 401
        if method != "HEAD":
            assert_refused(response, code)


@pytest.mark.parametrize("by", GOOD[:2], ids=lambda by: by.algorithm)
async def test_a_token_anywhere_but_in_the_header_is_none(client: httpx.AsyncClient, by: Any):
    token = by.token()
    for request in (
        {"params": {"access_token": token}},
        {"headers": {"Cookie": f"token={token}; better-auth.session_token={token}"}},
        {"headers": {"X-Authorization": f"Bearer {token}", "Proxy-Authorization": f"Bearer {token}"}},
    ):
        response = await client.get("/api/tasks", **request)
        assert_refused(response, "token_missing")
    assert_refused(await client.post("/api/tasks", data={"access_token": token}), "token_missing")


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"bEaReR ", b"Bearer    "])
@pytest.mark.parametrize("by", GOOD[:2], ids=lambda by: by.algorithm)
async def test_the_schemes_case_does_not_matter(client: httpx.AsyncClient, by: Any, scheme: bytes):
    response = await send(client, Attack((scheme + by.token().encode(),)))
    assert response.status_code == 200


@pytest.mark.parametrize("by", GOOD[:2], ids=lambda by: by.algorithm)
async def test_a_good_token_of_the_greatest_length_is_good(app: FastAPI, by: Any):
    token = max(
        (padded(by, size) for size in range(LIMIT - 4, LIMIT + 1)), key=lambda each: (len(each) <= LIMIT, len(each))
    )
    assert len(token) == LIMIT
    assert await is_good(app.state.verifier, token)


@pytest.mark.parametrize("by", GOOD[:2], ids=lambda by: by.algorithm)
@pytest.mark.parametrize(
    "changes",
    [
        {"sub": "x" * 255},
        {"sub": "🙂" * 255},
        {"sub": " "},
        {"aud": [ORIGIN]},
        {"aud": ["x", ORIGIN]},
        {"iat": ...},
        {"nbf": 0},
        {"nbf": 0.5},
        {"exp": 4e9},
        {"exp": 7_258_118_400},
        {"name": "Zoë", "emailVerified": False, "image": None, "roles": [{}]},
    ],
    ids=str,
)
async def test_a_token_that_only_looks_odd_is_good(app: FastAPI, by: Any, changes: dict[str, Any]):
    verified = await app.state.verifier.verify(by.token(payload=claims(**changes)))
    assert verified.user_id == claims(**changes)["sub"]


@pytest.mark.parametrize("by", GOOD[:2], ids=lambda by: by.algorithm)
async def test_clocks_may_differ_by_30_seconds(app: FastAPI, by: Any):
    now = app.state.verifier._clock()
    for changes in ({"exp": now - 29.9}, {"nbf": now + 29.9}, {"iat": now + 29.9}):
        assert await is_good(app.state.verifier, by.token(payload=claims(**changes)))
    for changes in ({"exp": now - 30.1}, {"nbf": now + 30.1}, {"iat": now + 30.1}):
        assert not await is_good(app.state.verifier, by.token(payload=claims(**changes)))
