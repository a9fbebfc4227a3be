"""Whole batches from the command line to the clips, over emulators that speak the vendors' protocols."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import av
import httpx
import pytest
from PIL import Image
from pipeline_rig import FarmMaker, Outcome, Project, Servers

from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.ledger import Ledger
from hybrid_video.models import AttemptState, Decision

EXAMPLES = Path(__file__).parents[2] / "examples"
ONLY_LOCAL = {"preferences": {"allow_cloud_fallback": False}}
ON_GEMINI = {"preferences": {"backend": "gemini"}}
ON_CLOUD = {"preferences": {"backend": "cloud"}}


def finished(outcome: Outcome, jobs: int) -> dict[str, Any]:
    """The report of a batch that made everything."""
    assert outcome.code == 0, str(outcome)
    report = outcome.json
    assert report["completed"] == report["jobs"] == len(report["clips"]) == jobs
    assert report["errors"] == []
    for clip in report["clips"]:
        assert Path(clip["path"]).is_file()
    return report


def books_agree(project: Project, servers: Servers) -> None:
    """The ledger is whole, nothing is held, and it booked what the vendors billed, to the last cent."""
    found = project.verify()
    assert found.ok, found
    assert found.reserved_usd == 0
    assert found.settled_usd == servers.billed_usd()


def decisions(project: Project, job: str, batch: str = "film") -> list[Decision]:
    """The stored decisions of a job."""
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    try:
        return ledger.decisions(batch, job)
    finally:
        ledger.close()


def frames_of(path: Path) -> tuple[int, int, int]:
    """Decoded frames, width and height of a video."""
    with av.open(str(path)) as container:
        decoded = list(container.decode(video=0))
    return len(decoded), decoded[0].width, decoded[0].height


# -- the ordinary way -------------------------------------------------------------------------------------------------


def test_a_batch_on_the_own_gpu_costs_nothing_and_plays(farm: Servers, project: Project) -> None:
    """Every clip decodes with the size asked for, has its record beside it, and no staging is left."""
    project.use(farm, "local")
    report = finished(project.run(project.batch([{}, {}, {}])), 3)
    assert report["by_backend"] == {"local": {"jobs": 3, "cost_usd": "0.00", "attempts": 3}}
    assert report["cost_usd"] == "0.00"
    for clip in report["clips"]:
        frames, width, height = frames_of(Path(clip["path"]))
        assert frames >= 8
        assert (width, height) >= (128, 72)
        record = json.loads(Path(clip["path"]).with_suffix(".json").read_text(encoding="utf-8"))
        assert record["sha256"] == clip["sha256"]
        assert record["prompt"].startswith("shot number")
    assert not (project.out / ".staging").exists()
    assert farm.charged_jobs() == {"film/s1": 1, "film/s2": 1, "film/s3": 1}
    books_agree(project, farm)


def test_each_tier_serves_the_job_that_prefers_it_and_is_paid_what_it_bills(farm: Servers, project: Project) -> None:
    """The report's tiers, the ledger and the vendors agree on jobs and money."""
    project.use(farm)
    report = finished(project.run(project.batch([ONLY_LOCAL, ON_CLOUD, ON_GEMINI])), 3)
    assert {clip["job"]: clip["backend"] for clip in report["clips"]} == {"s1": "local", "s2": "cloud", "s3": "gemini"}
    assert Decimal(report["cost_usd"]) == farm.billed_usd() > 0
    assert sum(Decimal(tier["cost_usd"]) for tier in report["by_backend"].values()) == Decimal(report["cost_usd"])
    books_agree(project, farm)


def test_a_deadline_brings_in_the_dearer_tiers_and_a_long_one_does_not(start_farm: FarmMaker, project: Project) -> None:
    """Sixteen clips of 10 s on one GPU take 160 s; in 60 s they need the paid tiers, in an hour they do not."""
    scale = 20.0
    servers = start_farm(FarmOptions(time_scale=scale, prices="seed", cold_start_s=1.0))
    project.use(servers)
    project.set(HYBRID_VIDEO_PRICES="seed", HYBRID_VIDEO_TIME_SCALE=scale, HYBRID_VIDEO_RUNPOD_MAX_WORKERS=3)
    hurried = finished(project.run(project.batch([{}] * 16, "hurried"), "--deadline", 60 / scale), 16)
    assert hurried["by_backend"]["local"]["jobs"] >= 2, "six fit on an idle machine; a busy one makes fewer in 3 s"
    assert set(hurried["by_backend"]) >= {"local", "cloud"}
    assert Decimal(hurried["cost_usd"]) > 0
    relaxed = finished(project.run(project.batch([{}] * 4, "relaxed"), "--deadline", 3600 / scale), 4)
    assert set(relaxed["by_backend"]) == {"local"}
    books_agree(project, servers)


