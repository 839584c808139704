"""Whose request begins first, where one user asks for much at once."""

import asyncio
import time
from collections.abc import Callable

from backend.api.limits import BUSY_TURN, MAX_TURNS, UserConcurrencyLimit


def compute() -> None:
    """Take what a request takes of the processor."""
    time.sleep(2 * BUSY_TURN)


async def serve_others(until: Callable[[], bool]) -> int:
    """Keep each turn of the event loop busy; return how many those were."""
    turns = 0
    while not until():
        compute()
        turns += 1
        await asyncio.sleep(0)
    return turns


async def enter(limit: UserConcurrencyLimit, name: str, entered: list[str]) -> None:
    async with limit.of("flooder"):
        entered.append(name)


async def test_who_has_waited_gives_way_while_others_are_served() -> None:
    limit = UserConcurrencyLimit(1)
    entered: list[str] = []
    seen: list[str] = []
    async with limit.of("flooder"):
        waiting = asyncio.create_task(enter(limit, "waited", entered))
        await asyncio.sleep(0)
    for _ in range(MAX_TURNS // 2):
        compute()
        await asyncio.sleep(0)
        seen += entered
    assert not seen
    await waiting
    assert entered == ["waited"]


async def test_who_has_waited_goes_on_in_a_service_that_is_always_busy() -> None:
    limit = UserConcurrencyLimit(1)
    entered: list[str] = []
    async with limit.of("flooder"):
        waiting = asyncio.create_task(enter(limit, "waited", entered))
        await asyncio.sleep(0)
    turns = await serve_others(until=lambda: bool(entered))
    await waiting
    assert MAX_TURNS <= turns <= MAX_TURNS + 5


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
