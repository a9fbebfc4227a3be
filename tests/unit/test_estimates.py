"""What `plan` and the calculator start from: slots, quotes of tiers, and the seed's arithmetic."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hybrid_video import planner
from hybrid_video.errors import InputError
from hybrid_video.estimates import default_slots, parse_slots, resources, tier_quote
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings
from tests.unit.deciding_rig import job

SEED = Quoter(PriceBook.load("seed"), ServiceTimes())
SLOTS = {Tier.LOCAL: 3, Tier.CLOUD: 5, Tier.GEMINI: 10}


def seed_pool() -> list[planner.Resource]:
    """The three tiers at the seed's prices."""
    quotes = {tier: [tier_quote(SEED, Settings(), tier, job())] for tier in Tier}
    return resources(quotes, SLOTS)


def test_the_split_of_the_old_headline_costs_1_626_and_not_46_cents() -> None:
    """45 local, 38 cloud, 17 Gemini: 79.7 % saved, not 94.3 %."""
    prices = {resource.key: resource.price_usd for resource in seed_pool()}
    cost = 45 * prices["local"] + 38 * prices["cloud"] + 17 * prices["gemini"]
    everything = 100 * prices["gemini"]
    assert cost == Decimal("1.626")
    assert round((everything - cost) / everything * 100, 1) == Decimal("79.7")


def test_at_the_speed_of_that_split_the_optimum_is_cheaper() -> None:
    """160 s cost $1.24 with 48/40/12."""
    plan = planner.cheapest_by(seed_pool(), 100, 160)
    assert plan is not None
    assert (plan.cost_usd, plan.split) == (Decimal("1.240"), {"local": 48, "cloud": 40, "gemini": 12})


def test_current_prices_order_the_tiers_as_expected() -> None:
    """The own GPU is free, rented seconds cost cents, Google most."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())
    amounts = [tier_quote(quoter, Settings(), tier, job()).amount_usd for tier in Tier]
    assert amounts[0] == 0
    assert amounts == sorted(amounts)
    assert amounts[2] == Decimal("0.35")


def test_google_sells_no_less_than_three_seconds() -> None:
    """Shorter clips are bought at the least length, others by whole seconds."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())
    lengths = {1: 3, 3: 3, 3.2: 4, 10: 10}
    for asked, billed in lengths.items():
        offer = tier_quote(quoter, Settings(), Tier.GEMINI, job(duration_s=asked))
        assert offer.output.duration_s == billed


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("local=3,cloud=5,gemini=10", {Tier.LOCAL: 3, Tier.CLOUD: 5, Tier.GEMINI: 10}),
        (" local = 1 , ", {Tier.LOCAL: 1}),
        ("gemini=0,cloud=10000", {Tier.GEMINI: 0, Tier.CLOUD: 10_000}),
    ],
)
def test_slots_are_read(text: str, slots: dict[Tier, int]) -> None:
    """Blanks and a trailing comma do not matter; a tier left out has none."""
    assert parse_slots(text) == slots


@pytest.mark.parametrize(
    "text", ["local", "local=", "local=x", "lunar=3", "local=-1", "local=10001", "", "local=0", "local=1.5"]
)
def test_slots_that_mean_nothing_are_refused_with_an_example(text: str) -> None:
    """The value is shown, and what to write instead."""
    with pytest.raises(InputError, match=r"--slots: .*(for example local=3|from 0 to 10000)"):
        parse_slots(text)


def test_the_configured_slots_are_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """One slot for each ComfyUI address, the endpoint's workers, Google's quota."""
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://a:1,http://b:1")
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_MAX_WORKERS", "7")
    assert default_slots(Settings.load()) == {Tier.LOCAL: 2, Tier.CLOUD: 7, Tier.GEMINI: 10}


def test_a_mixed_batch_is_planned_with_the_mean_of_its_quotes() -> None:
    """Exact to a nano-dollar, so that sums stay readable; tiers without slots are left out."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())
    shots = [job(duration_s=seconds) for seconds in (3, 5, 6)]
    quotes = {tier: [tier_quote(quoter, Settings(), tier, shot) for shot in shots] for tier in Tier}
    pool = resources(quotes, {Tier.LOCAL: 1, Tier.GEMINI: 2, Tier.CLOUD: 0})
    assert [resource.key for resource in pool] == ["local", "gemini"]
    mean = sum((offer.amount_usd for offer in quotes[Tier.GEMINI]), Decimal(0)) / 3
    assert abs(pool[1].price_usd - mean) < Decimal("0.000000001")
    assert pool[1].price_usd.as_tuple().exponent == -9