def test_image_to_video_takes_the_users_picture_along(farm: Servers, project: Project) -> None:
    """A PNG below the batch file's folder serves every tier; ComfyUI holds it byte for byte."""
    project.use(farm)
    (project.folder / "frames").mkdir()
    picture = project.folder / "frames" / "red.png"
    Image.new("RGB", (320, 180), (200, 30, 30)).save(picture)
    jobs = [{**preference, "image": "frames\\red.png"} for preference in (ONLY_LOCAL, ON_CLOUD, ON_GEMINI)]
    comfyui = farm.environment["HYBRID_VIDEO_COMFYUI_URLS"]
    before = _uploaded(comfyui)
    report = finished(project.run(project.batch(jobs)), 3)
    assert {clip["backend"] for clip in report["clips"]} == {"local", "cloud", "gemini"}
    fresh = [entry for entry in _uploaded(comfyui) if entry not in before]
    names = [entry["name"] if isinstance(entry, dict) else entry for entry in fresh]
    assert len(names) == 1
    name = names[0].removesuffix(" [input]")
    got = httpx.get(f"{comfyui}/view", params={"filename": name, "type": "input"})
    assert got.content == picture.read_bytes()
    books_agree(project, farm)


def _uploaded(comfyui: str) -> list[Any]:
    found = httpx.get(f"{comfyui}/internal/files/input").json()
    assert isinstance(found, list)
    return found


@pytest.mark.parametrize(
    ("node", "inputs", "suffix"),
    [
        ("SaveWEBM", {"images": ["ink", 0], "filename_prefix": "x", "codec": "vp9", "fps": 12.0, "crf": 32.0}, ".webm"),
        (
            "SaveAnimatedWEBP",
            {
                "images": ["ink", 0],
                "filename_prefix": "x",
                "fps": 12.0,
                "lossless": False,
                "quality": 80,
                "method": "default",
            },
            ".webp",
        ),
    ],
)
def test_the_users_own_workflow_delivers_other_containers(
    farm: Servers, project: Project, node: str, inputs: dict[str, object], suffix: str
) -> None:
    """WEBM and animated WebP come back as what the workflow saves, with its frames."""
    project.use(farm, "local")
    graph = json.loads((EXAMPLES / "workflows" / "plasma.json").read_text(encoding="utf-8"))
    del graph["video"]
    graph["save"] = {"class_type": node, "inputs": inputs, "_meta": {"title": "OUTPUT"}}
    project.write("own.json", graph)
    job = {"workflow": "own.json", "width": 480, "height": 288, "fps": 12, "duration_s": 3}
    report = finished(project.run(project.batch([job])), 1)
    path = Path(report["clips"][0]["path"])
    assert path.suffix == suffix
    record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert (record["frames"], record["width"], record["height"]) == (36, 480, 288)


def test_a_csv_and_a_yaml_file_make_the_same_clips(farm: Servers, project: Project) -> None:
    """Three formats, one batch: seeds come from batch and job, so the clips are equal."""
    project.use(farm, "local")
    csv = "id,prompt,duration_s,width,height,fps\na,a lake,1,128,72,8\n"
    yaml = "jobs:\n  - {id: a, prompt: a lake, duration_s: 1, width: 128, height: 72, fps: 8}\n"
    first = finished(project.run(project.write("one.csv", csv)), 1)
    second = finished(
        project.run(project.write("two.yaml", "name: one\n" + yaml), "--out", project.folder / "other"), 1
    )
    assert second["clips"][0]["sha256"] == first["clips"][0]["sha256"]


# -- failures ---------------------------------------------------------------------------------------------------------


def test_out_of_memory_fails_over_to_another_backend(farm: Servers, project: Project) -> None:
    """Attempt 2 runs elsewhere, its decision says why not the first again, and the report counts one failover."""
    project.use(farm)
    farm.fault(server="comfyui", operation="execute", action="oom", match="s2")
    report = finished(project.run(project.batch([{}, {}, {}])), 3)
    assert report["failovers"] == 1
    clip = next(clip for clip in report["clips"] if clip["job"] == "s2")
    assert clip["attempts"] == 2
    assert clip["backend"] != "local"
    first, second = [attempt for attempt in project.attempts() if attempt.job == "s2"]
    assert (first.backend, first.state, first.error_kind) == ("comfyui", AttemptState.FAILED, "out_of_memory")
    assert second.state is AttemptState.SETTLED
    later = decisions(project, "s2")[1]
    assert (later.attempt, later.chosen) == (2, second.backend)
    local = next(candidate for candidate in later.candidates if candidate.backend == "comfyui")
    assert "an attempt of this job failed there" in local.lost_because
    books_agree(project, farm)


