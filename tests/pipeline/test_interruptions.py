"""Batches that are killed, interrupted, run twice at once or starved of disk: nothing is lost, nothing paid twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from pipeline_rig import COMMAND, SERVICE_S, FarmMaker, Outcome, Process, Project, Servers, until

from hybrid_video.emulators.farm import FarmOptions
from hybrid_video.models import AttemptState, Tier

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

MIXED: list[dict[str, object]] = [
    {},
    {"preferences": {"backend": "cloud"}},
    {"preferences": {"backend": "gemini"}},
    {},
] * 3


@pytest.fixture
def slow_farm(start_farm: FarmMaker) -> Servers:
    """Local and cloud clips take about 1 s, Google's 0.6 s: time enough to interrupt."""
    service = {tier: seconds * 2.5 for tier, seconds in SERVICE_S.items()}
    return start_farm(FarmOptions(time_scale=20, service_s=service, cold_start_s=2))


def made_once(project: Project, servers: Servers, outcome: Outcome, jobs: int) -> None:
    """Every job has its clip and exactly one submission, and the ledger agrees with the bills."""
    assert outcome.code == 0, str(outcome)
    assert outcome.json["completed"] == jobs
    assert Counter(servers.charged_jobs().values()) == {1: jobs}
    found = project.verify()
    assert (found.ok, found.orphans, found.duplicates) == (True, 0, 0), found
    assert found.reserved_usd == 0
    assert found.settled_usd == servers.billed_usd()


def kill_between_submits(project: Project, process: Process) -> None:
    """SIGKILL while no attempt stands between intent and receipt: only then can everything be found again."""
    while True:
        process.signal(signal.SIGSTOP)
        if not project.attempts_in(AttemptState.INTENT):
            break
        process.signal(signal.SIGCONT)
        time.sleep(0.01)
    process.signal(signal.SIGKILL)
    assert process.wait().code == -signal.SIGKILL


def test_a_killed_run_is_taken_up_again_without_making_anything_twice(slow_farm: Servers, project: Project) -> None:
    """SIGKILL with clips finished, running and waiting; the next run collects what was paid and makes the rest."""
    project.use(slow_farm)
    batch = project.batch(MIXED)
    first = project.start_run(batch)
    until("three clips", lambda: len(list(project.out.glob("film/*.mp4"))) >= 3)
    kill_between_submits(project, first)
    assert [a for a in project.attempts() if not a.finished], "the kill came too late to prove anything"
    made_once(project, slow_farm, project.run(batch), 12)
    staging = project.out / ".staging"
    assert not staging.exists() or not list(staging.iterdir())


def test_a_run_killed_at_any_moment_pays_for_nothing_twice(slow_farm: Servers, project: Project) -> None:
    """Killed while submits are on their way: each job has its clip, or is reported as uncertain; none is sent twice."""
    project.use(slow_farm)
    batch = project.batch(MIXED)
    for submissions in (1, 5, 9):
        process = project.start_run(batch)
        _until_sent(slow_farm, process, submissions)
        process.signal(signal.SIGKILL)
        process.wait()
    outcome = project.run(batch)
    report = outcome.json
    assert {error["kind"] for error in report["errors"]} <= {"uncertain"}, str(outcome)
    assert report["completed"] + len(report["errors"]) == 12
    assert set(slow_farm.charged_jobs().values()) == {1}
    found = project.verify()
    assert (found.ok, found.uncertain, found.duplicates) == (True, len(report["errors"]), 0), found


def _until_sent(servers: Servers, process: Process, least: int) -> None:
    try:
        until(f"{least} submissions", lambda: len(servers.charges()) >= least or process.popen.poll() is not None)
    except AssertionError as error:
        raise AssertionError(f"{error}: {process.outcome(-1)}") from None


def test_two_processes_on_one_batch_make_each_job_once(slow_farm: Servers, project: Project) -> None:
    """Both end with exit 0 and the same report; no job is sent by both."""
    project.use(slow_farm)
    batch = project.batch(MIXED)
    processes = [project.start_run(batch) for _ in range(2)]
    outcomes = [process.wait() for process in processes]
    for outcome in outcomes:
        made_once(project, slow_farm, outcome, 12)
    assert outcomes[0].json["clips"] == outcomes[1].json["clips"]


