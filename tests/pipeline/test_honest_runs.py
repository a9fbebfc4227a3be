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
