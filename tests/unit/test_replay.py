"""Past batches under other conditions, and the advice computed from the frontier."""

from __future__ import annotations

import random
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video import planner
from hybrid_video.advice import advise, dollars, spoken
from hybrid_video.engine.forecast import forecast
from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import AttemptState, JobState, Tier
from hybrid_video.planner import Plan, Resource
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.replay import replay
from hybrid_video.settings import Settings
from hybrid_video.simulation import Job
from hybrid_video.simulation.recorded import RecordedSite, Seen, Told
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import cost, fail, make_batch, make_clip, make_handle, make_order, reserve
from tests.unit.test_predictions import SEED, seed_lanes, seed_shots

RTX_4090 = "NVIDIA GeForce RTX 4090"
JOBS = 30


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A finished batch of 30: 20 local clips of 10 s, 8 of 20 s in the cloud and 2 of 5 s at Google, in 70 s."""
    opened, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    opened.register(make_batch(jobs=JOBS, deadline_s=70), out_dir=tmp_path)
    found = forecast(
        "night", seed_shots(JOBS), seed_lanes(), deadline_s=70, budget_usd=None, value_of_time_usd_per_h=10
    )
    assert found is not None
    plan = opened.record_plan(found)
    for number in range(JOBS):
        key, usd, took_s = (
            ("local", "0", 10.0)
            if number < 20
            else ("cloud", "0.007", 20.0)
            if number < 28
            else ("gemini", "0.08", 5.0)
        )
        clip(opened, owner, number, key, usd, took_s)
    opened.record_outcome(plan, duration_s=72.5, made=JOBS)
    yield opened
    owner.close()
    opened.close()


def clip(
    ledger: Ledger, owner: Owner, number: int, key: str, usd: str, took_s: float, quoted_s: float | None = None
) -> None:
    """One finished clip: quoted at what it took and certain of it, or at another time with its scatter."""
    order = make_order(shot=job(f"shot-{number}"), backend=key, usd=usd)
    times = {"service_s": quoted_s or took_s, "service_p90_s": 1.3 * quoted_s if quoted_s else 0.0}
    order = order.model_copy(update={"quote": order.quote.model_copy(update=times)})
    reserve(ledger, order, owner)
    ledger.mark_submitted(make_handle(order))
    ledger.mark_collected(order.attempt_id, make_clip(order), execution_s=took_s, queue_s=0, gpu=RTX_4090)
    ledger.settle(order.attempt_id, cost(usd), state=AttemptState.SETTLED, job_state=JobState.DONE)


def test_a_replay_starts_from_what_happened(ledger: Ledger) -> None:
    """The money and the time of the ledger, the same goal run again, and in hindsight the best plan for it."""
    found = replay(ledger, "night", Settings())
    assert found.actual.cost_usd == Decimal("0.216")
    assert found.actual.duration_s == 72.5
    assert found.actual.split == {"local": 20, "cloud": 8, "gemini": 2}
    assert found.again == found.replayed
    assert found.hindsight.duration_s <= 70
    assert found.again.duration_s <= 70
    assert found.again.cost_usd >= found.hindsight.cost_usd
    assert found.hindsight.cost_usd == planner.cheapest_by(SEED, JOBS, 70).cost_usd  # type: ignore[union-attr]


def test_a_later_deadline_is_cheaper_and_says_by_how_much(ledger: Ledger) -> None:
    """A hundred seconds are enough for the own GPU alone; the dispatcher keeps a tenth in hand."""
    assert replay(ledger, "night", Settings(), deadline_s=100).replayed.split == {"local": 27, "cloud": 3}
    found = replay(ledger, "night", Settings(), deadline_s=115)
    assert found.replayed.cost_usd == 0
    assert found.replayed.split == {"local": 30}
    assert not found.note


def test_a_goal_out_of_reach_is_answered_with_the_nearest(ledger: Ledger) -> None:
    """The sentence says so, and the run is the fastest, or makes what the money is enough for."""
    late = replay(ledger, "night", Settings(), deadline_s=1)
    poor = replay(ledger, "night", Settings(), budget_usd=Decimal("0.01"), without=[Tier.LOCAL])
    assert "cannot be met" in late.note
    assert late.replayed.duration_s == planner.shortest(SEED, JOBS).duration_s
    assert "pays for 1 of 30 clips" in poor.note
    assert poor.replayed.split == {"cloud": 1}
    assert poor.replayed.cost_usd <= Decimal("0.01")


def test_a_tier_can_be_left_out(ledger: Ledger) -> None:
    """Without Google the same deadline costs less or takes longer, and nothing goes there."""
    found = replay(ledger, "night", Settings(), without=[Tier.GEMINI])
    assert "gemini" not in found.replayed.split
    with pytest.raises(InputError, match="leave one of them in"):
        replay(ledger, "night", Settings(), without=list(Tier))


def test_another_price_list_changes_the_money_and_not_the_times(tmp_path: Path, ledger: Ledger) -> None:
    """At today's prices the same seconds cost what they cost now."""
    del tmp_path
    seed = replay(ledger, "night", Settings(), prices=PriceBook.load("seed"))
    assert {line.backend: line.price_usd for line in seed.pool} == {
        "local": Decimal(0),
        "cloud": Decimal("0.007"),
        "gemini": Decimal("0.08"),
    }
    assert seed.replayed == replay(ledger, "night", Settings()).replayed


