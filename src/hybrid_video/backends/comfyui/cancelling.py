"""Stops one prompt and nothing else, and looks whether that worked."""

from __future__ import annotations

import asyncio
import time

from hybrid_video.backends.base import CancelOutcome
from hybrid_video.backends.comfyui.client import ComfyUIClient
from hybrid_video.backends.comfyui.looking import look
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.errors import BackendError

_INTERRUPT_EVERY_S = 2.0
_LOOK_EVERY_S = 0.25


async def cancel(client: ComfyUIClient, prompt_id: str, patience: Patience) -> CancelOutcome:
    """Deletes a waiting prompt, interrupts a running one, and waits until it is gone.

    An interrupt is ignored while a video is encoded, so one that came too late ends as `finished`; `unknown` means
    that it still ran after `patience.cancel_s`, or that the server cannot be asked.
    """
    deadline = time.monotonic() + patience.cancel_s
    interrupted_at = float("-inf")
    try:
        while True:
            sight = await look(client, prompt_id)
            if sight.place == "absent":
                return "stopped"
            if sight.entry is not None:
                return "stopped" if sight.entry.last("execution_interrupted") else "finished"
            now = time.monotonic()
            if now > deadline:
                return "unknown"
            if sight.place == "pending":
                await client.delete_pending(prompt_id)
            elif now - interrupted_at >= _INTERRUPT_EVERY_S:
                await client.interrupt(prompt_id)
                interrupted_at = now
            await asyncio.sleep(min(_LOOK_EVERY_S, patience.poll_interval_s))
    except BackendError:
        return "unknown"
