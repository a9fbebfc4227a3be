"""The configured backends, kept open for questions: what they could make now, at what price, and which one is best.

Nothing is submitted through it. It looks at each backend only where the watcher has not done so lately, and remembers
what a backend said of a kind of job for a few seconds, so that a selection costs no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from hybrid_video import observing, scoring
from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.prepare import build_context
from hybrid_video.engine.selection import SelectionRequest, Shot, decide
from hybrid_video.errors import BackendError, ConfigurationError, HybridVideoError, LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import (
    Candidate,
    Decision,
    EffectivePreferences,
    Health,
    JobState,
    Lane,
    Preferences,
    Quote,
    Refusal,
    VideoJob,
    utc_now,
)
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.settings import Settings
from hybrid_video.views.backends import HealthLine, breakers_of, stored_health
from hybrid_video.views.reading import reading

logger = logging.getLogger("hybrid_video.api")

LOOK_S = 30.0
RELEARN_S = 300.0
SEEN_LATELY_S = 60.0
"""The watcher's look is used instead of an own one for so long."""

OFFERS_KEPT = 512
OFFERS_FRESH_S = 15.0
LOAD_FRESH_S = 0.25


@dataclass(frozen=True)
class UnderWay:
    """One attempt somewhere: on which lane, for how long already, and how long it should take."""

    backend: str
    lane: str
    running_s: float
    service_s: float


@dataclass(frozen=True)
class Load:
    """What the ledger says of the present load."""

    under_way: tuple[UnderWay, ...]
    waiting: int
    resting: dict[tuple[str, str], Refusal]
    unhealthy: dict[str, str]


