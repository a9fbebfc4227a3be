"""What a clip is expected to take: published times, learned ones, borrowed ones, and the bound of physics."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from hybrid_video.models import OutputSpec, Quote, Tier
from hybrid_video.pricing import physics
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.learning import COLD_FROM_S, Kind, Observation, work_units
from hybrid_video.pricing.quoting import P90_MARGIN, PESSIMISM, Quoter
from hybrid_video.pricing.timings import PRIOR_WEIGHT, PROBES, ServiceTimes, _priors

RTX_4090, RTX_5090 = "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5090"
MODEL = "wan2.2-ti2v-5b"
OUTPUT = OutputSpec(width=832, height=480, fps=16, frames=81)
LOCAL = Kind(Tier.LOCAL, "comfyui", RTX_4090, MODEL, "s1")
CLOUD = Kind(Tier.CLOUD, "runpod-serverless", RTX_4090, MODEL, "s1")
UNITS = work_units(Tier.LOCAL, OUTPUT)


def teach(times: ServiceTimes, kind: Kind, *seconds: float, success: bool = True) -> None:
    """Attempts of the usual output took so long on the vendor's clock."""
    for value in seconds:
        times.observe(Observation(kind, value / work_units(kind.tier, OUTPUT), success))


def test_the_published_time_counts_as_three_clips() -> None:
    """(3 x prior + sum of observed) / (3 + observed), in seconds per unit of work."""
    times = ServiceTimes()
    prior = times.estimate(LOCAL, OUTPUT).expected_s
    teach(times, LOCAL, 10, 20)
    found = times.estimate(LOCAL, OUTPUT)
    assert found.expected_s == pytest.approx((PRIOR_WEIGHT * prior + 30) / (PRIOR_WEIGHT + 2))
    assert found.observed == 2
    assert "2 observed" in found.basis


def test_failed_time_makes_a_place_dearer() -> None:
    """Seconds of failures are added and their clips are not counted, so a flaky place prices itself out."""
    times = ServiceTimes()
    teach(times, LOCAL, 10, 10)
    before = times.estimate(LOCAL, OUTPUT).expected_s
    teach(times, LOCAL, 40, success=False)
    found = times.estimate(LOCAL, OUTPUT)
    assert found.observed == 2
    assert found.expected_s == pytest.approx(before + 40 / (PRIOR_WEIGHT + 2))


def test_longer_clips_take_longer_in_proportion() -> None:
    """What is learned from one size is used for every size through units of work."""
    times = ServiceTimes()
    teach(times, LOCAL, *[12.0] * 500)
    twice = OUTPUT.model_copy(update={"frames": 162})
    once = times.estimate(LOCAL, OUTPUT).expected_s
    assert times.estimate(LOCAL, twice).expected_s == pytest.approx(2 * once)


def test_settings_of_one_workflow_are_learned_apart() -> None:
    """Fifty steps say nothing about four, beyond being the best guess until the four are seen."""
    times = ServiceTimes()
    slow, fast = LOCAL._replace(signature="fifty"), LOCAL._replace(signature="four")
    teach(times, slow, *[100.0] * 20)
    assert times.estimate(fast, OUTPUT).expected_s == pytest.approx(100, rel=0.01)
    assert "other settings" in times.estimate(fast, OUTPUT).basis
    slow_before = times.estimate(slow, OUTPUT).expected_s
    teach(times, fast, *[8.0] * 100)
    assert times.estimate(fast, OUTPUT).expected_s < 12
    assert times.estimate(slow, OUTPUT).expected_s < slow_before * 1.01


def test_an_unseen_tier_borrows_with_the_ratio_of_what_both_have_made() -> None:
    """Cloud has made another workflow in half of the local time, so it is expected to halve this one too."""
    times = ServiceTimes()
    other = "animatediff"
    teach(times, LOCAL._replace(model=other), *[20.0] * 4)
    teach(times, CLOUD._replace(model=other), *[10.0] * 4)
    teach(times, LOCAL, *[60.0] * 4)
    found = times.estimate(CLOUD, OUTPUT)
    assert found.expected_s == pytest.approx(30, rel=1e-6)
    assert found.basis == "timing borrowed from 4 clips on comfyui"
    assert found.observed == 0


def test_an_unseen_tier_borrows_with_the_published_ratio_where_nothing_is_shared() -> None:
    """An RTX 5090 is expected to keep its published lead over the 4090 that was measured."""
    times = ServiceTimes()
    here, there = LOCAL._replace(model="wan2.2-t2v-14b"), CLOUD._replace(model="wan2.2-t2v-14b", gpu=RTX_5090)
    lead = times.estimate(there, OUTPUT).expected_s / times.estimate(here, OUTPUT).expected_s
    teach(times, here, 50, 50, 50)
    assert lead < 1
    assert times.estimate(there, OUTPUT).expected_s == pytest.approx(50 * lead)


