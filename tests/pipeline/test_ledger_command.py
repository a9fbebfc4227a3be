"""`hybrid-video ledger verify` and `rebuild-history`: the books recomputed, contradictions named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from pipeline_rig import Project, Servers


def verified(project: Project, code: int) -> dict[str, Any]:
    """The answer of `ledger verify --json`."""
    outcome = project.command("ledger", "verify", "--json")
    assert outcome.code == code, str(outcome)
    assert "Traceback" not in outcome.err
    answer = outcome.json
    assert answer["ok"] is (code == 0)
    return answer


def tamper(project: Project, statement: str) -> None:
    """Changes the ledger behind its back."""
    with closing(sqlite3.connect(project.home / "ledger.sqlite3")) as connection:
        assert connection.execute(statement).rowcount > 0
        connection.commit()


def test_an_empty_ledger_is_whole(project: Project) -> None:
    """Nothing was run yet."""
    answer = verified(project, 0)
    assert (answer["jobs"], answer["settled_usd"], answer["reserved_usd"]) == (0, "0.00", "0.00")


def test_a_ledger_after_a_batch_agrees_with_the_bills(farm: Servers, project: Project) -> None:
    """Counts and money, as strings."""
    project.use(farm)
    batch = project.batch([{}, {"preferences": {"backend": "cloud"}}, {"preferences": {"backend": "gemini"}}])
    report = project.run(batch).json
    answer = verified(project, 0)
    assert (answer["batches"], answer["jobs"], answer["attempts"]) == (1, 3, 3)
    assert answer["settled_usd"] == report["cost_usd"]
    assert answer["reserved_usd"] == "0.00"
    assert (answer["orphans"], answer["duplicates"], answer["uncertain"]) == (0, 0, 0)
    assert answer["findings"] == []


def test_an_uncertain_attempt_is_told_but_is_no_contradiction(farm: Servers, project: Project) -> None:
    """Exit 0: its money is held on purpose."""
    project.use(farm)
    farm.fault(server="gemini", operation="submit", action="drop_after")
    project.run(project.batch([{"preferences": {"backend": "gemini"}}]))
    answer = verified(project, 0)
    assert answer["uncertain"] == 1
    assert float(answer["reserved_usd"]) > 0
    assert [finding["kind"] for finding in answer["findings"]] == ["uncertain"]


def test_a_balance_that_does_not_add_up_is_found(farm: Servers, project: Project) -> None:
    """Exit 1 with both amounts."""
    project.use(farm, "gemini")
    project.run(project.batch([{}]))
    tamper(project, "update balances set settled_usd = settled_usd + 1000000000 where scope = 'all'")
    answer = verified(project, 1)
    assert [(f["kind"], f["subject"]) for f in answer["findings"]] == [("balance", "all")]
    assert "$1.069" in answer["findings"][0]["message"]


def test_a_reservation_of_a_finished_attempt_is_found(farm: Servers, project: Project) -> None:
    """Money held for nothing."""
    project.use(farm, "gemini")
    project.run(project.batch([{}]))
    tamper(project, "update attempts set reserved_usd = 5000000000")
    answer = verified(project, 1)
    assert "orphan" in {finding["kind"] for finding in answer["findings"]}


def test_a_clip_gone_from_disk_is_told(farm: Servers, project: Project) -> None:
    """It was paid for, so a person should know; the books are right all the same."""
    project.use(farm, "local")
    clip = Path(project.run(project.batch([{}])).json["clips"][0]["path"])
    clip.unlink()
    answer = verified(project, 0)
    assert [finding["kind"] for finding in answer["findings"]] == ["missing_clip"]
    assert str(clip) in answer["findings"][0]["message"]


def test_the_history_is_made_again_from_the_ledger(farm: Servers, project: Project) -> None:
    """Deleted and rebuilt, it has every finished attempt."""
    project.use(farm, "local")
    project.run(project.batch([{}, {}]))
    (project.home / "history.duckdb").unlink()
    outcome = project.command("ledger", "rebuild-history")
    assert outcome.code == 0, str(outcome)
    assert "2 attempts are in the history" in outcome.err
