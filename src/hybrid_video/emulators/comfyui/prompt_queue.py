"""Queue, running prompt and history: one prompt at a time, lowest number first, nothing survives a restart.

Uses a real heap of tuples like the original, with the original's weakness: two pending prompts with the same number and
the same id are compared by their graphs, which raises. In the worker that is the end of it.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
from collections.abc import Callable, Iterator
from typing import Any

from hybrid_video.emulators.comfyui.graph import Graph

MAX_HISTORY = 10_000

Item = tuple[float, str, Graph, dict[str, Any], list[str]]
"""Number, prompt id, graph, extra data, output nodes: the shape of an item of `GET /queue`."""


class PromptQueue:
    """State of the simulated process.

    Args:
        changed: called after every change; sends the `status` message.
        deleted: called with each pending prompt that was removed unrun.
    """

    def __init__(self, changed: Callable[[], None], deleted: Callable[[Item], None]) -> None:
        self._changed = changed
        self._deleted = deleted
        self._arrived = asyncio.Event()
        self.pending: list[Item] = []
        self.running: Item | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.counter = 0

    @property
    def remaining(self) -> int:
        """Pending and running together."""
        return len(self.pending) + (self.running is not None)

    def items(self) -> Iterator[Item]:
        """Everything not finished."""
        if self.running is not None:
            yield self.running
        yield from self.pending

    def put(self, item: Item) -> None:
        """Queues a prompt.

        Raises:
            TypeError: an item with the same number and id waits already; the new one stays in the heap all the same.
        """
        try:
            heapq.heappush(self.pending, item)
        finally:
            self._arrived.set()
            self._changed()

    async def get(self) -> Item:
        """Takes the next prompt when there is one.

        Raises:
            TypeError: two items cannot be ordered; the worker does not survive it.
        """
        while not self.pending:
            self._arrived.clear()
            await self._arrived.wait()
        item = heapq.heappop(self.pending)
        self.running = copy.deepcopy(item)
        self._changed()
        return item

    def done(self, outputs: dict[str, Any], meta: dict[str, Any], status: dict[str, Any]) -> None:
        """Moves the running prompt into the history; an entry with the same id is overwritten in its place."""
        item, self.running = self.running, None
        if item is None:
            return
        if len(self.history) > MAX_HISTORY:
            self.history.pop(next(iter(self.history)))
        self.history[item[1]] = {"prompt": list(item), "outputs": outputs, "status": status, "meta": meta}
        self._changed()

    def wipe(self) -> None:
        """Removes everything pending."""
        gone, self.pending = self.pending, []
        for item in gone:
            self._deleted(item)
        self._changed()

    def delete(self, prompt_id: Any) -> None:
        """Removes one pending prompt with this id, if there is one; duplicates stay."""
        for index, item in enumerate(self.pending):
            if item[1] == prompt_id:
                self.pending.pop(index)
                heapq.heapify(self.pending)
                self._deleted(item)
                self._changed()
                return

    def recent(self, max_items: int | None, offset: int) -> dict[str, dict[str, Any]]:
        """The history from the `offset`-th oldest on, at most `max_items`; a negative offset means the last ones."""
        if max_items is not None and max_items <= 0:
            return {}
        if offset < 0 and max_items is not None:
            offset = len(self.history) - max_items
        chosen = list(self.history)[max(0, offset) :]
        return {key: self.history[key] for key in chosen[:max_items]}
