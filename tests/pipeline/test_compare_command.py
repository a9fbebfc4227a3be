"""`hybrid-video compare`: the same shots in two ways, through the engine and emulators, on one page."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pipeline_rig import Project, Servers

from hybrid_video.comparing import Way, batch_for, sign_test, ways_of
from hybrid_video.errors import InputError
from hybrid_video.models import Batch, VideoJob

TWO = "wan2.1-t2v-1.3b,animatediff"


def compare(project: Project, file: Path, *options: object) -> dict[str, Any]:
    """The answer of `compare … --json`."""
    outcome = project.command("compare", file, "--out", project.out, "--json", *options)
    assert outcome.code == 0, str(outcome)
    return outcome.json


def test_two_workflows_make_the_same_shots_side_by_side(project: Project, farm: Servers) -> None:
    """Each way is a batch of its own; figures, findings and a page with both clips of every shot come out."""
    project.use(farm, "local")
    file = project.batch([{}, {"prompt": "a <b>bold</b> | piped *shot*"}], "ab")
    answer = compare(project, file, "--workflows", TWO)
    assert [way["completed"] for way in answer["ways"]] == [2, 2]
    assert {way["batch"] for way in answer["ways"]} == {"ab.wan2.1-t2v-1.3b", "ab.animatediff"}
    assert all(way["p50_s"] > 0 and way["p90_s"] >= way["p50_s"] for way in answer["ways"])
    assert len(answer["findings"]) == 2
    page = Path(answer["sheet"]["html"]).read_text(encoding="utf-8")
    assert page.count("<video") == 4
    assert "<b>bold</b>" not in page
    folder = Path(answer["sheet"]["html"]).parent
    for link in re.findall(r'(?:src|poster)="([^"]+)"', page):
        assert (folder / link).is_file(), link
    table = Path(answer["sheet"]["md"]).read_text(encoding="utf-8")
    assert all(line.count("|") - line.count("\\|") == 4 for line in table.splitlines()[-2:])
    assert json.loads(Path(answer["sheet"]["json"]).read_text(encoding="utf-8"))["comparison"] == "ab"


def test_the_same_comparison_again_pays_for_nothing_twice(project: Project, farm: Servers) -> None:
    """The second time everything is there: no submission more, the same clips and figures."""
    project.use(farm, "local")
    file = project.batch([{}], "ab")
    first = compare(project, file, "--workflows", TWO)
    charges = len(farm.charges())
    second = compare(project, file, "--workflows", TWO)
    assert len(farm.charges()) == charges == 2
    assert [way["clips"] for way in second["ways"]] == [way["clips"] for way in first["ways"]]


@pytest.mark.slow
def test_a_google_model_is_compared_at_google_only(project: Project, farm: Servers) -> None:
    """A model beside a workflow: its clips come from Google though the own GPU is free; the budget is for both."""
    project.use(farm, "local", "gemini")
    file = project.batch([{"duration_s": 3}], "ab")
    answer = compare(
        project, file, "--workflows", "wan2.1-t2v-1.3b", "--models", "auto", "--budget", "2.00", "--shots", "1"
    )
    by_kind = {way["kind"]: way for way in answer["ways"]}
    assert by_kind["workflow"]["clips"][0]["backend"] == "comfyui"
    assert by_kind["model"]["clips"][0]["backend"] == "gemini"
    assert Decimal(by_kind["model"]["cost_usd"]) > 0
    assert sum(Decimal(way["cost_usd"]) for way in answer["ways"]) == farm.billed_usd()


def test_a_failed_shot_has_its_reason_on_the_page(project: Project, farm: Servers) -> None:
    """One way cannot make one shot: exit 1, and the page says why where the clip would be."""
    project.use(farm, "local")
    farm.fault(server="comfyui", operation="execute", action="oom", match="s2")
    outcome = project.command(
        "compare", project.batch([{}, {}], "ab"), "--workflows", TWO, "--out", project.out, "--json"
    )
    assert outcome.code == 1, str(outcome)
    page = Path(outcome.json["sheet"]["html"]).read_text(encoding="utf-8")
    assert 'class="error"' in page
    assert page.count("<video") < 4


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), ("0 different ways", "--workflows")),
        (("--workflows", "animatediff"), ("1 different ways",)),
        (("--workflows", "animatediff,animatediff"), ("1 different ways",)),
        (("--workflows", "a.json,b/a.json"), ("same short name",)),
        (("--workflows", "a,b,c,d,e,f,g"), ("more than 6",)),
        (("--workflows", TWO, "--shots", "9"), ("--shots", "9")),
    ],
)
def test_a_comparison_of_nothing_is_refused(project: Project, options: tuple[object, ...], words: Any) -> None:
    """Exit 2 with the option and what to do."""
    outcome = project.command("compare", project.batch([{}], "ab"), *options, "--json")
    assert outcome.code == 2, str(outcome)
    assert all(word in outcome.err for word in words), outcome.err


def test_every_way_starts_a_shot_from_the_same_seed() -> None:
    """Seeds come from the batch that is compared, not from the names of the ways."""
    batch = Batch(name="film", jobs=(VideoJob(id="s1", prompt="a"), VideoJob(id="s2", prompt="b", seed=7)))
    first, second = (batch_for(batch, way) for way in ways_of(["animatediff"], ["auto"]))
    assert [job.seed for job in first.jobs] == [job.seed for job in second.jobs]
    assert first.jobs[1].seed == 7
    assert (first.jobs[0].workflow, second.jobs[0].workflow) == ("animatediff", "auto")
    with pytest.raises(InputError, match="longer than 64"):
        batch_for(batch, Way("model", "m" * 70))


def test_a_difference_is_called_one_only_beyond_chance() -> None:
    """Six of six are 3 %, five of five 6 %, half and half are certain to happen."""
    assert sign_test(6, 0) == pytest.approx(0.03125)
    assert sign_test(0, 5) == pytest.approx(0.0625)
    assert sign_test(4, 4) == 1.0
    assert sign_test(0, 0) == 1.0
