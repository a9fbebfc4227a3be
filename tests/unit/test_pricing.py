"""Prices as dated data, and seconds becoming money."""

from __future__ import annotations

import math
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.errors import ConfigurationError
from hybrid_video.models import OutputSpec, Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry
from hybrid_video.pricing.quoting import QUANTUM, Quoter
from hybrid_video.pricing.timings import ServiceTimes
from tests.unit.deciding_rig import OUTPUT

GPU = "NVIDIA GeForce RTX 4090"
MODEL = "wan2.2-ti2v-5b"
SEED = Quoter(PriceBook.load("seed"), ServiceTimes())
CURRENT = Quoter(PriceBook.load("current"), ServiceTimes())

seconds = st.floats(0.01, 20_000)


def entry(**values: object) -> PriceEntry:
    """A price of our own."""
    return PriceEntry.model_validate(
        {
            "id": "x",
            "profile": "current",
            "tier": "cloud",
            "backend": "runpod-serverless",
            "unit": "gpu_second",
            "usd": "0.0003",
            "source": "test",
            "checked": "2026-01-01",
            "confidence": "estimate",
            **values,
        }
    )


@pytest.mark.parametrize("profile", ["seed", "current"])
def test_every_shipped_price_has_a_source_a_date_and_an_id_of_its_own(profile: str) -> None:
    """No figure without where it comes from."""
    entries = PriceBook.load(profile).entries  # type: ignore[arg-type]
    assert entries
    assert len({item.id for item in entries}) == len(entries)
    for item in entries:
        assert len(item.source) > 10
        assert date(2025, 1, 1) <= item.checked <= date(2026, 12, 31)
        assert item.usd.is_finite()
        assert item.usd.as_tuple().exponent >= -9  # type: ignore[operator]


@pytest.mark.parametrize(
    ("tier", "backend", "usd", "service_s"),
    [
        (Tier.LOCAL, "comfyui", "0", 10),
        (Tier.CLOUD, "runpod-serverless", "0.007", 20),
        (Tier.CLOUD, "runpod-pod", "0.007", 20),
    ],
)
def test_the_seed_profile_has_the_seeds_flat_prices_and_times(
    tier: Tier, backend: str, usd: str, service_s: float
) -> None:
    """Whatever the clip, $0 and 10 s on the own GPU, $0.007 and 20 s in the cloud."""
    for output in (OUTPUT, OutputSpec(width=1280, height=720, fps=24, frames=240)):
        offer = SEED.gpu_time(backend=backend, tier=tier, model=MODEL, gpu=GPU, output=output)
        assert (offer.amount_usd, offer.reserve_usd, offer.service_s) == (Decimal(usd), Decimal(usd), service_s)


def test_the_seed_price_of_google_is_eight_cents_and_five_seconds() -> None:
    """By the video, not by its seconds."""
    offer = SEED.video_time(
        backend="gemini", tier=Tier.GEMINI, model="any", resolution="720p", billed_video_s=8, output=OUTPUT
    )
    assert (offer.amount_usd, offer.service_s) == (Decimal("0.08"), 5)


@given(st.integers(1, 400), st.floats(0, 300))
def test_gpu_seconds_are_billed_whole_and_reserved_with_a_margin(frames: int, cold_start_s: float) -> None:
    """Amount = whole seconds of work times the price, exactly what the expected time settles at; the start of a worker
    is a line of its own, and the reservation is never below both together."""
    output = OutputSpec(width=832, height=480, fps=16, frames=frames)
    offer = CURRENT.gpu_time(
        backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=output, cold_start_s=cold_start_s
    )
    price = CURRENT.prices.find(backend="runpod-serverless", tier=Tier.CLOUD, gpu=GPU, model=MODEL).usd
    assert offer.start_usd == price * math.ceil(offer.cold_start_s)
    work_s = round(offer.service_s - offer.cold_start_s, 6)
    settled = CURRENT.settle_gpu_time(offer, gpu=GPU, billed_s=work_s, success=True)
    assert settled.amount_usd == offer.amount_usd
    assert offer.reserve_usd >= offer.amount_usd + price * 60 - QUANTUM
    assert offer.reserve_usd >= offer.caused_usd
    assert str(price) in offer.basis


@given(seconds)
def test_a_hard_time_limit_bounds_the_reservation_but_never_below_the_quote(longest_s: float) -> None:
    """The vendor ends the job then, so it cannot cost more."""
    offer = CURRENT.gpu_time(
        backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=OUTPUT, longest_s=longest_s
    )
    price = CURRENT.prices.find(backend="runpod-serverless", tier=Tier.CLOUD, gpu=GPU, model=MODEL).usd
    assert offer.amount_usd <= offer.reserve_usd
    assert offer.reserve_usd <= max(offer.amount_usd, price * math.ceil(longest_s)) + QUANTUM


@given(seconds)
def test_settling_measured_seconds_rounds_up_to_whole_ones(billed_s: float) -> None:
    """As RunPod bills."""
    offer = CURRENT.gpu_time(backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=OUTPUT)
    cost = CURRENT.settle_gpu_time(offer, gpu=GPU, billed_s=billed_s, success=True)
    price = CURRENT.prices.find(backend="runpod-serverless", tier=Tier.CLOUD, gpu=GPU, model=MODEL).usd
    assert cost.amount_usd == price * math.ceil(billed_s)
    assert cost.source == "metered"


