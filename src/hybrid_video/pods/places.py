"""Where a pod may be had, the cheapest place first: GPU type, cloud and data centre, by RunPod's own catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from hybrid_video.backends.runpod.pod_records import Availability, Cloud, GpuType
from hybrid_video.backends.runpod.pods import KEY, PodsClient
from hybrid_video.errors import ConfigurationError, FailureKind, LimitError, TransientError
from hybrid_video.pods.store import PlaceKey, RefusedPlace
from hybrid_video.settings import PodPoolSettings


@dataclass(frozen=True)
class Place:
    """One thing to ask for; RunPod takes one GPU type at a time and no list of fallbacks."""

    gpu: str
    cloud: Cloud
    data_center: str
    price_usd_per_h: Decimal
    stock: Availability

    @property
    def key(self) -> PlaceKey:
        """As the table of refused places names it."""
        return (self.gpu, self.cloud, self.data_center)

    def __str__(self) -> str:
        where = f" in {self.data_center}" if self.data_center else ""
        return f"{self.gpu} ({self.cloud.lower()} cloud{where}, ${self.price_usd_per_h:f} per hour)"


async def find_places(
    client: PodsClient, settings: PodPoolSettings, refused: Mapping[PlaceKey, RefusedPlace], now: datetime
) -> tuple[Place, ...]:
    """Every place worth asking at now, the cheapest first; at one price, in the order of the settings.

    Raises:
        ConfigurationError: RunPod offers none of the GPU types.
        LimitError: all of them cost more than a pod may.
        TransientError: NO_CAPACITY, all of them are sold out or have just refused.
    """
    offers = {cloud: await client.catalogue(cloud=cloud) for cloud in dict.fromkeys(settings.clouds)}
    offered = [place for cloud, types in offers.items() for place in _of_cloud(cloud, types, settings)]
    if not offered:
        raise ConfigurationError(
            f"RunPod offers none of {', '.join(settings.gpus)!r} for pods in {', '.join(settings.clouds)!r}; correct "
            "HYBRID_VIDEO_PODS_GPUS (RunPod's names, as `hybrid-video prices` shows them) or HYBRID_VIDEO_PODS_CLOUDS"
        )
    affordable = [place for place in offered if place.price_usd_per_h <= settings.max_price_usd_per_h]
    if not affordable:
        cheapest = min(offered, key=lambda place: place.price_usd_per_h)
        raise LimitError(
            f"the cheapest pod is {cheapest}, and at most ${settings.max_price_usd_per_h:f} per hour may be paid; "
            "raise HYBRID_VIDEO_PODS_MAX_PRICE_USD_PER_H, or name a cheaper GPU in HYBRID_VIDEO_PODS_GPUS"
        )
    open_now = [place for place in affordable if place.stock != "NONE" and place.key not in refused]
    if not open_now:
        raise _nothing_now(affordable, refused, now)
    gpus = {gpu: number for number, gpu in enumerate(settings.gpus)}
    clouds = {cloud: number for number, cloud in enumerate(settings.clouds)}
    return tuple(sorted(open_now, key=lambda place: (place.price_usd_per_h, gpus[place.gpu], clouds[place.cloud])))


def _of_cloud(cloud: Cloud, types: tuple[GpuType, ...], settings: PodPoolSettings) -> list[Place]:
    by_id = {gpu.id: gpu for gpu in types}
    places = []
    for gpu_id in settings.gpus:
        gpu = by_id.get(gpu_id)
        price = (gpu.price.secure if cloud == "SECURE" else gpu.price.community) if gpu else Decimal(0)
        if gpu is None or price <= 0:  # not offered in this cloud
            continue
        places += [Place(gpu_id, cloud, dc, price, gpu.stock_in(dc)) for dc in settings.data_centers or ("",)]
    return places


def _nothing_now(places: list[Place], refused: Mapping[PlaceKey, RefusedPlace], now: datetime) -> TransientError:
    waiting = [refused[place.key].until for place in places if place.key in refused]
    wait_s = max(0.0, (min(waiting) - now).total_seconds()) if waiting else None
    words = "; ".join(
        f"{place}: {refused[place.key].message if place.key in refused else 'sold out'}" for place in places[:6]
    )
    return TransientError(
        f"no pod can be had now: {words}. Wait, or name more GPU types, clouds or data centres in "
        "HYBRID_VIDEO_PODS_GPUS, _CLOUDS and _DATA_CENTERS",
        kind=FailureKind.NO_CAPACITY,
        backend=KEY,
        execution_s=0.0,
        retry_after_s=wait_s,
    )