def test_google_never_borrows_from_gpus() -> None:
    """Its unit of work is another one, and its models are its own."""
    times = ServiceTimes()
    google = Kind(Tier.GEMINI, "gemini", "", MODEL)
    before = times.estimate(google, OUTPUT)
    teach(times, LOCAL, 1, 1, 1)
    assert times.estimate(google, OUTPUT) == before


def test_own_clips_outweigh_what_was_borrowed() -> None:
    """A borrowed figure weighs as a published one: three clips until five were seen, next to nothing later."""
    times = ServiceTimes()
    teach(times, LOCAL, *[60.0] * 50)
    teach(times, CLOUD, *[20.0] * 5)
    assert times.estimate(CLOUD, OUTPUT).expected_s == pytest.approx((3 * 60 + 5 * 20) / 8, rel=0.02)
    teach(times, CLOUD, *[20.0] * 15)
    assert times.estimate(CLOUD, OUTPUT).expected_s == pytest.approx(20, rel=0.02)


def test_unknown_gpu_uses_what_was_seen_on_any() -> None:
    """`plan` asks before a backend has said which card it has."""
    times = ServiceTimes()
    teach(times, LOCAL, *[10.0] * 30)
    assert times.estimate(LOCAL._replace(gpu="", signature=""), OUTPUT).observed == 30


def test_cold_and_warm_are_kept_apart() -> None:
    """A cold worker loads the weights within its execution time; that must not make warm clips look slow."""
    times = ServiceTimes()
    teach(times, CLOUD, *[20.0] * 40)
    warm = times.estimate(CLOUD, OUTPUT).expected_s
    cold = CLOUD._replace(cold=True)
    assert times.estimate(cold, OUTPUT).expected_s == pytest.approx(warm)
    teach(times, cold, *[50.0] * 40)
    assert times.estimate(CLOUD, OUTPUT).expected_s == pytest.approx(warm)
    assert times.estimate(cold, OUTPUT).expected_s > 45


def test_the_first_warm_clips_are_expected_like_the_cold_ones() -> None:
    """A batch begins with cold workers; what they took says more than what was published."""
    times = ServiceTimes()
    teach(times, CLOUD._replace(cold=True), 30, 30, 30)
    assert times.estimate(CLOUD, OUTPUT).expected_s == pytest.approx(30)
    assert "just started" in times.estimate(CLOUD, OUTPUT).basis


