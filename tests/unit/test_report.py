"""The report of a batch: what is counted, what money says, and the contract's JSON."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video.engine.report import BatchReport, ErrorLine, build_report, money
from hybrid_video.errors import FailureKind, TerminalError
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import JobState
from tests.unit.deciding_rig import job
from tests.unit.engine_rig import ScriptedBackend, ran, small
from tests.unit.ledger_rig import fail, make_batch, make_done, make_order, reserve


@given(st.decimals(0, 1_000_000, places=9))
def test_money_is_exact_and_plain(amount: Decimal) -> None:
    """No exponent, no lost digit, at least two decimals, no needless zeros."""
    text = money(amount)
    assert Decimal(text) == amount
    assert "E" not in text.upper()
    whole, _, fraction = text.partition(".")
    assert whole.isdigit()
    assert len(fraction) >= 2
    assert len(fraction) == 2 or not fraction.endswith("0")


@pytest.mark.parametrize(
    ("amount", "text"), [("0", "0.00"), ("1E-7", "0.0000001"), ("1.5", "1.50"), ("8E+1", "80.00"), ("0.0700", "0.07")]
)
def test_money_examples(amount: str, text: str) -> None:
    """As people write it."""
    assert money(Decimal(amount)) == text


@pytest.fixture
def mixed(tmp_path: Path) -> BatchReport:
    """One clip after a failover, one refused job, one that was not started, and one from an earlier version."""
    ledger, owner = Ledger.open(tmp_path / "ledger.sqlite3"), Owner(tmp_path)
    ledger.register(make_batch(jobs=4), out_dir=tmp_path)
    lost = make_order(shot=job("shot-0"), usd="0.02")
    reserve(ledger, lost, owner)
    fail(ledger, lost, "0.003")
    make_done(ledger, make_order(shot=job("shot-0"), number=2, backend="gemini", usd="0.35"), owner, "0.34")
    ledger.set_job_state("night", "shot-1", JobState.FAILED, error_kind="limit", error_message="the batch budget of $1")
    make_done(ledger, make_order(shot=job("shot-3"), usd="9"), owner, "9")
    report = build_report(
        ledger, "night", duration_s=12.34567, simulated=True, jobs=("shot-0", "shot-1", "shot-2"), notices=("hello",)
    )
    ledger.close()
    owner.close()
    return report


def test_every_attempt_is_paid_for_and_every_clip_counted_once(mixed: BatchReport) -> None:
    """Cost includes the failed attempt; the quote is that of the clips; a job left out of the batch is not counted."""
    assert (mixed.jobs, mixed.completed, mixed.failed) == (3, 1, 2)
    assert mixed.cost_usd == Decimal("0.343")
    assert mixed.quoted_usd == Decimal("0.35")
    assert mixed.failovers == 1
    assert {tier: (line.jobs, line.attempts) for tier, line in mixed.by_backend.items()} == {
        "cloud": (0, 1),
        "gemini": (1, 1),
    }
    assert mixed.cost_usd == sum(line.cost_usd for line in mixed.by_backend.values())


def test_every_job_without_a_clip_says_why(mixed: BatchReport) -> None:
    """The stored message, or what its state means."""
    lines = {line.job: line for line in mixed.errors}
    assert lines["shot-1"].kind == "limit"
    assert lines["shot-1"].message == "the batch budget of $1"
    assert lines["shot-2"].kind == "pending"
    assert "run the batch again" in lines["shot-2"].message


def test_the_json_is_the_contract(mixed: BatchReport) -> None:
    """Money as strings, times rounded, the fields that scripts rely on."""
    data = json.loads(json.dumps(mixed.to_json()))
    assert set(data) >= {
        "batch",
        "jobs",
        "completed",
        "failed",
        "cost_usd",
        "quoted_usd",
        "duration_s",
        "failovers",
        "by_backend",
        "clips",
        "errors",
    }
    assert (data["cost_usd"], data["quoted_usd"], data["duration_s"]) == ("0.343", "0.35", 12.346)
    assert data["by_backend"]["cloud"] == {"jobs": 0, "cost_usd": "0.003", "attempts": 1}
    [clip] = data["clips"]
    assert set(clip) >= {"job", "path", "backend", "cost_usd", "sha256"}
    assert (clip["backend"], clip["cost_usd"]) == ("gemini", "0.34")
    assert {"job", "kind", "message"} <= set(data["errors"][0])
    assert (data["simulated"], data["notices"]) == (True, ["hello"])


@pytest.mark.parametrize(("kinds", "code"), [((), 0), (("limit",), 3), (("limit", "out_of_memory"), 1)])
def test_the_exit_code_follows_from_the_errors(mixed: BatchReport, kinds: tuple[str, ...], code: int) -> None:
    """0 all done, 3 only refused by limits, 1 otherwise."""
    errors = tuple(ErrorLine(job="x", kind=kind, message="m") for kind in kinds)
    assert mixed.model_copy(update={"errors": errors}).exit_code == code


async def test_a_run_reports_its_own_time_and_what_failed(tmp_path: Path) -> None:
    """A whole batch through the engine: two clips and one deterministic failure."""
    wrong = TerminalError("a node failed", kind=FailureKind.EXECUTION_FAILED, backend="comfyui")
    backend = ScriptedBackend("comfyui", fail_watch=[wrong])
    async with ran([backend], tmp_path, tuple(small(f"shot-{n}") for n in range(3))) as done:
        report = done.report
    assert (report.completed, report.failed, report.exit_code) == (2, 1, 1)
    assert report.errors[0].kind == "execution_failed"
    assert report.duration_s > 0
    assert len({clip.sha256 for clip in report.clips}) == 2
