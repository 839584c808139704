"""How many requests may be under way: in all, and of one user; and, where RATE_LIMIT is set, how many in a time.

All count per process. A user who floods takes at most a share of the places, and waits for nobody but itself.
"""

import asyncio
import contextlib
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from backend.api.problems import Problem

MAX_WAIT = 1.0
"""Seconds for which a request waits for the same user's earlier ones."""
WAITING_PER_REQUEST = 10
"""How many requests may wait for each one that may be under way: a page that fires 25 at once is no attack."""
OVERLOADED_FOR = 0.1
"""For so many seconds after a request found no place, no more may begin than there are free places."""
BUSY_TURN = 0.0003
"""A turn of the event loop that takes so many seconds has served somebody."""
GIVE_WAY = 0.25
"""For so many seconds after it began to wait a request gives way to others': all of a page's 25 begin in a second."""
MAX_USERS = 100_000
"""Users of whom the rate is kept; the one that has asked for nothing the longest is forgotten first."""


def _refusal(seconds: float, policy: str) -> Problem:
    # Never 0: a client that obeys would ask again at once.
    wait = str(max(1, math.ceil(seconds)))
    return Problem("too_many_requests", headers={"Retry-After": wait, "RateLimit": f'"{policy}";r=0;t={wait}'})


async def _wait_to_refuse() -> None:
    """Wait between a half and the whole of `MAX_WAIT`.

    Many clients ask again at once. With 64 connections one user was refused 8,000 times a second, and the others'
    requests took 40 ms instead of one. The time differs, or all of them would come back at the same moment.
    """
    await asyncio.sleep(MAX_WAIT * random.uniform(0.5, 1))  # noqa: S311 # no secret


class ConcurrencyLimit:
    """The places among the requests under way. Past the last of them a request is refused at once."""

    def __init__(self, limit: int) -> None:
        self._free = self._limit = limit
        self._admitted = 0
        self._refused_at = -math.inf
        self._emptied = asyncio.Event()

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._limit - self._free

    @property
    def is_reached(self) -> bool:
        """Whether no place is free."""
        return self._free == 0

    @property
    def is_overloaded(self) -> bool:
        """Whether no place is free, or somebody who needed one has found none a moment ago."""
        return self._free == 0 or time.monotonic() - self._refused_at < OVERLOADED_FOR

    def admit(self) -> bool:
        """Tell whether a request may begin that needs a place, now or soon.

        All may, unless there is overload: of many that come together most need no place yet, because they wait for
        others of their user, or for their bodies, or have a bad token. Under overload those count that have been
        admitted since the event loop last ran its tasks: they are about to acquire.
        """
        if not self.is_overloaded:
            return True
        if self._admitted >= self._free:
            if self._free == 0:
                self._refused_at = time.monotonic()
            return False
        if not self._admitted:
            asyncio.get_running_loop().call_soon(self._forget_admitted)
        self._admitted += 1
        return True

    def _forget_admitted(self) -> None:
        self._admitted = 0

    def acquire(self) -> None:
        """Take a place. Raises `Problem` where none is free."""
        if self._free == 0:
            self._refused_at = time.monotonic()
            raise Problem("overloaded")
        self._free -= 1

    def release(self) -> None:
        """Give a place back."""
        self._free += 1
        if self._free == self._limit:
            self._emptied.set()

    async def emptied(self, within: float) -> None:
        """Wait until no place is taken, `within` seconds at most."""
        self._emptied.clear()
        if self._free < self._limit:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied.wait(), within)


@dataclass(slots=True)
class _Requests:
    """One user's requests: those under way, and those that wait."""

    semaphore: asyncio.Semaphore
    count: int = 0
    queue: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the first of those that wait."""
    waiting: int = 0


class UserConcurrencyLimit:
    """At most `limit` requests of each user are under way; more wait in order, at most `MAX_WAIT` seconds each."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._users: dict[str, _Requests] = {}

    @asynccontextmanager
    async def of(self, user_id: str) -> AsyncIterator[None]:
        """Hold one of the user's requests for the block.

        Raises the `Problem` `too_many_requests` where too many wait already, or none of them ended in time.
        """
        requests = self._users.setdefault(user_id, _Requests(asyncio.Semaphore(self._limit)))
        if requests.count >= self._limit * (1 + WAITING_PER_REQUEST):
            await _wait_to_refuse()
            raise _refusal(MAX_WAIT, "concurrency")
        requests.count += 1
        try:
            await self._acquire(requests)
            try:
                yield
            finally:
                requests.semaphore.release()
        finally:
            requests.count -= 1
            if requests.count == 0:
                del self._users[user_id]

    async def _acquire(self, requests: _Requests) -> None:
        semaphore = requests.semaphore
        if not (semaphore.locked() or requests.waiting):
            await semaphore.acquire()  # without a timeout, which costs more than the whole of this limit
            return
        until = time.monotonic() + GIVE_WAY
        requests.waiting += 1
        try:
            async with asyncio.timeout(MAX_WAIT), requests.queue:
                await semaphore.acquire()
                try:
                    await _give_way(until)
                except BaseException:
                    semaphore.release()
                    raise
        except TimeoutError:
            raise _refusal(MAX_WAIT, "concurrency") from None
        finally:
            requests.waiting -= 1


async def _give_way(until: float) -> None:
    """Wait until the event loop has nothing else to do, or it is `until`.

    Who has waited for the same user's other requests asks for much at once: others' requests go first. One user's flood
    made their p99 12 times what it was, and with this twice.
    """
    began = time.monotonic()
    while began < until:
        await asyncio.sleep(0)
        if (now := time.monotonic()) - began < BUSY_TURN:
            return
        began = now


@dataclass(slots=True)
class RateLimit:
    """At most `requests` in `seconds` for each user: a bucket that fills evenly and holds `requests`.

    It is kept as one number for each user, the time at which the bucket is full again (the generic cell rate
    algorithm, ITU-T I.371). The headers are those of draft-ietf-httpapi-ratelimit-headers.
    """

    requests: int
    seconds: float
    clock: Callable[[], float] = time.monotonic
    _full_at: dict[str, float] = field(default_factory=dict)

    async def take(self, user_id: str) -> Mapping[str, str]:
        """Count a request, and return the headers of its response.

        Raises the `Problem` `too_many_requests`, after a while, where the bucket is empty.
        """
        now = self.clock()
        interval = self.seconds / self.requests
        full_at = max(self._full_at.pop(user_id, now), now)  # popped and set again: the longest idle user comes first
        wait = full_at + interval - (now + self.seconds)
        refused = wait > 1e-9  # or a bucket of whole requests would lose one to rounding
        self._full_at[user_id] = full_at = full_at if refused else full_at + interval
        if len(self._full_at) > MAX_USERS:
            del self._full_at[next(iter(self._full_at))]
        policy = {"RateLimit-Policy": f'"user";q={self.requests};w={math.ceil(self.seconds)}'}
        if refused:
            problem = _refusal(wait, "user")
            problem.headers = {**problem.headers, **policy}
            await _wait_to_refuse()
            raise problem
        left = math.floor((now + self.seconds - full_at) / interval + 1e-9)
        return {**policy, "RateLimit": f'"user";r={left};t={math.ceil(full_at - now)}'}
