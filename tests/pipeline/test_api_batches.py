"""A batch over the real API: submitted, made by a real process beside the emulators, watched, cancelled, re-run."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import httpx
import psutil
import pytest
from pipeline_rig import SMALL, Process, Project, Servers, until

from hybrid_video import submitting
from hybrid_video.api.bodies import SelectJob, SelectRequest
from hybrid_video.client import ApiError, AsyncClient, Client
from hybrid_video.errors import ConfigurationError, InputError, NotFoundError
from hybrid_video.models import Preferences
from hybrid_video.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
def api(project: Project, farm: Servers) -> Iterator[Client]:
    """`hybrid-video api` as a process of its own, and a client for it."""
    project.use(farm)
    yield from served(project)


def served(project: Project) -> Iterator[Client]:
    """The command, its client, and a graceful end."""
    process = project.start("api", "--port", "0")
    try:
        until("the API says where it listens", lambda: "http://" in process.outcome(0).err or process.popen.poll())
        url = process.outcome(0).err.split("API: ")[1].split()[0]
        with Client(url) as client:
            until("the API answers", lambda: answers(client))
            yield client
        process.signal(signal.SIGTERM)
        assert process.wait(30).code == 0, process
    finally:
        for known in submitting.submissions(Settings.load()):
            submitting.stop(known)
        process.end()


def answers(client: Client) -> bool:
    """Whether the API is up."""
    try:
        return client.health().status == "ok"
    except ApiError:
        return False


def batch(name: str = "film", *jobs: dict[str, object], **fields: object) -> dict[str, object]:
    """A small batch."""
    full = [{"id": f"s{n}", "prompt": f"shot {n}", **SMALL, **job} for n, job in enumerate(jobs or ({}, {}), 1)]
    return {"name": name, "jobs": full, **fields}


def test_a_batch_submitted_over_http_becomes_playable_clips(api: Client, project: Project, farm: Servers) -> None:
    """Submit, follow, page, decide, download in ranges; and every figure is the ledger's."""
    wanted = batch("film", {}, {"preferences": {"backend": "gemini"}}, {})
    checked = api.submit(wanted, validate_only=True)
    assert (checked.started, checked.validation and checked.validation.jobs) == (False, 3)
    assert not farm.charges()
    started = api.submit(wanted)
    assert started.started
    assert started.run is not None
    assert started.run.via == "process"
    with pytest.raises(InputError, match="is being run already"):
        api.submit(wanted)
    asked: list[httpx.Request] = []
    api._http.event_hooks["request"].append(asked.append)
    told = [event.kind for event in api.follow("film")]
    assert told.count("done") == 3
    assert told[-1] == "ended"
    waits_s = [float(one.url.params["wait_s"]) for one in asked if "wait_s" in one.url.params]
    assert waits_s[-1] < 1, "who follows a batch that has ended is not kept for the ten seconds between events"
    detail = api.wait("film", timeout_s=60)
    assert detail.view is not None
    assert detail.view.batch.state == "done"
    assert detail.run is not None
    assert (detail.run.status.state, detail.run.status.exit_code) == ("ended", 0)
    assert detail.view.batch.settled_usd == farm.billed_usd() > 0
    assert api.spend("tier").cost_usd == api.status().overview.spend.total_usd == farm.billed_usd()
    job = api.job("film", "s2")
    assert job.decisions[0].chosen == "gemini"
    assert {candidate.backend for candidate in job.decisions[0].candidates} >= {
        "comfyui",
        "runpod-serverless",
        "gemini",
    }
    assert [line.job for line in api.every_job("film")] == ["s1", "s2", "s3"]
    clips = list(api.every_clip("film"))
    assert len(clips) == 3
    for clip in clips:
        saved = api.download("film", clip.job, project.folder / "saved")
        assert hashlib.sha256(saved.read_bytes()).hexdigest() == clip.sha256
    url = str(api._http.base_url).rstrip("/") + "/api/batches/film/jobs/s1/clip"
    whole = httpx.get(url)
    assert whole.headers["content-type"] == "video/mp4"
    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert httpx.get(url, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.get(url, headers={"Range": f"bytes={len(whole.content)}-"}).status_code == 416
    assert "attachment" in httpx.get(url, params={"download": True}).headers["content-disposition"]
    assert httpx.head(url).status_code == 200
    assert project.verify().ok
    with pytest.raises(InputError, match="every job of batch 'film' is done"):
        api.rerun("film")


def test_a_changed_preference_changes_what_the_next_batch_does(api: Client, farm: Servers) -> None:
    """Submitted twice with the same jobs: local first, on Google once that is preferred, refused under a limit."""
    api.submit(batch("before"))
    assert api.wait("before", timeout_s=60).view is not None
    assert {line.tier for line in api.jobs("before").items} == {"local"}
    assert api.select().backend == "comfyui"
    api.change_preferences(backend="gemini", daily_budget_usd="50")
    answer = api.preferences()
    assert (answer.effective.backend, answer.environment.backend) == ("gemini", "auto")
    assert set(answer.changed) == {"backend", "daily_budget_usd"}
    assert api.select().backend == "gemini"
    api.submit(batch("after"))
    api.wait("after", timeout_s=60)
    assert {line.tier for line in api.jobs("after").items} == {"gemini"}
    assert api.status().overview.spend.day_cap_usd == Decimal(50)
    api.change_preferences(allow_cloud_fallback=False, backend="local", daily_budget_usd=None)
    assert api.select().decision.candidates[-1].refusal is not None
    assert not api.reset_preferences().changed


def test_cancelling_stops_the_run_and_a_rerun_makes_the_rest(api: Client, project: Project, farm: Servers) -> None:
    """What was made stays made and paid once; what was cancelled is made by the next run."""
    wanted = batch("film", *({"duration_s": 4} for _ in range(12)))
    api.submit(wanted)
    until("some clips are there", lambda: len(api.clips("film").items) >= 2 if known(api, "film") else False)
    ended = api.cancel("film", wait_s=30)
    assert ended.run_stopped
    assert sum(ended.counts.values()) > 0
    detail = api.wait("film", timeout_s=60)
    assert detail.view is not None
    made = detail.view.batch.jobs.done
    assert 2 <= made < 12
    again = api.rerun("film")
    assert again.started
    detail = api.wait("film", timeout_s=90)
    assert detail.view is not None
    assert (detail.view.batch.state, detail.view.batch.jobs.done) == ("done", 12)
    assert project.verify().ok


def known(api: Client, name: str) -> bool:
    """Whether the ledger has the batch yet."""
    return api.batch(name).view is not None


def test_what_cannot_work_is_refused_before_anything_starts(api: Client, project: Project, farm: Servers) -> None:
    """Every problem in one answer, with the job and the remedy; no process, no money."""
    wrong = batch("film", {"duration_s": -1}, {"fps": "many"})
    with pytest.raises(InputError) as refused:
        api.submit(wrong)
    assert len(refused.value.problems) == 2
    with pytest.raises(InputError, match="a JSON body carries none"):
        api.submit(batch("film", {"image": "face.png"}))
    impossible = {"width": 4096, "height": 4096, "duration_s": 60, "fit": "exact", "fps": 119}
    with pytest.raises(InputError, match="can make it") as refused:
        api.submit(batch("film", impossible, impossible))
    assert "job 's1'" in refused.value.problems[0]
    assert "job 's1'" not in refused.value.problems[1], "what one job was told is not repeated under its name"
    with pytest.raises(NotFoundError):
        api.batch("film")
    with pytest.raises(NotFoundError, match="no batch is named"):
        api.cancel("film")
    with pytest.raises(NotFoundError):
        api.rerun("film")
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_PODS_IMAGE"):
        api.spawn()
    assert not submitting.submissions(Settings.load())
    assert not farm.charges()


def test_a_budget_that_cannot_suffice_is_refused_at_once(project: Project, farm: Servers) -> None:
    """With Google alone nothing is free; the sentence says what the cheapest way costs."""
    project.use(farm, "gemini")
    for api in served(project):
        with pytest.raises(InputError, match="cheapest way to make the 2 jobs costs"):
            api.submit(batch("film", {}, {}, budget_usd="0.01"))
        api.change_preferences(daily_budget_usd="0.02")
        with pytest.raises(InputError, match="daily budget"):
            api.submit(batch("film"))
    assert not farm.charges()


def test_an_upload_brings_its_pictures_along(api: Client, project: Project) -> None:
    """A batch file in each format with the files that its jobs name; a missing one is named."""
    from PIL import Image

    Image.new("RGB", (64, 64), (200, 30, 30)).save(project.folder / "face.png")
    yaml = "name: faces\njobs:\n  - {id: a, prompt: a face, image: face.png, duration_s: 1, width: 128, height: 72}\n"
    file = project.write("faces.yaml", yaml)
    with pytest.raises(InputError, match=r"face\.png"):
        api.submit_file(file, validate_only=True)
    api.submit_file(file, files=[project.folder / "face.png"])
    assert api.wait("faces", timeout_s=60).view is not None
    assert api.job("faces", "a").job.state == "done"
    table = project.write("table.csv", "id,prompt,duration_s\na,a harbour,1\n")
    checked = api.submit_file(table, validate_only=True)
    assert (checked.batch, checked.jobs) == ("table", 1)
    with pytest.raises(InputError, match=r"line 2|table\.csv"):
        api.submit_file(project.write("table.csv", "id,prompt,duration_s\na,a harbour,long\n"), validate_only=True)


def test_a_batch_outlives_the_api_that_started_it(project: Project, farm: Servers) -> None:
    """Stopping the API stops no paid work; the next API shows how it ended."""
    project.use(farm)
    first = served(project)
    api = next(first)
    api.submit(batch("film", *({"duration_s": 3} for _ in range(6))))
    known_run = submitting.find(Settings.load(), "film")
    assert known_run is not None
    until("its process lives", lambda: submitting.status(known_run).state == "running")
    process = Process(["api", "--port", "0"], project.folder)
    try:
        until("a second API listens", lambda: "http://" in process.outcome(0).err)
        process.signal(signal.SIGKILL)
        process.popen.wait()
        until("the batch ends by itself", lambda: submitting.status(known_run).state == "ended")
        assert api.wait("film", timeout_s=30).view is not None
    finally:
        process.end()
        first.close()


def test_a_killed_run_is_started_again_and_pays_for_nothing_twice(api: Client, project: Project, farm: Servers) -> None:
    """The supervisor sees the crash; the run resumes from the ledger. A submit that was cut off stays uncertain."""
    api.submit(batch("film", *({"duration_s": 4, "preferences": {"backend": "gemini"}} for _ in range(8))))
    run = submitting.find(Settings.load(), "film")
    assert run is not None
    until("two are paid for and known to be", lambda: sum(a.handle is not None for a in project.attempts()) >= 2)
    supervisor = psutil.Process(json.loads((Path(run.folder) / "process.json").read_text())["pid"])
    for child in supervisor.children():
        os.kill(child.pid, signal.SIGKILL)
    detail = api.wait("film", timeout_s=120)
    assert detail.run is not None
    assert detail.run.status.restarts == 1
    assert detail.view is not None
    jobs = detail.view.batch.jobs
    assert jobs.done + jobs.uncertain == 8
    assert jobs.done >= 2
    assert max(farm.charged_jobs().values()) == 1
    assert project.verify().ok


async def test_the_asynchronous_client_does_the_same(api: Client) -> None:
    """Submit, follow, wait, page, download and refuse without blocking the loop."""
    async with AsyncClient(str(api._http.base_url)) as client:
        await client.submit(batch("night"))
        kinds = [event.kind async for event in client.follow("night")]
        assert kinds.count("done") == 2
        detail = await client.wait("night", timeout_s=60)
        assert detail.view is not None
        assert [line.job async for line in client.every_job("night")] == ["s1", "s2"]
        assert [line.name async for line in client.every_batch()] == ["night"]
        clip = await anext(client.every_clip())
        saved = await client.download("night", clip.job, Path(clip.path).parent / "again")
        assert saved.stat().st_size == clip.size_bytes
        with pytest.raises(NotFoundError):
            await client.job("night", "s9")
    with pytest.raises(ApiError, match="does not answer"):
        async with AsyncClient("http://127.0.0.1:9") as nobody:
            await nobody.health()


def test_selection_keeps_hard_limits_and_sees_the_queue(api: Client) -> None:
    """A job limit of nothing leaves only the free backend. It wins while idle; with a long queue it does not."""
    job = SelectJob(preferences=Preferences(max_cost_usd=Decimal(0), backend="gemini"))
    picked = api.select(SelectRequest(job=job))
    assert picked.backend == "comfyui"
    refused = [line for line in picked.decision.candidates if line.refusal == "limit"]
    assert {line.backend for line in refused} >= {"gemini"}
    assert api.select().backend == "comfyui"
    api.submit(batch("long", *({"duration_s": 20, "preferences": {"backend": "local"}} for _ in range(300))))
    until("the queue is known", lambda: api.status().overview.queued_jobs > 200)
    time.sleep(0.5)
    busy = api.select()
    assert busy.backend != "comfyui", busy.reason
    local = next(line for line in busy.decision.candidates if line.backend == "comfyui")
    assert local.wait_s > 60
    api.cancel("long", wait_s=20)