def test_a_quote_tells_its_cold_start_apart() -> None:
    """Expected and P90 hold the start of the worker, wide until five were seen."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes(), time_scale=2.0)

    def ask(cold_s: float) -> Quote:
        return quoter.gpu_time(
            backend="runpod-serverless", tier=Tier.CLOUD, model=MODEL, gpu=RTX_4090, output=OUTPUT, cold_start_s=cold_s
        )

    warm, cold = ask(0), ask(60)
    assert (warm.cold_start_s, cold.cold_start_s) == (0, 30)
    assert cold.service_s == pytest.approx(warm.service_s + 30)
    assert cold.service_p90_s - warm.service_p90_s > 1.5 * 30
    for _ in range(200):
        quoter.timings.observe(
            Observation(Kind(Tier.CLOUD, "runpod-serverless", RTX_4090, MODEL, "", True), 1e-7, True, 20.0)
        )
    start = ask(60).cold_start_s * 2
    assert start == pytest.approx(20, rel=0.01)
    assert quoter.timings.cold_start_p90_s("runpod-serverless", RTX_4090, start) < 1.3 * start


def test_cold_starts_are_learned() -> None:
    """The published minute gives way to what workers really took, at every stage of their start."""
    times = ServiceTimes()
    for _ in range(97):
        times.observe(Observation(CLOUD._replace(cold=True), 1e-6, True, cold_start_s=COLD_FROM_S + 5))
    full = times.cold_start_s(backend="runpod-serverless", gpu=RTX_4090, published_s=60)
    assert full == pytest.approx(10, rel=0.01)
    assert times.cold_start_s(backend="runpod-serverless", gpu=RTX_4090, published_s=30) == pytest.approx(full / 2)
    assert times.cold_start_s(backend="runpod-serverless", gpu=RTX_4090, published_s=0) == 0
    assert times.cold_start_s(backend="runpod-serverless", gpu=RTX_5090, published_s=60) == 60


def test_an_unseen_kind_asks_for_probes() -> None:
    """Until three clips were seen, a kind is worth trying with jobs that must overflow anyway."""
    times = ServiceTimes()
    for count in range(PROBES):
        assert times.estimate(CLOUD, OUTPUT).probe, count
        teach(times, CLOUD, 10)
    assert not times.estimate(CLOUD, OUTPUT).probe


@pytest.mark.parametrize("spread", [0.10, 0.25, 0.50])
@pytest.mark.parametrize("wrong", [0.3, 1.0, 3.0])
def test_nine_of_ten_clips_stay_below_p90(spread: float, wrong: float) -> None:
    """85 to 95 % of log-normal clips do, from the fifth on, for steady and wild times and for wrong published ones."""
    random.seed(f"{spread}{wrong}")
    prior = ServiceTimes().estimate(LOCAL, OUTPUT).expected_s
    within: list[bool] = []
    for _ in range(40):
        times = ServiceTimes()
        for number in range(60):
            seconds = prior / wrong * math.exp(random.gauss(0, spread))
            if number >= 5:
                within.append(seconds <= times.estimate(LOCAL, OUTPUT).p90_s)
            teach(times, LOCAL, seconds)
    assert 0.85 <= statistics.mean(within) <= 0.95


def test_few_clips_widen_the_p90() -> None:
    """Two equal clips do not prove that every clip takes as long."""
    few, many = ServiceTimes(), ServiceTimes()
    teach(few, LOCAL, *[30.0, 33.0])
    teach(many, LOCAL, *[30.0, 33.0] * 50)
    assert few.estimate(LOCAL, OUTPUT).p90_s > 1.2 * many.estimate(LOCAL, OUTPUT).p90_s


def test_a_single_clip_gives_a_finite_p90_above_its_median() -> None:
    """The smallest sample has no spread of its own, and is still answered with an interval."""
    times = ServiceTimes()
    teach(times, LOCAL, 30)
    found = times.estimate(LOCAL, OUTPUT)
    assert found.p50_s < found.p90_s < math.inf


def test_the_bound_counts_75600_tokens_for_a_720p_clip_of_a_14b_model() -> None:
    """6.8 PFLOP a pass: 1280 / 16 x 720 / 16 x 21."""
    size = physics._models()["wan2.2-t2v-14b"]
    output = OutputSpec(width=1280, height=720, fps=16, frames=81)
    assert size.tokens(output) == 75_600
    assert size.pass_flop(output) == pytest.approx(6.8e15, rel=0.01)


def test_a_published_timing_beyond_the_card_is_impossible() -> None:
    """30 guided steps of it in 4 min 20 s would need 1,570 TFLOPS of an RTX 4090 that has 660."""
    output = OutputSpec(width=1280, height=720, fps=16, frames=81)

    def possible(seconds: float) -> bool:
        return physics.is_possible(seconds, gpu=RTX_4090, model="wan2.1-i2v-14b", output=output, passes=60)

    assert not possible(260)
    assert possible(700)
    assert not possible(math.inf)


def test_a_card_or_model_nobody_knows_has_no_bound() -> None:
    """A new card must not have its times thrown away."""
    assert physics.least_seconds(gpu="NVIDIA X", model="wan2.2-t2v-14b", output=OUTPUT) == 0
    assert physics.least_seconds(gpu=RTX_4090, model="my.json", output=OUTPUT) == 0


def test_no_shipped_timing_is_beyond_its_card() -> None:
    """Each published figure is held against the RTX 4090, the card it was measured on unless it names another."""
    for prior in _priors():
        output = OutputSpec(width=prior.width, height=prior.height, fps=24, frames=prior.frames)
        assert physics.is_possible(prior.seconds, gpu=prior.gpu or RTX_4090, model=prior.model, output=output), prior.id


def test_reservations_follow_the_p90_once_five_clips_are_seen() -> None:
    """Steady times tie up less money than the flat 2.5; before that the flat figure holds."""
    quoter = Quoter(PriceBook.load("current"), ServiceTimes())

    def ask() -> tuple[float, float, float]:
        quote = quoter.gpu_time(
            backend="runpod-pod",
            tier=Tier.CLOUD,
            model=MODEL,
            gpu=RTX_4090,
            output=OUTPUT,
            signature="s1",
        )
        rate = float(quote.rate_usd_per_s)
        return float(quote.reserve_usd) / rate, quote.service_s, quote.service_p90_s

    reserved, service, p90 = ask()
    assert reserved == pytest.approx(service * PESSIMISM + 60, abs=1.01)
    assert p90 > service
    teach(quoter.timings, Kind(Tier.CLOUD, "runpod-pod", RTX_4090, MODEL, "s1"), *[100.0, 104.0] * 20)
    reserved, service, p90 = ask()
    assert reserved == pytest.approx(p90 * P90_MARGIN + 60, abs=1.01)
    assert p90 * P90_MARGIN < 1.5 * service
