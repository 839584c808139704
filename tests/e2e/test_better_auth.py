"""Tokens of a real Better Auth, in every way that it can be told to make them."""

import base64
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from backend.auth.tokens import LEEWAY
from tests.applications import running
from tests.auth.issuer import PUBLIC_KEY_ALGORITHMS, Clock
from tests.e2e.conftest import BetterAuth, running_better_auth
from tests.processes import FORKED, backend, serving
from tests.settings import make_settings

TASKS = "/api/tasks"


@asynccontextmanager
async def service(better_auth: BetterAuth, tmp_path: Path, **changes: Any) -> AsyncIterator[FastAPI]:
    """Our service, told where that Better Auth is."""
    url = f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
    settings = make_settings(url, better_auth_secret=None, better_auth_url=better_auth.origin, **changes)
    async with running(settings) as app:
        yield app


@pytest.fixture
async def app(better_auth: BetterAuth, tmp_path: Path) -> AsyncIterator[FastAPI]:
    async with service(better_auth, tmp_path) as app:
        yield app


async def call(app: FastAPI, token: str, method: str = "GET", path: str = TASKS, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        return await client.request(method, path, headers={"Authorization": f"Bearer {token}"}, **options)


def assert_refused(response: httpx.Response, code: str = "token_invalid") -> None:
    assert (response.status_code, response.json()["code"]) == (401, code)


def header_of(token: str) -> dict[str, Any]:
    return _json(token.split(".", 1)[0])


def claims_of(token: str) -> dict[str, Any]:
    return _json(token.split(".", 2)[1])


def _json(segment: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    return value


async def test_two_lines_of_settings_are_enough(better_auth: BetterAuth, tmp_path: Path):
    settings = {"DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}", "BETTER_AUTH_URL": better_auth.origin}
    async with better_auth.user() as user:
        headers = {"Authorization": f"Bearer {await user.token()}"}
    with serving([FORKED, "serve"], tmp_path, **settings) as server:
        async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
            created = await client.post(TASKS, json={"title": "Buy milk"})
            assert created.status_code == 201
            assert (await client.get(TASKS)).json() == [created.json()]


async def test_the_doctor_finds_the_keys_and_that_the_clocks_agree(better_auth: BetterAuth, tmp_path: Path):
    async with better_auth.user() as user:
        await user.token()
    url = f"sqlite+aiosqlite:///{tmp_path / 'todo.db'}"
    checked = backend("check", cwd=tmp_path, DATABASE_URL=url, BETTER_AUTH_URL=better_auth.origin)
    assert "1 keys: EdDSA\n" in checked.stdout
    assert "the issuer's clock agrees" in checked.stdout


@pytest.mark.parametrize("algorithm", PUBLIC_KEY_ALGORITHMS)
async def test_tokens_of_every_algorithm_are_accepted(node: str, tmp_path: Path, algorithm: str):
    with running_better_auth(node, algorithm=algorithm) as better_auth:
        async with service(better_auth, tmp_path) as app, better_auth.user() as user:
            token = await user.token()
            assert header_of(token)["alg"] == algorithm
            assert (await call(app, token, "POST", json={"title": "Buy milk"})).status_code == 201
            assert [task["title"] for task in (await call(app, token)).json()] == ["Buy milk"]
            assert_refused(await call(app, token[:-20] + token[-20:].swapcase()))


async def test_the_default_is_eddsa_and_the_user_is_its_sub(better_auth: BetterAuth, app: FastAPI):
    async with better_auth.user() as user:
        token = await user.token()
        assert header_of(token)["alg"] == "EdDSA"
        assert (await app.state.verifier.verify(token)).user_id == user.id


async def test_users_see_their_own_tasks_only(better_auth: BetterAuth, app: FastAPI):
    async with better_auth.user() as ada, better_auth.user() as bob:
        task = (await call(app, await ada.token(), "POST", json={"title": "Ada's"})).json()
        assert (await call(app, await bob.token())).json() == []
        assert (await call(app, await bob.token(), path=f"{TASKS}/{task['id']}")).status_code == 404
        taken = await call(app, await bob.token(), "POST", f"{TASKS}/transfer", json={"from_token": await ada.token()})
        assert taken.json() == {"transferred": 1}
        assert [each["id"] for each in (await call(app, await bob.token())).json()] == [task["id"]]


async def test_the_first_token_of_a_new_key_succeeds_and_the_old_keys_tokens_stay_good(node: str, tmp_path: Path):
    with running_better_auth(node) as better_auth:
        async with service(better_auth, tmp_path) as app, better_auth.user() as user:
            old = await user.token()
            assert (await call(app, old)).status_code == 200
            await better_auth.rotate()
            new = await user.token()
            assert header_of(old)["kid"] != header_of(new)["kid"]
            assert (await call(app, new)).status_code == 200
            assert (await call(app, old)).status_code == 200


async def test_known_keys_serve_when_better_auth_is_gone(node: str, tmp_path: Path):
    with ExitStack() as stack:
        better_auth = stack.enter_context(running_better_auth(node))
        async with service(better_auth, tmp_path) as app:
            async with better_auth.user() as user:
                first, second = await user.token(), await user.token()
            assert (await call(app, first)).status_code == 200
            stack.close()
            assert (await call(app, first)).status_code == 200
            assert (await call(app, second)).status_code == 200


async def test_a_token_expires_when_better_auth_says_so(node: str, tmp_path: Path):
    with running_better_auth(node, expirationTime="10s") as better_auth:
        async with service(better_auth, tmp_path) as app, better_auth.user() as user:
            token = await user.token()
            assert claims_of(token)["exp"] == claims_of(token)["iat"] + 10
            clock = app.state.verifier._clock = Clock(claims_of(token)["exp"] + LEEWAY - 1)
            assert (await call(app, token)).status_code == 200
            clock.advance(1)
            assert_refused(await call(app, token), "token_expired")


async def test_a_token_is_good_for_15_minutes_by_default(better_auth: BetterAuth):
    async with better_auth.user() as user:
        assert claims_of(await user.token())["exp"] - time.time() == pytest.approx(900, abs=30)


async def test_the_jwt_in_a_sessions_header_is_accepted(better_auth: BetterAuth, app: FastAPI):
    async with better_auth.user() as user:
        response = await user.client.get("/api/auth/get-session")
        assert (await call(app, response.headers["set-auth-jwt"])).status_code == 200


async def test_the_bearer_plugins_session_token_is_refused_but_gets_one_that_is_not(
    better_auth: BetterAuth, app: FastAPI
):
    async with better_auth.user() as user:
        session = user.signed_up.headers["set-auth-token"]
        assert_refused(await call(app, session))
        assert_refused(await call(app, user.signed_up.json()["token"]))
    async with httpx.AsyncClient(base_url=better_auth.origin) as client:
        response = await client.get("/api/auth/token", headers={"Authorization": f"Bearer {session}"})
        assert (await call(app, response.json()["token"])).status_code == 200


@pytest.fixture(scope="module")
def caching(node: str) -> Iterator[BetterAuth]:
    """A Better Auth that keeps sessions in cookies, as JWTs that it signs with the very keys of its tokens."""
    with running_better_auth(node, sessionCookieCache=True) as better_auth:
        yield better_auth


@pytest.mark.parametrize("audience", [(), ("better-auth:session-cache",)], ids=["", "even for its audience"])
async def test_a_session_cookie_is_no_token_though_the_same_key_signed_it(
    caching: BetterAuth, tmp_path: Path, audience: tuple[str, ...]
):
    async with service(caching, tmp_path, api_audience=audience) as app, caching.user() as user:
        token, cookie = await user.token(), user.signed_up.cookies["better-auth.session_data"]
        assert header_of(cookie)["kid"] == header_of(token)["kid"]
        assert header_of(cookie)["typ"] == "better-auth.session-cache+jwt"
        assert claims_of(cookie)["sub"] == user.id
        assert_refused(await call(app, cookie))
        assert (await call(app, token)).status_code == (401 if audience else 200)


async def test_a_token_of_another_better_auth_is_refused(better_auth: BetterAuth, caching: BetterAuth, app: FastAPI):
    async with caching.user() as stranger, better_auth.user() as user:
        assert_refused(await call(app, await stranger.token()))
        assert (await call(app, await user.token())).status_code == 200


async def test_a_token_of_another_better_auth_is_refused_even_where_their_keys_are_shared(
    better_auth: BetterAuth, caching: BetterAuth, tmp_path: Path
):
    jwks = f"{caching.origin}/api/auth/jwks"
    async with service(better_auth, tmp_path, better_auth_jwks_url=jwks) as app, caching.user() as stranger:
        token = await stranger.token()
        assert_refused(await call(app, token))
        assert [key for key, _ in app.state.verifier.jwks.keys] == [header_of(token)["kid"]]
