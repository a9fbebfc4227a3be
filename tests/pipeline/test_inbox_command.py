"""`hybrid-video inbox` against emulated backends: shown, made, killed in the middle and gone on with, put back."""

from __future__ import annotations

import json
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pipeline_rig import SMALL, Project, Servers, until

pytestmark = pytest.mark.xdist_group("inbox")


@pytest.fixture
def inbox(project: Project, farm: Servers) -> Path:
    """An empty inbox and all three tiers."""
    project.use(farm)
    project.set(HYBRID_VIDEO_INBOX_SETTLE_S="0.2", HYBRID_VIDEO_INBOX=str(project.folder / "inbox"))
    folder = project.folder / "inbox"
    folder.mkdir()
    return folder


def drop(folder: Path, name: str, jobs: int, **fields: Any) -> None:
    """Puts a batch file into the inbox."""
    shots = [{"id": f"s{n}", "prompt": f"shot {n} of {name}", **SMALL} for n in range(1, jobs + 1)]
    (folder / f"{name}.json").write_text(json.dumps({"jobs": shots, **fields}), encoding="utf-8")


def test_the_inbox_is_shown_made_and_empty(project: Project, farm: Servers, inbox: Path) -> None:
    """What waits has a price and a way; afterwards it lies in done, with clips that play and whole books."""
    drop(inbox, "film", 3)
    (inbox / "bad.csv").write_text("prompt,fps\na kite,many\n", encoding="utf-8")
    shown = project.command("inbox", "--json").json
    assert {line["entry"]: line["left"] for line in shown["waiting"]} == {"bad.csv": 0, "film.json": 3}
    assert Decimal(shown["cost_usd"]) >= 0
    made = project.command("inbox", "run", "--out", project.out, "--json")
    assert made.code == 1, made
    assert {line["unit"]: line["outcome"] for line in made.json["lines"]} == {"bad": "failed", "film": "done"}
    assert len(project.clip_files()) == 3
    after = project.command("inbox", "--json").json
    assert after["waiting"] == []
    [failed] = after["failed"]
    assert "many" in failed["reason"]
    assert sum(Decimal(line["cost_usd"]) for line in made.json["lines"]) == farm.billed_usd()
    assert project.verify().ok


def test_a_killed_night_goes_on_where_it_stopped_and_pays_nothing_twice(
    project: Project, farm: Servers, inbox: Path
) -> None:
    """SIGKILL in the middle of a batch: the next run takes it over, and every job was accepted once."""
    drop(inbox, "film", 20)
    first = project.start("inbox", "run", "--out", project.out, "--json")
    until("some clips are made", lambda: done(farm) > 3, every_s=0.05)
    first.end()
    assert not (inbox / "film.json").exists()
    again = project.start("inbox", "run", "--out", project.out, "--json").wait()
    assert again.code == 0, again
    assert again.json["lines"][0]["clips"] == 20
    assert farm.charged_jobs() == {f"film/s{n}": 1 for n in range(1, 21)}
    assert (next(inbox.glob("done/*/film")) / "report.md").is_file()
    assert project.verify().ok


def test_an_interrupted_night_puts_its_batch_back(project: Project, farm: Servers, inbox: Path) -> None:
    """SIGTERM stops the remote work; the file waits again and says how far it came."""
    drop(inbox, "film", 60)
    run = project.start("inbox", "run", "--out", project.out, "--json")
    until("some clips are made", lambda: done(farm) > 2, every_s=0.05)
    run.signal(signal.SIGTERM)
    ended = run.wait()
    assert [line["outcome"] for line in ended.json["lines"]] == ["stopped"], ended
    [line] = project.command("inbox", "--json").json["waiting"]
    assert "the next run goes on there" in line["reason"]
    assert 0 < line["left"] < line["jobs"]
    assert project.verify().reserved_usd == 0


def test_the_budget_of_a_night_is_never_crossed(project: Project, farm: Servers, inbox: Path) -> None:
    """Only Google, and money for about half: what does not fit waits, and the charges stay below the limit."""
    google = {"preferences": {"backend": "gemini"}}
    for name in ("one", "two", "three"):
        drop(inbox, name, 2, **google)
    project.set(HYBRID_VIDEO_COMFYUI_URLS="", HYBRID_VIDEO_RUNPOD_JOBS_URL="https://api.runpod.ai/v2")
    shown = project.command("inbox", "--json").json
    budget = Decimal(shown["cost_usd"]) * Decimal("0.75")
    made = project.command("inbox", "run", "--out", project.out, "--budget", f"{budget:.4f}", "--by", "none", "--json")
    outcomes = sorted(line["outcome"] for line in made.json["lines"])
    assert "waits" in outcomes, made
    assert farm.billed_usd() <= budget
    assert Decimal(made.json["spent_usd"]) == farm.billed_usd()


def test_a_time_of_day_that_is_none_is_refused(project: Project, inbox: Path) -> None:
    """With what to write; nothing is made."""
    wrong = project.command("inbox", "run", "--by", "7 am")
    assert wrong.code == 2
    assert "'7 am' is no time of day" in wrong.err
    missing = project.command("inbox", "retry", "nothing")
    assert missing.code == 2
    assert "no failed batch is called 'nothing'" in missing.err


def test_the_report_of_the_day_matches_the_vendors(project: Project, farm: Servers, inbox: Path) -> None:
    """`report` in every form: the same money as the emulators charged."""
    drop(inbox, "film", 4, preferences={"backend": "gemini"})
    assert project.command("inbox", "run", "--out", project.out).code == 0
    found = project.command("report", "--json").json
    assert Decimal(found["cost_usd"]) == farm.billed_usd() > 0
    assert found["clips"] == 4
    page = project.command("report", "--format", "md").out
    assert "4 clips" in page
    saved = project.command("report", "--save", "--out", project.folder / "day.csv")
    assert saved.code == 0, saved
    assert "section,name" in (project.folder / "day.csv").read_text(encoding="utf-8")
    assert len(list((project.home / "reports").iterdir())) == 4
    assert project.command("report", "--day", "tomorrow").code == 2
    assert project.command("report", "--format", "pdf").code == 2


def done(farm: Servers) -> int:
    """Clips that the backends have made by now."""
    return sum(row["state"] == "done" for row in farm.charges())