def test_the_seeds_price_list_brings_its_own_times(tmp_path: Path) -> None:
    """Its prices are for videos of 10, 20 and 5 s: a batch of slower clips is replayed with those."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=2), out_dir=tmp_path)
    clip(ledger, owner, 0, "local", "0", 70.0)
    clip(ledger, owner, 1, "cloud", "0.05", 150.0)
    as_it_was = {line.backend: line.service_s for line in replay(ledger, "night", Settings()).pool}
    seed = replay(ledger, "night", Settings(), prices=PriceBook.load("seed"))
    owner.close()
    ledger.close()
    assert as_it_was == {"local": 70.0, "cloud": 150.0}
    assert {line.backend: line.service_s for line in seed.pool} == {"local": 10.0, "cloud": 20.0}
    assert seed.replayed.duration_s == 20.0


def test_failed_attempts_make_a_backend_slower_and_dearer(tmp_path: Path) -> None:
    """Their seconds and dollars are shared by the clips that were made there."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=2), out_dir=tmp_path)
    broken = make_order(shot=job("shot-0"), backend="runpod-pod", usd="0.02")
    reserve(ledger, broken, owner)
    ledger.mark_submitted(make_handle(broken))
    fail(ledger, broken, usd="0.01")
    retry = make_order(shot=job("shot-0"), number=2, backend="runpod-pod", usd="0.02")
    reserve(ledger, retry, owner)
    ledger.mark_submitted(make_handle(retry))
    ledger.mark_collected(retry.attempt_id, make_clip(retry), execution_s=30, queue_s=0, gpu=RTX_4090)
    ledger.settle(retry.attempt_id, cost("0.02"), state=AttemptState.SETTLED, job_state=JobState.DONE)
    (line,) = replay(ledger, "night", Settings()).pool
    repriced = replay(ledger, "night", Settings(), prices=PriceBook.load("seed")).pool[0]
    owner.close()
    ledger.close()
    assert line.price_usd == Decimal("0.03")
    assert line.slots == 1
    assert repriced.price_usd == Decimal("0.007")


def test_a_batch_without_a_clip_cannot_be_replayed(tmp_path: Path) -> None:
    """There are no times; an unknown batch is refused as well."""
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    ledger.register(make_batch(jobs=2), out_dir=tmp_path)
    with pytest.raises(InputError, match="no finished clip"):
        replay(ledger, "night", Settings())
    with pytest.raises(InputError, match="no batch is named"):
        replay(ledger, "nothing", Settings())
    ledger.close()


def test_advice_is_computed_from_the_frontier() -> None:
    """The seed's hundred jobs at 180 s: every figure in the sentences can be checked against the planner."""
    chosen = planner.cheapest_by(SEED, 100, 180)
    assert chosen is not None
    later, sooner, slot = advise(SEED, 100, chosen)
    assert later == "3 min 10 s instead of 3 min saves $0.094 of $0.40 (24%)"
    ten_more = planner.cheapest_by(SEED, 100, 190)
    assert ten_more is not None
    assert chosen.cost_usd - ten_more.cost_usd == Decimal("0.094")
    quick = planner.cheapest_by(SEED, 100, 80)
    assert quick is not None
    assert sooner.startswith(f"for {dollars(quick.cost_usd - chosen.cost_usd)} more it is done in 80 s")
    four = planner.cheapest_by([Resource("local", 4, 10, Decimal(0)), *SEED[1:]], 100, 180)
    assert four is not None
    assert slot == f"one more local slot saves {dollars(chosen.cost_usd - four.cost_usd)} within the same 3 min"


