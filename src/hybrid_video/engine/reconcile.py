"""Brings the ledger, the vendors and the disk back together after crashes, without ever submitting anything.

A ledger restored from a backup is first told what happened since (`hybrid_video.engine.refilling`).
Open attempts that no live process drives are found again, followed to their end and settled. What nobody can look up
stays uncertain until a person, or the configured rule, decides. The report lists every difference that remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Literal

from hybrid_video.backends.runpod.audit import BillLine, StrayPod, bill_lines, stray_pods
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.engine import disk_audit
from hybrid_video.engine.disk_audit import ClipFinding
from hybrid_video.engine.reattach import Reattach, reattaching
from hybrid_video.engine.refilling import Refilled, refill
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.errors import HybridVideoError, InputError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lookups import known_batches, settled_by_day
from hybrid_video.ledger.resolving import advice, resolve
from hybrid_video.models import Attempt, JobState, Model, Usd, utc_now
from hybrid_video.pods.pool import PodPool, PoolReport
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings

AT_ONCE = 16
BILL_DAYS = 7
SERVERLESS = "runpod-serverless"

Outcome = Literal["collected", "released", "failed", "uncertain", "charged", "running", "elsewhere"]
"""released: never accepted, its job is pending again; charged: booked by the rule for old uncertain attempts; running:
not over when the wait ended; elsewhere: a live process drives it."""

OUTCOMES: tuple[Outcome, ...] = ("collected", "released", "failed", "uncertain", "charged", "running", "elsewhere")


class AttemptLine(Model):
    """One attempt that was open."""

    attempt_id: str
    batch: str
    job: str
    number: int
    backend: str
    outcome: Outcome
    message: str
    cost_usd: Usd = Decimal(0)
    reserved_usd: Usd = Decimal(0)


class ReconcileReport(Model):
    """What was done, and what does not agree yet."""

    batches: tuple[str, ...]
    attempts: tuple[AttemptLine, ...]
    clips_checked: int
    clips: tuple[ClipFinding, ...]
    pods: tuple[StrayPod, ...] = ()
    bills: tuple[BillLine, ...] = ()
    history_rows: int = 0
    pool: PoolReport | None = None
    gap: Refilled | None = None
    notices: tuple[str, ...] = ()

    @property
    def differences(self) -> int:
        """A gap since a backup, attempts without an outcome, clips that do not agree, pods nobody knows, pods whose
        create or end is still open, and pods that cost more than planned. Bills are shown, not counted: RunPod's for an
        endpoint holds start-up and idle seconds that belong to no job, and lags behind; those of pods are booked once
        complete."""
        unsettled = sum(line.outcome in ("uncertain", "running") for line in self.attempts)
        open_pods = len(self.pool.unresolved) + len(self.pool.alarms) if self.pool else 0
        gap = self.gap is not None and not self.gap.closed
        return gap + unsettled + len(self.clips) + len(self.pods) + open_pods

    @property
    def exit_code(self) -> int:
        """0 everything agrees, 1 differences remain."""
        return 1 if self.differences else 0

    def to_json(self) -> dict[str, Any]:
        """The report with counts and money as plain strings."""
        data = self.model_dump(mode="json")
        for row, line in zip(data["attempts"], self.attempts, strict=True):
            row |= {"cost_usd": money(line.cost_usd), "reserved_usd": money(line.reserved_usd)}
        for row, pod in zip(data["pods"], self.pods, strict=True):
            row["cost_usd_per_h"] = money(pod.cost_usd_per_h)
        for row, bill in zip(data["bills"], self.bills, strict=True):
            row |= {"billed_usd": money(bill.billed_usd), "ledger_usd": money(bill.ledger_usd)}
            row["difference_usd"] = money(bill.difference_usd)
        if self.pool is not None:
            data["pool"] = self.pool.to_json()
        counts = {str(name): sum(line.outcome == name for line in self.attempts) for name in OUTCOMES}
        return {"clean": not self.differences, "differences": self.differences, **counts, **data}


async def reconcile(
    settings: Settings,
    batches: Sequence[str] = (),
    *,
    wait_s: float | None = None,
    tell: Callable[[str], None] = lambda _text: None,
) -> ReconcileReport:
    """Settles what was left open in these batches (none named: all), then compares disk and vendor with the ledger.

    Args:
        wait_s: how long to wait for attempts that still run; None until they end.

    Raises:
        InputError: no such batch.
    """
    with opened(settings) as (ledger, history):
        gap = await asyncio.to_thread(refill, ledger, [settings.storage.clips_dir])
        if gap is not None:
            tell(_about_gap(gap))
        rows = await asyncio.to_thread(known_batches, ledger, batches)
        lines = await settle_open(settings, ledger, rows, wait_s, tell)
        disk = await asyncio.to_thread(disk_audit.audit, ledger, rows)
        pods, bills, pool, notices = await _ask_runpod(settings, ledger)
        try:
            added = await asyncio.to_thread(history.update, ledger)
        except HybridVideoError as error:
            added, notices = 0, [*notices, f"the history is not up to date yet: {error}"]
    return ReconcileReport(
        batches=tuple(rows),
        attempts=tuple(lines),
        clips_checked=disk.checked,
        clips=disk.findings,
        pods=pods,
        bills=bills,
        pool=pool,
        gap=gap,
        history_rows=added,
        notices=tuple(redact(notice) for notice in notices),
    )


def _about_gap(gap: Refilled) -> str:
    """What was found out about the time since the backup, and what to do if that is not all."""
    since = f"since the backup of {gap.taken_at:%Y-%m-%d %H:%M:%S} UTC"
    found = (
        f"{since}: {gap.attempts_added} attempts were new to this ledger, {gap.attempts_brought_on} had gone on, "
        f"{gap.from_clips} were known by their clips alone, {len(gap.pods)} pods"
    )
    if gap.closed:
        return f"{found}; nothing is missing, and jobs can be sent again"
    waits = [f"run `hybrid-video reconcile` on {host}, whose journal is not read yet" for host in gap.waits_for]
    return (
        f"{found}; that may not be all, so nothing is sent that may be paid for already: "
        f"{'; '.join([*gap.not_whole, *waits])}. Or hold the vendors' bills {since} against the ledger and say "
        "`hybrid-video ledger close-gap`"
    )


async def settle_open(
    settings: Settings,
    ledger: Ledger,
    batches: Mapping[str, object],
    wait_s: float | None,
    tell: Callable[[str], None],
) -> list[AttemptLine]:
    """Finds, follows and settles what was left open in these batches; what a live process drives is left to it."""
    found = [a for a in await asyncio.to_thread(ledger.open_attempts) if a.batch in batches]
    if not found:
        return []
    tell(f"{len(found)} attempts are open")
    limit = asyncio.Semaphore(AT_ONCE)
    async with reattaching(
        settings, ledger, lambda a, text: tell(f"{a.batch}/{a.job} on {a.backend}: {text}")
    ) as hands:
        await hands.start({attempt.backend for attempt in found})

        async def one(attempt: Attempt) -> AttemptLine:
            async with limit:
                return await _reconcile(hands, attempt, settings)

        tasks = [asyncio.create_task(one(attempt)) for attempt in found]
        try:
            await asyncio.wait(tasks, timeout=wait_s)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return [
            _line(attempt, "running", "not over yet when the wait ended; its remote work goes on")
            if task.cancelled()
            else task.result()
            for attempt, task in zip(found, tasks, strict=True)
        ]


async def _reconcile(hands: Reattach, attempt: Attempt, settings: Settings) -> AttemptLine:
    """One attempt to its end, or as far as can be known."""
    if not await hands.claim(attempt):
        return _line(attempt, "elsewhere", "a live process drives it")
    try:
        attempt = await asyncio.to_thread(hands.ledger.attempt, attempt.attempt_id)
        if attempt.finished:
            return _line(attempt, "elsewhere", "another process settled it at this moment")
        found = await hands.find(attempt)
        if found.failure is None and not found.finished_already:
            hands.tell(attempt, "found again; followed to its end")
        outcome = await hands.follow(found, attempt)
        cost, job_state = await hands.settle(outcome, attempt)
        if cost is None:
            return await asyncio.to_thread(_still_uncertain, hands, attempt, settings)
        paid = cost.amount_usd
        if outcome.failure is None:
            hands.tell(attempt, f"collected, ${money(paid)}")
            return _line(attempt, "collected", outcome.clip.path if outcome.clip else "", paid)
        kind: Outcome = "released" if outcome.ticket.handle is None else "failed"
        remedy = {
            JobState.PENDING: "run the batch again to make it",
            JobState.CANCELLED: "its job is cancelled",
        }.get(job_state, "run the batch again to try once more")
        hands.tell(attempt, f"{kind}: {outcome.failure}")
        return _line(attempt, kind, f"{outcome.failure}; {remedy}", paid)
    except HybridVideoError as error:  # the ledger or the disk; the attempt stays as it is
        return _line(attempt, "uncertain", f"{error}; run `hybrid-video reconcile` again")
    finally:
        await asyncio.shield(hands.release(attempt))


def _still_uncertain(hands: Reattach, attempt: Attempt, settings: Settings) -> AttemptLine:
    """What stays unknown: kept for a person, or booked by the rule once it is older than any vendor's retention."""
    rule, limit = settings.routing.uncertain_rule, timedelta(hours=settings.routing.uncertain_after_h)
    now = hands.ledger.attempt(attempt.attempt_id)
    if rule == "charge" and utc_now() - (now.submitted_at or now.created_at) > limit:
        try:
            by = f"HYBRID_VIDEO_UNCERTAIN_RULE=charge after {settings.routing.uncertain_after_h:g} h"
            resolve(hands.ledger, hands.owner, now, "charged", said_by=by)
        except InputError as error:
            return _line(now, "elsewhere", str(error))
        hands.tell(now, f"still uncertain; ${money(now.reserved_usd)} booked as charged")
        return _line(now, "charged", f"nobody could say what became of it; booked by {by}", now.reserved_usd)
    hands.tell(now, "still uncertain")
    return _line(now, "uncertain", f"{now.error_message}; {advice(now)}")


