"""`hybrid-video watch`: health of every backend, and rented pods opened and closed as they pay, until Ctrl-C."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from hybrid_video import logs
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.session import open_ledger, stop_on_signal
from hybrid_video.ledger import Owner
from hybrid_video.models import utc_now
from hybrid_video.settings import Settings
from hybrid_video.watcher.lease import Holder
from hybrid_video.watcher.loop import Tell, Watcher, pods_configured


@app.command()
def watch(
    stand_by: Annotated[
        bool,
        typer.Option("--stand-by", help="If another watcher runs, wait and take its place when it ends."),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every step, not only what changes.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Watch backends and pods until Ctrl-C. Only one watcher runs at a time: a second one says so and ends."""
    settings = Settings.load()
    _log_to_console(verbose)
    holder, status = asyncio.run(_watch(settings, stand_by=stand_by, tell=None if verbose else _say))
    if holder is not None:
        console.print(f"{holder.label} watches already; nothing to do (--stand-by waits for its place)")
    if json_output:
        print_json({"watched": holder is None, "holder": holder.label if holder else None, "status": status})
    return 0


async def _watch(settings: Settings, *, stand_by: bool, tell: Tell | None) -> tuple[Holder | None, dict[str, object]]:
    ledger, owner = open_ledger(settings), Owner(settings.storage.home)
    try:
        watcher = Watcher(settings, ledger, owner, where="watch", tell=tell)
        _greet(settings)
        asked = asyncio.Event()
        with stop_on_signal(asked.set):
            holder = await watcher.run_until(asked, stand_by=stand_by)
        return holder, watcher.status()
    finally:
        owner.close()
        ledger.close()


def _greet(settings: Settings) -> None:
    pods = settings.pods
    what = (
        f"up to {pods.max_pods} pods of at most ${pods.max_price_usd_per_h}/h, policy {pods.policy}"
        if pods_configured(settings)
        else "no pods: set RUNPOD_API_KEY and HYBRID_VIDEO_PODS_IMAGE to have them opened"
    )
    console.print(f"watching backends every 30 s; {what}; Ctrl-C ends")


def _say(text: str) -> None:
    console.print(f"{utc_now():%H:%M:%S} {text}", soft_wrap=True, markup=False)


def _log_to_console(verbose: bool) -> None:
    """Warnings in any case, every step if asked for; what the watcher tells by itself is not repeated."""
    if logs.is_configured():  # HYBRID_VIDEO_LOG_FORMAT
        return
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("hybrid_video").setLevel(logging.DEBUG if verbose else logging.WARNING)
