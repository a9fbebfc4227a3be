"""`explain` over batches that really ran against the emulators."""

from __future__ import annotations

import pytest
from pipeline_rig import Project, Servers


def run_three(project: Project, farm: Servers) -> None:
    """Three shots with every tier configured."""
    project.use(farm)
    outcome = project.run(project.batch([{}, {}, {}]))
    assert outcome.code == 0, outcome


def test_explain_shows_every_candidate_and_why_it_lost(project: Project, farm: Servers) -> None:
    """One winner with its reason, and a sentence for each of the others, with the terms of their scores."""
    run_three(project, farm)
    answer = project.command("explain", "s1", "--json").json
    (decision,) = answer["decisions"]
    assert answer["batch"] == "film"
    assert decision["reason"]
    losers = [c for c in decision["candidates"] if not c["chosen"]]
    assert {c["backend"] for c in decision["candidates"]} >= {"comfyui", "runpod-serverless", "gemini"}
    assert len(losers) == len(decision["candidates"]) - 1
    assert all(loser["lost_because"] for loser in losers)
    scored = [c for c in decision["candidates"] if c["refusal"] is None]
    assert all(set(c["terms"]) == {"priority", "cost", "speed", "queue"} for c in scored)


def test_explain_puts_the_quote_beside_the_outcome(project: Project, farm: Servers) -> None:
    """What it cost and took stands beside what was quoted, and both agree with the report."""
    project.use(farm)
    report = project.run(project.batch([{}])).json
    (decision,) = project.command("explain", "s1", "--json").json["decisions"]
    (clip,) = report["clips"]
    assert decision["outcome"] == "settled"
    assert decision["cost_usd"] == clip["cost_usd"]
    assert decision["quoted_usd"] == report["quoted_usd"]
    assert decision["took_s"] > 0
    assert decision["quoted_p90_s"] > decision["quoted_s"]


def test_explain_tells_of_every_attempt(project: Project, farm: Servers) -> None:
    """A failure on the local GPU and the success elsewhere are two decisions, in their order."""
    farm.fault(server="comfyui", operation="execute", action="oom", match="s1")
    project.use(farm, "local", "gemini")
    assert project.run(project.batch([{}])).code == 0
    first, second = project.command("explain", "s1", "--json").json["decisions"]
    assert (first["chosen"], first["outcome"]) == ("comfyui", "failed")
    assert first["error"]["kind"] == "out_of_memory"
    assert (second["chosen"], second["outcome"]) == ("gemini", "settled")
    excluded = next(c for c in second["candidates"] if c["backend"] == "comfyui")
    assert excluded["refusal"] == "excluded"


def test_explain_a_batch_gives_one_line_for_each_decision(project: Project, farm: Servers) -> None:
    """The table names each job with its backend and its reason; the JSON holds the same decisions."""
    run_three(project, farm)
    outcome = project.command("explain", "--batch", "film", "--json")
    assert [d["job"] for d in outcome.json["decisions"]] != []
    assert {d["job"] for d in outcome.json["decisions"]} == {"s1", "s2", "s3"}
    assert all(name in outcome.err for name in ("s1", "s2", "s3", "why"))


@pytest.mark.parametrize("arguments", [("nothing",), ("--batch", "nothing"), ()])
def test_explain_refuses_what_it_does_not_know(project: Project, arguments: tuple[str, ...]) -> None:
    """One sentence and exit 2."""
    outcome = project.command("explain", *arguments)
    assert outcome.code == 2
    assert "error:" in outcome.err


def test_explain_takes_the_newest_batch_that_has_the_job(project: Project, farm: Servers) -> None:
    """Job ids repeat from batch to batch; --batch reaches the older one."""
    project.use(farm, "local")
    project.run(project.batch([{}], name="old"))
    project.run(project.batch([{}], name="new"))
    assert project.command("explain", "s1", "--json").json["batch"] == "new"
    assert project.command("explain", "s1", "--batch", "old", "--json").json["batch"] == "old"
