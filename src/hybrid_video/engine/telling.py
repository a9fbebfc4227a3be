"""Tells whoever watches a run what happens, with the counts and the money as they stand."""

from __future__ import annotations

import logging
import time
from decimal import Decimal

from hybrid_video.engine.events import Event, EventKind, Observer
from hybrid_video.engine.jobs import Jobs
from hybrid_video.ledger import Ledger
from hybrid_video.models import JobStatus, WorkOrder
from hybrid_video.redaction import redact

log = logging.getLogger("hybrid_video.engine")

PROGRESS_S = 0.5
"""Progress of one attempt is told at most so often."""

WITHOUT_MONEY = frozenset[EventKind]({"progress", "started"})
"""Events that book nothing: they tell the money as it stood, and save a look into the ledger."""


class Teller:
    """Makes events for one batch. `jobs` is the run's own table, looked at for each event."""

    def __init__(self, batch: str, jobs: Jobs, ledger: Ledger, observe: Observer | None) -> None:
        self._batch = batch
        self._jobs = jobs
        self._ledger = ledger
        self._observe = observe or (lambda _event: None)
        self._last_shown: dict[str, float] = {}
        self._spent: Decimal | None = None

    def progress(self, order: WorkOrder, status: JobStatus) -> None:
        """How far an attempt is."""
        now = time.monotonic()
        if now - self._last_shown.get(order.attempt_id, 0.0) < PROGRESS_S:
            return
        self._last_shown[order.attempt_id] = now
        self.tell("progress", status.message or status.phase, order=order, progress=status.progress)

    def tell(
        self,
        kind: EventKind,
        message: str,
        *,
        job: str = "",
        order: WorkOrder | None = None,
        progress: float | None = None,
    ) -> None:
        """One event: about an order, about a job that has none, or about the whole batch."""
        if kind not in WITHOUT_MONEY:
            self._spent = self._ledger.balance(f"batch:{self._batch}").settled_usd
        event = Event(
            kind=kind,
            message=redact(message),
            job=order.job.id if order else job,
            backend=order.quote.backend if order else "",
            attempt=order.number if order else 0,
            progress=progress,
            finished=self._jobs.done,
            failed=self._jobs.lost,
            total=len(self._jobs),
            spent_usd=None if kind == "progress" else self._spent,
        )
        if kind != "progress":
            about = {"batch": self._batch, "job": event.job, "attempt": event.attempt or None, "backend": event.backend}
            line = "%s %s %s: %s"
            log.info(line, kind, event.job or self._batch, event.backend, event.message, extra={**about, "event": kind})
        self._observe(event)
