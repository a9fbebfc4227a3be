"""SIGKILL of everything around a batch: the Prefect server, the worker, the flow process. Nothing is lost or doubled.

Also searches the Prefect server's own database and logs for the keys that its flow runs were given.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline_rig import QUICK, SMALL, TIME_SCALE, Deployed, Project, Servers, until

from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, JobState
from hybrid_video.prefect_api import call
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker

pytestmark = pytest.mark.slow

JOBS = 24
SECRETS = {"RUNPOD_API_KEY": "sentinel-runpod-55aa91", "GEMINI_API_KEY": "sentinel-gemini-17bc02"}


def kill(owner: object) -> None:
    """SIGKILL for the process group of a server or worker."""
    pid = owner._child.pid  # type: ignore[attr-defined]
    os.killpg(pid, signal.SIGKILL)


def shots() -> list[dict[str, Any]]:
    """Jobs for all three tiers."""
    kinds = ({}, {"preferences": {"backend": "cloud"}}, {"preferences": {"backend": "gemini"}})
    return [{"id": f"s{n}", "prompt": f"shot {n}", **SMALL, **kinds[n % 3]} for n in range(JOBS)]


def everything_is_made_once(project: Project, farm: Servers) -> None:
    """Every job is done; each paid job has one charge for a clip, unless a kill left its outcome to a person."""
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    try:
        rows, attempts, found = ledger.job_rows("film"), ledger.attempts("film"), verify(ledger)
    finally:
        ledger.close()
    uncertain = {a.job for a in attempts if a.state is AttemptState.UNCERTAIN}
    assert {row.job for row in rows if row.state is not JobState.DONE} <= uncertain
    assert len(uncertain) < JOBS // 2, "a kill can catch only the submits under way at that moment"
    paid: dict[str, int] = {}
    for charge in farm.charges():
        if charge["usd"] not in ("0", "0.00") and charge["state"] == "done":
            paid[charge["job"]] = paid.get(charge["job"], 0) + 1
    assert paid
    assert set(paid.values()) == {1}
    assert found.ok, found


@pytest.fixture
def server(tmp_path: Path, deployed: Deployed) -> Iterator[PrefectServer]:
    """A Prefect server with our deployments; a test may kill it."""
    found = deployed.server(tmp_path / "prefect", lean=True)
    found.start()
    yield found
    found.stop()


def test_killing_the_prefect_server_in_mid_batch_loses_and_doubles_nothing(
    project: Project, farm: Servers, server: PrefectServer
) -> None:
    """The batch goes on without its server and reports; again, without Prefect, it makes what is missing."""
    project.use(farm)
    project.set(**server.environment)
    file = project.batch(shots())
    process = project.start_run(file, "--prefect")
    try:
        until("some jobs are under way", lambda: len(farm.charges()) >= 4, 60)
        kill(server)
        outcome = process.wait(120)
    finally:
        process.end()
    assert outcome.json["jobs"] == JOBS, outcome
    project.set(PREFECT_API_URL="")
    again = project.run(file, "--no-prefect")
    assert again.code in (0, 1), again
    everything_is_made_once(project, farm)


def test_killing_worker_and_flow_in_mid_batch_loses_and_doubles_nothing_and_no_key_is_stored(
    project: Project, farm: Servers, server: PrefectServer
) -> None:
    """The worker and its flow die together; a new run of the deployment takes the batch up where it was."""
    project.use(farm)
    project.set(**SECRETS)
    names = ("HYBRID_VIDEO_COMFYUI_URLS", "HYBRID_VIDEO_RUNPOD_JOBS_URL", "HYBRID_VIDEO_RUNPOD_PODS_URL")
    variables = {name: farm.environment[name] for name in (*names, "HYBRID_VIDEO_GEMINI_URL")}
    variables |= {
        **QUICK,
        **SECRETS,
        "HYBRID_VIDEO_HOME": str(project.home),
        "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    }
    parameters = {"batch": {"name": "film", "jobs": shots()}, "out_dir": str(project.out)}

    def submit() -> str:
        deployment = call(server.url, "GET", "/deployments/name/generate-batch/local-gpu")
        body = {"parameters": parameters}
        return str(call(server.url, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)["id"])

    def worker() -> PrefectWorker:
        return PrefectWorker("local-gpu", server.url, project.folder, home=server.home, environment=variables)

    first = worker()
    first.start()
    submit()
    until("some jobs are under way", lambda: len(farm.charges()) >= 4, 90)
    kill(first)
    for pid in flow_processes(server.url):
        os.kill(pid, signal.SIGKILL)
    first.stop(cancel_runs=False)
    second = worker()
    second.start()
    try:
        run = submit()
        final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

        def over() -> bool:
            return call(server.url, "GET", f"/flow_runs/{run}")["state"]["type"] in final

        until("the second run ends", over, 120, every_s=0.2)
    finally:
        second.stop(cancel_runs=False)
    everything_is_made_once(project, farm)
    stored = [f for f in project.folder.rglob("*") if f.is_file()]
    assert any(f.suffix == ".db" for f in stored), "the server's database is not where it is searched"
    needles = [value.encode() for value in SECRETS.values()]
    assert not [str(f) for f in stored if any(needle in f.read_bytes() for needle in needles)]


def flow_processes(url: str) -> list[int]:
    """Processes of our own that run flows against this server, found by their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            if entry.stat().st_uid != os.getuid():
                continue
            command, environment = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if b"prefect" in command and b"server" not in command and url.encode() in environment:
            found.append(int(entry.name))
    return found
