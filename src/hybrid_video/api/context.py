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

from hybrid_video import preferences
from hybrid_video.api.live import LiveBackends
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
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while a batch is started, so that the number of running ones is not passed by two at once."""

    def applied(self) -> Settings:
        """The settings with stored preferences, as they are this moment."""
        return preferences.applied(self.settings, self.ledger)


@asynccontextmanager
async def opened_context(app: FastAPI, settings: Settings, submitter: Submitter) -> AsyncIterator[None]:
    """Opens ledger and backends for as long as the application runs.

    Raises:
        ConfigurationError: the ledger cannot be opened.
    """
    anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS
    ledger = await asyncio.to_thread(open_ledger, settings)
    history = History(settings.storage.history_path)
    live = LiveBackends(settings, ledger, history)
    try:
        async with live.running():
            app.state.context = Context(settings, ledger, history, live, submitter)
            yield
    finally:
        ledger.close()


async def _context(request: Request) -> Context:
    found: Context = request.app.state.context
    return found


Shared = Annotated[Context, Depends(_context)]
