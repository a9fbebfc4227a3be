"""Makes what waits in the inbox: one batch after the other, the most urgent first, within one night and one budget.

Knows neither Prefect nor the command line: `run` makes one batch, and whoever calls says how. A batch that cannot be
made is put away with the reason and stops no other. The time until the clips are to be ready is shared out by the work
that waits, so that the first batch does not use the cheap machines up to the morning alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.local_time import local_day, next_at, studio_zone
from hybrid_video.models import Batch, JobState, VideoJob, utc_now
from hybrid_video.settings import Settings
from hybrid_video.watched_folder.claiming import Claim, Claims
from hybrid_video.watched_folder.inbox import Inbox, Looks, Unit
from hybrid_video.watched_folder.making import Maker
from hybrid_video.watched_folder.night_money import NightMoney
from hybrid_video.watched_folder.outcomes import NightReport, Ran

Run = Callable[[Batch, Path], Awaitable[Ran]]
"""Makes a batch whose paths start from a folder. Raises HybridVideoError if it cannot start."""

Tell = Callable[[str], None]

ARRIVING_PATIENCE_S = 120.0
LOOK_S = 1.0
RIVAL_LOOK_S = 15.0
BOOKS_KEPT = timedelta(days=60)


@dataclass(frozen=True)
class Night:
    """What holds for the whole night. `ready_by` is the studio's clock, like 07:00; empty: no such time."""

    ready_by: str = ""
    budget_usd: Decimal | None = None
    settle_s: float = 5.0

    @classmethod
    def of(cls, settings: Settings, *, ready_by: str | None = None, budget_usd: Decimal | None = None) -> Night:
        """As configured, unless said otherwise; of two budgets the smaller one holds."""
        schedule = settings.schedule
        budgets = [usd for usd in (budget_usd, schedule.inbox_budget_usd) if usd is not None]
        wanted = schedule.inbox_ready_by if ready_by is None else ready_by
        return cls(wanted, min(budgets, default=None), schedule.inbox_settle_s)


async def run_night(
    settings: Settings,
    run: Run,
    *,
    night: Night | None = None,
    folder: Path | None = None,
    tell: Tell = lambda _text: None,
    stop: asyncio.Event | None = None,
    now: Callable[[], datetime] = utc_now,
) -> NightReport:
    """Makes every batch of the inbox, those of a worker that died included, and those that come meanwhile.

    Args:
        stop: set it to end after the batch that is being made.

    Raises:
        InputError: `ready_by` is no time of day.
        ConfigurationError: the inbox or the ledger cannot be used.
    """
    inbox = await asyncio.to_thread(Inbox.of, settings, folder)
    ledger, owner = open_ledger(settings), Owner(settings.storage.home)
    try:
        return await _Worker(settings, inbox, ledger, owner, run, night or Night.of(settings), tell, stop, now).work()
    finally:
        owner.close()
        ledger.close()


@dataclass(frozen=True)
class Candidate:
    """A batch that may be made next: `batch` is None where the file is not understood, and `problems` say why."""

    unit: Unit
    batch: Batch | None = None
    problems: tuple[str, ...] = ()
    left: int = 0

    @property
    def rank(self) -> tuple[int, datetime, str]:
        """The most urgent shot decides, then the order of arrival; what is wrong is told first."""
        urgent = 101 if self.batch is None else max(job.priority for job in self.batch.jobs)
        return (-urgent, self.unit.arrived_at, self.unit.name)


def candidates(units: Sequence[Unit], ledger: Ledger) -> list[Candidate]:
    """Every batch read, in the order they are made. Of two with one name only the first is right."""
    found = sorted((_read(unit, ledger) for unit in units), key=lambda one: one.rank)
    first: dict[str, Candidate] = {}
    for index, one in enumerate(found):
        if one.batch is None:
            continue
        other = first.setdefault(one.batch.name, one)
        if other is not one:
            problem = (
                f"name: batch {one.batch.name!r} waits already, as {other.unit.entry.name!r}, and the same name is the "
                "same batch; write another `name:` into this one, or take one of the two away"
            )
            found[index] = Candidate(one.unit, None, (problem,))
    return sorted(found, key=lambda one: one.rank)


def _read(unit: Unit, ledger: Ledger) -> Candidate:
    try:
        batch = unit.load()
    except InputError as error:
        return Candidate(unit, None, error.problems)
    return Candidate(unit, batch, (), len(unmade(batch, ledger)))


def unmade(batch: Batch, ledger: Ledger) -> tuple[VideoJob, ...]:
    """The shots whose clips are not there yet; those made before from the same text are."""
    made = {row.job: row.spec for row in ledger.job_rows(batch.name) if row.state is JobState.DONE}
    return tuple(job for job in batch.jobs if made.get(job.id) != job)


