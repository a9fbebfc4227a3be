"""What the inbox holds: what waits and what it would cost, what is being made, what failed and why. Changes nothing."""

from __future__ import annotations

import contextlib
import difflib
import json
from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hybrid_video.calculating import BatchEstimate, estimate
from hybrid_video.engine.report import money
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import HybridVideoError, LedgerError, NotFoundError
from hybrid_video.history import History
from hybrid_video.history.queries import learned_times
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.local_time import local_day, next_at, studio_zone
from hybrid_video.models import Batch, JobState, Model, Usd, utc_now
from hybrid_video.preferences import applied
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.watched_folder.claiming import OUTCOME_FILE, Claims, Holder
from hybrid_video.watched_folder.inbox import DONE, FAILED, Inbox
from hybrid_video.watched_folder.night import Candidate, candidates, unmade
from hybrid_video.watched_folder.night_money import NightMoney

SHOWN_DAYS = 14
FRESH_S = 5.0

State = Literal["ready", "arriving", "wrong"]


class WaitingLine(Model):
    """A batch that waits. Money and time are for what is still to be made, None where nobody can say."""

    entry: str
    batch: str = ""
    state: State
    priority: int = 0
    arrived_at: datetime
    jobs: int = 0
    left: int = 0
    cost_usd: Usd | None = None
    duration_s: float | None = None
    split: dict[str, int] = Field(default_factory=dict)
    reason: str = ""
    problems: tuple[str, ...] = ()


class RunningLine(Model):
    """A batch that is being made."""

    unit: str
    batch: str
    machine: str
    since: datetime
    clips: int = 0
    jobs: int = 0


class EndedLine(Model):
    """A batch that was put away."""

    unit: str
    at: datetime
    place: str
    reason: str = ""
    clips: int = 0
    jobs: int = 0
    cost_usd: Usd = Decimal(0)


class Listing(Model):
    """Everything in the folder. `done` and `failed` of the last two weeks, the newest first."""

    folder: str
    zone: str
    ready_by: datetime | None
    budget_usd: Usd | None
    spent_usd: Usd
    waiting: tuple[WaitingLine, ...]
    running: tuple[RunningLine, ...]
    failed: tuple[EndedLine, ...]
    done: tuple[EndedLine, ...]

    @property
    def cost_usd(self) -> Decimal:
        """What all that waits would cost."""
        return sum((line.cost_usd for line in self.waiting if line.cost_usd is not None), Decimal(0))

    def to_json(self) -> dict[str, Any]:
        """The listing with money as plain strings."""
        data = self.model_dump(mode="json")
        for name in ("waiting", "failed", "done"):
            for row, line in zip(data[name], getattr(self, name), strict=True):
                row["cost_usd"] = None if line.cost_usd is None else money(line.cost_usd)
        budget = None if self.budget_usd is None else money(self.budget_usd)
        return {**data, "budget_usd": budget, "spent_usd": money(self.spent_usd), "cost_usd": money(self.cost_usd)}


def list_inbox(settings: Settings, folder: Path | None = None, *, now: datetime | None = None) -> Listing:
    """Looks at the folder and the ledger; asks no backend.

    Raises:
        ConfigurationError: the inbox or the ledger cannot be used.
    """
    inbox, moment, zone = Inbox.of(settings, folder), now or utc_now(), studio_zone(settings)
    clock = settings.schedule.inbox_ready_by
    ready_at = next_at(clock, zone, moment) if clock else None
    ledger, owner = open_ledger(settings), Owner(settings.storage.home)
    try:
        estimator = _Estimator(applied(settings, ledger))
        held = Claims(inbox, owner).held()
        found = candidates(inbox.units(), ledger)
        book = NightMoney(
            inbox, local_day(ready_at or moment, zone).isoformat(), settings.schedule.inbox_budget_usd, ledger
        )
        return Listing(
            folder=str(inbox.folder),
            zone=zone.key,
            ready_by=ready_at,
            budget_usd=settings.schedule.inbox_budget_usd,
            spent_usd=book.spent_usd(),
            waiting=tuple(_waiting(one, ledger, estimator, moment) for one in found),
            running=tuple(_running(holder, ledger) for holder in held),
            failed=tuple(_ended(inbox, FAILED, moment)),
            done=tuple(_ended(inbox, DONE, moment)),
        )
    finally:
        owner.close()
        ledger.close()


