"""Where a prompt is now: the one look that every decision about it rests on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.records import HistoryEntry, QueueState
from hybrid_video.backends.comfyui.transport import READ_TRIES

Place = Literal["pending", "running", "finished", "absent"]


@dataclass(frozen=True)
class Sight:
    """One look at a prompt. `absent` means lost or deleted: it will not run on."""

    place: Place
    queue: QueueState
    entry: HistoryEntry | None = None


async def look(client: ComfyUIClient, prompt_id: str, *, ended: bool = False, tries: int = READ_TRIES) -> Sight:
    """Looks in the queue, then in the history.

    A prompt is always in exactly one of pending, running and history, and moves forward atomically, so this order
    cannot miss it. The history alone lies: an id that is sent twice shows its first run while the second waits.

    Args:
        ended: its end was announced to whoever sent it, so the history is believed where it has the prompt.

    Raises:
        BackendError: the server cannot be asked.
    """
    if ended and (known := await client.history(prompt_id, tries=tries)):
        return Sight("finished", QueueState((), ()), known)
    queue = await client.queue(tries=tries)
    if prompt_id in queue.running:
        return Sight("running", queue)
    if prompt_id in queue.pending:
        return Sight("pending", queue)
    entry = await client.history(prompt_id, tries=tries)
    return Sight("finished" if entry else "absent", queue, entry)
