"""Plans of whole runs, quotes renewed while a batch runs, and how their errors are told."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui import ComfyUIBackend
from hybrid_video.engine.forecast import forecast, plan_for, unproven
from hybrid_video.engine.honesty import PlanLine, percentile, quote_errors
from hybrid_video.engine.requoting import Requoter
from hybrid_video.engine.selection import Shot
from hybrid_video.ledger import Ledger
from hybrid_video.models import Attempt, AttemptState, Candidate, EffectivePreferences, Lane, Quote, Tier
from hybrid_video.planner import Resource
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import PROBES, ServiceTimes
from hybrid_video.settings import ComfyUISettings, Settings
from tests.unit.deciding_rig import SEED_LANES, SEED_QUOTES, TIERS, job
from tests.unit.ledger_rig import make_batch
from tests.unit.test_learning import attempt

RTX_4090 = "NVIDIA GeForce RTX 4090"
SEED = [
    Resource("local", 3, 10, Decimal(0)),
    Resource("cloud", 5, 20, Decimal("0.007")),
    Resource("gemini", 10, 5, Decimal("0.08")),
]


def seed_shots(count: int) -> list[Shot]:
    """Jobs that every tier may make at the seed's prices."""
    offers = tuple(Candidate(backend=key, tier=quote.tier, quote=quote) for key, quote in SEED_QUOTES.items())
    return [Shot(job(f"shot-{n}"), 1, EffectivePreferences(), offers=offers) for n in range(count)]


def seed_lanes() -> list[Lane]:
    """The seed's slots."""
    return [
        Lane(id=f"{key}-{n}", backend=key, tier=TIERS[key]) for key, slots in SEED_LANES.items() for n in range(slots)
    ]


def test_a_run_is_forecast_as_the_planner_would() -> None:
    """The seed's hundred jobs by 180 s: 54/45/1 for $0.395."""
    found = forecast("film", seed_shots(100), seed_lanes(), deadline_s=180, budget_usd=None, value_of_time_usd_per_h=10)
    assert found is not None
    assert found.split == {"local": 54, "cloud": 45, "gemini": 1}
    assert found.planned_usd == Decimal("0.395")
    assert found.planned_s <= 180
    assert {line.backend: line.slots for line in found.pool} == SEED_LANES


def test_a_worker_starts_once_and_not_for_every_clip() -> None:
    """Quotes of a cold endpoint hold its start; a batch waits for it once per slot and books none of it."""
    cold = SEED_QUOTES["cloud"].model_copy(
        update={
            "service_s": 80.0,
            "cold_start_s": 60.0,
            "amount_usd": Decimal("0.007"),
            "start_usd": Decimal("0.021"),
            "rate_usd_per_s": Decimal("0.00035"),
        }
    )
    offer = Candidate(backend="cloud", tier=Tier.CLOUD, quote=cold)
    shots = [Shot(job(f"shot-{n}"), 1, EffectivePreferences(), offers=(offer,)) for n in range(10)]
    found = forecast("film", shots, seed_lanes(), deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10)
    assert found is not None
    assert found.planned_s == pytest.approx(60 + 2 * 20)
    assert found.planned_usd == Decimal("0.07")
    assert (found.starts, found.start_usd) == (5, Decimal("0.105"))


def test_only_workers_that_are_not_up_are_started() -> None:
    """One of three workers is up: the quotes are warm, yet two slots begin 12 s later, and their starts are named."""
    warm = SEED_QUOTES["cloud"].model_copy(
        update={"service_s": 20.0, "service_p90_s": 20.0, "rate_usd_per_s": Decimal("0.0003")}
    )
    offer = Candidate(backend="cloud", tier=Tier.CLOUD, quote=warm)
    shots = [Shot(job(f"shot-{n}"), 1, EffectivePreferences(), offers=(offer,)) for n in range(8)]
    lanes = [Lane(id=f"cloud-{n}", backend="cloud", tier=Tier.CLOUD, start_s=12.0 * (n > 0)) for n in range(3)]
    found = forecast("film", shots, lanes, deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10)
    assert found is not None
    assert found.planned_s == pytest.approx(12 + 3 * 20)
    assert (found.starts, found.start_usd) == (2, 2 * 12 * Decimal("0.0003"))


def test_the_wait_for_the_next_look_belongs_to_every_clip() -> None:
    """A worker that is looked at every 4 s is seen free 2 s late: ten clips of 20 s on one take 220 s, not 200."""
    quote = SEED_QUOTES["cloud"].model_copy(update={"service_s": 20.0, "service_p90_s": 20.0})
    offer = Candidate(backend="cloud", tier=Tier.CLOUD, quote=quote)
    shots = [Shot(job(f"shot-{n}"), 1, EffectivePreferences(), offers=(offer,)) for n in range(10)]
    lanes = [Lane(id="cloud-0", backend="cloud", tier=Tier.CLOUD, turn_s=2.0)]
    found = forecast("film", shots, lanes, deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10)
    assert found is not None
    assert found.planned_s == pytest.approx(220)


