"""The analytics' answers: equal to the ledger, the same by sums and by rows, and a projection that follows its days."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from benchmarks.dashboard_data import make_history
from hybrid_video.history import History, rollup
from hybrid_video.history.analytics import Dimension, Selection, analysis, choices
from hybrid_video.history.projection import project_month
from hybrid_video.history.savings import google_reference
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import AttemptState
from hybrid_video.settings import Settings
from hybrid_video.views import spend
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, fail, finish, make_batch, make_order, reserve


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    opened = Ledger.open(tmp_path / "ledger.sqlite3")
    yield opened
    opened.close()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    """A process that drives jobs."""
    made = Owner(tmp_path)
    yield made
    made.close()


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history."""
    return History(tmp_path / "history.duckdb")


def attempt(
    ledger: Ledger, owner: Owner, name: str, usd: str, *, batch: str, backend: str, number: int, works: bool
) -> None:
    """One attempt from decision to end."""
    order = make_order(batch, job(name), usd=usd, backend=backend, number=number)
    ledger.claim(batch, name, owner)
    reserve(ledger, order, owner)
    advance(ledger, order, AttemptState.COLLECTED if works else AttemptState.RUNNING)
    (finish if works else fail)(ledger, order, usd)


def fill(ledger: Ledger, owner: Owner, seed: int) -> None:
    """Two batches with random outcomes; a failed job is tried again elsewhere."""
    dice = random.Random(seed)
    for batch in ("night", "dawn"):
        ledger.register(make_batch(batch, 12), out_dir=Path("/clips"))
        for number in range(12):
            name = f"shot-{number}"
            backend = dice.choice(["comfyui", "runpod-serverless", "gemini"])
            usd = f"{dice.randrange(1, 400_000_000) / 1e9:.9f}"
            works = dice.random() < 0.7
            attempt(ledger, owner, name, usd, batch=batch, backend=backend, number=1, works=works)
            if not works:
                other = "gemini" if backend != "gemini" else "comfyui"
                attempt(ledger, owner, name, usd, batch=batch, backend=other, number=2, works=True)


@pytest.mark.parametrize("seed", range(4))
def test_every_sum_equals_the_ledgers_to_the_nano_dollar(
    seed: int, ledger: Ledger, owner: Owner, history: History
) -> None:
    """Totals and breakdowns of the history against exact sums over the ledger's own rows."""
    fill(ledger, owner, seed)
    history.update(ledger)
    with analysis(history, Selection()) as asked:
        totals = asked.totals()
        by = {name: asked.spend_by(name) for name in Dimension}
    exact = spend(ledger, "backend")
    assert totals.cost_usd == exact.cost_usd
    assert totals.attempts == sum(line.attempts for line in exact.lines)
    assert totals.clips == sum(line.clips for line in exact.lines) == 24
    assert totals.failed == totals.attempts - totals.clips
    for frame in by.values():
        assert frame["cost_usd"].sum() == pytest.approx(float(exact.cost_usd), abs=1e-9)
        assert frame["clips"].sum() == totals.clips
    shown = dict(zip(by["backend"]["name"], by["backend"]["cost_usd"], strict=True))
    assert shown == pytest.approx({line.key["backend"]: float(line.cost_usd) for line in exact.lines})


@pytest.mark.parametrize(
    "selection",
    [
        Selection(batch="dawn"),
        Selection(tiers=("gemini",)),
        Selection(backends=("comfyui", "gemini")),
        Selection(batch="no"),
    ],
)
def test_a_selection_is_the_same_by_day_sums_and_by_rows(
    selection: Selection, ledger: Ledger, owner: Owner, history: History
) -> None:
    """The kept sums can never say anything else than the attempts themselves."""
    fill(ledger, owner, 7)
    history.update(ledger)
    with analysis(history, selection) as asked:
        rows, totals = asked.attempts(), asked.totals()
        assert totals.attempts == len(rows)
        assert totals.clips == (rows["state"] == "settled").sum()
        assert float(totals.cost_usd) == pytest.approx(float(rows["cost_usd"].sum()), abs=1e-9)
        assert asked.spend_by_day()["clips"].sum() == totals.clips
        assert asked.latency()["clips"].sum() == totals.clips


