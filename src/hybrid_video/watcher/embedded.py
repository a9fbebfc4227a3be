"""A watcher for the time of one run, so that a plain `hybrid-video run` gets pods without anything else running.

It stands by while another watcher is there, takes over when that one ends, and closes what is idle before the run
leaves. If it is killed, the pods end themselves when their lease runs out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from hybrid_video import observing
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.settings import Settings
from hybrid_video.watcher.loop import Watcher, pods_configured

log = logging.getLogger(__name__)

STOP_S = 20.0

WindUp = Callable[[], Awaitable[None]]


@asynccontextmanager
async def embedded_watcher(
    settings: Settings, ledger: Ledger, owner: Owner, *, tell: Callable[[str], None]
) -> AsyncIterator[WindUp]:
    """Runs one beside the body, where pods are configured. Gives what the run calls when its last job is over."""
    if not pods_configured(settings):
        yield _nothing
        return
    watcher = Watcher(settings, ledger, owner, where="run", tell=tell, health=False)
    watching = asyncio.create_task(watcher.run(stand_by=True), name="watcher")

    async def wind_up() -> None:
        if not await watcher.wind_up():
            tell("some pods are not closed yet; `hybrid-video pods list` shows them, and their lease ends them")

    try:
        yield wind_up
        await wind_up()
    finally:
        watcher.stop()
        done, _ = await asyncio.wait([watching], timeout=STOP_S)
        if not done:
            watching.cancel()
            await asyncio.wait([watching])
        if not watching.cancelled() and (error := watching.exception()) is not None:
            log.warning("the watcher of this run ended with an error", exc_info=error)
            observing.report(error)


async def _nothing() -> None:
    """Without pods nothing is to be wound up."""
