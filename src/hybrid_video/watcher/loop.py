"""The watcher's loop: health of every tier, and the pods of this installation. One process, for days.

Each duty has its own pace and its own fate: what goes wrong in one (a vendor down, the ledger locked, a defect) is
logged and tried again at its next turn, and never ends the others. Losing the lease ends the acting, not the process:
it stands by until the watcher's place is free again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from hybrid_video import observing
from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.registry import configured_backends
from hybrid_video.backends.runpod.pod_token import pod_token
from hybrid_video.errors import HybridVideoError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Health, utc_now
from hybrid_video.pods.pool import PodPool
from hybrid_video.pods.store import PodStore
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings
from hybrid_video.watcher.collecting import LOOK_S as COLLECT_S
from hybrid_video.watcher.collecting import Collecting
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.health_round import HealthRound
from hybrid_video.watcher.health_store import HealthStore
from hybrid_video.watcher.lease import Holder, WatcherLease
from hybrid_video.watcher.pod_care import PodCare
from hybrid_video.watcher.scaling import Scaling

log = logging.getLogger(__name__)

HEALTH_S = 30.0
RENEW_S = 10.0
RECONCILE_S = 60.0
TENDING_S = 5.0
SHORTEST_TENDING_S = 0.4
"""Beside quickened emulators; the vendor's quota of requests is not quickened."""

STAND_BY_S = 2.0
WIND_UP_S = 20.0
"""A watcher that is ended spends so long on closing idle pods; a pod's lease ends what is left."""

END_S = 15.0
"""What is under way at the end, such as the creation of a pod, may take so long to be finished."""

TICK_TIMEOUT_S = 60.0
COMPLAIN_S = 60.0
"""A duty that fails again and again says so once a minute."""

Where = Literal["watch", "run", "flow"]
Tell = Callable[[str], None]


@dataclass
class Duty:
    """Something done at a pace; `poke` has it done at once."""

    name: str
    every_s: float
    work: Callable[[], Awaitable[object]]
    first_later: bool = False
    failures: int = 0
    poke: asyncio.Event = field(default_factory=asyncio.Event)
    complained_s: float = field(default=float("-inf"))