def test_jobs_that_prefer_a_tier_are_counted_there_and_the_others_get_what_is_left() -> None:
    """Twelve of forty shots prefer Google: its ten slots make two rounds of them; the rest goes as it would alone."""
    shots = seed_shots(40)
    wishes = EffectivePreferences(backend="gemini")
    shots[:12] = [replace(shot, preferences=wishes) for shot in shots[:12]]
    goal = {"deadline_s": None, "budget_usd": None, "value_of_time_usd_per_h": 10}
    found = forecast("film", shots, seed_lanes(), **goal)
    alone = forecast("film", seed_shots(28), seed_lanes(), **goal)
    assert found is not None
    assert alone is not None
    assert found.split == {**alone.split, "gemini": alone.split["gemini"] + 12}
    assert found.planned_usd == alone.planned_usd + 12 * Decimal("0.08")
    assert found.planned_s == alone.planned_s
    bound = forecast("film", shots[:12], seed_lanes(), **goal)
    assert bound is not None
    assert (bound.split, bound.planned_usd, bound.planned_s) == ({"gemini": 12}, Decimal("0.96"), 10)


def test_slots_that_serve_jobs_of_their_own_first_are_not_promised_twice() -> None:
    """Six shots may only use the three own GPUs; the others see those busy for 20 s."""
    shots = seed_shots(12)
    own = [replace(shot, offers=tuple(o for o in shot.offers if o.backend == "local")) for shot in shots[:6]]
    goal = {"deadline_s": 40, "budget_usd": None, "value_of_time_usd_per_h": 10}
    found = forecast("film", [*own, *shots[6:]], seed_lanes(), **goal)
    assert found is not None
    assert (found.split["local"], found.planned_usd) == (12, Decimal(0))
    assert found.planned_s == 40
    hasty = forecast("film", [*own, *shots[6:]], seed_lanes(), **{**goal, "deadline_s": 30})
    assert hasty is not None
    assert (hasty.split["local"], hasty.split["cloud"]) == (9, 3)


def test_nothing_to_make_is_not_forecast() -> None:
    """A batch that is run again when all is done stores no plan."""
    assert forecast("film", [], seed_lanes(), deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10) is None
    assert forecast("film", seed_shots(3), [], deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10) is None


def test_unproven_times_allow_a_few_early_jobs() -> None:
    """Three less what was seen; the seed's flat times are known."""
    backend = comfyui(ServiceTimes())
    fresh = waiting(backend, 2)
    assert unproven(fresh) == {"comfyui": PROBES}
    quote = fresh[0].open_offers["comfyui"]
    for seen, left in ((2, {"comfyui": 1}), (3, {})):
        known = Candidate(backend="comfyui", tier=Tier.LOCAL, quote=quote.model_copy(update={"observed": seen}))
        assert unproven([Shot(fresh[0].job, 1, EffectivePreferences(), offers=(known,))]) == left
    assert unproven(seed_shots(3)) == {}


def test_an_unreachable_deadline_is_forecast_as_what_comes_nearest() -> None:
    """The fastest plan, or under a budget the fastest it can pay for."""
    fastest = plan_for(SEED, 100, deadline_s=1, budget_usd=None, value_of_time_usd_per_h=10)
    capped = plan_for(SEED, 100, deadline_s=1, budget_usd=Decimal("0.46"), value_of_time_usd_per_h=10)
    assert fastest is not None
    assert capped is not None
    assert fastest.duration_s < capped.duration_s
    assert capped.cost_usd <= Decimal("0.46")


def test_plan_and_outcome_are_kept_side_by_side(tmp_path: Path) -> None:
    """Each run has its own plan; money spent by earlier runs of the batch is not counted against it."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    ledger.register(make_batch(jobs=2), out_dir=tmp_path)
    found = forecast("night", seed_shots(2), seed_lanes(), deadline_s=None, budget_usd=None, value_of_time_usd_per_h=10)
    assert found is not None
    first, second = ledger.record_plan(found), ledger.record_plan(found)
    ledger.record_outcome(second, duration_s=12.5, made=2)
    kept = ledger.forecasts("night")
    ledger.close()
    assert first < second
    assert [line.actual_s for line in kept] == [None, 12.5]
    assert kept[1].actual_usd == 0
    assert kept[1].complete
    assert kept[1].pool == found.pool
    assert PlanLine.of(kept[1]).time_error == pytest.approx(abs(12.5 - found.planned_s) / found.planned_s)
    assert PlanLine.of(kept[0]).time_error is None


def comfyui(timings: ServiceTimes) -> ComfyUIBackend:
    """A backend that is asked for quotes only."""
    settings = Settings(comfyui=ComfyUISettings(gpu=RTX_4090))
    return ComfyUIBackend(BackendContext(settings, Quoter(PriceBook.load("current"), timings)))


def waiting(backend: ComfyUIBackend, count: int) -> list[Shot]:
    """Jobs quoted before the batch began."""
    shots = []
    for number in range(count):
        shot = job(f"shot-{number}")
        quote = backend.quote(shot)
        assert isinstance(quote, Quote)
        offer = Candidate(backend="comfyui", tier=Tier.LOCAL, quote=quote)
        shots.append(Shot(shot, 1, EffectivePreferences(), offers=(offer,)))
    return shots


def clip_of(shot: Shot, took_s: float) -> Attempt:
    """A finished attempt of a waiting job's kind."""
    quote = shot.open_offers["comfyui"]
    return attempt(execution_s=took_s).model_copy(update={"quote": quote, "model": quote.model})


