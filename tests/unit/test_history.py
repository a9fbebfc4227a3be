"""The history: filled idempotently from the ledger, rebuilt from it, asked by several processes in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from hybrid_video.errors import LedgerError
from hybrid_video.history import History, queries
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import AttemptState, JobState, utc_now
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import cost, fail, make_batch, make_done, make_order, reserve

ROOT = Path(__file__).resolve().parents[2]

COLUMNS = {
    "cost_per_day": ["day", "tier", "attempts", "clips", "cost_usd", "quoted_usd"],
    "cost_per_backend": ["backend", "tier", "attempts", "clips", "failed", "cost_usd", "mean_s"],
    "latency_percentiles": ["backend", "clips", "p50_s", "p95_s", "p99_s"],
    "failures": ["error_kind", "backend", "attempts", "cost_usd"],
}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A ledger with two clips, a failure and an attempt under way."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=4), out_dir=tmp_path)
    lost = make_order(shot=job("shot-0"))
    reserve(ledger, lost, owner)
    fail(ledger, lost, "0.003")
    make_done(ledger, make_order(shot=job("shot-0"), number=2, backend="gemini", usd="0.08"), owner, "0.08")
    make_done(ledger, make_order(shot=job("shot-1")), owner, "0.0123456")
    reserve(ledger, make_order(shot=job("shot-2")), owner)
    yield ledger
    ledger.close()
    owner.close()


@pytest.fixture
def history(tmp_path: Path) -> History:
    """An empty history."""
    return History(tmp_path / "history.duckdb")


def rows(history: History, sql: str = "select * from attempts order by attempt_id") -> list[dict[Any, Any]]:
    """Rows as dictionaries, with nothing shown as None."""
    frame = history.query(sql)
    found: list[dict[Any, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return found


def test_finished_attempts_are_copied_once(ledger: Ledger, history: History) -> None:
    """Doing it again copies nothing; what is under way stays out until it ends."""
    assert history.update(ledger) == 3
    before = rows(history)
    assert history.update(ledger) == 0
    assert rows(history) == before
    ledger.settle(ledger.open_attempts()[0].attempt_id, cost("0"), state=AttemptState.FAILED, job_state=JobState.FAILED)
    assert history.update(ledger) == 1
    assert len(rows(history)) == 4


def test_copying_again_after_a_crash_changes_nothing(ledger: Ledger, history: History) -> None:
    """A process that died before it told the ledger leaves rows that are replaced by themselves."""
    history.update(ledger)
    before = rows(history)
    ledger.mark_recorded([], recorded=False)
    assert history.update(ledger) == 3
    assert rows(history) == before


def test_the_first_rows_may_all_lack_a_value(tmp_path: Path, history: History) -> None:
    """Attempts that were never submitted have no times at all; the columns keep their types."""
    ledger, owner = Ledger.open(tmp_path / "other.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(), out_dir=tmp_path)
    order = make_order()
    reserve(ledger, order, owner)
    fail(ledger, order)
    assert history.update(ledger) == 1
    row = rows(history)[0]
    assert (row["submitted_at"], row["execution_s"], row["queue_s"]) == (None, None, None)
    assert row["cost_usd"] == 0
    ledger.close()
    owner.close()


def test_amounts_and_times_arrive_exactly(ledger: Ledger, history: History) -> None:
    """Money is stored as decimals of a nano-dollar, times in UTC."""
    history.update(ledger)
    [clip] = [attempt for attempt in ledger.attempts() if attempt.cost_usd == Decimal("0.0123456")]
    sql = "select cast(cost_usd as varchar) as usd, finished_at, state, work_units from attempts where job = 'shot-1'"
    [row] = rows(history, sql)
    assert Decimal(row["usd"]) == Decimal("0.0123456")
    assert clip.finished_at is not None
    assert row["finished_at"].to_pydatetime() == clip.finished_at.replace(tzinfo=None)
    assert row["state"] == "settled"
    assert row["work_units"] > 0


def test_the_whole_history_can_be_made_again(ledger: Ledger, history: History) -> None:
    """Everything in it comes from the ledger."""
    history.update(ledger)
    before = rows(history)
    assert history.rebuild(ledger) == 3
    assert rows(history) == before


@pytest.mark.parametrize("name", list(COLUMNS))
def test_every_question_has_fixed_columns_empty_and_filled(ledger: Ledger, history: History, name: str) -> None:
    """A chart drawn before the first clip does not break."""
    question = getattr(queries, name)
    assert list(question(history).columns) == COLUMNS[name]
    assert len(question(history)) == 0
    history.update(ledger)
    assert list(question(history).columns) == COLUMNS[name]
    assert len(question(history)) >= 1


def test_costs_include_failed_attempts(ledger: Ledger, history: History) -> None:
    """What was paid for nothing is still paid."""
    history.update(ledger)
    by_tier = {row["tier"]: row for row in queries.cost_per_day(history).to_dict("records")}
    assert by_tier["cloud"]["cost_usd"] == pytest.approx(0.0153456)
    assert (by_tier["cloud"]["attempts"], by_tier["cloud"]["clips"]) == (2, 1)
    assert by_tier["gemini"]["cost_usd"] == pytest.approx(0.08)
    tomorrow = (utc_now() + timedelta(days=1)).date()
    assert len(queries.cost_per_day(history, since=tomorrow)) == 0
    by_backend = {row["backend"]: row for row in queries.cost_per_backend(history).to_dict("records")}
    assert by_backend["runpod-serverless"]["failed"] == 1
    assert by_backend["runpod-serverless"]["mean_s"] == pytest.approx(19.5)


def test_questions_can_be_about_one_batch(ledger: Ledger, history: History) -> None:
    """Another batch's rows do not count."""
    history.update(ledger)
    assert len(queries.failures(history, batch="night")) == 1
    assert len(queries.failures(history, batch="other")) == 0
    assert len(queries.latency_percentiles(history, batch="night")) == 2