class Watcher:
    """One process's watcher. `run` it; `stop` ends it cleanly.

    Args:
        where: what it lives in, shown to people: the command `watch`, a run, or a flow.
        tell: told in sentences what was done, for a command line or a run's notices.
        health: whether it looks at the backends; a run that lives for minutes leaves them to its own fleet.
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        owner: Owner,
        *,
        where: Where = "watch",
        tell: Tell | None = None,
        health: bool = True,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._lease = WatcherLease(settings, ledger, owner)
        self._owner = owner
        self._collecting: Collecting | None = None
        self._where = where
        self._tell = tell or (lambda _text: None)
        self._demands = DemandStore(ledger, owner)
        self._health_store = HealthStore(ledger)
        self._with_health = health
        self._round: HealthRound | None = None
        self._pool: PodPool | None = None
        self._scaling: Scaling | None = None
        self._care: PodCare | None = None
        self._started_at = utc_now()
        self._stopping = asyncio.Event()
        self._ending = asyncio.Event()
        self._paced: dict[str, Duty] = {}
        self._ill: dict[str, str] = {}
        self._told_failed = ""
        self._other: Holder | None = None
        self.acting = False
        """Whether this process is the watcher now."""

    @property
    def scaling(self) -> Scaling | None:
        """What decides over pods while this process watches; None where pods are not configured."""
        return self._scaling

    def stop(self) -> None:
        """Ends `run` soon."""
        self._stopping.set()
        self._ending.set()

    async def run_until(self, asked: asyncio.Event, *, stand_by: bool = False) -> Holder | None:
        """`run`, ended when asked to: idle pods are closed first, unless a run still wants them."""
        running = asyncio.create_task(self.run(stand_by=stand_by))
        asking = asyncio.create_task(asked.wait())
        try:
            await asyncio.wait([running, asking], return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await self.wind_up(patience_s=WIND_UP_S)
                self.stop()
            return await running
        finally:
            asking.cancel()
            running.cancel()
            await asyncio.gather(running, asking, return_exceptions=True)

    async def run(self, *, stand_by: bool = False) -> Holder | None:
        """Watches until it is stopped.

        Args:
            stand_by: when another process watches, wait for its place instead of returning.

        Returns:
            Who watches instead of this process; None after a stop.
        """
        try:
            while not self._stopping.is_set():
                other = await self._take_place()
                if other is None:
                    await self._watch()
                elif not stand_by:
                    return other
                else:
                    await self._stand_by()
            return None
        finally:
            await self._leave()

    async def wind_up(self, *, patience_s: float = 60.0) -> bool:
        """Ends the pods that hold no job, before the process leaves; True when none of ours is left.

        With work of other runs left nothing is closed: one of them takes the watcher's place. Two runs that end in the
        same moment must not each leave it to the other: one that stands by behind another run's watcher waits for the
        place, or for the end of the pods.
        """
        if not pods_configured(self._settings):
            return True
        store = PodStore(self._ledger)
        until_s = time.monotonic() + patience_s
        while time.monotonic() < until_s:
            try:
                if await asyncio.to_thread(self._demands.live) or not await asyncio.to_thread(store.alive):
                    return True
                if self.acting and self._scaling is not None:
                    self._scaling.winding_up = True
                    self._paced["pods"].poke.set()
                elif not self._place_will_be_free():
                    return True
            except HybridVideoError as error:
                log.warning("the pods cannot be wound up yet: %s", error)
            await asyncio.sleep(0.5 if self._scaling is None else min(0.5, self._scaling.tick_s))
        return False

    def _place_will_be_free(self) -> bool:
        """Whether who watches instead leaves with its run; the command `watch` stays and closes pods itself."""
        return self._other is None or self._other.document.get("where") in (None, "run")

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """Does its duties, each at its own pace, until it is stopped or has lost its place."""
        self.acting = True
        self._ending.clear()
        if self._stopping.is_set():
            self._ending.set()
        log.info("watching %s as %s, process %d", self._settings.storage.home, self._where, os.getpid())
        tasks = [asyncio.create_task(self._keep(duty), name=duty.name) for duty in self._duties()]
        try:
            await self._ending.wait()
        finally:
            self.acting = False
            self._ending.set()
            for duty in self._paced.values():
                duty.poke.set()
            await asyncio.wait(tasks, timeout=END_S)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    async def _keep(self, duty: Duty) -> None:
        """Does one duty again and again; what is under way when the end comes is finished."""
        self._paced[duty.name] = duty
        while not self._ending.is_set():
            if not duty.first_later:
                await self._do(duty)
            duty.first_later = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(duty.every_s):
                    await duty.poke.wait()
            duty.poke.clear()

    def _token(self) -> str:
        return pod_token(self._settings)

    def _duties(self) -> list[Duty]:
        scale = self._settings.routing.time_scale
        duties = [Duty("lease", RENEW_S, self._renew, first_later=True)]
        if pods_configured(self._settings):
            self._pool = PodPool(self._settings, self._ledger)
            self._scaling = Scaling(self._settings, self._ledger, self._pool, self._demands)
            self._care = PodCare(self._settings, self._ledger, self._pool, self._token)
            duties += [
                Duty("pods", self._scaling.tick_s, self._scale),
                Duty("tending pods", max(SHORTEST_TENDING_S, TENDING_S / scale), self._tend),
                Duty("sick pods", self._care.pause_s, self._look_after),
                Duty("reconciling", max(5.0, RECONCILE_S / scale), self._reconcile),
            ]
        else:
            duties.append(Duty("demand", RECONCILE_S, self._sweep))
        if self._with_health:
            self._collecting = Collecting(self._settings, self._ledger, self._owner)
            duties.append(Duty("health", HEALTH_S, self._check_health))
            duties.append(Duty("collecting", COLLECT_S, self._collect))
        return duties

    async def _do(self, duty: Duty) -> None:
        began = time.monotonic()
        try:
            await duty.work()
        except Exception as error:
            duty.failures += 1
            observing.report(error)
            if began - duty.complained_s >= COMPLAIN_S:
                duty.complained_s = began
                known = isinstance(error, (HybridVideoError, TimeoutError))
                log.warning(
                    "%s failed %d times: %s: %s",
                    duty.name,
                    duty.failures,
                    type(error).__name__,
                    redact(error, 300),
                    exc_info=None if known else error,
                )
        else:
            if duty.failures:
                log.info("%s works again after %d failures", duty.name, duty.failures)
            duty.failures, duty.complained_s = 0, float("-inf")

    async def _stand_by(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STAND_BY_S):
                await self._stopping.wait()

    async def _take_place(self) -> Holder | None:
        try:
            self._other = await asyncio.to_thread(self._lease.take, self.status())
            return self._other
        except HybridVideoError as error:
            log.warning("the watcher's place cannot be taken yet: %s", error)
            return Holder("", utc_now(), {"host": "the ledger, which does not answer"})

    async def _leave(self) -> None:
        with contextlib.suppress(HybridVideoError):
            await asyncio.to_thread(self._lease.give_up)

    async def _close(self) -> None:
        for part in (self._round, self._care):
            if part is not None:
                await part.close()
        if self._pool is not None:
            await self._pool.aclose()
        self._round = self._care = self._pool = self._scaling = None

    # -- duties ----------------------------------------------------------------------------------------------------

    async def _renew(self) -> None:
        if not await asyncio.to_thread(self._lease.renew, self.status()):
            log.warning("another process has taken the watcher's place; standing by")
            self._ending.set()

    async def _scale(self) -> None:
        assert self._scaling is not None  # noqa: S101 - set with the duty
        done = await self._scaling.round()
        if done is not None:
            self._announce(done.opened, done.closed, done.reason, done.failed)
            await self._renew()

    async def _tend(self) -> None:
        assert self._pool is not None  # noqa: S101 - set with the duty
        async with asyncio.timeout(TICK_TIMEOUT_S):
            await self._pool.tick()

    async def _look_after(self) -> None:
        assert self._care is not None  # noqa: S101 - set with the duty
        for name in await self._care.look():
            self._tell(f"pod {name} is sick and is ended")

    async def _reconcile(self) -> None:
        assert self._pool is not None  # noqa: S101 - set with the duty
        for batch in await asyncio.to_thread(self._demands.sweep):
            log.info("the run of batch %s is gone; its demand is forgotten", batch)
        async with asyncio.timeout(TICK_TIMEOUT_S):
            await self._pool.reconcile()

    async def _sweep(self) -> None:
        await asyncio.to_thread(self._demands.sweep)

    async def _check_health(self) -> None:
        if self._round is None:
            self._round = HealthRound(configured_backends(await asyncio.to_thread(_context, self._settings)))
        if self._pool is not None:
            ready = await asyncio.to_thread(self._pool.store.ready)
            await self._round.show_pods({pod.pod_id for pod in ready if pod.pod_id})
        found = await self._round.check()
        await asyncio.to_thread(self._store_health, found)
        for health in found:
            before, now = self._ill.get(health.backend), "" if health.healthy else health.detail
            if bool(before) != bool(now) or before is None:
                log.info("%s is %s: %s", health.backend, "well" if health.healthy else "ill", health.detail)
                self._tell(f"{health.backend} {'is well' if health.healthy else 'is ill'}: {health.detail}")
            self._ill[health.backend] = now

    async def _collect(self) -> None:
        assert self._collecting is not None  # noqa: S101 - set with the duty
        for told in await self._collecting.look():
            log.info("%s", told)
            self._tell(told)

    def _store_health(self, found: list[Health]) -> None:
        self._health_store.save(found)
        self._health_store.forget(health.backend for health in found)

    # -- telling ---------------------------------------------------------------------------------------------------

    def _announce(self, opened: tuple[str, ...], closed: tuple[str, ...], reason: str, failed: str) -> None:
        if opened:
            self._tell(f"opening {len(opened)} pods: {reason}")
        if closed:
            self._tell(f"closed {len(closed)} pods: {reason}")
        if failed and failed != self._told_failed:
            self._tell(f"a pod could not be opened: {failed}")
        self._told_failed = failed

    def status(self) -> dict[str, Any]:
        """What it says of itself, stored with its lease: for the API, the dashboard and the runs."""
        found: dict[str, Any] = {
            "where": self._where,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "started_at": self._started_at.isoformat(timespec="seconds"),
            "pods_configured": pods_configured(self._settings),
        }
        if self._scaling is not None:
            decision = self._scaling.decision
            found |= {
                "policy": self._settings.pods.policy,
                "pods_stopped": self._scaling.stopped,
                "pods_stopped_by_limit": self._scaling.stopped_by_limit,
                "reason": decision.reason,
                "figures": {name: _plain(value) for name, value in decision.figures.items()},
                "recent": [done.as_json() for done in self._scaling.recent],
            }
        return found


def pods_configured(settings: Settings) -> bool:
    """Whether this installation may open pods."""
    return bool(settings.runpod.api_key and settings.pods.may_open)


def _context(settings: Settings) -> BackendContext:
    """Enough to build backends for health checks; nothing is quoted."""
    prices = load_prices(settings.routing.prices, settings)
    return BackendContext(settings, Quoter(prices, ServiceTimes(), settings.routing.time_scale))


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Decimal) else value
