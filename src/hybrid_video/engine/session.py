"""Opens what a run needs (ledger, history, fleet), runs it, and closes everything again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

from hybrid_video.backends.base import BackendContext
from hybrid_video.engine.events import Event, Observer
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import build_context, prepare
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.run import BatchRun
from hybrid_video.engine.steps import Steps
from hybrid_video.errors import ConfigurationError, LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger.journal import FOLDER, Journal
from hybrid_video.models import Batch
from hybrid_video.observing import keep_batch_private
from hybrid_video.preferences import applied
from hybrid_video.settings import Settings
from hybrid_video.watcher.embedded import embedded_watcher


def open_ledger(settings: Settings) -> Ledger:
    """The ledger the settings name, with this home's journal beside it.

    Raises:
        ConfigurationError: it cannot be opened there, so nothing can start.
    """
    url = settings.storage.ledger_url
    try:
        ledger = Ledger.open(url.get_secret_value() if url is not None else settings.storage.ledger_path)
        ledger.keep_journal(Journal.open(settings.storage.home / FOLDER))
        return ledger
    except LedgerError as error:
        raise ConfigurationError(str(error)) from None


@contextmanager
def opened(settings: Settings) -> Iterator[tuple[Ledger, History]]:
    """Ledger and history, closed at the end."""
    ledger = open_ledger(settings)
    try:
        yield ledger, History(settings.storage.history_path)
    finally:
        ledger.close()


@asynccontextmanager
async def batch_run(
    batch: Batch,
    *,
    settings: Settings,
    base_dir: Path,
    out_dir: Path | None = None,
    steps: Steps | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[BatchRun]:
    """A prepared run, with everything it needs open.

    Args:
        base_dir: folder that the batch's image and workflow paths are relative to, and must stay in.
        out_dir: folder for the clips; the configured one when None.

    Raises:
        InputError, ConfigurationError, LimitError: before anything is spent.
    """
    keep_batch_private(batch)
    with opened(settings) as (ledger, history):
        settings = await asyncio.to_thread(applied, settings, ledger)
        context, notices = await _context(settings, ledger, history)
        fleet = Fleet.configured(context)
        owner = Owner(settings.storage.home)
        try:
            prepared = await prepare(
                batch, base_dir=base_dir, out_dir=out_dir or settings.storage.clips_dir, settings=settings, fleet=fleet
            )
            prepared = replace(prepared, notices=(*notices, *prepared.notices))
            if observer is not None:
                for notice in prepared.notices:
                    observer(Event(kind="notice", message=notice, total=len(batch.jobs)))
            async with embedded_watcher(settings, ledger, owner, tell=_teller(observer, len(batch.jobs))) as wind_up:
                yield BatchRun(
                    prepared,
                    settings=settings,
                    ledger=ledger,
                    history=history,
                    owner=owner,
                    steps=steps,
                    observer=observer,
                    simulated=settings.routing.simulated,
                    timings=context.quoter.timings,
                    wind_up=wind_up,
                )
        finally:
            await fleet.close()
            owner.close()


def _teller(observer: Observer | None, total: int) -> Callable[[str], None]:
    """Passes what the watcher does on to whoever follows the run."""

    def tell(text: str) -> None:
        if observer is not None:
            observer(Event(kind="notice", message=text, total=total))

    return tell


async def _context(settings: Settings, ledger: Ledger, history: History) -> tuple[BackendContext, list[str]]:
    """What backends are built from. Without a usable history the published times are expected: no reason to stop."""
    try:
        await asyncio.to_thread(history.update, ledger)
        return build_context(settings, history), []
    except LedgerError as error:
        return build_context(settings, None), [f"expected times are the published ones: {error}"]


async def run_batch(
    batch: Batch,
    *,
    settings: Settings,
    base_dir: Path,
    out_dir: Path | None = None,
    observer: Observer | None = None,
) -> BatchReport:
    """Runs a batch without Prefect. Ctrl-C and SIGTERM stop the remote work and still give the report."""
    async with batch_run(batch, settings=settings, base_dir=base_dir, out_dir=out_dir, observer=observer) as run:
        with stop_on_signal(run.cancel):
            return await run.run()


@contextmanager
def stop_on_signal(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` on the first SIGINT or SIGTERM; the second one ends the process the ordinary way."""
    loop = asyncio.get_running_loop()
    caught = (signal.SIGINT, signal.SIGTERM)

    def once() -> None:
        for number in caught:
            loop.remove_signal_handler(number)
        stop()

    installed = False
    with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
        for number in caught:
            loop.add_signal_handler(number, once)
        installed = True
    try:
        yield
    finally:
        if installed:
            for number in caught:
                loop.remove_signal_handler(number)
