"""The deployments of prefect.yaml on a real server with a real process worker: run, cancelled, stopped, redeployed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from pipeline_rig import QUICK, SMALL, TIERS, TIME_SCALE, Deployed, EmulatorThread, Servers, servers_of, until

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Tier
from hybrid_video.prefect_api import call
from hybrid_video.prefect_deploy import POOLS, create_pools, set_schedule
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir
from hybrid_video.watcher.health_store import HealthStore
from hybrid_video.watcher.lease import watching

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]

NAME = "generate-batch/local-gpu"
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
MANY = 400
"""Jobs of a batch that is still busy when it is stopped: they would take over a minute."""


@dataclass
class Site:
    """One machine: a Prefect server with our deployments, a folder, and a home of ours."""

    server: PrefectServer
    folder: Path

    @property
    def home(self) -> Path:
        """HYBRID_VIDEO_HOME of the worker."""
        return self.folder / "state"

    def worker(self, servers: Servers) -> PrefectWorker:
        """A worker whose flows find the emulated ComfyUI, started from another folder than the project's."""
        found = {name: value for name, value in servers.environment.items() if name in TIERS["local"]}
        variables = {**QUICK, **found, "HYBRID_VIDEO_HOME": str(self.home), "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE)}
        return PrefectWorker("local-gpu", self.server.url, self.folder, home=self.server.home, environment=variables)

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a `prefect` command, as a user would."""
        return subprocess.run(
            [sys.executable, "-m", "prefect", *arguments],
            cwd=self.folder,
            env=self.server.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def submit(self, name: str, jobs: int) -> str:
        """Creates a flow run of the local deployment and returns its id."""
        deployment = call(self.server.url, "GET", f"/deployments/name/{NAME}")
        body = {"parameters": self.parameters(name, jobs)}
        run: str = call(self.server.url, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)["id"]
        return run

    def parameters(self, name: str, jobs: int) -> dict[str, Any]:
        """Flow parameters with a batch of small clips."""
        shots = [{"id": f"s{n}", "prompt": f"shot number {n}", **SMALL} for n in range(1, jobs + 1)]
        return {"batch": {"name": name, "jobs": shots}, "out_dir": str(self.folder / "clips")}

    def state(self, run: str) -> dict[str, Any]:
        """The state of a flow run."""
        state: dict[str, Any] = call(self.server.url, "GET", f"/flow_runs/{run}")["state"]
        return state


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, deployed: Deployed) -> Iterator[Site]:
    """A server with the project's pools and deployments."""
    folder = tmp_path_factory.mktemp("site")
    assert deployed.pools == ["local-gpu", "cloud-gpu"]
    scheduled = ["every-5-minutes", "every-hour", "every-month", "every-morning", "every-night", "every-week"]
    assert deployed.deployments == ["cloud-gpu", *scheduled, "local-gpu"]
    with deployed.server(folder / "prefect") as server:
        yield Site(server, folder)


@pytest.fixture(scope="module")
def gpu(emulator_thread: EmulatorThread) -> Iterator[Servers]:
    """An emulated ComfyUI that needs 0.2 s for a clip."""
    options = FarmOptions(time_scale=TIME_SCALE, service_s={Tier.LOCAL: 8.0}, runpod_port=None, gemini_port=None)
    farm = emulator_thread.do(Farm.start(options))
    yield servers_of(farm)
    emulator_thread.do(farm.close())


@pytest.fixture(scope="module")
def _worker(site: Site, gpu: Servers) -> Iterator[PrefectWorker]:
    worker = site.worker(gpu)
    yield worker
    worker.stop()


@pytest.fixture
def worker(_worker: PrefectWorker, gpu: Servers) -> PrefectWorker:
    """A running worker of the pool local-gpu; its ComfyUI is as new."""
    gpu.reset()
    if not _worker.running:
        _worker.start()
    return _worker


def ended(site: Site, run: str) -> dict[str, Any]:
    """The final state of a flow run, waited for."""
    until("the flow run ends", lambda: site.state(run)["type"] in FINAL, 90, every_s=0.2)
    return site.state(run)


def comfyui_is_idle(gpu: Servers) -> bool:
    """Whether the emulated ComfyUI neither runs nor holds anything."""
    queue = httpx.get(f"{gpu.urls[0]}/queue").json()
    return not queue["queue_running"] and not queue["queue_pending"]


def busy(site: Site, gpu: Servers, run: str) -> None:
    """Waits until a flow run has submitted a few jobs."""
    until("the first jobs are submitted", lambda: len(gpu.charges()) > 2 or site.state(run)["type"] in FINAL, 90)
    assert site.state(run)["type"] == "RUNNING", site.state(run)


def books_are_whole(site: Site) -> None:
    """The ledger contradicts nothing and holds no money back."""
    ledger = Ledger.open(site.home / "ledger.sqlite3")
    try:
        found = verify(ledger)
    finally:
        ledger.close()
    assert found.ok, found
    assert found.reserved_usd == 0


@pytest.mark.usefixtures("worker")
def test_a_deployment_run_makes_every_clip_of_its_batch(site: Site, gpu: Servers) -> None:
    """`prefect deployment run` with a batch as parameter ends as Completed, with the clips and its page of figures."""
    arguments = ("deployment", "run", NAME, "--params", json.dumps(site.parameters("evening", 3)))
    done = site.prefect(*arguments, "--watch", "--watch-interval", "1", "--watch-timeout", "50")
    assert done.returncode == 0, done.stdout + done.stderr
    clips = [path for path in (site.folder / "clips").rglob("*.mp4") if "evening" in path.parts]
    assert sorted(path.stem for path in clips) == ["s1", "s2", "s3"]
    assert gpu.charged_jobs() == {f"evening/s{n}": 1 for n in (1, 2, 3)}
    artifacts = call(site.server.url, "POST", "/artifacts/latest/filter", {})
    assert {"evening-progress", "evening-clips", "evening-report"} <= {found["key"] for found in artifacts}
    books_are_whole(site)


@pytest.mark.usefixtures("worker")
def test_a_cancelled_run_stops_its_remote_work_and_says_how_far_it_came(site: Site, gpu: Servers) -> None:
    """`prefect flow-run cancel` ends as Cancelled with a message of ours, and ComfyUI works on nothing any more."""
    run = site.submit("long", MANY)
    busy(site, gpu, run)
    assert site.prefect("flow-run", "cancel", run).returncode == 0
    state = ended(site, run)
    assert state["type"] == "CANCELLED"
    assert f"of {MANY} clips" in state["message"]
    until("ComfyUI is idle", lambda: comfyui_is_idle(gpu))
    books_are_whole(site)


def test_a_stopped_worker_leaves_no_run_that_seems_to_go_on(site: Site, gpu: Servers, worker: PrefectWorker) -> None:
    """`PrefectWorker.stop` cancels its runs and lets them clean up; Prefect's own worker would just kill them."""
    run = site.submit("interrupted", MANY)
    busy(site, gpu, run)
    worker.stop()
    assert not worker.running
    state = site.state(run)
    assert state["type"] == "CANCELLED", state
    assert f"of {MANY} clips" in state["message"]
    assert comfyui_is_idle(gpu)
    books_are_whole(site)


def test_wrong_parameters_are_refused_when_the_run_is_created(site: Site) -> None:
    """The server checks parameters against the flow's own models, so that nothing is queued that cannot run."""
    deployment = call(site.server.url, "GET", f"/deployments/name/{NAME}")
    parameters = site.parameters("wrong", 1)
    parameters["batch"]["jobs"][0]["duration_s"] = 0
    path = f"/deployments/{deployment['id']}/create_flow_run"
    with pytest.raises(ConfigurationError, match=r"HTTP 409\).*(duration_s|exclusiveMinimum|0 is)"):
        call(site.server.url, "POST", path, {"parameters": parameters})


def test_the_form_explains_every_parameter(site: Site) -> None:
    """Every field of the form in the Prefect UI has a description, and the batch is a nested form."""
    schema = call(site.server.url, "GET", f"/deployments/name/{NAME}")["parameter_openapi_schema"]
    assert schema.get("required", []) == []
    assert {"batch", "batch_file", "out_dir", "deadline_s", "budget_usd"} <= set(schema["properties"])
    assert [name for name, field in schema["properties"].items() if not field.get("description")] == []
    assert {"Batch", "VideoJob", "Preferences"} <= set(schema["definitions"])


@pytest.mark.usefixtures("worker")
def test_reconcile_runs_as_a_deployment(site: Site) -> None:
    """The hourly deployment looks after what earlier runs left, and is switched off until somebody wants it."""
    deployment = call(site.server.url, "GET", "/deployments/name/reconcile/every-hour")
    assert [(found["slug"], found["active"]) for found in deployment["schedules"]] == [("hourly", False)]
    run: str = call(site.server.url, "POST", f"/deployments/{deployment['id']}/create_flow_run", {})["id"]
    state = ended(site, run)
    assert state["type"] == "COMPLETED", state
    books_are_whole(site)


@pytest.mark.usefixtures("worker")
def test_the_watcher_runs_once_however_often_its_schedule_starts_it(site: Site) -> None:
    """One long run watches; a second is not started beside it; cancelling the first gives the place back."""
    deployment = call(site.server.url, "GET", "/deployments/name/watch-backends/every-5-minutes")
    assert [(found["slug"], found["active"]) for found in deployment["schedules"]] == [("every-5-minutes", False)]
    create = f"/deployments/{deployment['id']}/create_flow_run"
    first: str = call(site.server.url, "POST", create, {})["id"]

    def looked() -> bool:
        with closing(Ledger.open(site.home / "ledger.sqlite3")) as ledger:
            return watching(ledger) is not None and "comfyui" in HealthStore(ledger).latest()

    until("it watches", looked, 90)
    second: str = call(site.server.url, "POST", create, {})["id"]
    state = ended(site, second)
    assert state["type"] in ("CANCELLED", "COMPLETED"), state
    assert site.state(first)["type"] == "RUNNING"
    call(site.server.url, "POST", f"/flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
    assert ended(site, first)["type"] in ("CANCELLED", "COMPLETED")
    with closing(Ledger.open(site.home / "ledger.sqlite3")) as ledger:
        assert watching(ledger) is None


def test_a_schedule_that_does_not_exist_is_named(site: Site) -> None:
    """Switching on an unknown schedule says which one."""
    with pytest.raises(ConfigurationError, match="'weekly'"):
        set_schedule(site.server.url, NAME, "weekly", active=True, parameters={})


def test_pools_are_created_once_and_never_changed_silently(site: Site) -> None:
    """A second call makes nothing; a pool of the same name and another type is an error that says how to mend it."""
    assert create_pools(site.server.url) == []
    kinds = {name: call(site.server.url, "GET", f"/work_pools/{name}")["type"] for name in POOLS}
    assert kinds == {"local-gpu": "process", "cloud-gpu": "docker"}


def test_the_container_of_the_cloud_deployment_can_be_put_together(site: Site) -> None:
    """prefect-docker accepts pool and deployment: image, volume and home are ours; no key is among the variables."""
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect_docker.worker import DockerWorkerJobConfiguration

    deployment = call(site.server.url, "GET", "/deployments/name/generate-batch/cloud-gpu")
    template = call(site.server.url, "GET", "/work_pools/cloud-gpu")["base_job_template"]
    with temporary_settings({PREFECT_API_URL: site.server.url}):
        configuration = asyncio.run(
            DockerWorkerJobConfiguration.from_template_and_values(template, deployment["job_variables"])
        )
    assert configuration.image == "hybrid-video:latest"
    assert configuration.volumes == ["hybrid-video:/data"]
    assert configuration.env["HYBRID_VIDEO_HOME"] == "/data"
    assert not [name for name in configuration.env if "KEY" in name or "TOKEN" in name]
    [step] = deployment["pull_steps"]
    dockerfile = (project_dir() / "Dockerfile").read_text(encoding="utf-8")
    folder = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {folder}\n" in dockerfile
