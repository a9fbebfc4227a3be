"""The flow `watch-backends`: health of every backend and the rented pods, for as long as its worker lives.

One long run instead of many short ones: a flow run every 30 s would cost seconds of CPU each. A schedule starts it
again when it is gone; a run that finds another watcher at work ends at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Prefect and `python flows/…` put only this folder on the path
    sys.path.insert(0, str(ROOT))

from prefect import flow, get_run_logger  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.states import Completed, Failed  # noqa: E402
from pydantic import Field  # noqa: E402

from hybrid_video import logs, observing  # noqa: E402
from hybrid_video.engine.session import open_ledger, stop_on_signal  # noqa: E402
from hybrid_video.errors import HybridVideoError  # noqa: E402
from hybrid_video.ledger import Owner  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from hybrid_video.watcher.lease import Holder  # noqa: E402
from hybrid_video.watcher.loop import Watcher  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("watch-backends", strict=False)


@flow(name="watch-backends", persist_result=False, retries=0)
async def watch_backends(hours: Annotated[float | None, Field(gt=0)] = None) -> State[Any]:
    """Watch every backend and open and close rented pods as they pay, unless another watcher does.

    Args:
        hours: End after so many hours; the schedule then starts a fresh one. Without end when empty.
    """
    logger = get_run_logger()
    used = await load_secret_blocks()
    if used:
        logger.info("keys from Secret blocks: %s", ", ".join(used))
    try:
        logs.configure()
        observing.start("watch-backends")
        other, status = await _watch(Settings.load(), hours, logger.info)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        return Failed(message=text[:1000], data={"error": text, "exit_code": error.exit_code})
    if other is not None:
        return Completed(message=f"{other.label} watches already", name="AlreadyWatched", data={"watched": False})
    return Completed(message="the watcher was ended", data={"watched": True, **status})


async def _watch(settings: Settings, hours: float | None, tell: Any) -> tuple[Holder | None, dict[str, Any]]:
    ledger, owner = open_ledger(settings), Owner(settings.storage.home)
    try:
        watcher = Watcher(settings, ledger, owner, where="flow", tell=tell)
        asked = asyncio.Event()
        if hours is not None:
            asyncio.get_running_loop().call_later(hours * 3600, asked.set)
        with stop_on_signal(asked.set):
            return await watcher.run_until(asked), watcher.status()
    finally:
        owner.close()
        ledger.close()


if __name__ == "__main__":
    asyncio.run(watch_backends())
