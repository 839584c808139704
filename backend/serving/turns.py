"""Who may begin a request now: a few in each turn of the event loop, so that many clients cost a newcomer no time."""

import asyncio
import math
from collections import deque
from collections.abc import Callable

AT_ONCE = 20
"""Requests that begin in one turn of the event loop, but for the first ones of connections."""


class Turns:
    """Lets a few begin in each turn of the event loop, in the order in which they asked."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._begun = 0
        self._at_once: float = AT_ONCE

    def may_begin(self, ask_again: Callable[[], None]) -> bool:
        """Tell whether a request may begin. If not, `ask_again` is called when it may."""
        if self._begun >= self._at_once:
            self._waiting.append(ask_again)
            return False
        if self._begun == 0:
            asyncio.get_running_loop().call_soon(self._next)
        self._begun += 1
        return True

    def _next(self) -> None:
        self._begun = 0
        while self._waiting and self._begun < self._at_once:  # of some the client has gone
            self._waiting.popleft()()

    def let_all_begin(self) -> None:
        """Have all begin who wait, and whoever asks from now on."""
        self._at_once = math.inf
        self._next()
