"""One user's limits, alone: what is refused, who waits, and that nothing is kept of users who have gone."""

import asyncio

import pytest

from backend.api import user_limits
from backend.api.problems import Problem
from backend.api.user_limits import WAITING_PER_REQUEST, RateLimit, UserConcurrencyLimit


async def test_more_than_the_limit_wait_in_order_and_others_do_not() -> None:
    limit = UserConcurrencyLimit(2)
    release = asyncio.Event()
    order: list[str] = []

    async def request(user_id: str, name: str) -> None:
        async with limit.of(user_id):
            order.append(name)
            await release.wait()

    requests = [asyncio.create_task(request("alice", f"alice {number}")) for number in range(4)]
    await asyncio.sleep(0)
    await asyncio.create_task(_enter_and_leave(limit, "bob"))
    assert order == ["alice 0", "alice 1"]
    release.set()
    await asyncio.gather(*requests)
    assert order == ["alice 0", "alice 1", "alice 2", "alice 3"]
    assert limit._users == {}


async def _enter_and_leave(limit: UserConcurrencyLimit, user_id: str) -> None:
    async with limit.of(user_id):
        pass


async def test_past_those_that_may_wait_a_request_is_refused_at_once() -> None:
    limit = UserConcurrencyLimit(1)
    release = asyncio.Event()

    async def request() -> None:
        async with limit.of("alice"):
            await release.wait()

    requests = [asyncio.create_task(request()) for _ in range(1 + WAITING_PER_REQUEST)]
    await asyncio.sleep(0)
    with pytest.raises(Problem) as refused:
        await _enter_and_leave(limit, "alice")
    assert refused.value.headers == {"Retry-After": "1", "RateLimit": '"concurrency";r=0;t=1'}
    release.set()
    await asyncio.gather(*requests)
    await _enter_and_leave(limit, "alice")


async def test_who_waits_too_long_is_refused_and_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_limits, "MAX_WAIT", 0.01)
    limit = UserConcurrencyLimit(1)
    async with limit.of("alice"):
        with pytest.raises(Problem):
            await _enter_and_leave(limit, "alice")
    await _enter_and_leave(limit, "alice")
    assert limit._users == {}


async def test_a_request_that_is_cancelled_while_it_waits_leaves_no_trace() -> None:
    limit = UserConcurrencyLimit(1)
    async with limit.of("alice"):
        waiting = asyncio.create_task(_enter_and_leave(limit, "alice"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await _enter_and_leave(limit, "alice")
    assert limit._users == {}


def test_a_bucket_holds_as_many_as_it_says_and_fills_evenly() -> None:
    now = [100.0]
    limit = RateLimit(3, 60, clock=lambda: now[0])
    assert [limit.take("alice")["RateLimit"] for _ in range(3)] == [
        '"user";r=2;t=20',
        '"user";r=1;t=40',
        '"user";r=0;t=60',
    ]
    with pytest.raises(Problem) as refused:
        limit.take("alice")
    assert refused.value.headers == {
        "Retry-After": "20",
        "RateLimit": '"user";r=0;t=20',
        "RateLimit-Policy": '"user";q=3;w=60',
    }
    limit.take("bob")
    now[0] += 20
    assert limit.take("alice")["RateLimit"] == '"user";r=0;t=60'
    with pytest.raises(Problem):
        limit.take("alice")


def test_the_map_of_users_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_limits, "MAX_USERS", 3)
    limit = RateLimit(1, 60, clock=lambda: 0.0)
    for user_id in ("alice", "bob", "carol", "dave"):
        limit.take(user_id)
    assert list(limit._full_at) == ["bob", "carol", "dave"]
