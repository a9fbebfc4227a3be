"""What is compiled for one ledger serves the next, and each still answers for itself."""

from __future__ import annotations

from pathlib import Path

from hybrid_video.ledger import Ledger, dialect
from tests.unit.ledger_rig import make_batch


def made(path: Path, name: str, jobs: int) -> int:
    """A batch in a ledger of its own; how many jobs that ledger says it has."""
    ledger = Ledger.open(path / "ledger.sqlite3")
    try:
        ledger.register(make_batch(name, jobs), out_dir=path)
        return len(ledger.job_rows(name))
    finally:
        ledger.close()


def test_a_second_ledger_compiles_no_statement_again(tmp_path: Path) -> None:
    """Another file, another engine, another dialect object: nothing new is remembered, and the answers are its own."""
    assert made(tmp_path / "a", "night", 2) == 2
    known = dict(dialect._STATEMENTS)
    assert known
    assert made(tmp_path / "b", "night", 3) == 3
    assert dict(dialect._STATEMENTS).keys() == known.keys()
    assert made(tmp_path / "a", "morning", 1) == 1