class LiveBackends:
    """The backends of one API process."""

    def __init__(self, settings: Settings, ledger: Ledger, history: History) -> None:
        self._settings, self._ledger, self._history = settings, ledger, history
        self._fleet = Fleet({})
        self._context: BackendContext | None = None
        self._offers: OrderedDict[str, tuple[float, str, tuple[Candidate, ...]]] = OrderedDict()
        self._load: tuple[float, Load] | None = None
        self.checked: dict[str, Health] = {}
        self.trouble: str = ""
        """Why nothing is configured, or a key is wrong."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Keeps the backends open and looked at."""
        task = asyncio.create_task(self._keep(), name="live backends")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self._fleet.close()

    async def ready(self) -> Fleet:
        """The fleet, once it has been started.

        Raises:
            ConfigurationError: nothing is configured, or a key is wrong.
        """
        for _ in range(100):
            if self._fleet.backends or self.trouble:
                break
            await asyncio.sleep(0.1)
        if not self._fleet.backends:
            raise ConfigurationError(self.trouble or "the backends are still being asked; try again in a moment")
        return self._fleet

    async def quoter(self) -> Quoter:
        """Prices and learned times, for questions that need no backend."""
        if self._context is None:
            return (await asyncio.to_thread(self._build)).quoter
        return self._context.quoter

    async def shot(
        self,
        job: VideoJob,
        preferences: EffectivePreferences,
        *,
        image_path: Path | None = None,
        workflow_path: Path | None = None,
    ) -> Shot:
        """A job with what every backend offers for it, limits applied."""
        fleet = await self.ready()
        offers = [self._permitted(o, preferences) for o in await self._standing(fleet, job, image_path, workflow_path)]
        return Shot(job, job.seed or 0, preferences, image_path, workflow_path, tuple(offers))

    async def select(self, job: VideoJob, settings: Settings, batch: Preferences | None, attempt: int) -> Decision:
        """The decision that a run would make for this job now. Reserves and sends nothing.

        Args:
            settings: with stored preferences applied.

        Raises:
            ConfigurationError: nothing is configured.
        """
        preferences = EffectivePreferences.fold(job.preferences, batch, settings.routing.preferences)
        shot = await self.shot(job, preferences)
        load = await self._current_load()
        lanes = self._fleet.lanes()
        waits = expected_waits(lanes, shot.open_offers, load)
        return decide(
            SelectionRequest(
                shot=shot,
                attempt=attempt,
                waits_s=waits,
                queued={key: sum(busy.backend == key for busy in load.under_way) for key in waits},
                unavailable=self._unavailable(shot, load),
                value_of_time_usd_per_h=settings.routing.value_of_time_usd_per_h,
            )
        )

    def lanes(self) -> list[Lane]:
        """Lanes of every backend that is up."""
        return self._fleet.lanes()

    # -- keeping it fresh ------------------------------------------------------------------------------------------

    def _build(self) -> BackendContext:
        try:
            self._history.update(self._ledger)
            return build_context(self._settings, self._history)
        except LedgerError:
            return build_context(self._settings, None)

    async def _keep(self) -> None:
        learned_s = float("-inf")
        while True:
            try:
                if time.monotonic() - learned_s >= RELEARN_S:
                    await self._renew()
                    learned_s = time.monotonic()
                await self._look()
            except ConfigurationError as error:
                self.trouble = str(error)
            except HybridVideoError as error:
                logger.warning("the backends could not be looked at: %s", error)
            except Exception as error:
                logger.exception("the backends could not be looked at")
                observing.report(error)
            await asyncio.sleep(LOOK_S)

    async def _renew(self) -> None:
        """New prices, new learned times, new connections; the old ones are closed after the change."""
        context = await asyncio.to_thread(self._build)
        fleet = await asyncio.to_thread(Fleet.configured, context)
        wrong = ""
        try:
            await fleet.start()
        except ConfigurationError as error:
            wrong = str(error)
        old, self._fleet, self._context, self.trouble = self._fleet, fleet, context, wrong
        self._offers.clear()
        await old.close()

    async def _look(self) -> None:
        seen = await asyncio.to_thread(self._stored)
        for key, backend in self._fleet.backends.items():
            line = seen.get(key)
            if line is not None and line.age_s < SEEN_LATELY_S and key not in self._fleet.down:
                continue
            health = await backend.health()
            self.checked[key] = health
            if not health.healthy:
                self._fleet.down[key] = health.detail
            elif key in self._fleet.down:
                await self._restart(key, backend)

    async def _restart(self, key: str, backend: Backend) -> None:
        with contextlib.suppress(BackendError, ConfigurationError):
            await backend.start()
            self._fleet.down.pop(key, None)
            self._offers.clear()

    def _stored(self) -> dict[str, HealthLine]:
        with reading(self._ledger) as connection:
            return stored_health(connection, utc_now())

    # -- offers and load -------------------------------------------------------------------------------------------

    async def _standing(
        self, fleet: Fleet, job: VideoJob, image_path: Path | None, workflow_path: Path | None
    ) -> tuple[Candidate, ...]:
        """What each backend says to a job of this kind, whoever asks: a quote, or a refusal."""
        alike = job.model_copy(update={"id": "probe", "prompt": "probe", "seed": None, "priority": 50})
        key = f"{alike.model_dump_json(exclude={'preferences', 'negative_prompt'})}{bool(job.negative_prompt)}"
        key += str(workflow_path)
        known = self._offers.get(key)
        if known is not None and time.monotonic() - known[0] < OFFERS_FRESH_S:
            return tuple(_told_to(job.id, known[1], offer) for offer in known[2])
        offers = []
        for name, backend in fleet.backends.items():
            answer = backend.quote(job, workflow_path=workflow_path)
            if isinstance(answer, Refusal):
                offers.append(Candidate(backend=name, tier=backend.tier, refusal=answer))
                continue
            refusal = None
            if name not in fleet.down:
                refusal = await backend.preflight(job, workflow_path=workflow_path, image_path=image_path)
            offers.append(Candidate(backend=name, tier=backend.tier, quote=answer, refusal=refusal))
        self._offers[key] = (time.monotonic(), job.id, tuple(offers))
        while len(self._offers) > OFFERS_KEPT:
            self._offers.popitem(last=False)
        return tuple(offers)

    @staticmethod
    def _permitted(offer: Candidate, preferences: EffectivePreferences) -> Candidate:
        refusal = offer.refusal or scoring.permission(offer, preferences)
        return offer if refusal is offer.refusal else offer.model_copy(update={"refusal": refusal})

    def _unavailable(self, shot: Shot, load: Load) -> dict[str, Refusal]:
        blocked: dict[str, Refusal] = {}
        for key, quote in shot.open_offers.items():
            down = self._fleet.down.get(key) or load.unhealthy.get(key)
            if down:
                blocked[key] = Refusal(code="health", reason=f"does not answer: {down}")
            elif (key, quote.model) in load.resting:
                blocked[key] = load.resting[key, quote.model]
        return blocked

    async def _current_load(self) -> Load:
        if self._load is None or time.monotonic() - self._load[0] > LOAD_FRESH_S:
            self._load = (time.monotonic(), await asyncio.to_thread(read_load, self._ledger))
        return self._load[1]


