"""Waiting for a connection: first come, first served; overflow for those who have waited; never for ever."""

import asyncio

import pytest

from backend.db import pool
from backend.db.pool import OverflowSemaphore
from backend.errors import DatabaseUnavailable

LONG = 60.0


async def take_in_order(semaphore: OverflowSemaphore, count: int) -> tuple[list[int], list["asyncio.Task[None]"]]:
    """Start some that want a permit, one after the other; note in which order they get it and pass it on."""
    order: list[int] = []

    async def want(number: int) -> None:
        await semaphore.acquire()
        order.append(number)
        semaphore.release()

    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(want(number)))
        await asyncio.sleep(0)
    return order, tasks


async def test_who_waits_longest_is_next_and_nobody_overtakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", LONG / 2)
    semaphore = OverflowSemaphore(1, 1, LONG)
    await semaphore.acquire()
    order, waiting = await take_in_order(semaphore, 5)
    semaphore.release()
    newcomer = asyncio.create_task(semaphore.acquire())  # asks in the moment when the permit has come back
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    await newcomer


async def test_overflow_is_for_those_who_have_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", LONG / 2)
    semaphore = OverflowSemaphore(1, 1, LONG)
    await semaphore.acquire()
    waiting = asyncio.create_task(semaphore.acquire())
    await asyncio.sleep(0)
    assert not waiting.done()
    semaphore._add_overflow()
    await waiting


async def test_who_is_patient_and_finds_the_overflow_full_is_next_for_any_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", 0.001)
    semaphore = OverflowSemaphore(1, 1, LONG)
    await semaphore.acquire()
    await semaphore.acquire()
    patient = asyncio.create_task(semaphore.acquire())
    await asyncio.sleep(0.01)
    semaphore.release()
    newcomer = asyncio.create_task(semaphore.acquire())
    await patient
    semaphore.release()
    await newcomer


@pytest.mark.parametrize("overflow", [0, 1])
async def test_a_turn_that_does_not_come_in_time_is_a_failure(overflow: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "OVERFLOW_AFTER", 0.001)
    semaphore = OverflowSemaphore(1, overflow, 0.5)
    for _ in range(1 + overflow):
        await semaphore.acquire()
    with pytest.raises(DatabaseUnavailable):
        await semaphore.acquire()
    semaphore.release()
    await semaphore.acquire()


async def test_who_gives_up_waiting_keeps_no_turn() -> None:
    semaphore = OverflowSemaphore(1, 0, LONG)
    await semaphore.acquire()
    waiting = asyncio.create_task(semaphore.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    semaphore.release()  # in the same moment: the permit was given to the one that gives up
    await semaphore.acquire()


async def test_who_gives_up_waiting_is_passed_over() -> None:
    semaphore = OverflowSemaphore(1, 0, LONG)
    await semaphore.acquire()
    order, waiting = await take_in_order(semaphore, 3)
    waiting[0].cancel()
    await asyncio.sleep(0)
    semaphore.release()
    await asyncio.gather(*waiting[1:])
    assert order == [1, 2]