class _Estimator:
    """Prices and learned times, read once for all batches."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        times = ServiceTimes()
        if settings.storage.history_path.exists():
            with contextlib.suppress(LedgerError):
                history = History(settings.storage.history_path)
                times = learned_times(history, time_scale=settings.routing.time_scale)
        self._quoter = Quoter(load_prices(settings.routing.prices, settings), times, settings.routing.time_scale)

    def of(self, batch: Batch) -> BatchEstimate | None:
        """What it would come to; None where a price or a time is not known."""
        try:
            return estimate(batch, self._settings, self._quoter)
        except HybridVideoError:
            return None


def _waiting(one: Candidate, ledger: Ledger, estimator: _Estimator, now: datetime) -> WaitingLine:
    unit, batch = one.unit, one.batch
    age_s = (now - unit.arrived_at).total_seconds()
    state: State = "arriving" if age_s < FRESH_S and not unit.note.reason else "ready"
    if batch is None:
        told = tuple(redact(problem) for problem in one.problems)
        return WaitingLine(
            entry=unit.entry.name,
            state="wrong" if state == "ready" else state,
            arrived_at=unit.arrived_at,
            reason=told[0],
            problems=told,
        )
    left = unmade(batch, ledger)
    found = estimator.of(batch.model_copy(update={"jobs": left})) if left else None
    plan = found.plan if found is not None else None
    return WaitingLine(
        entry=unit.entry.name,
        batch=batch.name,
        state=state,
        priority=max(job.priority for job in batch.jobs),
        arrived_at=unit.arrived_at,
        jobs=len(batch.jobs),
        left=len(left),
        cost_usd=Decimal(0) if not left else plan.cost_usd if plan is not None else None,
        duration_s=0.0 if not left else plan.duration_s if plan is not None else None,
        split={} if plan is None else {key: count for key, count in plan.split.items() if count},
        reason=unit.note.reason or ("" if plan is not None or not left else _no_plan(found)),
    )


def _no_plan(found: BatchEstimate | None) -> str:
    if found is None:
        return "its price cannot be told: a workflow of it has no known time"
    return "no configured backend may make it; `hybrid-video doctor` says what is missing"


def _running(holder: Holder, ledger: Ledger) -> RunningLine:
    rows = ledger.job_rows(holder.batch) if holder.batch else []
    return RunningLine(
        unit=holder.unit,
        batch=holder.batch,
        machine=holder.machine,
        since=holder.taken_at,
        clips=sum(row.state is JobState.DONE for row in rows),
        jobs=len(rows),
    )


def _ended(inbox: Inbox, outcome: str, now: datetime) -> Iterable[EndedLine]:
    oldest = (now - timedelta(days=SHOWN_DAYS + 1)).date().isoformat()
    found = []
    for day in (inbox.folder / outcome).iterdir():
        if day.name < oldest or not day.is_dir():
            continue
        for record in day.glob(f"*/{OUTCOME_FILE}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                data = json.loads(record.read_text(encoding="utf-8"))
                names = ("unit", "at", "reason", "clips", "jobs", "cost_usd")
                values = {name: data[name] for name in names}
                found.append(EndedLine.model_validate({**values, "place": str(record.parent)}))
    return sorted(found, key=lambda line: line.at, reverse=True)


def retry(settings: Settings, name: str, folder: Path | None = None) -> Path:
    """Puts a failed batch back into the inbox: the newest of this name; returns where it lies now.

    Raises:
        NotFoundError: there is none.
    """
    inbox = Inbox.of(settings, folder)
    failed = list(_ended(inbox, FAILED, utc_now()))
    places = [Path(line.place) for line in failed if line.unit == name]
    places += [path for path in sorted((inbox.folder / FAILED).glob("*/*"), reverse=True) if path.name == name]
    if not places:
        near = difflib.get_close_matches(name, [line.unit for line in failed], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`hybrid-video inbox` lists those of the last two weeks"
        raise NotFoundError(f"no failed batch is called {name!r}; {hint}")
    with inbox.lock():
        target, number = inbox.folder / name, 1
        while target.exists():
            number += 1
            target = inbox.folder / f"{name}-{number}"
        places[0].rename(target)
    return target
