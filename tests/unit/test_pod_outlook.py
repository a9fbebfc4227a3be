"""What a run is told of rented GPUs that are not open yet."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hybrid_video.engine.forecast import forecast
from hybrid_video.engine.pod_outlook import counting_on, offer_of, pod_outlook, told, with_pods
from hybrid_video.engine.selection import Shot
from hybrid_video.estimates import cheapest_pod_usd_per_h
from hybrid_video.models import NANO_USD, Candidate, EffectivePreferences, Lane, Quote, Tier
from hybrid_video.pod_plans import PodPlan
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.scaling.state import PodOffer
from hybrid_video.settings import PodPoolSettings, RoutingSettings, Settings, StorageSettings
from tests.unit.deciding_rig import job, quote

QUOTES = {
    "comfyui": quote("comfyui", "0", 60),
    "gemini": quote("gemini", "0.40", 30),
    "runpod-pod": quote("runpod-pod", "0.012", 60),
}
LANES = [
    Lane(id="own", backend="comfyui", tier=Tier.LOCAL),
    *(Lane(id=f"google-{n}", backend="gemini", tier=Tier.GEMINI) for n in range(5)),
]
OFFER = PodOffer(Decimal("0.72"), 60)
"""Two hundredths of a cent a second: $0.012 a clip, $0.018 a start of 90 s."""


def shots(count: int, quotes: dict[str, Quote] | None = None) -> list[Shot]:
    """Jobs that every backend with a quote may make."""
    offers = tuple(Candidate(backend=key, tier=q.tier, quote=q) for key, q in (quotes or QUOTES).items())
    return [Shot(job(f"shot-{n}"), 1, EffectivePreferences(), offers=offers) for n in range(count)]


def pooled(home: Path, **changes: Any) -> Settings:
    """An installation that may open pods, in which time runs tenfold."""
    return Settings(
        storage=StorageSettings(home=home),
        routing=RoutingSettings(time_scale=10.0),
        pods=PodPoolSettings(image="hybrid-video/pod:1", cold_start_s=90.0, **changes),
    )


def asked(
    jobs: list[Shot],
    *,
    room: int = 5,
    deadline_s: float | None = None,
    budget_usd: str | None = None,
    value: float = 0.0,
    lanes: list[Lane] | None = None,
) -> PodPlan | None:
    """The outlook for a goal."""
    budget = None if budget_usd is None else Decimal(budget_usd)
    return with_pods(
        jobs,
        LANES if lanes is None else lanes,
        OFFER,
        room,
        deadline_s=deadline_s,
        budget_usd=budget,
        value_of_time_usd_per_h=value,
    )


def test_by_a_deadline_pods_take_what_google_would_have_cost() -> None:
    """By 30 minutes the own GPU makes 30 of 100; Google's 70 for $28 become three pods for $0.894."""
    found = asked(shots(100), deadline_s=1800)
    assert found is not None
    assert (found.pods, found.split["comfyui"], found.cost_usd) == (3, 30, Decimal("0.894"))
    assert found.duration_s <= 1800


def test_no_more_pods_than_there_is_room_for() -> None:
    """With one pod 28 of the clips are cheap, and Google makes the rest."""
    found = asked(shots(100), deadline_s=1800, room=1)
    assert found is not None
    assert (found.pods, found.split) == (1, {"comfyui": 30, "gemini": 42, "pods": 28})
    assert asked(shots(100), deadline_s=1800, room=0) is None


def test_within_a_budget_pods_save_time() -> None:
    """A dollar buys two Google clips, or pods for the whole batch."""
    found = asked(shots(100), budget_usd="1")
    assert found is not None
    assert found.cost_usd <= 1
    assert found.duration_s < 100 * 60 / 3


def test_without_a_goal_time_has_its_value() -> None:
    """An hour worth $10 opens pods; one worth nothing leaves all to the own GPU."""
    assert asked(shots(100), value=10.0) is not None
    assert asked(shots(100), value=0.0) is None


def test_only_with_pods_there_is_a_plan_at_all() -> None:
    """No own GPU and no key for Google: everything waits for the first pod."""
    only = {"runpod-pod": QUOTES["runpod-pod"]}
    found = asked(shots(10, only), lanes=[], deadline_s=3600)
    assert found is not None
    assert (found.pods, found.split["pods"]) == (1, 10)


@pytest.mark.parametrize("deadline_s", [6000.0, 1e6])
def test_pods_that_save_nothing_are_not_mentioned(deadline_s: float) -> None:
    """The own GPU is in time."""
    assert asked(shots(100), deadline_s=deadline_s) is None


def test_jobs_of_different_kinds_are_not_reckoned_with() -> None:
    """One that may not use pods makes it another batch; so does one bound to Google."""
    bound = {key: QUOTES[key] for key in ("gemini", "runpod-pod")}
    unable = {key: QUOTES[key] for key in ("comfyui", "gemini")}
    assert asked([*shots(99), *shots(1, bound)], deadline_s=1800) is None
    assert asked(shots(100, unable), deadline_s=1800) is None


def test_the_offer_is_the_cheapest_gpu_in_this_runs_seconds(tmp_path: Path) -> None:
    """A simulated day passes faster: its hour costs more, its starts are shorter."""
    settings = pooled(tmp_path)
    book = load_prices(settings.routing.prices, settings)
    offer = offer_of(shots(3), book, settings)
    assert offer is not None
    assert offer.cold_start_s == 9.0
    assert offer.service_s == 60
    assert offer.price_usd_per_h == 10 * (cheapest_pod_usd_per_h(book, settings) or 0)


def test_what_is_stored_and_told_counts_on_the_pods(tmp_path: Path) -> None:
    """The plan holds their clips, money and time; the rule that counts the queue opens pods by something else."""
    settings = pooled(tmp_path)
    outlook = pod_outlook(shots(100), LANES, settings, room=5, deadline_s=1800, budget_usd=None)
    alone = forecast("night", shots(100), LANES, deadline_s=1800, budget_usd=None, value_of_time_usd_per_h=10)
    assert outlook is not None
    assert alone is not None
    assert alone.planned_usd == 28
    found = counting_on(outlook, alone)
    assert found.split == {"comfyui": 30, "gemini": outlook.split["gemini"], "runpod-pod": outlook.split["pods"]}
    assert sum(found.split.values()) == 100
    assert (found.planned_usd, found.planned_s) == (outlook.cost_usd.quantize(NANO_USD), outlook.duration_s)
    assert told(outlook).startswith(f"${outlook.cost_usd.quantize(Decimal('0.0001')).normalize()} in ")
    assert told(outlook).endswith(f"{outlook.pods} rented GPUs opened for it")
    assert pod_outlook(shots(100), LANES, settings, room=0, deadline_s=1800, budget_usd=None) is None
    by_queue = pooled(tmp_path, policy="threshold")
    assert pod_outlook(shots(100), LANES, by_queue, room=5, deadline_s=1800, budget_usd=None) is None