def test_a_finished_clip_renews_the_quotes_of_waiting_jobs() -> None:
    """The first clip took a quarter of the published time, so the others are expected to be quicker from then on."""
    timings = ServiceTimes()
    backend = comfyui(timings)
    shots = waiting(backend, 3)
    before = shots[0].open_offers["comfyui"].service_s
    requoter = Requoter(timings, {"comfyui": backend})
    assert not requoter.due()
    requoter.learn(clip_of(shots[0], before / 4))
    assert requoter.due()
    renewed = [shot for shot in requoter.renewed(shots[1:]) if shot is not None]
    assert [shot.open_offers["comfyui"].service_s for shot in renewed] == [pytest.approx(before * (3 + 1 / 4) / 4)] * 2
    assert renewed[0].open_offers["comfyui"].observed == 1


def test_quotes_that_hardly_change_are_left_alone() -> None:
    """A clip that took what was expected renews nothing."""
    timings = ServiceTimes()
    backend = comfyui(timings)
    shots = waiting(backend, 2)
    requoter = Requoter(timings, {"comfyui": backend})
    requoter.learn(clip_of(shots[0], shots[0].open_offers["comfyui"].service_s * 1.01))
    assert requoter.renewed(shots) == [None, None]


def test_renewing_never_takes_more_than_a_share_of_the_time() -> None:
    """A round that took 2 s is followed by 40 s of rest, however much was learned in between."""
    now, steps = [0.0], iter([2.0, 0.0])
    timings = ServiceTimes()
    backend = comfyui(timings)
    shots = waiting(backend, 1)

    def clock() -> float:
        return now[0]

    requoter = Requoter(timings, {"comfyui": backend}, clock)

    class Slow(list[Shot]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            now[0] += next(steps)
            return super().__iter__()

    requoter.learn(clip_of(shots[0], 1.0))
    requoter.renewed(Slow(shots))
    requoter.learn(clip_of(shots[0], 50.0))
    assert not requoter.due()
    now[0] += 39
    assert not requoter.due()
    now[0] += 2
    assert requoter.due()


def test_a_job_keeps_its_offer_where_a_forecast_would_leave_it_none() -> None:
    """Limits are kept by the spend gate; a job is not given up because a clip is now expected to be dear."""
    timings = ServiceTimes()
    quoter = Quoter(PriceBook.load("current"), timings)
    backend = comfyui(timings)
    (shot,) = waiting(backend, 1)
    old = shot.open_offers["comfyui"]
    capped = EffectivePreferences(max_cost_usd=Decimal("0.001"))

    class Dear:
        def quote(self, _job: object, *, workflow_path: object = None) -> Quote:
            del workflow_path
            return old.model_copy(update={"service_s": 9999.0, "amount_usd": Decimal(5), "reserve_usd": Decimal(5)})

    requoter = Requoter(quoter.timings, {"comfyui": Dear()})  # type: ignore[dict-item]
    requoter.learn(clip_of(shot, 500.0))
    assert requoter.renewed([Shot(shot.job, 1, capped, offers=shot.offers)]) == [None]


def test_errors_are_shares_of_the_quote() -> None:
    """A clip quoted at 20 s and two cents that took 25 s and cost the same is off by a quarter and by nothing."""
    exact = attempt(execution_s=25.0, cost_usd=Decimal("0.02"))
    late = attempt(execution_s=40.0, cost_usd=Decimal("0.03"))
    failed = attempt(execution_s=1.0, state=AttemptState.FAILED)
    errors = quote_errors([exact, late, failed])
    assert errors is not None
    assert errors.clips == 2
    assert errors.time_p50 == pytest.approx((0.25 + 1.0) / 2)
    assert errors.cost_p90 == pytest.approx(0.45)
    assert errors.within_p90 is None
    assert quote_errors([failed]) is None


def test_percentiles_are_interpolated() -> None:
    """The usual definition, as in the history's queries."""
    assert percentile([4, 1, 3, 2], 0.5) == 2.5
    assert percentile([7], 0.9) == 7
    assert percentile([], 0.9) is None
