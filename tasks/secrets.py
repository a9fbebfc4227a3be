"""Keys from Prefect Secret blocks, for workers whose environment has none.

The environment wins. A block that does not exist is no error: its backend is then simply not configured.
"""

from __future__ import annotations

import os

from prefect.blocks.system import Secret

from hybrid_video.redaction import register

BLOCKS = {
    "runpod-api-key": "RUNPOD_API_KEY",
    "gemini-api-key": "GEMINI_API_KEY",
    "runpod-pod-token": "HYBRID_VIDEO_RUNPOD_POD_TOKEN",
    "ledger-url": "HYBRID_VIDEO_LEDGER_URL",
}
"""Block name to the variable it stands for."""


async def load_secret_blocks() -> list[str]:
    """Sets each variable that is missing from its block; returns the names of the blocks used."""
    used = []
    for block_name, variable in BLOCKS.items():
        if os.environ.get(variable):
            continue
        try:
            block = await Secret.aload(block_name)
        except ValueError:  # Prefect's answer for a block that does not exist
            continue
        value = str(block.get())  # type: ignore[attr-defined]
        register(value)
        os.environ[variable] = value
        used.append(block_name)
    return used