def test_a_transient_failure_is_tried_again_on_the_same_backend_if_there_is_no_other(
    farm: Servers, project: Project
) -> None:
    """One refused submit, then it is made: two attempts, no failover."""
    project.use(farm, "local")
    farm.fault(server="comfyui", operation="submit", action="status", status=503)
    report = finished(project.run(project.batch([{}])), 1)
    assert report["clips"][0]["attempts"] == 2
    assert report["failovers"] == 0
    assert farm.charged_jobs() == {"film/s1": 1}


def test_three_attempts_are_the_end_of_a_job_and_not_of_the_batch(farm: Servers, project: Project) -> None:
    """The job that fails each time is reported with its kind and the vendor's reason; the others are made; exit 1."""
    project.use(farm, "local")
    farm.fault(server="comfyui", operation="execute", action="lose", match="s2", times=None)
    outcome = project.run(project.batch([{}, {}, {}]))
    assert outcome.code == 1, str(outcome)
    report = outcome.json
    assert (report["completed"], report["failed"]) == (2, 1)
    assert [error["job"] for error in report["errors"]] == ["s2"]
    assert len([attempt for attempt in project.attempts() if attempt.job == "s2"]) == 3
    assert farm.charged_jobs()["film/s2"] == 3
    assert "Traceback" not in outcome.err
    books_agree(project, farm)


def test_a_black_clip_is_no_success(farm: Servers, project: Project) -> None:
    """It is refused, and the job made again on another backend."""
    project.use(farm)
    farm.fault(server="comfyui", operation="execute", action="black", match="s1")
    report = finished(project.run(project.batch([{}])), 1)
    assert [attempt.error_kind for attempt in project.attempts()] == ["bad_clip", ""]
    assert report["clips"][0]["attempts"] == 2
    books_agree(project, farm)


def test_a_content_block_is_not_paid_for_twice(farm: Servers, project: Project) -> None:
    """Blocked by Google and with nowhere else to go, the job fails after one attempt that cost nothing."""
    project.use(farm, "gemini")
    farm.fault(server="gemini", operation="execute", action="filter", match="s1")
    outcome = project.run(project.batch([{}, {}]))
    assert outcome.code == 1, str(outcome)
    assert [(e["job"], e["kind"]) for e in outcome.json["errors"]] == [("s1", "content_blocked")]
    assert farm.charged_jobs() == {"film/s1": 1, "film/s2": 1}
    books_agree(project, farm)


def test_a_blocked_prompt_may_still_be_made_on_the_own_gpu(farm: Servers, project: Project) -> None:
    """The filter is Google's: the local tier is a fallback like for any other failure."""
    project.use(farm, "local", "gemini")
    farm.fault(server="gemini", operation="execute", action="filter", match="s1")
    report = finished(project.run(project.batch([ON_GEMINI])), 1)
    assert report["clips"][0]["backend"] == "local"
    books_agree(project, farm)


@pytest.mark.parametrize("tier", ["cloud", "gemini"])
def test_an_uncertain_submit_on_a_paid_tier_is_never_sent_again(farm: Servers, project: Project, tier: str) -> None:
    """The answer was lost after acceptance: one charge, the job is uncertain, its money stays reserved, exit 1."""
    project.use(farm)
    server = {"cloud": "runpod", "gemini": "gemini"}[tier]
    farm.fault(server=server, operation="submit", action="drop_after", match="s1")
    batch = project.batch([{"preferences": {"backend": tier}}, ONLY_LOCAL])
    outcome = project.run(batch)
    assert outcome.code == 1, str(outcome)
    assert [(e["job"], e["kind"]) for e in outcome.json["errors"]] == [("s1", "uncertain")]
    assert farm.charged_jobs()["film/s1"] == 1
    again = project.run(batch)
    assert again.code == 1, str(again)
    assert [(e["job"], e["kind"]) for e in again.json["errors"]] == [("s1", "uncertain")]
    assert farm.charged_jobs() == {"film/s1": 1, "film/s2": 1}
    found = project.verify()
    assert (found.ok, found.uncertain) == (True, 1)
    assert found.reserved_usd > 0


def test_a_lost_answer_of_the_own_gpu_is_looked_up_and_goes_on(farm: Servers, project: Project) -> None:
    """ComfyUI takes our id, so the prompt is found and not sent again."""
    project.use(farm, "local")
    farm.fault(server="comfyui", operation="submit", action="drop_after")
    finished(project.run(project.batch([{}])), 1)
    assert farm.charged_jobs() == {"film/s1": 1}


def test_a_download_cut_in_the_middle_is_not_paid_for_again(farm: Servers, project: Project) -> None:
    """The clip is fetched again from where it is, not made again."""
    project.use(farm, "gemini")
    farm.fault(server="gemini", operation="download", action="truncate", times=2)
    finished(project.run(project.batch([{}])), 1)
    assert farm.charged_jobs() == {"film/s1": 1}
    books_agree(project, farm)


