"""From finished attempts to the history to the next quote."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from hybrid_video.history import History
from hybrid_video.history.queries import calibration, learned_times
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Attempt, AttemptState, JobHandle, JobState, OutputSpec, Quote, Tier, utc_now
from hybrid_video.pricing.learning import NO_WORKER, WORKER, WORKER_UP, Kind, observation, served_s, work_units
from hybrid_video.pricing.timings import ServiceTimes
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import cost, make_batch, make_clip, make_handle, make_order, reserve

RTX_4090 = "NVIDIA GeForce RTX 4090"
OUTPUT = OutputSpec(width=832, height=480, fps=16, frames=81)


def attempt(backend: str = "comfyui", **values: object) -> Attempt:
    """A finished attempt whose quote expected 20 s."""
    tier = {"comfyui": Tier.LOCAL, "gemini": Tier.GEMINI}.get(backend, Tier.CLOUD)
    now = utc_now()
    quote = Quote(
        backend=backend,
        tier=tier,
        model="wan2.2-t2v-14b",
        amount_usd=Decimal("0.02"),
        reserve_usd=Decimal("0.05"),
        service_s=20,
        output=OUTPUT,
        basis="test",
        signature="s1",
        time_scale=float(str(values.pop("time_scale", 1.0))),
    )
    fields: dict[str, object] = {
        "attempt_id": "a",
        "batch": "night",
        "job": "shot-0",
        "number": 1,
        "backend": backend,
        "tier": tier,
        "model": quote.model,
        "lane": f"{backend}-0",
        "state": AttemptState.SETTLED,
        "quoted_usd": quote.amount_usd,
        "reserved_usd": 0,
        "quote": quote,
        "created_at": now - timedelta(seconds=100),
        "submitted_at": now - timedelta(seconds=90),
        "finished_at": now,
        "gpu": RTX_4090 if backend != "gemini" else "",
    }
    return Attempt.model_validate(fields | values)


def test_a_clip_teaches_its_vendors_seconds_per_unit() -> None:
    """The vendor's own figure counts, not the time we waited."""
    seen = observation(attempt(execution_s=40.0))
    assert seen is not None
    assert seen.kind == Kind(Tier.LOCAL, "comfyui", RTX_4090, "wan2.2-t2v-14b", "s1")
    assert seen.per_unit_s == pytest.approx(40 / work_units(Tier.LOCAL, OUTPUT))
    assert seen.success


def test_a_vendor_without_a_clock_is_timed_by_ours() -> None:
    """Google says nothing: from the accepted submit to the stored clip, brought to real time beside an emulator."""
    seen = observation(attempt("gemini", time_scale=20.0))
    assert seen is not None
    assert seen.per_unit_s == pytest.approx(90 * 20 / OUTPUT.frames)


def test_an_impossible_time_teaches_nothing() -> None:
    """A cached result came back in a tenth of a second; no RTX 4090 makes that clip so fast."""
    assert observation(attempt(execution_s=0.1)) is None
    assert observation(attempt(execution_s=0.0)) is None


def test_a_quick_failure_still_costs_its_time() -> None:
    """The bound is about finished clips: a failure after a tenth of a second is quite possible."""
    seen = observation(attempt(execution_s=0.1, state=AttemptState.FAILED))
    assert seen is not None
    assert not seen.success


def test_a_cancelled_attempt_teaches_nothing() -> None:
    """It says when the user lost patience."""
    assert observation(attempt(execution_s=5.0, state=AttemptState.CANCELLED)) is None


def test_only_a_started_worker_counts_as_cold() -> None:
    """Serverless tells of its delay; the same wait on ComfyUI is a place in the queue."""
    cold = observation(attempt("runpod-serverless", execution_s=30.0, queue_s=45.0))
    warm = observation(attempt("runpod-serverless", execution_s=30.0, queue_s=0.4))
    local = observation(attempt(execution_s=30.0, queue_s=45.0))
    assert cold is not None
    assert warm is not None
    assert local is not None
    assert (cold.kind.cold, cold.cold_start_s) == (True, 45.0)
    assert (warm.kind.cold, warm.cold_start_s) == (False, None)
    assert not local.kind.cold


def sent(worker: str, queue_s: float, **values: object) -> Attempt:
    """A clip of a serverless worker whose receipt says whether one was up when it was sent."""
    handle = JobHandle(
        backend="runpod-serverless",
        attempt_id="a",
        remote_id="r",
        lane="l",
        submitted_at=utc_now(),
        details={WORKER: worker},
    )
    return attempt("runpod-serverless", execution_s=30.0, queue_s=queue_s, handle=handle, **values)


@pytest.mark.parametrize(("waited_s", "scale"), [(0.8, 1.0), (45.0, 1.0), (8.0, 40.0)])
def test_a_start_is_learned_however_short_it_was(waited_s: float, scale: float) -> None:
    """No worker was up: two seconds of FlashBoot count as a start like two minutes, or only long ones were learned."""
    seen = observation(sent(NO_WORKER, waited_s, time_scale=scale))
    assert seen is not None
    assert (seen.kind.cold, seen.cold_start_s) == (True, waited_s)
    assert served_s(sent(NO_WORKER, waited_s, time_scale=scale)) == pytest.approx((30 + waited_s) / scale)