def test_a_history_that_is_busy_for_too_long_says_so(tmp_path: Path) -> None:
    """After its patience a reader gives up with a sentence, not with a traceback."""
    history = History(tmp_path / "history.duckdb", lock_timeout_s=0.05)
    with FileLock(tmp_path / "history.lock"), pytest.raises(LedgerError, match="locked by another process"):
        history.query("select 1")


@pytest.mark.parametrize("kind", ["the folder is a file", "the file is something else"])
def test_a_history_that_cannot_be_opened_says_where_and_what_to_do(tmp_path: Path, kind: str) -> None:
    """Path, reason, remedy."""
    path = tmp_path / "home" / "history.duckdb"
    if kind == "the folder is a file":
        path.parent.write_text("not a folder")
    else:
        path.parent.mkdir()
        path.write_text("certainly not a database " * 200)
    with pytest.raises(LedgerError) as caught:
        History(path).query("select 1")
    assert repr(str(path)) in caught.value.message
    assert "HYBRID_VIDEO_HOME" in caught.value.message or "rebuild-history" in caught.value.message


UPDATER = """
import sys
from pathlib import Path
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
home = Path(sys.argv[1])
ledger, history = Ledger.open(home / "ledger.sqlite3"), History(home / "history.duckdb")
history.query("select 1")
print("ready", flush=True)
sys.stdin.readline()
total = 0
for _ in range(2):
    total += history.update(ledger)
    ledger.mark_recorded([], recorded=False)
    assert len(history.query("select * from attempts")) == 3
print(total)
"""


def test_two_processes_take_turns(ledger: Ledger, history: History, tmp_path: Path) -> None:
    """Both write and read at once, and nobody fails, waits for ever, or loses a row."""
    history.update(ledger)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", UPDATER, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    answers = [child.communicate("go\n", timeout=60)[0] for child in children]
    assert all(child.returncode == 0 for child in children)
    assert sum(int(answer) for answer in answers) >= 3
    assert len(rows(history)) == 3