def test_failovers_count_attempts_that_moved(ledger: Ledger, owner: Owner, history: History) -> None:
    """Each retry elsewhere is one; the pair of backends is named."""
    ledger.register(make_batch("night", 3), out_dir=Path("/clips"))
    for name, second in (("shot-0", "gemini"), ("shot-1", "comfyui"), ("shot-2", "gemini")):
        attempt(ledger, owner, name, "0.01", batch="night", backend="comfyui", number=1, works=False)
        history.update(ledger)  # the second attempt arrives in an update of its own
        attempt(ledger, owner, name, "0.02", batch="night", backend=second, number=2, works=True)
    history.update(ledger)
    with analysis(history, Selection()) as asked:
        assert asked.failovers().to_dict("records") == [{"away_from": "comfyui", "went_to": "gemini", "jobs": 2}]
        assert asked.errors()["attempts"].tolist() == [3]


def test_an_older_file_gets_its_sums_when_it_is_opened(
    ledger: Ledger, owner: Owner, history: History, tmp_path: Path
) -> None:
    """A history written before there were sums by day answers the same."""
    fill(ledger, owner, 3)
    history.update(ledger)
    with analysis(history, Selection()) as asked:
        before = asked.totals()
    connection = duckdb.connect(str(tmp_path / "history.duckdb"))
    connection.execute("drop table daily")
    connection.close()
    with analysis(history, Selection()) as asked:
        after = asked.totals()
    assert after.mean_total_s == pytest.approx(before.mean_total_s)  # a mean of floats, added up in another order
    assert replace(after, mean_total_s=before.mean_total_s) == before
    assert history.rebuild(ledger) == before.attempts
    with analysis(history, Selection()) as asked:
        assert replace(asked.totals(), mean_total_s=before.mean_total_s) == before


def test_copying_twice_changes_no_sum(ledger: Ledger, owner: Owner, history: History) -> None:
    """An update that is repeated after a crash counts nothing twice."""
    fill(ledger, owner, 5)
    history.update(ledger)
    with analysis(history, Selection()) as asked:
        before = asked.totals()
    ledger.mark_recorded([], recorded=False)
    history.update(ledger)
    with analysis(history, Selection()) as asked:
        after = asked.totals()
    assert after.mean_total_s == pytest.approx(before.mean_total_s)
    assert replace(after, mean_total_s=before.mean_total_s) == before


def test_empty_answers_have_their_columns(history: History) -> None:
    """Charts of an empty selection find what they expect."""
    with analysis(history, Selection()) as asked:
        assert asked.totals().attempts == 0
        assert list(asked.spend_by_day()) == ["day", "name", "clips", "cost_usd"]
        assert list(asked.latency()) == ["backend", "clips", "p50_s", "p95_s", "p99_s", "quoted_mean_s"]
        assert list(asked.failovers()) == ["away_from", "went_to", "jobs"]
        assert list(asked.busy()) == ["day", "backend", "lanes", "busy_h", "share"]
        assert asked.projection(date(2026, 5, 5)) is None
    with history.reading() as ask:
        assert choices(ask) == {"backend": [], "workflow": [], "batch": []}


