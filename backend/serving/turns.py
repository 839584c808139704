"""Requests that were sent ahead wait for their turn, so that a few connections' floods cost others no time."""

import asyncio
from collections import deque
from collections.abc import Callable

AT_ONCE = 20
"""Requests that begin in one turn of the event loop, of those that were sent ahead."""


class Turns:
    """Begins a few requests in each turn of the event loop, in the order in which they asked."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()

    def wait(self, begin: Callable[[], None]) -> None:
        """Call `begin` when it is its turn."""
        self._waiting.append(begin)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            self._waiting.popleft()()
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._begin)