def _told_to(job: str, other: str, offer: Candidate) -> Candidate:
    """A remembered offer with this job's name where a refusal names the one that it was made for."""
    refusal = offer.refusal
    if refusal is None or job == other:
        return offer
    reason = refusal.reason.replace(f"job {other!r}", f"job {job!r}")
    return offer.model_copy(update={"refusal": refusal.model_copy(update={"reason": reason})})


def read_load(ledger: Ledger) -> Load:
    """Open attempts, waiting jobs, resting breakers and sick backends, in one read."""
    now = utc_now()
    a = t.attempts
    columns = (a.c.backend, a.c.lane, a.c.quote, a.c.created_at, a.c.submitted_at)
    opened = sa.select(*columns).where(a.c.state.in_([s.value for s in OPEN if s.value != "uncertain"]))
    waiting = (
        sa.select(sa.func.count())
        .select_from(t.jobs.join(t.batches, t.batches.c.name == t.jobs.c.batch))
        .where(t.jobs.c.state == JobState.PENDING.value, t.batches.c.finished_at.is_(None))
    )
    with reading(ledger) as connection:
        under_way = tuple(
            UnderWay(
                row.backend,
                row.lane,
                (now - (row.submitted_at or row.created_at)).total_seconds(),
                Quote.model_validate_json(row.quote).service_s,
            )
            for row in connection.execute(opened.order_by(a.c.created_at))
        )
        count = connection.execute(waiting).scalar_one()
        told = breakers_of(connection, now)
        health = stored_health(connection, now)
    resting = {
        (key, line.model): Refusal(
            code="breaker", reason=f"is resting after failures; one trial job in {line.rests_s:.0f} s"
        )
        for key, lines in told.items()
        for line in lines
        if line.state == "open"
    }
    sick = {key: line.detail for key, line in health.items() if line.age_s < SEEN_LATELY_S and not line.healthy}
    return Load(under_way, count, resting, sick)


def expected_waits(lanes: Sequence[Lane], quotes: dict[str, Quote], load: Load) -> dict[str, float]:
    """Seconds until each backend could begin another job.

    A lane is free when what it holds is done. Jobs that wait in batches although some backend stands idle wait for the
    busy ones, which are cheaper to them: they come before a new job there, and not at the idle one.
    """
    free: dict[str, list[float]] = {}
    for lane in lanes:
        if lane.backend not in quotes:
            continue
        left_s = 0.0
        for number, busy in enumerate(one for one in load.under_way if one.lane == lane.id):
            rest_s = busy.service_s - busy.running_s if number == 0 else busy.service_s
            left_s += rest_s if rest_s > 0 else busy.service_s / 4
        free.setdefault(lane.backend, []).append(left_s)
    waits = {key: min(times) for key, times in free.items()}
    crowded = [key for key, wait in waits.items() if wait > 0] or list(waits)
    speed = sum(len(free[key]) / max(quotes[key].service_s, 0.001) for key in crowded)
    if load.waiting and speed:
        taken = sum(left / max(quotes[key].service_s, 0.001) for key in crowded for left in free[key])
        level_s = (load.waiting + taken) / speed
        waits |= {key: max(waits[key], level_s) for key in crowded}
    return waits
