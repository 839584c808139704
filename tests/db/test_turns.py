"""Waiting for a connection: first come, first served; overflow for those who have waited; never for ever."""

import asyncio

import pytest

from backend.db import pool
from backend.db.pool import Turns
from backend.errors import DatabaseUnavailable

LONG = 60.0


async def take_in_order(turns: Turns, count: int) -> tuple[list[int], list["asyncio.Task[None]"]]:
    """Start some that want a turn, one after the other; note in which order they get it and pass it on."""
    order: list[int] = []

    async def want(number: int) -> None:
        turn = await turns.take()
        order.append(number)
        turn.release()

    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(want(number)))
        await asyncio.sleep(0)
    return order, tasks


async def test_who_waits_longest_is_next_and_nobody_overtakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", LONG / 2)
    turns = Turns(1, 1, LONG)
    first = await turns.take()
    order, waiting = await take_in_order(turns, 5)
    first.release()
    newcomer = asyncio.create_task(turns.take())  # asks in the moment when the turn has come back
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    (await newcomer).release()


async def test_overflow_is_for_those_who_have_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", 0.001)
    turns = Turns(1, 1, LONG)
    kept = await turns.take()
    overflow = await turns.take()
    assert overflow is not kept
    overflow.release()
    kept.release()
    assert await turns.take() is kept


@pytest.mark.parametrize("overflow", [0, 1])
async def test_a_turn_that_does_not_come_in_time_is_a_failure(overflow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", 0.001)
    turns = Turns(1, overflow, 0.01)
    taken = [await turns.take() for _ in range(1 + overflow)]
    with pytest.raises(DatabaseUnavailable):
        await turns.take()
    for turn in taken:
        turn.release()
    (await turns.take()).release()


async def test_who_gives_up_waiting_keeps_no_turn() -> None:
    turns = Turns(1, 0, LONG)
    turn = await turns.take()
    waiting = asyncio.create_task(turns.take())
    await asyncio.sleep(0)
    waiting.cancel()
    turn.release()
    (await turns.take()).release()
