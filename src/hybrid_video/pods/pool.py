"""Opens, looks after and closes this installation's pods. How many are worth it is decided elsewhere.

Any number of pools, in any number of processes, may work on one ledger: every step is a checked transaction, and what
one process could not finish the next one takes up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

import httpx
from pydantic import Field

from hybrid_video.backends.runpod import pod_door
from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.errors import BackendError, ConfigurationError, HybridVideoError, InputError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger.money import Caps
from hybrid_video.models import Model, Usd, utc_now
from hybrid_video.pods.accounting import Tariff
from hybrid_video.pods.bills import FINAL_AFTER_S, PodBillLine, settle_bills
from hybrid_video.pods.budgets import caps_of
from hybrid_video.pods.naming import installation_id, whose
from hybrid_video.pods.opening import Opener, adopt
from hybrid_video.pods.orphans import (
    ListedPod,
    Stopped,
    listed_pod,
    orphan_of,
    spending_alarm,
    stop_everything,
)
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.pods.tending import Tender
from hybrid_video.preferences import applied
from hybrid_video.redaction import redact
from hybrid_video.settings import PodPoolSettings, Settings

log = logging.getLogger(__name__)

LIST_EVERY_S = 30.0
"""With nothing in motion the provider's list is read this often; otherwise at every tick."""
TICK_PATIENCE_S = 10.0
"""A tick waits so long for its pods; what takes longer goes on and is not begun again meanwhile."""
IN_MOTION = frozenset({"intended", "creating", "starting", "closing"})


