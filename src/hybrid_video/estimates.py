"""Money and time per tier without asking any backend: what `plan` and the calculator start from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import OutputSpec, Quote, Tier, VideoJob
from hybrid_video.planner import Resource
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.scaling.state import PodOffer
from hybrid_video.settings import Settings

DEFAULT_MODEL = "wan2.2-ti2v-5b"
GOOGLE_MODEL = "gemini-omni-1.2-flash"
NANO_USD = Decimal("0.000000001")


def tier_quote(quoter: Quoter, settings: Settings, tier: Tier, job: VideoJob) -> Quote:
    """A typical quote of one tier for a job, with the configured GPU and Google's cheapest model."""
    output = OutputSpec(width=job.width, height=job.height, fps=job.fps, frames=job.frames)
    model = DEFAULT_MODEL if job.workflow == "auto" else job.workflow
    if tier is Tier.LOCAL:
        return quoter.gpu_time(backend="comfyui", tier=tier, model=model, gpu=settings.comfyui.gpu, output=output)
    if tier is Tier.CLOUD:
        gpu = settings.runpod.gpu
        return quoter.gpu_time(backend="runpod-serverless", tier=tier, model=model, gpu=gpu, output=output)
    seconds = max(3, math.ceil(job.duration_s))
    made = OutputSpec(width=1280, height=720, fps=24, frames=24 * seconds)
    return quoter.video_time(
        backend="gemini",
        tier=tier,
        model=GOOGLE_MODEL,
        resolution=settings.gemini.resolution,
        billed_video_s=seconds,
        output=made,
    )


def default_slots(settings: Settings) -> dict[Tier, int]:
    """How many clips each tier makes at once, as configured."""
    return {
        Tier.LOCAL: max(1, len(settings.comfyui.urls)),
        Tier.CLOUD: settings.runpod.max_workers,
        Tier.GEMINI: settings.gemini.max_concurrent,
    }


def parse_slots(text: str) -> dict[Tier, int]:
    """Reads `local=3,cloud=5,gemini=10`; a tier left out has none.

    Raises:
        InputError: an unknown tier, or a number below 0 or above 10,000.
    """
    slots: dict[Tier, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition("=")
        try:
            tier, count = Tier(name.strip()), int(number)
        except ValueError:
            raise InputError(
                f"--slots: {part!r} is not understood; write for example local=3,cloud=5,gemini=10"
            ) from None
        if not 0 <= count <= 10_000:
            raise InputError(f"--slots: {part!r} is out of range; give a number from 0 to 10000")
        slots[tier] = count
    if not any(slots.values()):
        raise InputError("--slots: no tier has a slot; write for example local=3,cloud=5,gemini=10")
    return slots


def resources(quotes: Mapping[Tier, Sequence[Quote]], slots: Mapping[Tier, int]) -> list[Resource]:
    """Planner resources from the mean quote of each tier, in tier order."""
    result = []
    for tier in Tier:
        mine = quotes.get(tier, ())
        if not mine or not slots.get(tier):
            continue
        price = (sum((quote.amount_usd for quote in mine), Decimal(0)) / len(mine)).quantize(NANO_USD)
        service = sum(quote.service_s for quote in mine) / len(mine)
        result.append(Resource(tier.value, slots[tier], service, price))
    return result


def cheapest_pod_usd_per_h(book: PriceBook, settings: Settings) -> Decimal | None:
    """US dollars per hour of the cheapest GPU that may be opened as a pod; None where none has a price in reach."""
    found = []
    for gpu in settings.pods.gpus:
        try:
            entry = book.find(backend="runpod-pod", tier=Tier.CLOUD, gpu=gpu)
        except ConfigurationError:
            continue
        seconds = Decimal(str(entry.seconds or 20)) if entry.unit == "video" else 1
        per_h = entry.usd * 3600 / seconds
        if per_h <= settings.pods.max_price_usd_per_h:
            found.append(per_h)
    return min(found, default=None)


def pod_offer(settings: Settings, book: PriceBook, quotes: Sequence[Quote]) -> PodOffer | None:
    """The cheapest pod that may be opened, with the time that the cloud tier's quotes say; None without a price."""
    price = cheapest_pod_usd_per_h(book, settings)
    if price is None:
        return None
    service_s = sum(quote.service_s - quote.cold_start_s for quote in quotes) / len(quotes)
    return PodOffer(price, service_s, settings.pods.cold_start_s, settings.pods.billing)