def test_a_wait_behind_others_is_no_start() -> None:
    """A worker was up and busy: the wait says nothing of how long one takes to start."""
    seen = observation(sent(WORKER_UP, 45.0))
    assert seen is not None
    assert (seen.kind.cold, seen.cold_start_s) == (False, None)


def test_learned_starts_are_as_long_as_starts_are() -> None:
    """Half of the workers start in 2 s, half in 20 s: the mean is 11 s, where only waits over 5 s said 20 s."""
    times = ServiceTimes()
    for number in range(60):
        seen = observation(sent(NO_WORKER, 2.0 if number % 2 else 20.0))
        assert seen is not None
        times.observe(seen)
    expected = times.cold_start_s(backend="runpod-serverless", gpu=RTX_4090, published_s=60.0)
    assert expected == pytest.approx(11.0, rel=0.05)


def test_served_time_compares_with_the_quote() -> None:
    """On our clock, and with the start of a worker that the quote counts in."""
    assert served_s(attempt(execution_s=40.0, queue_s=9.0, time_scale=20.0)) == pytest.approx(2.0)
    assert served_s(attempt("runpod-serverless", execution_s=40.0, queue_s=20.0)) == pytest.approx(60.0)
    assert served_s(attempt("runpod-serverless", execution_s=40.0, queue_s=3.0)) == pytest.approx(40.0)
    assert served_s(attempt("runpod-serverless", execution_s=40.0, queue_s=20.0, time_scale=40.0)) == pytest.approx(1.0)
    assert served_s(attempt("gemini", state=AttemptState.FAILED)) is None


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with a batch of 120 shots."""
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    opened.register(make_batch(jobs=tuple(job(f"shot-{n}") for n in range(120))), out_dir=tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """This process."""
    made = Owner(tmp_path)
    yield made
    made.close()


def finished(
    ledger: Ledger,
    owner: Owner,
    number: int,
    *,
    took_s: float,
    p90_s: float = 0.0,
    scale: float = 1.0,
    usd: str = "0.01",
) -> None:
    """One clip of a serverless worker, quoted at 20 s and $0.02."""
    order = make_order(shot=job(f"shot-{number}"))
    quote = order.quote.model_copy(update={"service_p90_s": p90_s, "time_scale": scale, "signature": "s1"})
    order = order.model_copy(update={"quote": quote})
    reserve(ledger, order, owner)
    ledger.mark_submitted(make_handle(order))
    ledger.mark_collected(order.attempt_id, make_clip(order), execution_s=took_s, queue_s=0.5, gpu=RTX_4090)
    ledger.settle(order.attempt_id, cost(usd), state=AttemptState.SETTLED, job_state=JobState.DONE)


def test_the_history_teaches_the_next_batch(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """What the ledger settled is what the next start expects; the newest of a kind count."""
    for number in range(23):
        finished(ledger, owner, number, took_s=90.0 if number < 3 else 12.0)
    history = History(tmp_path / "history.duckdb")
    history.update(ledger)
    assert sum(seen.count for seen in learned_times(history).observed.values()) == 23
    (kind,) = learned_times(history).observed
    assert kind == Kind(Tier.CLOUD, "runpod-serverless", RTX_4090, "m", "s1")
    seen = learned_times(history, last=20).observed[kind]
    assert seen.count == 20
    assert seen.typical == pytest.approx(12.0 / work_units(Tier.CLOUD, make_order().quote.output))


def test_what_fast_emulators_did_is_not_learned_at_real_speed(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """A trial beside the emulators must not make the real vendors look fast."""
    finished(ledger, owner, 0, took_s=12.0, scale=40.0)
    history = History(tmp_path / "history.duckdb")
    history.update(ledger)
    assert not learned_times(history).observed
    assert learned_times(history, time_scale=40.0).observed


def test_a_history_of_an_earlier_version_is_taken_over(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Its table lacks the new columns; they are added, and the old rows stay."""
    path = tmp_path / "history.duckdb"
    finished(ledger, owner, 0, took_s=12.0)
    History(path).update(ledger)
    with duckdb.connect(str(path)) as connection:
        for column in ("per_unit_s", "served_s", "time_scale"):
            connection.execute(f"alter table attempts drop column {column}")
    finished(ledger, owner, 1, took_s=12.0)
    assert History(path).update(ledger) == 1
    rows = History(path).query("select job, per_unit_s from attempts order by job")
    assert list(rows["job"]) == ["shot-0", "shot-1"]
    assert learned_times(History(path)).observed


def test_calibration_tells_how_honest_the_quotes_were(ledger: Ledger, owner: Owner, tmp_path: Path) -> None:
    """Nine of ten log-normal clips lie below a right P90, and the errors of time and money are shares of the quote."""
    random.seed(7)
    p90 = 20 * math.exp(1.2816 * 0.25)
    for number in range(120):
        finished(ledger, owner, number, took_s=20 * math.exp(random.gauss(0, 0.25)), p90_s=p90, usd="0.018")
    history = History(tmp_path / "history.duckdb")
    history.update(ledger)
    (row,) = calibration(history).to_dict("records")
    assert row["clips"] == 120
    assert 0.85 <= row["within_p90"] <= 0.95
    assert row["cost_error_p50"] == pytest.approx(0.1)
    assert 0.1 < row["time_error_p50"] < 0.25
    assert row["time_error_p50"] < row["time_error_p90"]
    assert calibration(history, batch="other").empty
