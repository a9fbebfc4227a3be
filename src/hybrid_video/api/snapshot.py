"""Answers that many callers ask for at once, computed a few times a second instead of once for each of them.

An answer is at most `STALE_S` old. Between `FRESH_S` and that it is given out while a new one is being made, so nobody
waits; a change made through this API drops it, so that whoever changed something sees it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
FRESH_S = 0.25
STALE_S = 1.0


class Snapshot(Generic[T]):
    """One such answer, for one event loop.

    Args:
        make: computes it; runs in a thread.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._value: T | None = None
        self._made_s = float("-inf")
        self._task: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The answer.

        Raises:
            Exception: whatever `make` raised, to everybody who waited for it.
        """
        value, age_s = self._value, time.monotonic() - self._made_s  # a thread may drop the value meanwhile
        if value is not None and age_s < FRESH_S:
            return value
        task = self._task
        if task is None:
            task = self._task = asyncio.create_task(self._renew())
            task.add_done_callback(_seen)
        if value is not None and age_s < STALE_S:
            return value
        return await asyncio.shield(task)

    def drop(self) -> None:
        """Something was changed: the next answer is made anew, also if one is being made just now."""
        self._value, self._task = None, None

    async def _renew(self) -> T:
        me, began_s = asyncio.current_task(), time.monotonic()
        try:
            value = await asyncio.to_thread(self._make)
        finally:
            mine = self._task is me
            if mine:
                self._task = None
        if mine:
            self._value, self._made_s = value, began_s
        return value


def _seen(task: asyncio.Task[T]) -> None:
    """An error that nobody waited for is told to whoever asks next, who tries again."""
    if not task.cancelled():
        task.exception()