def _line(attempt: Attempt, outcome: Outcome, message: str, cost_usd: Decimal = Decimal(0)) -> AttemptLine:
    held = attempt.reserved_usd if outcome in ("uncertain", "running", "elsewhere") else Decimal(0)
    return AttemptLine(
        attempt_id=attempt.attempt_id,
        batch=attempt.batch,
        job=attempt.job,
        number=attempt.number,
        backend=attempt.backend,
        outcome=outcome,
        message=redact(message),
        cost_usd=cost_usd,
        reserved_usd=held,
    )


async def _ask_runpod(
    settings: Settings, ledger: Ledger
) -> tuple[tuple[StrayPod, ...], tuple[BillLine, ...], PoolReport | None, list[str]]:
    """Pods and bills; what RunPod does not tell becomes a notice. Our own pods are looked after on the way."""
    if settings.runpod.api_key is None:
        return (), (), None, []
    today = utc_now().date()
    days = [(today - timedelta(days=back)).isoformat() for back in range(BILL_DAYS)]
    known = await asyncio.to_thread(settled_by_day, ledger, SERVERLESS, days)
    pods: tuple[StrayPod, ...] = ()
    bills: tuple[BillLine, ...] = ()
    report: PoolReport | None = None
    notices: list[str] = []
    try:
        client = PodsClient.from_settings(settings.runpod)
    except HybridVideoError as error:
        return (), (), None, [f"RunPod's pods and bill could not be looked at: {error}"]
    pool = PodPool(settings, ledger, client)
    try:
        report = await pool.reconcile()
        pods = await stray_pods(client, settings.runpod)
        if settings.runpod.endpoint_url:
            bills = await bill_lines(client, settings.runpod, known)
    except HybridVideoError as error:
        notices.append(f"RunPod's pods and bill could not be looked at: {error}")
    finally:
        await pool.aclose()
        await client.close()
    return pods, bills, report, [*notices, *(report.notices if report else ())]
