"""Cancels jobs, whoever drives them: a live run is asked through the ledger, everything else is stopped from here.

What was over before it could be stopped is paid for, so its clip is collected. What cannot be stopped stays uncertain
with its reservation until it is reconciled. Waiting jobs cost nothing and are cancelled in one commit.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Literal

from hybrid_video.engine.reattach import Reattach, reattaching
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.errors import HybridVideoError, InputError
from hybrid_video.ledger import JobRow, Ledger
from hybrid_video.ledger.lookups import batch_rows, known_batches
from hybrid_video.ledger.store import OVER
from hybrid_video.models import Attempt, JobState, Model, Usd
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings

WAIT_S = 90.0
LOOK_S = 0.25

Outcome = Literal["cancelled", "finished", "failed", "uncertain", "unconfirmed"]
"""finished: its clip was made already and has been collected; uncertain: it may still run and cost money; unconfirmed:
the live run that drives it did not answer in time."""


class CancelLine(Model):
    """One job that was to be cancelled, and what its cancelled attempts cost."""

    batch: str
    job: str
    outcome: Outcome
    message: str
    cost_usd: Usd


class CancelReport(Model):
    """What became of every job that was not over yet."""

    batches: tuple[str, ...]
    jobs: tuple[CancelLine, ...]

    @property
    def exit_code(self) -> int:
        """0 nothing runs any more, 1 something may still run."""
        return 1 if any(line.outcome in ("uncertain", "unconfirmed") for line in self.jobs) else 0

    def to_json(self) -> dict[str, object]:
        """The report with a count for each outcome and money as plain strings."""
        lines = [{**line.model_dump(mode="json"), "cost_usd": money(line.cost_usd)} for line in self.jobs]
        outcomes: tuple[Outcome, ...] = ("cancelled", "finished", "failed", "uncertain", "unconfirmed")
        counts = {str(outcome): sum(line.outcome == outcome for line in self.jobs) for outcome in outcomes}
        return {"batches": list(self.batches), **counts, "jobs": lines}


async def cancel(
    settings: Settings,
    *,
    batch: str | None,
    jobs: Sequence[str] = (),
    wait_s: float = WAIT_S,
    tell: Callable[[str], None] = lambda _text: None,
) -> CancelReport:
    """Cancels a batch, some of its jobs, or (with None) everything that is not over.

    Args:
        wait_s: how long a live run is given to confirm.

    Raises:
        InputError: no such batch or job.
    """
    with opened(settings) as (ledger, history):
        targets = await asyncio.to_thread(_targets, ledger, batch, jobs)
        wanted = {name: [row.job for row in rows] for name, rows in targets.items()}
        under_way = {
            name: set(await asyncio.to_thread(ledger.request_cancel, name, ids)) for name, ids in wanted.items()
        }
        left = sum(len(ids) for ids in under_way.values())
        tell(f"{sum(map(len, wanted.values())) - left} waiting jobs are cancelled, {left} have to be stopped")
        unconfirmed: set[tuple[str, str]] = set()
        if left:
            async with reattaching(settings, ledger, lambda a, text: tell(f"{a.batch}/{a.job}: {text}")) as hands:
                unconfirmed = await _stop_all(hands, under_way, time.monotonic() + wait_s, tell)
            for name, ids in wanted.items():  # a failed attempt may have made its job pending in between
                await asyncio.to_thread(ledger.request_cancel, name, ids)
            await asyncio.to_thread(history.update, ledger)
        lines = await asyncio.to_thread(_lines, ledger, wanted, unconfirmed)
    return CancelReport(batches=tuple(wanted), jobs=tuple(lines))


def _targets(ledger: Ledger, batch: str | None, jobs: Sequence[str]) -> dict[str, list[JobRow]]:
    if batch is None:
        unfinished = [name for name, row in batch_rows(ledger).items() if row.jobs.keys() - OVER]
        return {name: [row for row in ledger.job_rows(name) if row.state not in OVER] for name in unfinished}
    known_batches(ledger, [batch])
    rows = {row.job: row for row in ledger.job_rows(batch)}
    for job in jobs:
        if job not in rows:
            near = difflib.get_close_matches(job, rows, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"`hybrid-video ledger show {batch}` lists them"
            raise InputError(f"batch {batch!r} has no job {job!r}; {hint}")
    return {batch: [row for row in rows.values() if row.state not in OVER and (not jobs or row.job in jobs)]}


async def _stop_all(
    hands: Reattach, under_way: dict[str, set[str]], until_s: float, tell: Callable[[str], None]
) -> set[tuple[str, str]]:
    """Stops what nobody drives and waits for the live runs; returns the jobs that nobody confirmed in time."""
    told: set[str] = set()
    while True:
        mine: list[Attempt] = []
        theirs: set[tuple[str, str]] = set()
        for attempt in [a for name in under_way for a in await asyncio.to_thread(hands.ledger.open_attempts, name)]:
            if attempt.job not in under_way[attempt.batch]:
                continue
            if await hands.claim(attempt):
                mine.append(attempt)
                under_way[attempt.batch].discard(attempt.job)
            else:
                theirs.add((attempt.batch, attempt.job))
        await hands.start({attempt.backend for attempt in mine})
        await asyncio.gather(*(_stop(hands, attempt) for attempt in mine))
        if not theirs or time.monotonic() > until_s:
            return theirs
        for name in {name for name, _job in theirs} - told:
            told.add(name)
            tell(f"{name} is being run by another process, which has been asked to stop these jobs")
        await asyncio.sleep(LOOK_S)


async def _stop(hands: Reattach, attempt: Attempt) -> None:
    """Stops one attempt; what is over already is collected and settled."""
    try:
        found = await hands.find(attempt)
        if found.failure is None and not found.finished_already:
            hands.tell(attempt, f"stopping it on {attempt.backend}")
            if await hands.driver(attempt.batch).stop(found.ticket) != "finished":
                return
            found = await hands.follow(found, attempt)
        await hands.settle(found, attempt)
    except HybridVideoError as error:
        hands.tell(attempt, f"could not be stopped: {redact(error)}")
    finally:
        await hands.release(attempt)


def _lines(ledger: Ledger, wanted: dict[str, list[str]], unconfirmed: set[tuple[str, str]]) -> list[CancelLine]:
    lines = []
    for name, ids in wanted.items():
        spent: dict[str, Decimal] = {}
        for attempt in ledger.attempts(name):
            spent[attempt.job] = spent.get(attempt.job, Decimal(0)) + (attempt.cost_usd or Decimal(0))
        for row in ledger.job_rows(name, only=ids):
            outcome: Outcome = "unconfirmed" if (name, row.job) in unconfirmed else OUTCOMES[row.state]
            message = NOT_CONFIRMED if outcome == "unconfirmed" else row.error_message
            cost = spent.get(row.job, Decimal(0))
            lines.append(CancelLine(batch=name, job=row.job, outcome=outcome, message=message, cost_usd=cost))
    return lines


OUTCOMES: dict[JobState, Outcome] = {
    JobState.CANCELLED: "cancelled",
    JobState.DONE: "finished",
    JobState.FAILED: "failed",
    JobState.UNCERTAIN: "uncertain",
    JobState.ACTIVE: "unconfirmed",
    JobState.PENDING: "unconfirmed",
}
NOT_CONFIRMED = "the process that runs it has not confirmed yet; it is still asked to stop it, look again in a moment"