def test_the_second_process_takes_over_what_a_killed_one_drove(slow_farm: Servers, project: Project) -> None:
    """The dead owner is recognised at once; its accepted jobs are collected, not sent again."""
    project.use(slow_farm)
    batch = project.batch(MIXED)
    first = project.start_run(batch)
    until("the first to send", lambda: len(slow_farm.charges()) >= 4)
    second = project.start_run(batch)
    until("the second to join", lambda: "started" in second.outcome(0).err or len(slow_farm.charges()) >= 8)
    kill_between_submits(project, first)
    made_once(project, slow_farm, second.wait(), 12)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_stops_remote_work_and_still_reports(
    slow_farm: Servers, project: Project, number: signal.Signals
) -> None:
    """What runs is cancelled at the vendors, what was finished is in the report, and the next run makes the rest."""
    project.use(slow_farm)
    batch = project.batch(MIXED)
    process = project.start_run(batch)
    until("two clips", lambda: len(list(project.out.glob("film/*.mp4"))) >= 2)
    process.signal(number)
    outcome = process.wait()
    assert outcome.code == 1, str(outcome)
    assert "Traceback" not in outcome.err
    report = outcome.json
    assert report["completed"] >= 2
    assert report["completed"] + report["failed"] == 12
    assert {error["kind"] for error in report["errors"]} <= {"cancelled", "pending"}, report["errors"]
    assert {row["state"] for row in slow_farm.charges()} <= {"done", "cancelled"}, slow_farm.charges()
    found = project.verify()
    assert found.ok, found
    assert found.reserved_usd == 0
    assert found.settled_usd == slow_farm.billed_usd()
    again = project.run(batch)
    assert again.code == 0, str(again)
    done = Counter(row["job"] for row in slow_farm.charges() if row["state"] == "done")
    assert done == Counter({f"film/s{n}": 1 for n in range(1, 13)})


def test_a_full_disk_loses_no_paid_clip(slow_farm: Servers, project: Project, small_disk: Path) -> None:
    """The output disk fills up in mid-run: an error without a traceback; with space again, nothing is made twice."""
    project.use(slow_farm, "cloud", "gemini")
    project.set(HYBRID_VIDEO_MIN_FREE_DISK_MB=0)
    batch = project.batch([{"preferences": {"backend": "gemini"}}, {"preferences": {"backend": "cloud"}}] * 2)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - 40_000))
    outcome = project.command("run", batch, "--out", small_disk / "clips", "--json")
    assert outcome.code in {1, 2}, str(outcome)
    assert "Traceback" not in outcome.err
    assert "unexpected error" not in outcome.err, str(outcome)
    assert "disk" in outcome.err or "space" in outcome.err
    filler.unlink()
    again = project.command("run", batch, "--out", small_disk / "clips", "--json")
    made_once(project, slow_farm, again, 4)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_run_of_many_jobs_stays_within_its_memory(start_farm: FarmMaker, project: Project) -> None:
    """A hundred jobs on all tiers in a real process: each once, the books agree to the last cent, under 400 MB."""
    servers = start_farm(
        FarmOptions(comfyui_ports=(0, 0), time_scale=40, service_s=SERVICE_S, cold_start_s=4, max_workers=5)
    )
    project.use(servers)
    project.set(HYBRID_VIDEO_RUNPOD_MAX_WORKERS=5, HYBRID_VIDEO_VALUE_OF_TIME_USD_PER_H=1000)
    jobs = [MIXED[n % 4] if n % 10 else {"preferences": {"backend": "local"}} for n in range(100)]
    outcome = measured_run(project, project.batch(jobs))
    made_once(project, servers, outcome, 100)
    report = outcome.json
    assert len({clip["path"] for clip in report["clips"]}) == 100
    assert set(report["by_backend"]) == {tier.value for tier in Tier}
    assert Decimal(report["cost_usd"]) == servers.billed_usd()
    assert {attempt.state for attempt in project.attempts()} == {AttemptState.SETTLED}
    peak_mb = int((project.folder / "peak").read_text(encoding="utf-8"))
    assert peak_mb < 400


def measured_run(project: Project, batch: Path) -> Outcome:
    """Runs a batch in a process that a parent of its own waits for, so that its peak memory can be told."""
    watcher = (
        "import resource, subprocess, sys, pathlib\n"
        f"code = subprocess.run([sys.executable, '-c', {COMMAND!r}, *sys.argv[2:]]).returncode\n"
        "unit = 1024 * 1024 if sys.platform == 'darwin' else 1024\n"
        "peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // unit\n"
        "pathlib.Path(sys.argv[1]).write_text(str(peak))\n"
        "sys.exit(code)\n"
    )
    return Process(
        [str(project.folder / "peak"), "run", str(batch), "--out", str(project.out), "--json"],
        project.folder,
        program=watcher,
    ).wait(150)
