"""Looks after one pod: from starting to ready, its lease, its money, its end. Every step may be repeated.

Another process may be looking after the same pod; the ledger's checked transitions make that harmless.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal

import httpx

from hybrid_video.backends.runpod.pod_door import PodDoor
from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.backends.runpod.pod_token import pod_token
from hybrid_video.backends.runpod.pods import KEY, PodsClient
from hybrid_video.errors import BackendError, ConfigurationError, LimitError
from hybrid_video.installation import installation_id
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.lanes import held
from hybrid_video.ledger.money import Caps
from hybrid_video.ledger.owner import Owner
from hybrid_video.models import utc_now
from hybrid_video.pods import accounting
from hybrid_video.pods.accounting import Tariff
from hybrid_video.pods.bills import FINAL_AFTER_S, trace_lost
from hybrid_video.pods.naming import whose
from hybrid_video.pods.opening import adopt
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings

log = logging.getLogger(__name__)

APPEARS_WITHIN_S = 120.0
"""A pod whose create answer was lost and that is not listed after this was never created."""
RENEW_AFTER = 1 / 3
"""Share of the lease after which it is renewed."""
MARGIN_S = 60.0
"""Seconds reserved beyond the lease: until the provider has really ended the pod."""
PROBE_PATIENCE_S = 60.0
NOT_OURS_TO_RENEW = (
    "another machine on this ledger opened it with another token, so its lease cannot be renewed from here; set "
    "HYBRID_VIDEO_RUNPOD_POD_TOKEN to one value on all of them"
)

Listed = Mapping[str, Pod]
"""The provider's living pods by id, as just listed."""