def test_advice_about_the_past_says_so() -> None:
    """`replay` speaks of what would have been."""
    chosen = planner.cheapest_by(SEED, 100, 180)
    assert chosen is not None
    assert "would have saved" in advise(SEED, 100, chosen, past=True)[0]


def test_there_is_no_advice_where_nothing_would_change() -> None:
    """One free slot is already the cheapest and the fastest."""
    alone = [Resource("local", 1, 10, Decimal(0))]
    assert advise(alone, 5, Plan({"local": 5}, Decimal(0), 50)) == []
    assert advise([], 5, Plan({}, Decimal(0), 0)) == []


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0.4 s"), (45, "45 s"), (119, "119 s"), (150, "2 min 30 s"), (3600, "1 h"), (7560, "2 h 6 min")],
)
def test_durations_are_spoken(seconds: float, text: str) -> None:
    """As people say them."""
    assert spoken(seconds) == text


def scattered(ledger: Ledger, owner: Owner, jobs: int) -> None:
    """A batch whose clips took other than quoted: local ones 12 s (+-1) instead of 10, cloud ones 18 s (+-4)."""
    for number in range(jobs):
        key = "cloud" if number % 3 == 2 else "local"
        took_s = 12.0 + (number % 5 - 2) / 2 if key == "local" else 18.0 + 2 * (number % 5 - 2)
        quoted_s = 10.0 if key == "local" else 20.0
        clip(ledger, owner, number, key, "0" if key == "local" else "0.007", took_s, quoted_s)


def test_a_replay_learns_from_the_times_that_were_seen(tmp_path: Path) -> None:
    """Thirty clips of 12 s on one GPU and of 18 s on one worker take what they must, whatever was quoted."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=30), out_dir=tmp_path)
    scattered(ledger, owner, 30)
    alone = replay(ledger, "night", Settings(), without=[Tier.CLOUD]).replayed
    found = replay(ledger, "night", Settings(), deadline_s=260)
    both = found.replayed
    owner.close()
    ledger.close()
    assert alone.split == {"local": 30}
    assert alone.duration_s == pytest.approx(30 * 12, rel=0.03)
    assert both.duration_s <= 260
    assert found.note == ""
    assert 8 <= both.split["cloud"] <= 13


def test_replays_differ_by_the_goal_and_not_by_luck(tmp_path: Path) -> None:
    """The same question twice has the same answer, and more time never costs more."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=30), out_dir=tmp_path)
    scattered(ledger, owner, 30)
    found = [replay(ledger, "night", Settings(), deadline_s=time_s).replayed for time_s in (240, 240, 300, 400)]
    owner.close()
    ledger.close()
    assert found[0] == found[1]
    assert found[0].cost_usd >= found[2].cost_usd >= found[3].cost_usd == 0


def test_what_an_attempt_cost_and_took_is_taken_from_the_ledger() -> None:
    """Where a job was made it takes and costs the same again, failure first; a further try is drawn."""
    site = RecordedSite(
        "cloud",
        1,
        20,
        Decimal("0.01"),
        told={"a": Told(20, 10_000_000), "b": Told(40, 20_000_000)},
        seen={"a": (Seen(7, False, 1_000_000), Seen(25, True, 12_000_000))},
        pace=1.1,
        by_time=True,
    )
    a, b, rng = Job("a"), Job("b"), random.Random(1)
    assert site.attempt(a, rng) == (7, False)
    assert site.billed_nano(a, 7, succeeds=False) == 1_000_000
    assert site.attempt(a, rng) == (25, True)
    assert site.billed_nano(a, 25, succeeds=True) == 12_000_000
    assert site.attempt(b, rng) == (pytest.approx(44), True)
    assert site.billed_nano(b, 44, succeeds=True) == 22_000_000
    assert site.again(1).attempt(a, rng) == (7, False)
    assert not site.takes(Job("c"))