@dataclass
class _Worker:
    """One call of `run_night`."""

    settings: Settings
    inbox: Inbox
    ledger: Ledger
    owner: Owner
    run: Run
    night: Night
    tell: Tell
    stop: asyncio.Event | None
    now: Callable[[], datetime]
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.zone = studio_zone(self.settings)
        self.began_at = self.now()
        self.ready_at = next_at(self.night.ready_by, self.zone, self.began_at) if self.night.ready_by else None
        self.date = local_day(self.ready_at or self.began_at, self.zone)
        self.claims = Claims(self.inbox, self.owner)
        self.looks = Looks(self.night.settle_s)
        self.money = NightMoney(self.inbox, self.date.isoformat(), self.night.budget_usd, self.ledger)
        self.maker = Maker(self.ledger, self.claims, self.money, self.run, self.zone, self.tell, self.now)
        self.seen: set[tuple[str, datetime]] = set()
        self.idle_since_s: float | None = None

    async def work(self) -> NightReport:
        """Until nothing is left, the night is over, or the end is asked for."""
        await asyncio.to_thread(_drop_old_books, self.inbox, self.began_at)
        while not self._over():
            wait_s = await self._step()
            if wait_s is None:
                break
            if wait_s:
                await asyncio.sleep(wait_s)
        left = await asyncio.to_thread(self.inbox.units)
        if self.ready_at is not None and self.now() >= self.ready_at and left:
            self.notices.append(
                f"the night was over before {len(left)} more could be begun; they wait for the next one"
            )
        return NightReport(
            folder=str(self.inbox.folder),
            night=self.date.isoformat(),
            zone=self.zone.key,
            ready_by=self.ready_at,
            began_at=self.began_at,
            ended_at=self.now(),
            budget_usd=self.night.budget_usd,
            spent_usd=await asyncio.to_thread(self.money.spent_usd),
            lines=tuple(self.maker.lines),
            waiting=len(left),
            notices=tuple(self.notices),
        )

    def _over(self) -> bool:
        asked = self.maker.stopped or (self.stop is not None and self.stop.is_set())
        return asked or (self.ready_at is not None and self.now() >= self.ready_at)

    async def _step(self) -> float | None:
        """Makes one batch; seconds until the next look, None when there is nothing to wait for."""
        adopted = await asyncio.to_thread(self.claims.adopt)
        if adopted is not None:
            self.tell(f"{adopted.name}: taken over from a worker that is gone")
            return await self._make(adopted, [])
        units = [unit for unit in await asyncio.to_thread(self.inbox.units) if _key(unit) not in self.seen]
        whole = [unit for unit in units if await asyncio.to_thread(self.looks.settled, unit)]
        waiting = await asyncio.to_thread(candidates, whole, self.ledger)
        elsewhere = {holder.batch for holder in await asyncio.to_thread(self.claims.held)}
        free = [one for one in waiting if one.batch is None or one.batch.name not in elsewhere]
        if free:
            chosen = free[0]
            claim = await asyncio.to_thread(self.claims.take, chosen.unit)
            if claim is None:  # somebody else was faster
                return 0.0
            if chosen.problems:
                self.seen.add(_key(chosen.unit))
                await self.maker.refuse(claim, chosen.problems)
                return 0.0
            return await self._make(claim, free)
        if not units:
            return None
        return self._patience(units, waiting)

    async def _make(self, claim: Claim, waiting: Sequence[Candidate]) -> float:
        self.idle_since_s = None
        self.seen.add((claim.entry_name, claim.arrived_at))
        await self.maker.make(claim, self._share_s(claim, waiting))
        return 0.0

    def _share_s(self, claim: Claim, waiting: Sequence[Candidate]) -> float | None:
        """The seconds this batch has: of those until the clips are to be ready, its part by clips to be made."""
        if self.ready_at is None:
            return None
        left_s = max(1.0, (self.ready_at - self.now()).total_seconds())
        clips = {one.unit.name: one.left for one in waiting}
        whole = sum(clips.values())
        return max(1.0, left_s * clips.get(claim.name, 0) / whole) if whole and claim.name in clips else left_s

    def _patience(self, units: Sequence[Unit], waiting: Sequence[Candidate]) -> float | None:
        """Nothing can be made now: whether it is worth waiting for what still comes, or is being made elsewhere."""
        now_s = time.monotonic()
        self.idle_since_s = now_s if self.idle_since_s is None else self.idle_since_s
        if now_s - self.idle_since_s < ARRIVING_PATIENCE_S + self.night.settle_s:
            return RIVAL_LOOK_S if waiting else min(LOOK_S, max(self.night.settle_s / 2, 0.05))
        busy = {one.unit.entry for one in waiting}
        for unit in units:
            why = "is being made by another worker" if unit.entry in busy else "is still being copied, or misses a file"
            self.notices.append(f"{unit.entry.name!r} {why}; it waits")
        return None


def _key(unit: Unit) -> tuple[str, datetime]:
    return unit.entry.name, unit.arrived_at


def _drop_old_books(inbox: Inbox, now: datetime) -> None:
    """A year of nights should not be a year of files."""
    oldest = f".night-{(now - BOOKS_KEPT).date().isoformat()}.json"
    for path in inbox.folder.glob(".night-*.json"):
        if path.name < oldest:
            path.unlink(missing_ok=True)
