"""Opens one pod: the cheapest place that has one, its money reserved before RunPod hears of it.

What RunPod's refusals mean (docs.runpod.io/api-reference-v2): 422 the request is wrong, and never sent again; 400 a
broken rule or no capacity, so the next place is asked, and this one not for a while; 402 and 403 stop until a person
has done something; 429 and 5xx are waited out. A create has no idempotency key: when its answer is lost, the pod is
looked for by its name, and nothing is sent a second time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from hybrid_video.backends.runpod.pod_records import Pod, PodSpec
from hybrid_video.backends.runpod.pod_token import pod_token
from hybrid_video.backends.runpod.pods import KEY, PodsClient
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    HybridVideoError,
    LimitError,
    SubmitUncertain,
    TerminalError,
    TransientError,
)
from hybrid_video.ledger.money import Caps
from hybrid_video.models import utc_now
from hybrid_video.pods.accounting import STORAGE_USD_PER_GB_H, Tariff
from hybrid_video.pods.naming import new_name
from hybrid_video.pods.places import Place, find_places
from hybrid_video.pods.records import PodIntent, PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import PodPoolSettings, Settings

log = logging.getLogger(__name__)

API_URL = "https://api.runpod.io/v2"
REFUSED_FOR_S = 300.0
"""How long nobody asks again at a place without capacity."""
STOPPED_FOR_S = 600.0
"""How long a missing balance or right stops every create; a person can mend it meanwhile."""
FIRST_BACK_OFF_S, LONGEST_BACK_OFF_S = 5.0, 300.0
LOOK_AFTER_S = (0.0, 1.0, 3.0)
"""Pauses before each look for a pod whose create answer was lost; later looks are the tick's."""


@dataclass(frozen=True)
class _Stop:
    """Why nothing is sent now, and until when (monotonic seconds; None: until the settings change)."""

    error: HybridVideoError
    until_s: float | None
    settings: PodPoolSettings


