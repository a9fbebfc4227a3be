"""Several processes spend against shared caps; the database's own record is the judge."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from benchmarks import money


def test_processes_together_never_cross_a_cap_and_are_never_refused_for_nothing(tmp_path: Path) -> None:
    """Eight processes, 600 jobs: overspend $0.00, false refusals 0, every balance agrees, nothing stays reserved."""
    outcome = money.load(tmp_path, processes=8, jobs=600, seed=3)
    assert outcome.refusals > 50, "the caps never held, so nothing was shown"
    assert outcome.overspent_usd <= 0
    assert outcome.false_refusals == 0
    assert outcome.ledger_ok
    assert outcome.left_reserved_usd == 0


def test_the_judge_sees_overspending_and_false_refusals(tmp_path: Path) -> None:
    """Held against a smaller cap the same record shows overspending; against a larger one the refusals are false."""
    money.load(tmp_path, processes=4, jobs=200, seed=4)
    history, caps = money._audit(tmp_path), money.caps_for(200)
    assert caps.day_usd is not None
    assert money._overspent(history, replace(caps, day_usd=caps.day_usd / 2)) > 0
    times, _ = history["all"]
    refused = money.Refused("j1", "cloud", int(Decimal("0.01") * money.NANO), times[0], times[0])
    assert not money._justified(refused, history, caps), "the very first instant had room for a cent"
