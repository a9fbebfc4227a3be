"""Every figure is the ledger's: change the ledger, and each one follows. A constant shown as data would stay."""

from __future__ import annotations

import re
from decimal import Decimal

import pytest
from ui_rig import World, figures, opened, text_of

from hybrid_video.history import History
from hybrid_video.history.analytics import Selection, analysis
from hybrid_video.preferences import applied
from hybrid_video.settings import Settings
from hybrid_video.views import batch, overview
from hybrid_video.wording import Words

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("configured")]
SAY = Words().amounts


def test_every_figure_of_the_overview_follows_the_ledger(world: World) -> None:
    """Two states of the ledger, two sets of figures: none may be the same where the ledger's is not."""
    world.batch(jobs=8)
    world.clip("shot-0", "0.02")
    before = figures(opened())
    assert before["Done today"] == "1"
    assert before["Today"] == before["This month"] == "$0.02"
    world.clip("shot-1", "0.35", backend="gemini")
    world.failure("shot-2", "0.11")
    world.under_way("shot-3", "0.07")
    after = figures(opened())
    settings = Settings.load()
    seen = overview(world.ledger, applied(settings, world.ledger))
    assert after == {
        "In progress": SAY.count(seen.active_jobs),
        "Waiting": SAY.count(seen.queued_jobs),
        "Done today": SAY.count(seen.completed_today),
        "Failed today": SAY.count(seen.failed_today),
        "Time per clip": SAY.duration(seen.average_s),
        "Today": SAY.usd(seen.spend.today_usd),
        "This month": SAY.usd(seen.spend.month_usd),
        "Held": SAY.usd(seen.spend.reserved_usd),
        **{name: value for name, value in after.items() if "comfyui" in name or "runpod" in name or "gemini" in name},
    }
    assert seen.spend.today_usd == Decimal("0.48")
    changed = {name for name, value in after.items() if before.get(name) != value}
    assert {"In progress", "Waiting", "Done today", "Today", "This month", "Held"} <= changed


def test_every_figure_of_a_batch_follows_the_ledger(world: World) -> None:
    """Progress, money and what is held, against the view that the API gives out too."""
    world.batch(jobs=5, budget_usd="3")
    world.clip("shot-0", "0.02")
    first = figures(opened("batches", batch="night"))
    world.clip("shot-1", "0.30", backend="gemini")
    world.under_way("shot-2", "0.07")
    app = opened("batches", batch="night")
    second = figures(app)
    view = batch(world.ledger, "night")
    assert second["Finished clips"] == f"{view.batch.jobs.done} / {view.batch.jobs.total}" == "2 / 5"
    assert second["Cost"] == SAY.usd(view.batch.settled_usd) == "$0.32"
    assert second["Held"] == SAY.usd(view.batch.reserved_usd) == "$0.07"
    assert {name for name in first if first[name] != second[name]} >= {"Finished clips", "Cost", "Held"}
    assert "budget $3" in text_of(app)


def test_every_figure_of_analytics_follows_the_history(world: World) -> None:
    """Money, clips, quoted against actual and savings, against the ledger's own sums."""
    world.batch(jobs=6)
    world.clip("shot-0", "0.02")
    first = figures(opened("analytics"))
    assert first["Spent"] == "$0.02"
    world.clip("shot-1", "0.35", backend="gemini")
    world.failure("shot-2", "0.10")
    second = figures(opened("analytics"))
    settings = Settings.load()
    with analysis(History(settings.storage.history_path), Selection()) as asked:
        totals = asked.totals()
    spend = overview(world.ledger, settings).spend
    assert totals.cost_usd == spend.total_usd == Decimal("0.47")
    assert second["Spent"] == SAY.usd(spend.total_usd)
    assert second["Finished clips"] == SAY.count(totals.clips) == "2"
    assert {name for name in first if first[name] != second[name]} >= {
        "Spent",
        "Finished clips",
        "Saved against Google",
    }


def test_the_backends_page_counts_what_the_ledger_counts(world: World) -> None:
    """Clips, failures and money of today by backend."""
    world.batch(jobs=6)
    world.clip("shot-0", "0.02")
    world.failure("shot-1", "0.10", backend="runpod-serverless")
    said = text_of(opened("backends"))
    assert "1 clips, 1 failed" in said
    assert "$0.12" in said


def test_a_limit_that_is_changed_is_shown_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cap on the overview is the one in force."""
    world.batch()
    world.clip("shot-0", "0.02")
    monkeypatch.setenv("HYBRID_VIDEO_DAILY_BUDGET_USD", "9")
    assert "of $9" in text_of(opened()).replace("\\", "")


def test_the_decision_card_says_why_and_why_not(world: World) -> None:
    """Chosen and refused backends with the sentences of the decision."""
    world.batch()
    world.clip("shot-0", "0.02")
    said = text_of(opened("jobs", batch="night", job="shot-0"))
    assert "best score" in said
    assert "70.0 points" in said
    assert "scores 30 points less" in said
    assert figures(opened("jobs", batch="night", job="shot-0"))["Cost"] == "$0.02"


def test_the_calculator_answers_the_address(world: World) -> None:
    """A shared link gives the same figures: seed prices, three, five and ten slots, a deadline."""
    link = {"jobs": "100", "slots_local": "3", "slots_cloud": "5", "slots_gemini": "10", "prices": "seed"}
    app = opened("calculator", **link, goal="deadline", minutes="3")
    assert not app.exception
    shown = figures(app)
    assert shown["Cost"] == "$0.40"  # 54/45/1 in 180 s, the optimum of the seed's figures
    assert shown["Time"] == "3 min"
    assert "Your GPU 54 · Rented GPUs 45 · Google 1" in str([table.value for table in app.table])
    slower = figures(opened("calculator", **link, goal="deadline", minutes="4"))
    assert slower["Cost"] != shown["Cost"]


def test_the_calculator_tries_rented_gpus_where_asked(world: World) -> None:
    """With pods there is a second plan beside the first, in figures that differ; without there is none."""
    link = {"jobs": "300", "slots_local": "1", "use_cloud": "false", "goal": "deadline", "minutes": "120"}
    without = str([table.value for table in opened("calculator", **link).table])
    assert "rented GPUs" not in without
    app = opened("calculator", **link, pods="4")
    assert not app.exception
    compared = str([table.value for table in app.table])
    assert re.search(r"Recommended, with [1-4] rented GPUs", compared)
    assert re.search(r"Pods \d+", compared)
    assert "Dashed line: with rented GPUs at" in text_of(app)


def test_the_calculator_says_what_cannot_be_had(world: World) -> None:
    """A deadline nobody can keep is a warning with the nearest plan; no tier at all is one too."""
    app = opened("calculator", jobs="10000", goal="deadline", minutes="1")
    assert "fastest plan" in app.warning[0].value
    for tier in ("local", "cloud", "gemini"):
        app.toggle(key=f"use_{tier}").set_value(False)
    app.run()
    assert "Every tier is switched off" in app.warning[0].value