class Opener:
    """Opens pods for one installation. Several opens may be under way at once."""

    def __init__(
        self,
        settings: Settings,
        store: PodStore,
        client: Callable[[], PodsClient],
        *,
        owner: Callable[[], str],
        caps: Callable[[], Caps],
    ) -> None:
        self._settings, self._store, self._client = settings, store, client
        self._owner, self._caps = owner, caps
        self._tariff = Tariff.of(settings)
        self._stop: _Stop | None = None
        self._back_off_s = 0.0
        self.in_flight: set[str] = set()
        """Names whose create call is under way in this process."""

    async def open(self, reason: str, *, batch: str, pods: PodPoolSettings) -> PodRecord:
        """See `PodPool.open`."""
        self._require_configured(pods)
        self._check_stop(pods)
        token = pod_token(self._settings)
        try:
            now = utc_now()
            refused = await asyncio.to_thread(self._store.refused_places, now)
            places = await find_places(self._client(), pods, refused, now)
            return await self._try(places, reason, batch, pods, token)
        except TransientError as error:
            self._note(error, pods)
            raise

    async def _try(
        self, places: tuple[Place, ...], reason: str, batch: str, pods: PodPoolSettings, token: str
    ) -> PodRecord:
        name = new_name(self._settings.storage.home)
        intents = [self._intent(name, place, reason, batch, pods) for place in places]
        await asyncio.to_thread(
            self._store.intend, intents[0], caps=self._caps(), max_pods=pods.max_pods, owner=self._owner()
        )
        self.in_flight.add(name)
        try:
            words: list[str] = []
            for place, intent in zip(places, intents, strict=True):
                if intent is not intents[0]:
                    await self._next_place(name, intent)
                try:
                    return await self._create(name, place, pods, token)
                except TransientError as error:
                    if error.kind is not FailureKind.NO_CAPACITY:
                        raise
                    words.append(f"{place}: {error.detail or error.message}")
                    await self._refuse(place, error.detail or error.message)
            raise TransientError(
                f"no pod can be had now; asked at {len(places)} places: {'; '.join(words[:6])}. If all of them go on "
                "to refuse, the request itself breaks a rule: check image, disk and network volume",
                kind=FailureKind.NO_CAPACITY,
                backend=KEY,
                execution_s=0.0,
                retry_after_s=REFUSED_FOR_S / self._tariff.time_scale,
            )
        except (TransientError, TerminalError, LimitError) as error:  # certainly nothing was created
            await asyncio.to_thread(self._store.mark_failed, name, str(error))
            if isinstance(error, TerminalError):
                self._stop_for(error, pods)
            raise
        finally:
            self.in_flight.discard(name)

    async def _create(self, name: str, place: Place, pods: PodPoolSettings, token: str) -> PodRecord:
        """One create call. Its answer is stored before anything else happens."""
        await asyncio.to_thread(self._store.mark_creating, name)
        log.info("creating pod %s: %s", name, place)
        try:
            pod = await self._client().create(self._spec(name, place, pods, token))
        except SubmitUncertain as error:
            await asyncio.to_thread(self._store.note, name, "uncertain", error.message)
            return await self._look_for(name)
        self._back_off_s = 0.0
        return await asyncio.to_thread(adopt, self._store, name, pod)

    async def _look_for(self, name: str) -> PodRecord:
        for pause_s in LOOK_AFTER_S:
            await asyncio.sleep(pause_s / self._tariff.time_scale)
            try:
                pod = await self._client().find(name)
            except BackendError as error:
                log.warning("whether pod %s exists is not known yet: %s", name, error)
                continue
            if pod is not None:
                return await asyncio.to_thread(adopt, self._store, name, pod, "found by its name: the answer was lost")
        record = await asyncio.to_thread(self._store.get, name)
        assert record is not None  # noqa: S101 - rows are never deleted
        return record

    async def _next_place(self, name: str, intent: PodIntent) -> None:
        await asyncio.to_thread(self._store.try_place, name, intent, self._caps())

    async def _refuse(self, place: Place, message: str) -> None:
        until = utc_now() + timedelta(seconds=REFUSED_FOR_S / self._tariff.time_scale)
        await asyncio.to_thread(self._store.refuse_place, *place.key, until=until, message=message)

    def _intent(self, name: str, place: Place, reason: str, batch: str, pods: PodPoolSettings) -> PodIntent:
        storage = STORAGE_USD_PER_GB_H * pods.disk_gb
        keep_alive_s = pods.threshold_idle_s if pods.policy == "threshold" else pods.cold_start_s
        seconds = pods.cold_start_s + keep_alive_s + pods.lease_s
        return PodIntent(
            name=name,
            gpu=place.gpu,
            cloud=place.cloud,
            data_center=place.data_center,
            price_usd_per_h=place.price_usd_per_h,
            storage_usd_per_h=storage.quantize(Decimal("0.000000001")),
            reserve_usd=self._tariff.for_seconds(seconds, place.price_usd_per_h, storage),
            reason=reason,
            batch=batch,
        )

    def _spec(self, name: str, place: Place, pods: PodPoolSettings, token: str) -> PodSpec:
        env = {"HYBRID_VIDEO_POD_LEASE_S": str(round(pods.lease_s)), "HYBRID_VIDEO_POD_NAME": name}
        if not (pods.template_id and self._settings.runpod.pod_token):
            # A template may take the token from one of RunPod's secrets, which keeps it out of the pods' listing.
            env["HYBRID_VIDEO_POD_TOKEN"] = token
        if self._settings.runpod.management_url != API_URL:
            env["HYBRID_VIDEO_POD_API_URL"] = self._settings.runpod.management_url
        return PodSpec(
            name=name,
            image="" if pods.template_id else pods.image,
            template_id=pods.template_id,
            gpu=place.gpu,
            min_cuda_version=pods.min_cuda_version,
            cloud=place.cloud,
            data_center_ids=(place.data_center,) if place.data_center else (),
            disk_gb=pods.disk_gb,
            ports=(f"{self._settings.runpod.pod_port}/http",),
            env=env,
            network_volume_id=pods.network_volume_id,
        )

    @staticmethod
    def _require_configured(pods: PodPoolSettings) -> None:
        if not pods.image and not pods.template_id:
            raise ConfigurationError(
                "no image for pods is configured; set HYBRID_VIDEO_PODS_IMAGE to the image built from "
                "docker/comfyui-pod, or HYBRID_VIDEO_PODS_TEMPLATE_ID to a RunPod template that uses it"
            )

    # -- stops and back-off ----------------------------------------------------------------------------------------

    def _check_stop(self, pods: PodPoolSettings) -> None:
        """Raises again what stands in the way until its time is over, or the settings are others."""
        stop = self._stop
        if stop is None:
            return
        over = stop.until_s is not None and time.monotonic() >= stop.until_s
        if over or (isinstance(stop.error, TerminalError) and stop.settings != pods):
            self._stop = None
            return
        if isinstance(stop.error, TransientError) and stop.until_s is not None:
            stop.error.retry_after_s = max(0.0, stop.until_s - time.monotonic())
        raise stop.error

    def _stop_for(self, error: TerminalError, pods: PodPoolSettings) -> None:
        for_good = error.kind is FailureKind.INVALID_REQUEST
        until = None if for_good else time.monotonic() + STOPPED_FOR_S / self._tariff.time_scale
        self._stop = _Stop(error, until, pods)

    def _note(self, error: TransientError, pods: PodPoolSettings) -> None:
        """Rate limits and outages are waited out, doubling; RunPod's own advice counts for more."""
        if error.kind not in (FailureKind.RATE_LIMITED, FailureKind.UNREACHABLE):
            return
        self._back_off_s = min(LONGEST_BACK_OFF_S, max(FIRST_BACK_OFF_S, self._back_off_s * 2))
        wait_s = error.retry_after_s if error.retry_after_s is not None else self._back_off_s / self._tariff.time_scale
        self._stop = _Stop(error, time.monotonic() + wait_s, pods)


def adopt(store: PodStore, name: str, pod: Pod, detail: str = "") -> PodRecord:
    """Stores what RunPod says of a pod that carries our name."""
    return store.mark_created(
        name,
        pod.id,
        price_usd_per_h=pod.cost if pod.cost > 0 else None,
        data_center=pod.data_center_id or "",
        detail=detail,
    )
