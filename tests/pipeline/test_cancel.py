"""Cancelling a job, a batch or everything, with and without a live run, and what it costs."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from aiohttp import web
from pipeline_rig import TIME_SCALE, EmulatorThread, FarmMaker, Process, Project, Servers, until

from hybrid_video.batchfile import load_batch
from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.emulators.server import start_server
from hybrid_video.ledger import Ledger
from hybrid_video.models import AttemptState, JobState, Tier

LONG_S = {Tier.LOCAL: 1600.0, Tier.CLOUD: 1600.0, Tier.GEMINI: 1600.0}
"""With the time scale a clip takes 40 s: it is still running whenever a test looks."""

GOOGLE_SIZE = {"duration_s": 3, "width": 640, "height": 360}


@pytest.fixture
def long_farm(start_farm: FarmMaker) -> Servers:
    """Emulators on which every clip takes longer than any test."""
    return start_farm(FarmOptions(time_scale=TIME_SCALE, service_s=LONG_S, cold_start_s=1.0))


@pytest.fixture
def owned(project: Project) -> Iterator[list[Process]]:
    """Processes that end with the test."""
    processes: list[Process] = []
    yield processes
    for process in processes:
        process.end()


def job_states(project: Project, batch: str = "film") -> dict[str, JobState]:
    """State of each job in the ledger."""
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    try:
        return {row.job: row.state for row in ledger.job_rows(batch)}
    finally:
        ledger.close()


def start(project: Project, owned: list[Process], *jobs: dict[str, object], name: str = "film") -> Process:
    """Starts a batch as a process and waits until its first attempt runs."""
    process = project.start_run(project.batch(list(jobs), name))
    owned.append(process)

    def accepted() -> bool:
        assert process.popen.poll() is None, f"the run has ended: {process.outcome(process.popen.returncode)}"
        return any(attempt.handle for attempt in project.attempts() if attempt.batch == name)

    try:
        until(f"an attempt of {name} is accepted", accepted)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{process.outcome(-1)}") from None
    return process


def killed(project: Project, owned: list[Process], *jobs: dict[str, object], name: str = "film") -> None:
    """Starts a batch and kills its process while an attempt runs."""
    process = start(project, owned, *jobs, name=name)
    process.signal(signal.SIGKILL)
    process.popen.wait(10)


def nothing_held(project: Project, farm: Servers) -> None:
    """No reservation is left, and the ledger has what the vendors billed, to the last cent."""
    report = project.verify()
    assert report.ok, report.findings
    assert report.reserved_usd == 0
    assert report.settled_usd == farm.billed_usd()


def outcomes(answer: dict[str, list[dict[str, str]]]) -> dict[str, str]:
    """Outcome of each job in a `cancel --json`."""
    return {f"{line['batch']}/{line['job']}": line["outcome"] for line in answer["jobs"]}


# -- without a live run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tier", ["local", "cloud", "gemini"])
def test_what_a_killed_run_left_is_stopped_and_settled_by_the_vendors_rule(
    tier: str, project: Project, long_farm: Servers, owned: list[Process]
) -> None:
    """The remote job ends, its true cost is booked, the rest of the reservation is released."""
    project.use(long_farm, tier)
    killed(project, owned, GOOGLE_SIZE if tier == "gemini" else {})
    outcome = project.command("cancel", "film", "--json")
    assert outcome.code == 0, outcome
    assert outcomes(outcome.json) == {"film/s1": "cancelled"}
    assert job_states(project) == {"s1": JobState.CANCELLED}
    (attempt,) = project.attempts()
    assert attempt.state is AttemptState.CANCELLED
    assert {row["state"] for row in long_farm.charges()} <= {"cancelled", "failed"}
    nothing_held(project, long_farm)


def test_waiting_jobs_cost_nothing_and_are_cancelled_at_once(
    project: Project, start_farm: FarmMaker, owned: list[Process]
) -> None:
    """Only what was sent has to be stopped; --all reaches every batch that is not over, and only those."""
    long_farm = start_farm(FarmOptions(comfyui_ports=(0, 0), time_scale=TIME_SCALE, service_s=LONG_S))
    # a GPU for each: what a killed run has sent to one keeps others waiting until its lease is over
    project.set(HYBRID_VIDEO_COMFYUI_URLS=long_farm.urls[0])
    killed(project, owned, {}, {}, {}, {}, name="one")
    project.set(HYBRID_VIDEO_COMFYUI_URLS=long_farm.urls[1])
    killed(project, owned, {}, {}, {}, name="two")
    project.use(long_farm, "local")
    outcome = project.command("cancel", "--all", "--json")
    assert outcome.code == 0, outcome
    assert sorted(outcome.json["batches"]) == ["one", "two"]
    assert outcome.json["cancelled"] == 7
    assert set(job_states(project, "one").values()) == set(job_states(project, "two").values()) == {JobState.CANCELLED}
    again = project.command("cancel", "--all", "--json")
    assert (again.code, again.json["batches"], again.json["jobs"]) == (0, [], [])
    nothing_held(project, long_farm)


def test_a_clip_that_was_made_already_is_collected_not_thrown_away(
    project: Project, start_farm: FarmMaker, owned: list[Process]
) -> None:
    """Google delivered it before it could be stopped, so it is paid for: cancel stores it and books it."""
    farm = start_farm(FarmOptions(time_scale=TIME_SCALE, service_s={Tier.GEMINI: 40.0}))
    project.use(farm, "gemini")
    killed(project, owned, GOOGLE_SIZE)
    until("Google has delivered", lambda: [row["state"] for row in farm.charges()] == ["done"])
    outcome = project.command("cancel", "film", "--json")
    assert outcome.code == 0, outcome
    assert outcomes(outcome.json) == {"film/s1": "finished"}
    assert len(project.clip_files()) == 1
    assert farm.billed_usd() > 0
    nothing_held(project, farm)


def test_what_cannot_be_stopped_stays_uncertain_and_reserved_until_reconciled(
    project: Project, start_farm: FarmMaker, owned: list[Process]
) -> None:
    """RunPod does not answer the cancel: exit 1, the money stays held, and reconcile collects the clip later."""
    farm = start_farm(FarmOptions(time_scale=TIME_SCALE, service_s={Tier.CLOUD: 200.0}, cold_start_s=1.0))
    project.use(farm, "cloud")
    killed(project, owned, {})
    farm.fault(server="runpod", operation="cancel", action="status", status=500, times=None)
    outcome = project.command("cancel", "film", "--json")
    assert outcome.code == 1, outcome
    assert outcomes(outcome.json) == {"film/s1": "uncertain"}
    assert "hybrid-video reconcile" in outcome.json["jobs"][0]["message"]
    assert project.verify().reserved_usd > 0
    assert project.command("reconcile", "--json").json["collected"] == 1
    nothing_held(project, farm)


def test_running_the_batch_again_makes_what_was_cancelled(project: Project, farm: Servers) -> None:
    """The mark of a cancelled job is gone with the next run, and stops no run of another batch."""
    project.use(farm, "local")
    assert project.run(project.batch([{}], "other")).code == 0
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    file = project.batch([{}, {}])
    ledger.register(load_batch(file), out_dir=project.out)
    ledger.close()
    assert project.command("cancel", "film", "--job", "s2", "--json").json["cancelled"] == 1
    assert job_states(project) == {"s1": JobState.PENDING, "s2": JobState.CANCELLED}
    assert project.run(file).code == 0
    assert job_states(project) == {"s1": JobState.DONE, "s2": JobState.DONE}


# -- with a live run ---------------------------------------------------------------------------------------------------


def test_a_live_run_stops_one_job_when_asked_and_makes_the_others(
    project: Project, start_farm: FarmMaker, owned: list[Process]
) -> None:
    """The run confirms within seconds, goes on with the other job, and reports the cancelled one; exit 1."""
    farm = start_farm(FarmOptions(time_scale=TIME_SCALE, service_s={Tier.LOCAL: 160.0}))
    project.use(farm, "local")
    process = start(project, owned, {"priority": 90}, {})
    outcome = project.command("cancel", "film", "--job", "s1", "--json")
    assert (outcome.code, outcomes(outcome.json)) == (0, {"film/s1": "cancelled"}), outcome
    ended = process.wait()
    assert ended.code == 1, ended
    assert [clip["job"] for clip in ended.json["clips"]] == ["s2"]
    assert [(line["job"], line["kind"]) for line in ended.json["errors"]] == [("s1", "cancelled")]
    nothing_held(project, farm)


@pytest.mark.parametrize("tier", ["local", "cloud", "gemini"])
def test_a_live_run_ends_when_its_batch_is_cancelled(
    tier: str, project: Project, long_farm: Servers, owned: list[Process]
) -> None:
    """Running and waiting jobs alike; the process ends by itself with its report, nothing stays reserved."""
    project.use(long_farm, tier)
    size = GOOGLE_SIZE if tier == "gemini" else {}
    process = start(project, owned, size, size, size)
    outcome = project.command("cancel", "film", "--json")
    assert (outcome.code, outcome.json["cancelled"]) == (0, 3), outcome
    ended = process.wait()
    assert ended.code == 1
    assert {line["kind"] for line in ended.json["errors"]} == {"cancelled"}
    assert set(job_states(project).values()) == {JobState.CANCELLED}
    nothing_held(project, long_farm)


def test_a_run_that_does_not_answer_is_reported_as_unconfirmed(
    project: Project, long_farm: Servers, owned: list[Process]
) -> None:
    """Its jobs are not taken from it while it lives; the request stays and is honoured when it goes on."""
    project.use(long_farm, "local")
    process = start(project, owned, {})
    until("it only waits", lambda: project.attempts_in(AttemptState.RUNNING))
    time.sleep(0.3)  # a process that is stopped in the middle of a commit would keep the ledger locked
    process.signal(signal.SIGSTOP)
    outcome = project.command("cancel", "film", "--wait", "0.5", "--json")
    process.signal(signal.SIGCONT)
    assert (outcome.code, outcomes(outcome.json)) == (1, {"film/s1": "unconfirmed"}), outcome
    process.wait()
    assert job_states(project) == {"s1": JobState.CANCELLED}
    nothing_held(project, long_farm)


# -- interrupting a run ------------------------------------------------------------------------------------------------


def test_an_interrupted_run_stops_what_is_accepted_in_mid_submit(
    project: Project, long_farm: Servers, owned: list[Process]
) -> None:
    """SIGTERM while Google still thinks about the submit, which it then takes: the job is stopped, nothing is held."""
    project.use(long_farm, "gemini")
    long_farm.fault(server="gemini", operation="submit", action="delay", delay_s=1.5, times=None)
    process = project.start_run(project.batch([GOOGLE_SIZE]))
    owned.append(process)
    until("the intent is written", project.attempts)
    process.signal(signal.SIGTERM)
    process.wait()
    (attempt,) = project.attempts()
    assert attempt.state is AttemptState.CANCELLED
    nothing_held(project, long_farm)


def test_an_interrupted_run_gives_back_what_was_refused_in_mid_submit(
    project: Project, emulator_thread: EmulatorThread, owned: list[Process]
) -> None:
    """RunPod refuses the submit after the SIGTERM: nothing was accepted for certain, so nothing stays reserved."""
    asked = threading.Event()

    async def refuse_slowly(_request: web.Request) -> web.Response:
        asked.set()
        await asyncio.sleep(1.5)
        return web.json_response({"error": "too many requests"}, status=429)

    async def healthy(_request: web.Request) -> web.Response:
        return web.json_response({"jobs": {}, "workers": {"idle": 1, "ready": 1}})

    endpoint = web.Application()
    endpoint.router.add_post("/v2/slow/run", refuse_slowly)
    endpoint.router.add_get("/v2/slow/health", healthy)
    server = emulator_thread.do(start_server(endpoint))
    try:
        project.set(RUNPOD_API_KEY="any", HYBRID_VIDEO_RUNPOD_JOBS_URL=f"{server.url}/v2/slow")
        process = project.start_run(project.batch([{}]))
        owned.append(process)
        assert asked.wait(20)
        process.signal(signal.SIGTERM)
        process.wait()
    finally:
        emulator_thread.do(server.close())
    (attempt,) = project.attempts()
    assert (attempt.state, attempt.error_kind) == (AttemptState.FAILED, "rate_limited")
    assert job_states(project) == {"s1": JobState.CANCELLED}
    assert project.verify().reserved_usd == 0


# -- bad requests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["cancel"], ("--all",)),
        (["cancel", "film", "--all"], ("--all",)),
        (["cancel", "--all", "--job", "s1"], ("--all",)),
        (["cancel", "flim"], ("'flim'", "'film'")),
        (["cancel", "film", "--job", "s9"], ("'s9'", "ledger show film")),
        (["cancel", "film", "--wait", "-1"], ("--wait", "-1")),
    ],
)
def test_a_request_that_makes_no_sense_changes_nothing(
    arguments: list[str], words: tuple[str, ...], project: Project, farm: Servers
) -> None:
    """Exit 2 with the value and what to write instead."""
    project.use(farm, "local")
    assert project.run(project.batch([{}])).code == 0
    outcome = project.command(*arguments, "--json")
    assert outcome.code == 2, outcome
    for word in words:
        assert word in json.dumps(outcome.json)
    assert job_states(project) == {"s1": JobState.DONE}
    assert project.verify().settled_usd == Decimal(0)
