"""`hybrid-video plan`: the cheapest split for a goal, the whole frontier, and no money spent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from pipeline_rig import Project

SEED = ("--jobs", 100, "--prices", "seed", "--slots", "local=3,cloud=5,gemini=10")


def plan(project: Project, *options: object) -> dict[str, Any]:
    """The answer of `plan … --json`."""
    outcome = project.command("plan", *options, "--json")
    assert outcome.code == 0, str(outcome)
    return outcome.json


def test_the_seeds_question_has_the_cheapest_answer(project: Project) -> None:
    """100 clips in 180 s on 3 local, 5 cloud and 10 Google slots: 54/45/1 for $0.395 in exactly 180 s."""
    answer = plan(project, *SEED, "--deadline", 180)
    assert answer["split"] == {"local": 54, "cloud": 45, "gemini": 1}
    assert (answer["cost_usd"], answer["duration_s"]) == ("0.395", 180)
    assert answer["feasible"] is True


def test_savings_stand_beside_both_durations(project: Project) -> None:
    """95.1 % less money than Google alone, which takes 50 s instead of 180 s."""
    answer = plan(project, *SEED, "--deadline", 180)
    assert (answer["all_gemini_usd"], answer["all_gemini_duration_s"]) == ("8.00", 50)
    assert answer["savings_percent"] == pytest.approx(95.1, abs=0.05)


def test_the_frontier_goes_from_the_fastest_to_the_cheapest_plan(project: Project) -> None:
    """31 durations from 40 s to 340 s; each longer one is cheaper, every split adds up, the last costs nothing."""
    points = plan(project, *SEED)["frontier"]
    assert len(points) == 31
    assert (points[0]["duration_s"], points[-1]["duration_s"]) == (40, 340)
    costs = [Decimal(point["cost_usd"]) for point in points]
    assert costs == sorted(costs, reverse=True)
    assert len(set(costs)) == 31
    assert costs[-1] == 0
    assert all(sum(point["split"].values()) == 100 for point in points)


def test_an_infeasible_deadline_says_the_nearest_feasible_one(project: Project) -> None:
    """It is no error: the fastest plan is given, with a sentence."""
    answer = plan(project, *SEED, "--deadline", 20)
    assert answer["feasible"] is False
    assert answer["duration_s"] == 40
    assert "20 s" in answer["note"]
    assert "40 s" in answer["note"]


def test_a_budget_gives_the_fastest_plan_it_can_pay_for(project: Project) -> None:
    """Never dearer than the budget, and the next faster plan would be."""
    answer = plan(project, *SEED, "--budget", "1.00")
    assert Decimal(answer["cost_usd"]) <= 1
    faster = [point for point in answer["frontier"] if point["duration_s"] < answer["duration_s"]]
    assert all(Decimal(point["cost_usd"]) > 1 for point in faster)
    assert answer["feasible"] is True


def test_a_budget_too_small_for_any_plan_says_the_cheapest(project: Project) -> None:
    """Without a free tier, a cent is not enough."""
    answer = plan(project, "--jobs", 10, "--prices", "seed", "--slots", "cloud=5", "--budget", "0.01")
    assert answer["feasible"] is False
    assert "$0.07" in answer["note"]


def test_a_batch_file_is_planned_with_its_own_sizes_and_current_prices(project: Project) -> None:
    """Longer clips cost more; nothing is asked of any backend, none is configured."""
    short = plan(project, project.batch([{"duration_s": 3}] * 4, "short"), "--slots", "gemini=10")
    long = plan(project, project.batch([{"duration_s": 8}] * 4, "long"), "--slots", "gemini=10")
    assert Decimal(long["cost_usd"]) > Decimal(short["cost_usd"]) > 0
    assert sum(long["split"].values()) == 4
    assert not project.home.exists()


def test_people_get_a_table_on_standard_error(project: Project) -> None:
    """Without --json standard output stays empty."""
    outcome = project.command("plan", *SEED, "--deadline", 180)
    assert outcome.code == 0, str(outcome)
    assert outcome.out == ""
    assert "54 local, 45 cloud, 1 gemini: $0.395 in 180 s" in outcome.err


def test_pods_that_are_not_open_yet_are_planned_with_their_starts(project: Project) -> None:
    """Without serverless and Google, pods make a deadline that the own GPU cannot; their start is in the cost."""
    answer = plan(project, "--jobs", 40, "--slots", "local=1", "--pods", 4)
    pods = answer["pods"]
    fastest, cheapest = pods["frontier"][0], pods["frontier"][-1]
    assert fastest["pods"] > 0
    assert fastest["split"]["pods"] > 0
    assert Decimal(fastest["cost_usd"]) > Decimal(fastest["opening_usd"]) > 0
    assert fastest["duration_s"] < answer["duration_s"]
    assert cheapest["pods"] == 0
    assert Decimal(cheapest["cost_usd"]) == Decimal(answer["cost_usd"])
    middle = plan(project, "--jobs", 40, "--slots", "local=1", "--pods", 4, "--deadline", answer["duration_s"] / 2)
    assert middle["feasible"] is False
    assert middle["pods"]["plan"]["duration_s"] <= answer["duration_s"] / 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("--jobs",)),
        (("--jobs", 0), ("--jobs", "0")),
        (("--jobs", 10_001), ("--jobs", "10001", "10000")),
        (("--jobs", 5, "--slots", "locl=3"), ("--slots", "locl=3")),
        (("--jobs", 5, "--slots", "local=-1"), ("--slots", "local=-1")),
        (("--jobs", 5, "--slots", "local=0"), ("--slots", "no tier")),
        (("--jobs", 5, "--prices", "sed"), ("--prices", "sed")),
        (("--jobs", 5, "--deadline", "0"), ("--deadline", "0")),
        (("--jobs", 5, "--budget", "-1"), ("--budget", "-1")),
        (("--jobs", 5, "--pods", "-1"), ("--pods", "-1")),
        (("film.yaml", "--jobs", 5), ("not both",)),
        (("film.yaml",), ("film.yaml", "does not exist")),
    ],
)
def test_a_wrong_question_is_refused(project: Project, options: tuple[object, ...], words: tuple[str, ...]) -> None:
    """Exit 2 with the option and its value."""
    outcome = project.command("plan", *options, "--json")
    assert outcome.code == 2, str(outcome)
    for word in words:
        assert word in outcome.err
    assert "Traceback" not in outcome.err
    assert outcome.json["exit_code"] == 2