class Tender:
    """Care for the pods of one installation."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        store: PodStore,
        client: Callable[[], PodsClient],
        http: Callable[[], httpx.AsyncClient],
        *,
        owner: Callable[[], Owner],
        caps: Callable[[], Caps],
        bill_final_after_s: float = FINAL_AFTER_S,
    ) -> None:
        self._settings, self._ledger, self._store = settings, ledger, store
        self._client, self._http, self._owner, self._caps = client, http, owner, caps
        self._bill_final_after_s = bill_final_after_s
        self._pods = settings.pods
        self._tariff = Tariff.of(settings)
        self._scale = settings.routing.time_scale

    async def tend(self, pod: PodRecord, listed: Listed | None, now: datetime) -> None:
        """One round of care. `listed` is None when the provider's list could not be had.

        Raises:
            BackendError, LedgerError: it could not be carried out now; the next round tries again.
        """
        if pod.state in ("intended", "creating"):
            await self._find_lost(pod, listed, now)
        elif pod.state == "closing":
            await self.finish(pod, listed, now)
        elif not await self._still_there(pod, listed, now):
            return
        elif pod.state == "starting":
            await self._start(pod, listed, now)
        else:
            await self._keep(pod, now)

    async def close(self, pod: PodRecord, reason: str) -> PodRecord:
        """Ends a pod; what cannot be confirmed now is repeated by later rounds."""
        if pod.state == "intended":
            return await asyncio.to_thread(self._store.mark_failed, pod.name, reason)
        pod = await asyncio.to_thread(self._store.mark_closing, pod.name, reason)
        if pod.state != "closing":
            return pod
        log.info("closing pod %s: %s", pod.name, pod.closed_because)
        return await self.finish(pod, None, utc_now())

    async def finish(self, pod: PodRecord, listed: Listed | None, now: datetime) -> PodRecord:
        """Terminates a pod that is `closing`, and books what it cost once it is gone for certain."""
        pod_id = pod.pod_id
        if pod_id is None:
            found = await self._client().find(pod.name) if listed is None else _named(listed, pod.name)
            if found is None:
                return await self._give_up(pod, now)
            pod = await asyncio.to_thread(adopt, self._store, pod.name, found, "found by its name, to be ended")
            pod_id = found.id
        try:
            was_there = await self._client().terminate(pod_id)
        except BackendError as error:
            await asyncio.to_thread(self._store.troubled, pod.name, f"could not be ended yet: {error.message}")
            raise
        return await asyncio.to_thread(self._gone, pod, utc_now(), "" if was_there else "it was gone already")

    # -- lost creates ----------------------------------------------------------------------------------------------

    async def _find_lost(self, pod: PodRecord, listed: Listed | None, now: datetime) -> None:
        """A create that no living process is waiting for: the pod is adopted, or it never came to be."""
        if pod.owner is not None and self._owner().is_alive(pod.owner) and pod.owner != self._owner().id:
            return
        if listed is None:
            return
        found = _named(listed, pod.name)
        if found is not None:
            await asyncio.to_thread(adopt, self._store, pod.name, found, "found by its name and adopted")
        elif pod.state == "intended" and (pod.owner is None or self._owner().is_dead(pod.owner)):
            await asyncio.to_thread(
                self._store.mark_failed, pod.name, "the process that wanted it ended before anything was sent"
            )
        else:
            await self._give_up(pod, now)

    async def _give_up(self, pod: PodRecord, now: datetime) -> PodRecord:
        """A pod that is not listed. Within its first lease it would be, so it never came to be. After that it may have
        ended itself unseen: then only RunPod's bill knows of it."""
        age_s = (now - pod.intended_at).total_seconds()
        if age_s < self._patience_s():
            return pod
        if age_s >= self._lease_s():
            longest_s = self._pods.ready_timeout_s + self._pods.lease_s + MARGIN_S
            pod_id = await trace_lost(self._client(), self._store, self._tariff, pod, longest_s=longest_s)
            if pod_id is not None:
                return await asyncio.to_thread(self._ended_unseen, pod, pod_id, longest_s)
            if age_s * self._scale < longest_s + self._bill_final_after_s:
                return pod
        words = "the answer to its create was lost and RunPod knows no such pod: it was never created"
        return await asyncio.to_thread(self._store.mark_failed, pod.name, words)

    def _ended_unseen(self, pod: PodRecord, pod_id: str, longest_s: float) -> PodRecord:
        """It lived and ended itself while nobody looked. What it can have cost is booked until the bill is complete."""
        detail = f"{pod_id}, found on RunPod's bill: it had ended itself before anybody looked"
        self._store.mark_created(pod.name, pod_id, now=pod.intended_at, detail=detail)
        self._store.mark_closing(pod.name, "its lease had run out while nobody looked")
        ended = min(utc_now(), pod.intended_at + timedelta(seconds=longest_s / self._scale))
        found = self._store.get(pod.name) or pod
        cost = self._tariff.cost(found.model_copy(update={"closed_at": ended}), ended)
        return self._store.mark_closed(pod.name, cost_usd=cost, now=ended)

    def _patience_s(self) -> float:
        return max(2.0, APPEARS_WITHIN_S / self._scale)

    # -- living pods -----------------------------------------------------------------------------------------------

    async def _still_there(self, pod: PodRecord, listed: Listed | None, now: datetime) -> bool:
        """Whether the provider still has it running; notices what vanished, ended itself or was stopped."""
        if listed is None or pod.pod_id is None:
            return True
        seen = listed.get(pod.pod_id) or await self._client().get(pod.pod_id)
        if seen is None or seen.status == "TERMINATED":
            await asyncio.to_thread(self._gone, pod, now, "it is gone: RunPod does not list it any more")
            return False
        if seen.status in ("EXITED", "ERROR"):
            await self.close(pod, f"RunPod reports it as {seen.status}")
            return False
        return True

    async def _start(self, pod: PodRecord, listed: Listed | None, now: datetime) -> None:
        seen = listed.get(pod.pod_id or "") if listed else None
        if (now - pod.billed_from).total_seconds() > self._pods.ready_timeout_s / self._scale:
            limit = f"{self._pods.ready_timeout_s:g} s"
            await self.close(pod, f"it rendered nothing within {limit}: {pod.error or 'its container never came up'}")
            return
        if not await self._cover(pod, now):
            return
        if seen is None or seen.status != "RUNNING":
            return
        if await self._renew(pod, now):
            await self._probe(pod)

    async def _probe(self, pod: PodRecord) -> None:
        door = self._door(pod)
        patience = max(5.0, min(PROBE_PATIENCE_S / self._scale, self._lease_s() / 3))
        try:
            took = await door.prove_ready(patience_s=patience, pause_s=max(0.02, 0.5 / self._scale))
        except ConfigurationError as error:
            await self.close(pod, error.message)
        except BackendError as error:
            await asyncio.to_thread(self._store.troubled, pod.name, error.message)
        else:
            await asyncio.to_thread(self._store.mark_ready, pod.name, detail=f"rendered a probe in {took:.1f} s")
            log.info("pod %s is ready", pod.name)

    async def _keep(self, pod: PodRecord, now: datetime) -> None:
        """A ready or draining pod: its money, its lease, and its end when it is draining and idle."""
        busy = await asyncio.to_thread(jobs_on, self._ledger, pod.lane)
        if busy:
            await asyncio.to_thread(self._store.busy, pod.name, now)
        elif pod.state == "draining":
            await self.close(pod, pod.closed_because or "drained")
            return
        if not self._is_due(pod, now):
            return
        if await self._cover(pod, now):
            await self._renew(pod, now)

    def _is_due(self, pod: PodRecord, now: datetime) -> bool:
        if pod.lease_until is None:
            return True
        left_s = (pod.lease_until - now).total_seconds()
        return left_s <= self._lease_s() * (1 - RENEW_AFTER)

    def _lease_s(self) -> float:
        """Length of a lease in seconds of this machine's clock."""
        return self._pods.lease_s / self._scale

    async def _renew(self, pod: PodRecord, now: datetime) -> bool:
        """Renews the lease; ends a pod that has none to renew, or whose lease nobody could renew in time."""
        asked_at = utc_now()
        answer = await self._door(pod).renew(round(self._pods.lease_s))
        if answer == "renewed":
            # Counted from before the question: the keeper's lease never ends earlier than we believe.
            await asyncio.to_thread(self._store.renewed, pod.name, asked_at + timedelta(seconds=self._lease_s()))
            return True
        if answer == "no keeper":
            await self.close(
                pod, "it has no lease keeper, so nothing would end it without us; use the image docker/comfyui-pod"
            )
        elif answer == "refused" and whose(pod.name, installation_id(self._settings.storage.home)) == "ours":
            await self.close(pod, "its proxy wants another token than ours")
        elif answer == "refused":
            await asyncio.to_thread(self._store.troubled, pod.name, NOT_OURS_TO_RENEW)
        elif answer == "ending":
            await self.close(pod, "its lease had run out and it is ending itself")
        elif pod.lease_until is not None and pod.lease_until < now:
            await self.close(pod, "its lease has run out, and it could not be reached to renew it")
        elif pod.state != "starting":
            await asyncio.to_thread(self._store.troubled, pod.name, "its lease could not be renewed; tried again")
        return False

    # -- money -----------------------------------------------------------------------------------------------------

    async def _cover(self, pod: PodRecord, now: datetime) -> bool:
        """Reserves what the pod may cost until its next lease ends; a pod that no budget carries is closed."""
        try:
            await asyncio.to_thread(self._reserve, pod, now)
        except LimitError as error:
            busy = await asyncio.to_thread(jobs_on, self._ledger, pod.lane) if pod.state == "ready" else 0
            if busy:
                await asyncio.to_thread(self._store.mark_draining, pod.name, str(error))
            elif pod.state != "draining" or pod.lease_until is None or (pod.lease_until - now).total_seconds() < 1:
                await self.close(pod, str(error))
            return False
        return True

    def _reserve(self, pod: PodRecord, now: datetime) -> None:
        cost = self._tariff.cost(pod, now)
        ahead_s = self._pods.lease_s + MARGIN_S
        whole = self._tariff.for_seconds(
            self._tariff.billed_s(pod, now) + ahead_s, pod.price_usd_per_h, pod.storage_usd_per_h
        )
        today = now.date().isoformat()
        if today != pod.day:
            accounting.roll_over(self._ledger, pod.name, cost, day=today, reserve_usd=whole - cost, caps=self._caps())
            return
        jobs = accounting.account(self._ledger, pod, cost).jobs_usd
        needed = max(Decimal(0), whole - jobs - pod.booked_usd)
        if needed > pod.reserved_usd:
            self._store.extend(pod.name, needed, self._caps())

    def _gone(self, pod: PodRecord, now: datetime, reason: str) -> PodRecord:
        """It is gone for certain: its end and its cost, by our clock; RunPod's bill corrects them later."""
        ended = now
        if reason and pod.lease_until is not None and pod.lease_until < now:
            ended = max(pod.lease_until, pod.billed_from)  # it ended itself, or was ended before
        cost = self._tariff.cost(pod.model_copy(update={"closed_at": ended}), ended)
        log.info("pod %s is gone and cost about $%s", pod.name, cost)
        return self._store.mark_closed(pod.name, cost_usd=cost, reason=reason, now=ended)

    def _door(self, pod: PodRecord) -> PodDoor:
        pod_id = pod.pod_id or ""
        token = pod_token(self._settings)
        return PodDoor(pod_id, self._settings.runpod.pod_url(pod_id), token, self._http(), backend=KEY)


def jobs_on(ledger: Ledger, lane: str) -> int:
    """Prompts under way on a pod. What a dead run has left there counts for a moment only: it must not keep a pod open
    for ever."""
    if not lane:
        return 0
    with ledger.reading() as connection:
        return len(held(connection, lanes=[lane]))


def _named(listed: Listed, name: str) -> Pod | None:
    return next((pod for pod in listed.values() if pod.name == name), None)
