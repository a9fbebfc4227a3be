"""What the endpoints of one API process share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import anyio.to_thread
from fastapi import Depends, FastAPI, Request

from hybrid_video import preferences, views
from hybrid_video.api.bodies import Status
from hybrid_video.api.live import LiveBackends
from hybrid_video.api.snapshot import Snapshot
from hybrid_video.engine.session import open_ledger
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.models import Batch
from hybrid_video.settings import Settings
from hybrid_video.submitting import Submission, submit

THREADS = 12
"""Database work at once; the ledger's connections are fewer than the usual forty threads."""

Submitter = Callable[[Batch, Settings, Path | None], Submission]


def start(batch: Batch, settings: Settings, files_from: Path | None) -> Submission:
    """Starts a batch with Prefect or in a process."""
    return submit(batch, settings, files_from=files_from)


@dataclass
class Context:
    """Settings of the environment, and everything open."""

    settings: Settings
    ledger: Ledger
    history: History
    live: LiveBackends
    submitter: Submitter
    status: Snapshot[bytes]
    settings_now: Snapshot[Settings]
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a batch is started, so that the number of running ones is not passed by two at once."""

    def applied(self) -> Settings:
        """The settings with stored preferences, as they are this moment."""
        return preferences.applied(self.settings, self.ledger)

    def changed(self) -> None:
        """Something was changed through this API: remembered answers are no longer given out."""
        self.status.drop()
        self.settings_now.drop()


def _opened(settings: Settings, ledger: Ledger, submitter: Submitter) -> Context:
    history = History(settings.storage.history_path)
    live = LiveBackends(settings, ledger, history)

    def applied() -> Settings:
        return preferences.applied(settings, ledger)

    def status() -> bytes:
        now = applied()
        backends = views.backends(ledger, now, checked=live.checked)
        return Status(overview=views.overview(ledger, now), backends=backends).model_dump_json().encode()

    return Context(settings, ledger, history, live, submitter, Snapshot(status), Snapshot(applied))


@asynccontextmanager
async def opened_context(app: FastAPI, settings: Settings, submitter: Submitter) -> AsyncIterator[None]:
    """Opens ledger and backends for as long as the application runs.

    Raises:
        ConfigurationError: the ledger cannot be opened.
    """
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    ledger = await asyncio.to_thread(open_ledger, settings)
    context = _opened(settings, ledger, submitter)
    try:
        async with context.live.running():
            app.state.context = context
            yield
    finally:
        ledger.close()


async def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Shared = Annotated[Context, Depends(_context)]