def test_without_times_a_success_costs_its_quote_and_a_failure_its_reservation() -> None:
    """What is not known is booked on the safe side."""
    offer = CURRENT.gpu_time(backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=OUTPUT)
    done = CURRENT.settle_gpu_time(offer, gpu=GPU, billed_s=None, success=True)
    lost = CURRENT.settle_gpu_time(offer, gpu=GPU, billed_s=None, success=False)
    assert (done.amount_usd, done.source) == (offer.amount_usd, "quoted")
    assert (lost.amount_usd, lost.source) == (offer.reserve_usd, "quoted")


def test_a_flat_price_is_charged_for_clips_only() -> None:
    """In the seed profile a failed attempt costs nothing."""
    offer = SEED.gpu_time(backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=OUTPUT)
    assert SEED.settle_gpu_time(offer, gpu=GPU, billed_s=500, success=True).amount_usd == Decimal("0.007")
    assert SEED.settle_gpu_time(offer, gpu=GPU, billed_s=500, success=False).amount_usd == 0


def test_video_seconds_are_exact_so_nothing_more_is_reserved() -> None:
    """Google sells by the length of the clip."""
    offer = CURRENT.video_time(
        backend="gemini",
        tier=Tier.GEMINI,
        model="gemini-omni-1.2-flash",
        resolution="720p",
        billed_video_s=5,
        output=OUTPUT,
    )
    assert offer.amount_usd == offer.reserve_usd == Decimal("0.35")
    assert CURRENT.settle_video(offer, delivered=True, basis="5 s").amount_usd == Decimal("0.35")
    assert CURRENT.settle_video(offer, delivered=False, basis="blocked").amount_usd == 0


def test_the_own_gpu_is_free_in_both_profiles() -> None:
    """Nothing is reserved either, so a limit of 0 lets it through."""
    for quoter in (SEED, CURRENT):
        offer = quoter.gpu_time(backend="comfyui", tier=Tier.LOCAL, model=MODEL, gpu="", output=OUTPUT)
        assert offer.amount_usd == offer.reserve_usd == 0


def test_an_unknown_price_is_an_error_never_nothing() -> None:
    """Nothing is bought at a price nobody knows; the message says what to add."""
    with pytest.raises(ConfigurationError, match=r"no price is known for runpod-serverless \(Abacus 9000"):
        CURRENT.gpu_time(backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu="Abacus 9000", output=OUTPUT)


def test_the_newest_price_counts_and_the_old_one_stays() -> None:
    """Prices are added, never overwritten."""
    old, new = entry(id="old", usd="0.0002"), entry(id="new", usd="0.0004", checked="2026-06-01")
    book = PriceBook("current", (old, new))
    assert book.find(backend="runpod-serverless", tier=Tier.CLOUD).id == "new"
    assert set(book.entries) == {old, new}
    assert book.age_days(date(2026, 6, 11)) == 10  # the replaced entry is history and has no age


def test_a_price_for_one_gpu_is_not_anothers() -> None:
    """An entry that names a GPU, model, backend or resolution applies to that one."""
    book = PriceBook("current", (entry(gpu="A"), entry(id="any", backend="*", tier="local", usd="0")))
    assert book.find(backend="runpod-serverless", tier=Tier.CLOUD, gpu="A").gpu == "A"
    assert book.find(backend="comfyui", tier=Tier.LOCAL, gpu="B").id == "any"
    for wrong in ({"gpu": "B"}, {"backend": "runpod-pod", "gpu": "A"}, {"tier": Tier.GEMINI, "gpu": "A"}):
        with pytest.raises(ConfigurationError):
            book.find(**{"backend": "runpod-serverless", "tier": Tier.CLOUD, **wrong})  # type: ignore[arg-type]


def test_a_flat_price_without_a_time_can_be_quoted() -> None:
    """A price of the user's own may leave the seconds out."""
    book = PriceBook("current", (entry(unit="video", usd="0.05"),))
    offer = Quoter(book, ServiceTimes()).gpu_time(
        backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=GPU, output=OUTPUT
    )
    assert (offer.amount_usd, offer.service_s) == (Decimal("0.05"), 0)


def test_beside_fast_emulators_times_shrink_and_money_does_not() -> None:
    """A time scale of 100 divides the wait only."""
    fast = Quoter(CURRENT.prices, CURRENT.timings, time_scale=100)
    arguments = {"backend": "runpod-serverless", "tier": Tier.CLOUD, "model": MODEL, "gpu": GPU, "output": OUTPUT}
    slow_offer, fast_offer = CURRENT.gpu_time(**arguments), fast.gpu_time(**arguments)  # type: ignore[arg-type]
    assert fast_offer.service_s == pytest.approx(slow_offer.service_s / 100)
    assert (fast_offer.amount_usd, fast_offer.reserve_usd) == (slow_offer.amount_usd, slow_offer.reserve_usd)


def test_more_work_takes_longer_in_proportion() -> None:
    """Twice the frames, twice the time on a GPU."""
    double = OUTPUT.model_copy(update={"frames": OUTPUT.frames * 2})
    times = [
        ServiceTimes().expected_s(backend="comfyui", tier=Tier.LOCAL, gpu=GPU, model=MODEL, output=output)[0]
        for output in (OUTPUT, double)
    ]
    assert times[1] == pytest.approx(2 * times[0])