# -- again ------------------------------------------------------------------------------------------------------------


def test_the_same_batch_again_makes_nothing_and_reports_the_same(farm: Servers, project: Project) -> None:
    """No new charge, the same clips and money."""
    project.use(farm)
    batch = project.batch([{}, ON_CLOUD, ON_GEMINI])
    first = finished(project.run(batch), 3)
    before = farm.charges()
    second = finished(project.run(batch), 3)
    assert farm.charges() == before
    for name in ("clips", "cost_usd", "quoted_usd", "by_backend", "failovers"):
        assert second[name] == first[name]


def test_a_changed_prompt_remakes_that_shot_only_and_keeps_the_earlier_clip(farm: Servers, project: Project) -> None:
    """The others are left alone; the earlier clip stays under a numbered name."""
    project.use(farm, "local")
    finished(project.run(project.batch([{}, {}, {}])), 3)
    report = finished(project.run(project.batch([{}, {"prompt": "something else"}, {}])), 3)
    assert farm.charged_jobs() == {"film/s1": 1, "film/s2": 2, "film/s3": 1}
    assert any("s2" in notice for notice in report["notices"])
    assert sorted(path.name for path in project.clip_files()) == ["s1.mp4", "s2.1.mp4", "s2.mp4", "s3.mp4"]
    assert project.verify().ok


def test_a_longer_batch_under_the_same_name_makes_what_is_new(farm: Servers, project: Project) -> None:
    """Two more jobs are two more charges."""
    project.use(farm, "local")
    finished(project.run(project.batch([{}])), 1)
    finished(project.run(project.batch([{}, {}, {}])), 3)
    assert set(farm.charged_jobs().values()) == {1}


def test_a_failed_job_is_tried_again_by_the_next_run(farm: Servers, project: Project) -> None:
    """What failed becomes pending again; what was made is left alone."""
    project.use(farm, "local")
    farm.fault(server="comfyui", operation="execute", action="oom", match="s1")
    batch = project.batch([{}, {}])
    assert project.run(batch).code == 1
    finished(project.run(batch), 2)
    assert farm.charged_jobs() == {"film/s1": 2, "film/s2": 1}


# -- preferences and limits -------------------------------------------------------------------------------------------


def test_without_cloud_fallback_nothing_leaves_the_own_gpu(farm: Servers, project: Project) -> None:
    """Even a job that fails there is not sent to a paid tier."""
    project.use(farm)
    farm.fault(server="comfyui", operation="execute", action="oom", match="s2")
    outcome = project.run(project.batch([{}] * 4, preferences={"allow_cloud_fallback": False}))
    assert outcome.code == 1, str(outcome)
    assert set(outcome.json["by_backend"]) == {"local"}
    assert [error["kind"] for error in outcome.json["errors"]] == ["out_of_memory"]
    assert farm.billed_usd() == 0


def test_the_maximum_cost_of_a_job_holds_over_all_its_attempts(farm: Servers, project: Project) -> None:
    """A limit below Google's price keeps the job off Google, though it is preferred."""
    project.use(farm)
    job = {"preferences": {"backend": "gemini", "max_cost_usd": "0.01"}}
    report = finished(project.run(project.batch([job])), 1)
    assert report["clips"][0]["backend"] == "local"
    google = next(c for c in decisions(project, "s1")[0].candidates if c.backend == "gemini")
    assert "over the limit of $0.01" in google.lost_because


def test_a_budget_is_never_crossed_and_what_it_does_not_allow_is_reported(farm: Servers, project: Project) -> None:
    """With Google alone and money for two clips and a half, failed attempts and all stay within it; exit 3 or 1."""
    project.use(farm, "gemini")
    single = finished(project.run(project.batch([{}], "price")), 1)
    price = Decimal(single["cost_usd"])
    farm.fault(server="gemini", operation="execute", action="lose", match="s1", times=None)
    outcome = project.run(project.batch([{}, {}, {}], budget_usd=str(price * 3)))
    assert outcome.code in {1, 3}, str(outcome)
    assert Decimal(outcome.json["cost_usd"]) <= price * 3
    assert farm.billed_usd() <= price * 4
    assert outcome.json["failed"] >= 1
    assert project.verify().ok


def test_higher_priority_runs_first(farm: Servers, project: Project) -> None:
    """One GPU, three jobs: the order of the submissions is the order of the priorities."""
    project.use(farm, "local")
    finished(project.run(project.batch([{"priority": 10}, {"priority": 50}, {"priority": 90}])), 3)
    assert [row["job"] for row in farm.charges()] == ["film/s3", "film/s2", "film/s1"]
