"""Whose request begins first, where one user asks for much at once."""

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from backend.api import limits
from backend.api.limits import BUSY_TURN, UserConcurrencyLimit


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have who waits give way for as long as a busy machine takes for some turns of the event loop."""
    monkeypatch.setattr(limits, "GIVE_WAY", 60)
    monkeypatch.setattr(limits, "MAX_WAIT", 60)


def compute(seconds: float = 2 * BUSY_TURN) -> None:
    """Take what a request, or several, take of the processor."""
    time.sleep(seconds)


async def serve_others(until: Callable[[], bool], seconds: float = 2 * BUSY_TURN) -> None:
    """Keep each turn of the event loop busy."""
    while not until():
        compute(seconds)
        await asyncio.sleep(0)


async def enter(limit: UserConcurrencyLimit, name: str, entered: list[str]) -> None:
    async with limit.of("flooder"):
        entered.append(name)
        await asyncio.sleep(0)


@pytest.mark.usefixtures("patient")
async def test_who_has_waited_gives_way_while_others_are_served() -> None:
    limit = UserConcurrencyLimit(1)
    entered: list[str] = []
    seen: list[str] = []
    async with limit.of("flooder"):
        waiting = asyncio.create_task(enter(limit, "waited", entered))
        await asyncio.sleep(0)
    for _ in range(10):
        compute()
        await asyncio.sleep(0)
        seen += entered
    assert not seen
    await waiting
    assert entered == ["waited"]


async def test_all_of_a_page_begin_in_a_service_that_is_always_busy() -> None:
    limit = UserConcurrencyLimit(10)
    entered: list[str] = []
    page = [asyncio.create_task(enter(limit, "page", entered)) for _ in range(25)]
    await serve_others(until=lambda: all(each.done() for each in page), seconds=0.01)
    await asyncio.gather(*page)  # none of them was refused
    assert len(entered) == 25


async def test_nobody_overtakes_who_gives_way() -> None:
    limit = UserConcurrencyLimit(2)
    entered: list[str] = []
    async with limit.of("flooder"), limit.of("flooder"):
        waiting = asyncio.create_task(enter(limit, "waited", entered))
        await asyncio.sleep(0)
    late = asyncio.create_task(enter(limit, "late", entered))
    await serve_others(until=lambda: len(entered) == 2)
    await asyncio.gather(waiting, late)
    assert entered == ["waited", "late"]


async def test_requests_begin_in_the_order_in_which_they_came() -> None:
    limit = UserConcurrencyLimit(3)
    entered: list[str] = []
    pick = random.Random(1)
    came = []
    for number in range(100):
        came.append(asyncio.create_task(enter(limit, str(number), entered)))
        for _ in range(pick.randrange(3)):
            await asyncio.sleep(0)
    await asyncio.gather(*came)
    assert entered == [str(number) for number in range(100)]


@pytest.mark.usefixtures("patient")
async def test_who_is_cancelled_while_it_gives_way_leaves_its_place() -> None:
    limit = UserConcurrencyLimit(1)
    entered: list[str] = []
    async with limit.of("flooder"):
        waiting = asyncio.create_task(enter(limit, "waited", entered))
        await asyncio.sleep(0)
    compute()
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    assert not entered
    await enter(limit, "next", entered)
    assert entered == ["next"]
