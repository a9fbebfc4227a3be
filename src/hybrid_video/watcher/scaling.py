"""Carries out what the autoscaler decides: opens pods, drains and closes them, and remembers why.

The policy is pure and lives in `autoscaler`; the pool knows how a pod is had and ended. What stands between them is
here: nothing is closed that holds a job, a refusal is not repeated every five seconds, and every decision is told with
its figures.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from hybrid_video import autoscaler
from hybrid_video.autoscaler import LaneMemory, PodOffer, ScaleDecision
from hybrid_video.demand import BatchDemand
from hybrid_video.errors import BackendError, ConfigurationError, FailureKind, HybridVideoError, LimitError
from hybrid_video.estimates import cheapest_pod_usd_per_h
from hybrid_video.ledger import Ledger
from hybrid_video.models import utc_now
from hybrid_video.pods.pool import PodPool
from hybrid_video.pods.records import PodRecord
from hybrid_video.preferences import applied
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.settings import Settings
from hybrid_video.watcher import picture
from hybrid_video.watcher.arriving import ArrivalWatch
from hybrid_video.watcher.demand_store import DemandStore

log = logging.getLogger(__name__)

TICK_S = 5.0
SHORTEST_TICK_S = 0.2
NO_CAPACITY_PAUSE_S = 30.0
LIMIT_PAUSE_S = 60.0
CONFIGURATION_PAUSE_S = 600.0
"""After a refusal nothing is asked for so long: of a place without pods, of a budget, of an account or key."""

UNUSED_PAUSE_S = 600.0
"""Runs that leave open pods idle (their own goal says that cheaper lanes suffice) get no new ones for so long."""

MEASURED_OF = timedelta(days=2)
"""How far back the last cold starts are looked for."""

REMEMBERED = 30
PRICES_KEPT_S = 600.0


@dataclass(frozen=True)
class Done:
    """A decision that changed something, for the log, the status and the command line."""

    at: datetime
    reason: str
    opened: tuple[str, ...] = ()
    closed: tuple[str, ...] = ()
    failed: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "at": self.at.isoformat(timespec="seconds"),
            "reason": self.reason,
            "opened": list(self.opened),
            "closed": list(self.closed),
            "failed": self.failed,
            "figures": self.figures,
        }


class Scaling:
    """The pods of one installation, as many as are worth it."""

    def __init__(self, settings: Settings, ledger: Ledger, pool: PodPool, demands: DemandStore) -> None:
        self._settings = settings
        self._ledger = ledger
        self._pool = pool
        self._demands = demands
        self._scale = settings.routing.time_scale
        self._arrivals = ArrivalWatch(self._scale)
        self._lanes = LaneMemory()
        self._recalled = False
        self._paused_until_s = float("-inf")
        self._drained: set[str] = set()
        self._refused = ""
        self._price: tuple[float, Decimal | None] = (float("-inf"), None)
        self.stopped = ""
        """Why no pod will be opened until somebody changes something; "" while one may be."""
        self.stopped_by_limit = False
        """Whether that is a budget or another limit of the user's."""
        self.decision = ScaleDecision()
        self.recent: deque[Done] = deque(maxlen=REMEMBERED)
        self.winding_up = False
        """The process is about to leave: every idle pod is closed, and none opened."""

    @property
    def tick_s(self) -> float:
        """Real seconds between two decisions."""
        return max(SHORTEST_TICK_S, TICK_S / self._scale)

    async def round(self) -> Done | None:
        """One decision, carried out; what it changed, if anything."""
        demands, pods, decision = await asyncio.to_thread(self._decide)
        if decision.reason != self.decision.reason:
            log.debug("scaling: %s", decision.reason)
        self.decision = decision
        closed = [name for name in decision.close if await self._close(name, pods, decision.reason)]
        unused: bool = bool(closed) and await asyncio.to_thread(self._went_unused, closed, pods, demands)
        if unused:
            self._paused_until_s = max(self._paused_until_s, time.monotonic() + UNUSED_PAUSE_S / self._scale)
            log.warning("pods were closed unused though jobs waited; none is opened for %.0f s", UNUSED_PAUSE_S)
        await self._drain(decision.drain, pods, decision.reason)
        opened, failed = await self._open(decision, demands)
        if not (opened or closed or failed):
            return None
        done = Done(utc_now(), decision.reason, tuple(opened), tuple(closed), failed, dict(decision.figures))
        self.recent.append(done)
        log.info(
            "scaling: opened %d, closed %d of %d pods: %s%s",
            len(opened),
            len(closed),
            len(pods),
            decision.reason,
            f"; could not open more: {failed}" if failed else "",
        )
        return done

    def _went_unused(self, closed: Sequence[str], pods: Sequence[PodRecord], demands: Sequence[BatchDemand]) -> bool:
        """Whether runs had work for pods and gave these none: opening more of them would only burn money."""
        ready = [pod for pod in pods if pod.name in closed and pod.ready_at is not None]
        if not ready or not any(demand.podable_jobs for demand in demands):
            return False
        return not picture.last_ends(self._ledger, ready)

    def _decide(self) -> tuple[Sequence[BatchDemand], Sequence[PodRecord], ScaleDecision]:
        self._settings = applied(self._settings, self._ledger)
        if not self._recalled:
            self._arrivals.recall(self._ledger)
            self._recalled = True
        now = utc_now()
        demands = [picture.scaled(demand, now, self._scale) for demand in self._demands.live()]
        arrivals = self._arrivals.saw(demands)
        pods = self._pool.store.alive()
        if not demands and not pods:
            return demands, pods, ScaleDecision(reason="no batch runs and no pod is open")
        jobs = picture.held_on_pods(self._ledger, pods)
        cold_s = picture.cold_start_s(self._pool.store.all(since=now - MEASURED_OF), self._settings)
        service_s = picture.pod_service_s(demands)
        views = picture.pod_views(
            pods,
            jobs,
            picture.last_ends(self._ledger, pods),
            now=now,
            scale=self._scale,
            cold_s=cold_s,
            service_s=service_s,
        )
        if self.winding_up:
            idle = tuple(view.name for view in views if not view.busy)
            return demands, pods, ScaleDecision(close=idle, reason="the watcher ends: idle pods are closed")
        state = picture.state_of(
            demands=demands,
            lanes=self._lanes.see(demands, time.monotonic() * self._scale),
            pods=views,
            offer=self._offer(service_s, cold_s),
            arrivals=arrivals,
            settings=self._settings,
            tick_s=self.tick_s * self._scale,
        )
        return demands, pods, autoscaler.decide(state, self._settings.pods.policy)

    def _offer(self, service_s: float, cold_s: float) -> PodOffer | None:
        """What would be opened next: the cheapest GPU on the list; None while a refusal holds."""
        if time.monotonic() < self._paused_until_s:
            return None
        price = self._cheapest()
        if price is None:
            self.stopped = (
                "no GPU of HYBRID_VIDEO_PODS_GPUS has a price up to "
                f"${self._settings.pods.max_price_usd_per_h} an hour (HYBRID_VIDEO_PODS_MAX_PRICE_USD_PER_H)"
            )
            return None
        return PodOffer(price, service_s, cold_s, self._settings.pods.billing)

    def _cheapest(self) -> Decimal | None:
        """US dollars per hour of the cheapest GPU that may be opened."""
        until_s, price = self._price
        if time.monotonic() < until_s:
            return price
        price = cheapest_pod_usd_per_h(load_prices(self._settings.routing.prices, self._settings), self._settings)
        self._price = (time.monotonic() + PRICES_KEPT_S, price)
        return price

    async def _open(self, decision: ScaleDecision, demands: Sequence[BatchDemand]) -> tuple[list[str], str]:
        """Opens as many as were decided, all at once; what was opened, and why not more."""
        if not decision.open:
            return [], ""
        batch = demands[0].batch if len(demands) == 1 else ""
        outcomes = await asyncio.gather(
            *(self._pool.open(decision.reason, batch=batch) for _ in range(decision.open)), return_exceptions=True
        )
        opened = [outcome.name for outcome in outcomes if isinstance(outcome, PodRecord)]
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        for error in errors:
            if not isinstance(error, HybridVideoError):
                raise error
        if not errors:
            self.stopped = self._refused = ""
            return opened, ""
        self._note_refusal(errors)
        return opened, str(errors[0])

    def _note_refusal(self, errors: Sequence[BaseException]) -> None:
        error = errors[0]
        final = isinstance(error, ConfigurationError) or (
            isinstance(error, BackendError)
            and error.kind in (FailureKind.AUTHENTICATION, FailureKind.INSUFFICIENT_FUNDS, FailureKind.INVALID_REQUEST)
        )
        pause_s = CONFIGURATION_PAUSE_S if final else NO_CAPACITY_PAUSE_S
        if isinstance(error, LimitError):
            pause_s = LIMIT_PAUSE_S
        pause_s = max(pause_s / self._scale, float(getattr(error, "retry_after_s", None) or 0.0))
        self._paused_until_s = time.monotonic() + pause_s
        self.stopped_by_limit = isinstance(error, LimitError)
        self.stopped = str(error) if final or self.stopped_by_limit else ""
        news = logging.DEBUG if self._refused == str(error) else logging.WARNING
        self._refused = str(error)
        log.log(news, "no pod could be opened; the next try is in %.0f s: %s", pause_s, error)

    async def _close(self, name: str, pods: Sequence[PodRecord], reason: str) -> bool:
        """Ends a pod that holds no job: first it takes none any more, and then nothing may have slipped in."""
        pod = next((pod for pod in pods if pod.name == name), None)
        if pod is None or pod.state == "closing":
            return False
        try:
            if pod.state == "ready":
                self._drained.add(name)
                pod = await self._pool.drain(name, reason)
            if (await asyncio.to_thread(picture.held_on_pods, self._ledger, [pod]))[name]:
                return False
            await self._pool.close(name, reason)
        except HybridVideoError as error:
            log.warning("pod %s could not be closed yet: %s", name, error)
            return False
        return True

    async def _drain(self, names: Sequence[str], pods: Sequence[PodRecord], reason: str) -> None:
        """Pods that were named take no further job; those that are not named any more take jobs again.

        Only what was drained here is taken back: a pod that a person ends stays so.
        """
        for pod in pods:
            try:
                if pod.state == "ready" and pod.name in names:
                    self._drained.add(pod.name)
                    await self._pool.drain(pod.name, reason)
                elif pod.state == "draining" and pod.name in self._drained - {*names, *self.decision.close}:
                    self._drained.discard(pod.name)
                    await asyncio.to_thread(self._pool.store.mark_taking, pod.name)
            except HybridVideoError as error:
                log.warning("pod %s: %s", pod.name, error)