def test_a_made_history_agrees_with_itself(tmp_path: Path) -> None:
    """The benchmark's data: sums by day against the rows, for tens of thousands of attempts."""
    history = make_history(tmp_path / "many.duckdb", 20_000)
    frame = history.query("select state, count(*) as n, sum(cost_usd) as usd from attempts group by state")
    with analysis(history, Selection()) as asked:
        totals, days = asked.totals(), asked.spend_by_day("batch")
        assert asked.failovers()["jobs"].sum() > 0
        assert asked.busy()["share"].max() > 0
    assert totals.attempts == 20_000 == frame["n"].sum()
    assert float(totals.cost_usd) == pytest.approx(frame["usd"].sum())
    assert days["name"].nunique() == 9, "the eight dearest batches and the rest"
    assert days["cost_usd"].sum() == pytest.approx(frame["usd"].sum())
    assert rollup.TABLE.count("not null") == 14


def test_savings_are_googles_price_of_the_same_seconds(ledger: Ledger, owner: Owner, history: History) -> None:
    """Whole seconds, at least three, at the current price; money from the price book, never a constant."""
    ledger.register(make_batch("night", 2), out_dir=Path("/clips"))
    for name in ("shot-0", "shot-1"):
        attempt(ledger, owner, name, "0.01", batch="night", backend="comfyui", number=1, works=True)
    history.update(ledger)
    reference = google_reference(Settings.load())
    with analysis(history, Selection()) as asked:
        totals = asked.totals()
    assert totals.google_billed_s == 10  # two clips of five seconds
    assert reference.cost_usd(totals) == 10 * reference.usd_per_s + 2 * reference.usd_per_clip == Decimal("0.7")


def test_a_month_is_projected_from_its_days() -> None:
    """Even days leave no doubt; uneven ones a range around the mean; too few days say nothing."""
    today = date(2026, 6, 16)
    even = {today - timedelta(days=n): Decimal(2) for n in range(29)}
    found = project_month(even, today)
    assert found is not None
    assert found.so_far_usd == 32  # the 1st to the 16th
    assert found.low_usd == found.expected_usd == found.high_usd == 60
    uneven = {today - timedelta(days=n): Decimal(n % 5) for n in range(1, 29)}
    doubtful = project_month(uneven, today)
    assert doubtful is not None
    assert doubtful.low_usd < doubtful.expected_usd < doubtful.high_usd
    assert doubtful == project_month(uneven, today), "the same every time it is looked at"
    assert project_month({today - timedelta(days=1): Decimal(1)}, today) is None
    quiet = project_month({today - timedelta(days=20): Decimal(28)}, today)
    assert quiet is not None
    assert quiet.expected_usd == pytest.approx(Decimal(28) / 20 * 14, abs=Decimal("0.001"))


def test_the_range_holds_the_truth_about_four_times_in_five() -> None:
    """Months drawn from the same days end within the range in roughly 80 of 100 cases."""
    dice, inside, today = random.Random(1), 0, date(2026, 6, 10)
    for _ in range(200):
        days = {today - timedelta(days=n): Decimal(str(round(dice.expovariate(0.5), 3))) for n in range(1, 29)}
        found = project_month(days, today)
        assert found is not None
        rest = sum(Decimal(str(dice.expovariate(0.5))) for _ in range(found.days_left))
        inside += found.low_usd <= found.so_far_usd + rest <= found.high_usd
    assert 0.6 <= inside / 200 <= 0.92


def test_an_export_holds_every_row_of_the_selection(tmp_path: Path) -> None:
    """CSV and Parquet hold the same rows as the selection, with all columns."""
    history = make_history(tmp_path / "many.duckdb", 2_000)
    with analysis(history, Selection(tiers=("gemini",))) as asked:
        expected = asked.attempts()
        asked.export(tmp_path / "it's.csv.gz", "csv")
        asked.export(tmp_path / "rows.parquet", "parquet")
    for file, read in (("it's.csv.gz", pd.read_csv), ("rows.parquet", pd.read_parquet)):
        frame = read(tmp_path / file)
        assert list(frame) == list(expected)
        assert sorted(frame["attempt_id"]) == sorted(expected["attempt_id"])
        assert frame["cost_usd"].astype(float).sum() == pytest.approx(expected["cost_usd"].sum())