class PoolReport(Model):
    """The provider's list beside the ledger. `differences` are things a person should know."""

    ours: tuple[ListedPod, ...] = ()
    ended: tuple[str, ...] = Field((), description="Pods of ours that no living record stood for; they were ended.")
    vanished: tuple[str, ...] = Field((), description="Pods of the ledger that are gone at the provider.")
    unresolved: tuple[str, ...] = Field((), description="Creates whose outcome is still open.")
    other_installations: tuple[ListedPod, ...] = ()
    foreign: int = Field(0, description="Pods of the account that are not ours; nothing is done with them.")
    bills: tuple[PodBillLine, ...] = ()
    spend_usd_per_h: Usd = Decimal(0)
    alarms: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The report with money as plain strings."""
        data = self.model_dump(mode="json")
        data["spend_usd_per_h"] = f"{self.spend_usd_per_h:f}"
        for rows, pods in (("ours", self.ours), ("other_installations", self.other_installations)):
            for row, pod in zip(data[rows], pods, strict=True):
                row["cost_usd_per_h"] = f"{pod.cost_usd_per_h:f}"
        for row, bill in zip(data["bills"], self.bills, strict=True):
            row |= {"booked_usd": f"{bill.booked_usd:f}", "billed_usd": f"{bill.billed_usd:f}"}
            row["difference_usd"] = f"{bill.difference_usd:f}"
        return data


class PodPool:
    """The pods of one installation; `aclose` when done. Construction does no I/O.

    Args:
        client: the provider's management API; made from the settings when None.
        bill_final_after_s: how long after a pod's end its bill counts as complete (simulated seconds beside emulators).
    """

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        client: PodsClient | None = None,
        *,
        bill_final_after_s: float = FINAL_AFTER_S,
    ) -> None:
        self.store = PodStore(ledger)
        self.tariff = Tariff.of(settings)
        self._settings, self._ledger = settings, ledger
        self._given_client = client
        self._own_client: PodsClient | None = None
        self._http: httpx.AsyncClient | None = None
        self._owner_made: Owner | None = None
        self._bill_final_after_s = bill_final_after_s
        self._opener = Opener(settings, self.store, self._client, owner=lambda: self._owner().id, caps=self._caps)
        self._tender = Tender(
            settings,
            ledger,
            self.store,
            self._client,
            self._doors,
            owner=self._owner,
            caps=self._caps,
            bill_final_after_s=bill_final_after_s,
        )
        self._care: dict[str, asyncio.Task[None]] = {}
        self._listed_at_s: float | None = None
        self._listed_at = utc_now()
        self.alarm = ""
        """What the last look at the provider's list found alarming; "" when nothing."""

    @property
    def configured(self) -> bool:
        """Whether this installation may open pods: a key, an image or template, and a maximum above 0."""
        return self._settings.runpod.api_key is not None and self._settings.pods.may_open

    async def open(self, reason: str, *, batch: str = "", pods: PodPoolSettings | None = None) -> PodRecord:
        """Opens one pod at the cheapest place that has one; it is `starting`, or `creating` when the answer was lost.

        Args:
            reason: why, for the ledger and for people.
            batch: the batch it is opened for, if for one; its budget must carry the pod.
            pods: other wishes than the settings' (GPU, price), for a pod opened by hand.

        Raises:
            LimitError: the maximum of pods, the highest price or a budget refuses; nothing was sent.
            ConfigurationError: pods are not configured, or RunPod offers nothing like that.
            TransientError: nothing to be had now (NO_CAPACITY), or RunPod is busy or out of reach; `retry_after_s` says
                when to try again. Calls before that raise it again and send nothing.
            TerminalError: INVALID_REQUEST, AUTHENTICATION or INSUFFICIENT_FUNDS; raised again by later calls.
        """
        wishes = pods or (await asyncio.to_thread(applied, self._settings, self._ledger)).pods
        record = await self._opener.open(reason, batch=batch, pods=wishes)
        if record.state == "closing":  # somebody asked for its end while it was being created
            return await self._tender.finish(record, None, utc_now())
        if record.state == "starting" and record.price_usd_per_h > wishes.max_price_usd_per_h:
            return await self._tender.close(
                record, f"RunPod asks ${record.price_usd_per_h:f} per hour, more than a pod may cost"
            )
        return record

    async def tick(self, now: datetime | None = None) -> None:
        """One round of care: starting pods become ready, leases are renewed, lost creates found, the vanished noticed,
        orphans ended. Never raises for a provider that does not answer; call it every few seconds.

        Args:
            now: another moment than the present, for tests.
        """
        moment = now or utc_now()
        self._care = {name: task for name, task in self._care.items() if not task.done()}
        pods = await asyncio.to_thread(self.store.alive)
        listed = await self._list(pods)
        for pod in pods:
            if pod.name not in self._care and pod.name not in self._opener.in_flight:
                self._care[pod.name] = asyncio.create_task(self._tend(pod, listed, moment))
        if listed is not None:
            await self._end_orphans(listed)
        if self._care:
            await asyncio.wait(self._care.values(), timeout=TICK_PATIENCE_S)

    async def close(self, name: str, reason: str) -> PodRecord:
        """Ends a pod now, by its name or RunPod's id. What cannot be confirmed now is repeated by every tick.

        Raises:
            InputError: no such pod.
            BackendError: RunPod did not confirm it; the pod is `closing`.
        """
        return await self._tender.close(await self._known(name), reason)

    async def drain(self, name: str, reason: str) -> PodRecord:
        """Gives a pod no new jobs; `tick` ends it when the last has ended.

        Raises:
            InputError: no such pod.
        """
        pod = await self._known(name)
        if pod.state in ("starting", "creating", "intended"):
            return await self._tender.close(pod, reason)
        if pod.state != "ready":
            return pod
        return await asyncio.to_thread(self.store.mark_draining, pod.name, reason)

    async def stop_all(
        self, *, all_installations: bool = False, tell: Callable[[str], None] = lambda _text: None
    ) -> Stopped:
        """Ends every pod of this installation, known to the ledger or not, and with `all_installations` every pod of
        this product.

        Raises:
            BackendError: the provider's list cannot be had.
        """
        began_at = utc_now()
        alive = await asyncio.to_thread(self.store.alive)
        for pod in alive:
            with_reason = self.store.mark_failed if pod.state == "intended" else self.store.mark_closing
            await asyncio.to_thread(with_reason, pod.name, "everything was stopped")
        stopped = await stop_everything(
            self._client(),
            installation=self._installation(),
            known=frozenset(pod.name for pod in alive),
            all_installations=all_installations,
            found=lambda pod: self._complete(pod, began_at),
            tell=tell,
        )
        await self.tick()
        return stopped

    async def reconcile(self) -> PoolReport:
        """The provider's list and bill beside the ledger, with everything done that `tick` does.

        Raises:
            BackendError: the provider's list cannot be had.
        """
        before = await asyncio.to_thread(self.store.alive)
        everything = {pod.id: pod for pod in await self._client().list()}
        self._listed_at_s = None
        await self.tick()
        alive = {pod.name: pod for pod in await asyncio.to_thread(self.store.alive)}
        after = {pod.name: await asyncio.to_thread(self.store.get, pod.name) for pod in before}
        installation = self._installation()
        living = [pod for pod in everything.values() if pod.status != "TERMINATED"]
        ours = [pod for pod in living if pod.name in after or whose(pod.name, installation) == "ours"]
        others = [pod for pod in living if pod not in ours and whose(pod.name, installation) == "other installation"]
        bills, notices = await self._bills()
        return PoolReport(
            ours=tuple(listed_pod(pod) for pod in ours if pod.name in alive),
            ended=tuple(
                pod.name
                for pod in ours
                if pod.name not in after and (pod.name not in alive or alive[pod.name].state == "closing")
            ),
            vanished=tuple(
                name for name, pod in after.items() if pod and pod.state == "closed" and "is gone" in pod.closed_because
            ),
            unresolved=tuple(pod.name for pod in alive.values() if pod.state in ("creating", "closing")),
            other_installations=tuple(listed_pod(pod) for pod in others),
            foreign=len(living) - len(ours) - len(others),
            bills=bills,
            spend_usd_per_h=sum((pod.cost for pod in ours if pod.costs_money), Decimal(0)),
            alarms=(self.alarm,) if self.alarm else (),
            notices=notices,
        )

    async def settle_bills(self) -> tuple[PodBillLine, ...]:
        """Books what RunPod's bill says of pods that are gone; see `bills`.

        Raises:
            BackendError: the bill cannot be had.
        """
        return await settle_bills(
            self._client(), self._ledger, self.store, self.tariff, final_after_s=self._bill_final_after_s
        )

    async def aclose(self) -> None:
        """Closes connections. Pods go on until their leases end."""
        for task in self._care.values():
            task.cancel()
        await asyncio.gather(*self._care.values(), return_exceptions=True)
        self._care = {}
        client, self._own_client = self._own_client, None
        http, self._http = self._http, None
        owner, self._owner_made = self._owner_made, None
        if client is not None:
            await client.close()
        if http is not None:
            await http.aclose()
        if owner is not None:
            owner.close()

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _complete(self, pod: Pod, listed_at: datetime) -> None:
        """A listed pod that is about to be ended gets, or completes, its record: what it cost has to be booked."""
        known = self.store.get(pod.name)
        if known is None or not known.alive:
            orphan_of(pod, self._installation(), self.store, listed_at)
        elif known.pod_id is None:
            adopt(self.store, pod.name, pod, "found by its name, to be ended")

    async def _tend(self, pod: PodRecord, listed: dict[str, Pod] | None, now: datetime) -> None:
        try:
            await self._tender.tend(pod, listed, now)
        except HybridVideoError as error:
            log.warning("pod %s: %s", pod.name, redact(error, 500))

    async def _list(self, pods: tuple[PodRecord, ...]) -> dict[str, Pod] | None:
        """The provider's living pods by id, where something is in motion or the last look is old; else None."""
        age_s = time.monotonic() - self._listed_at_s if self._listed_at_s is not None else None
        moving = any(pod.state in IN_MOTION for pod in pods)
        if not moving and age_s is not None and age_s < LIST_EVERY_S / self.tariff.time_scale:
            return None
        asked_at = utc_now()
        try:
            found = await self._client().list()
        except (BackendError, ConfigurationError) as error:
            log.warning("RunPod's list of pods cannot be had: %s", redact(error, 300))
            return None
        self._listed_at, self._listed_at_s = asked_at, time.monotonic()
        return {pod.id: pod for pod in found if pod.status != "TERMINATED"}

    async def _end_orphans(self, listed: dict[str, Pod]) -> None:
        installation = self._installation()
        for pod in listed.values():
            orphan = await asyncio.to_thread(orphan_of, pod, installation, self.store, self._listed_at)
            if orphan is not None and orphan.name not in self._care:
                self._care[orphan.name] = asyncio.create_task(self._tend(orphan, listed, utc_now()))
        alive = await asyncio.to_thread(self.store.alive)
        self.alarm = spending_alarm(listed.values(), alive, installation)
        if self.alarm:
            log.warning("%s", self.alarm)

    async def _bills(self) -> tuple[tuple[PodBillLine, ...], tuple[str, ...]]:
        try:
            return await self.settle_bills(), ()
        except BackendError as error:
            return (), (f"RunPod's bill for pods could not be had: {error.message}",)

    async def _known(self, name: str) -> PodRecord:
        pod = await asyncio.to_thread(self.store.get, name)
        if pod is None:
            raise InputError(f"no pod is named {name!r}; `hybrid-video pods list` names those there are")
        return pod

    def _caps(self) -> Caps:
        """The budgets as they are now: they may have been changed since this process began."""
        return caps_of(applied(self._settings, self._ledger))

    def _installation(self) -> str:
        return installation_id(self._settings.storage.home)

    def _owner(self) -> Owner:
        if self._owner_made is None:
            self._owner_made = Owner(self._settings.storage.home)
        return self._owner_made

    def _client(self) -> PodsClient:
        if self._given_client is not None:
            return self._given_client
        if self._own_client is None:
            self._own_client = PodsClient.from_settings(self._settings.runpod)
        return self._own_client

    def _doors(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = pod_door.client(self._settings.runpod.pods_url)
        return self._http
