"""Plans and learned times over batches that really ran against the emulators."""

from __future__ import annotations

from decimal import Decimal

from pipeline_rig import Project, Servers


def test_the_report_puts_plan_and_quotes_beside_the_outcome(project: Project, farm: Servers) -> None:
    """What the run was expected to come to is stored before it begins, and its error is told after it."""
    project.use(farm)
    outcome = project.run(project.batch([{}, {}, {}, {}]))
    plan, errors = outcome.json["plan"], outcome.json["quote_errors"]
    assert plan["jobs"] == 4
    assert plan["complete"]
    assert Decimal(plan["actual_usd"]) == Decimal(outcome.json["cost_usd"])
    assert 0 < plan["actual_s"] <= outcome.json["duration_s"]
    assert errors["clips"] == 4
    assert errors["time_p90"] >= errors["time_p50"] >= 0
    assert "planned $" in outcome.err


def test_a_run_with_nothing_left_to_make_has_no_plan(project: Project, farm: Servers) -> None:
    """The same batch again finds its clips."""
    project.use(farm, "local")
    file = project.batch([{}])
    project.run(file)
    assert project.run(file).json["plan"] is None


def test_the_next_batch_expects_what_the_first_one_saw(project: Project, farm: Servers) -> None:
    """The emulated GPU takes 8 s for a clip of any size, which nobody published: the error shrinks with experience."""
    project.use(farm, "local")
    first = project.run(project.batch([{}] * 8, name="first")).json["quote_errors"]
    second = project.run(project.batch([{}] * 8, name="second")).json["quote_errors"]
    assert second["time_p50"] < first["time_p90"] / 2


def test_a_batch_learns_while_it_runs(project: Project, farm: Servers) -> None:
    """Later clips of one batch are quoted with the times of its first ones."""
    project.use(farm, "local")
    project.set(HYBRID_VIDEO_TIME_SCALE="40")
    project.run(project.batch([{}] * 16))
    quotes = [attempt.quote for attempt in project.attempts()]
    assert quotes[0].observed == 0
    assert quotes[-1].observed >= 2
    assert quotes[-1].service_s > 2 * quotes[0].service_s


def test_a_batch_that_ran_can_be_replayed(project: Project, farm: Servers) -> None:
    """Its own times and prices, without a tier, and with sentences that are computed from them."""
    project.use(farm)
    report = project.run(project.batch([{}] * 8), "--deadline", "1").json
    answer = project.command("replay", "film", "--deadline", "600", "--json").json
    assert answer["actual"]["cost_usd"] == report["cost_usd"]
    assert sum(answer["actual"]["split"].values()) == sum(answer["replayed"]["split"].values()) == 8
    assert float(answer["replayed"]["cost_usd"]) == 0
    without = project.command("replay", "film", "--without", "local", "--json").json
    assert "comfyui" not in without["replayed"]["split"]
    assert {row["backend"] for row in without["backends"]} == {"runpod-serverless", "gemini"}
    repriced = project.command("replay", "film", "--prices", "seed", "--without", "local", "--json").json
    assert {row["backend"]: row["price_usd"] for row in repriced["backends"]} == {
        "runpod-serverless": "0.007",
        "gemini": "0.08",
    }


def test_replay_refuses_what_it_does_not_know(project: Project, farm: Servers) -> None:
    """An unknown batch, tier or price list: one sentence and exit 2."""
    project.use(farm, "local")
    project.run(project.batch([{}]))
    for arguments in (("nothing",), ("film", "--without", "moon"), ("film", "--prices", "old")):
        outcome = project.command("replay", *arguments)
        assert outcome.code == 2, outcome
        assert "error:" in outcome.err


def test_plans_use_what_batches_have_taught(project: Project, farm: Servers) -> None:
    """The calculator's local time is the emulated one after a batch, and the published one before."""
    project.use(farm, "local")
    project.set(HYBRID_VIDEO_TIME_SCALE="1")
    before = project.command("plan", "--jobs", "1", "--slots", "local=1", "--json").json["duration_s"]
    project.run(project.batch([{}] * 6))
    after = project.command("plan", "--jobs", "1", "--slots", "local=1", "--json").json["duration_s"]
    assert after > 2 * before
