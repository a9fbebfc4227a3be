"""The work pool `cloud-gpu`: its template, and a batch through Prefect's real docker worker.

The worker talks to a stand-in for the container engine (docker_engine.py), so what it asks an engine for is checked to
the byte, and the command it asks for really runs, with the container's environment alone. What an engine would do with
image, user, volume and limits is not shown here: no engine can run in these tests.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_engine import Container, Engine
from pipeline_rig import SMALL, TIME_SCALE, Deployed, EmulatorThread, Servers, servers_of, until
from prefect.client.orchestration import PrefectClient
from prefect_docker.worker import DockerWorker, DockerWorkerJobConfiguration

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Tier
from hybrid_video.prefect_api import call
from hybrid_video.prefect_deploy import POOLS, create_pools, job_template
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir

PREFECT_HOME = "/tmp/prefect"  # noqa: S108 - a folder in the container
ROOT = Path(__file__).parents[2]
FINAL = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PREFECT_AUTH = "hybrid:SENTINEL-auth-0005"
SENTINELS = {
    "RUNPOD_API_KEY": "rpa_SENTINEL_of_the_worker_0001",
    "GEMINI_API_KEY": "AIza_SENTINEL_of_the_worker_0002",
    "HYBRID_VIDEO_RUNPOD_POD_TOKEN": "SENTINEL-pod-token-0003",
    "HYBRID_VIDEO_LEDGER_URL": "postgresql://u:SENTINEL0004@db/x",
}
"""What the worker's own environment holds; none of it may reach a container by itself."""


def template() -> dict[str, Any]:
    """The template that `hybrid-video deploy` gives the pool."""
    found = job_template("cloud-gpu")
    assert found is not None
    return found


@dataclass
class Site:
    """A Prefect server with our pool, a real docker worker, and the stand-in engine."""

    server: PrefectServer
    engine: Engine
    folder: Path

    def submit(self, name: str, environment: dict[str, str]) -> str:
        """Creates a run of generate-batch/cloud-gpu."""
        deployment = call(self.server.url, "GET", "/deployments/name/generate-batch/cloud-gpu")
        body = {
            "parameters": {"batch": {"name": name, "jobs": [{"id": "s1", "prompt": "a red fox", **SMALL}]}},
            "job_variables": {"env": environment},
        }
        run: str = call(self.server.url, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)["id"]
        return run

    def ended(self, run: str) -> dict[str, Any]:
        """The final state of a flow run, waited for."""

        def state() -> dict[str, Any]:
            found: dict[str, Any] = call(self.server.url, "GET", f"/flow_runs/{run}")["state"]
            return found

        until("the flow run ends", lambda: state()["type"] in FINAL, 120, every_s=0.2)
        return state()

    def container_of(self, run: str) -> Container:
        """The container that was created for a flow run."""
        return next(c for c in self.engine.containers.values() if c.environment["PREFECT__FLOW_RUN_ID"] == run)


async def configured(site: Site, **values: Any) -> DockerWorkerJobConfiguration:
    """The configuration that Prefect makes of our template and a deployment's job variables."""
    async with PrefectClient(site.server.url) as client:
        return await DockerWorkerJobConfiguration.from_template_and_values(template(), values, client=client)


def test_the_template_fits_the_installed_prefect_docker() -> None:
    """Every key is one that this version of the worker knows, every placeholder has a variable, and none is unused."""
    ours, theirs = template(), DockerWorker.get_default_base_job_template()
    assert set(ours["job_configuration"]) == set(theirs["job_configuration"])
    placeholders = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(ours["job_configuration"])))
    assert placeholders == set(ours["variables"]["properties"])
    assert set(theirs["variables"]["properties"]) - placeholders == {"privileged", "container_create_kwargs"}


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
async def test_the_defaults_are_those_of_our_image(site: Site) -> None:
    """Without any job variable: our image, its volume and folders, removed at the end, without needless rights."""
    made = await configured(site)
    assert (made.image, made.image_pull_policy, made.auto_remove) == ("hybrid-video:latest", "IfNotPresent", True)
    assert made.volumes == ["hybrid-video:/data"]
    assert made.env == {"HYBRID_VIDEO_HOME": "/data", "PREFECT_HOME": PREFECT_HOME}
    assert (made.privileged, made.mem_limit, made.labels) == (False, "4g", {"app": "hybrid-video"})
    assert made.container_create_kwargs == {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": 1024,
        "init": True,
    }


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
async def test_a_deployment_cannot_give_its_containers_more_rights(site: Site) -> None:
    """`privileged` and the rights are part of the pool, not variables: a deployment that sets them changes nothing."""
    made = await configured(site, privileged=True, container_create_kwargs={"cap_add": ["SYS_ADMIN"]})
    assert made.privileged is False
    assert made.container_create_kwargs == (await configured(site)).container_create_kwargs


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
async def test_the_deployment_of_prefect_yaml_fits_the_template_and_the_image(site: Site) -> None:
    """Its job variables are all known; image, folders and working directory are those of the Dockerfile."""
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    (found,) = [entry for entry in deployments if entry["work_pool"]["name"] == "cloud-gpu"]
    variables = found["work_pool"]["job_variables"]
    assert set(variables) <= set(template()["variables"]["properties"])
    made = await configured(site, **variables)
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"docker build -t {made.image} ." in dockerfile
    assert f"HYBRID_VIDEO_HOME={made.env['HYBRID_VIDEO_HOME']} " in dockerfile
    assert made.volumes[0].endswith(":/data")
    (step,) = found["pull"]
    folder = step["prefect.deployments.steps.set_working_directory"]["directory"]
    assert f"WORKDIR {folder}\n" in dockerfile
    file = found["entrypoint"].partition(":")[0]
    assert f"COPY {file.split('/')[0]} {folder}/{file.split('/')[0]}\n" in dockerfile
    assert (ROOT / file).is_file()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, deployed: Deployed) -> Iterator[Site]:
    """Everything, with the project in a folder of the test where the image has /opt/hybrid-video."""
    folder = tmp_path_factory.mktemp("docker-pool")
    for name in ("flows", "tasks"):
        shutil.copytree(project_dir() / name, folder / "project" / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "worker").mkdir()
    engine = Engine(folder / "data")
    try:
        with deployed.server(folder / "prefect", lean=True) as server:
            start_in(folder / "project", server.url)
            worker = PrefectWorker(
                "cloud-gpu",
                server.url,
                folder / "worker",
                home=server.home,
                environment={"DOCKER_HOST": engine.url, "PREFECT_API_AUTH_STRING": PREFECT_AUTH, **SENTINELS},
            )
            with worker:
                yield Site(server, engine, folder)
    finally:
        engine.close()


def start_in(project: Path, url: str) -> None:
    """Has the runs of the pool start in this folder; in the image it is /opt/hybrid-video."""
    found = call(url, "GET", "/deployments/name/generate-batch/cloud-gpu")
    [step] = found["pull_steps"]
    change = step["prefect.deployments.steps.set_working_directory"]
    assert change["directory"] == "/opt/hybrid-video"
    change["directory"] = str(project)
    call(url, "PATCH", f"/deployments/{found['id']}", {"pull_steps": [step]})


@pytest.fixture(scope="module")
def gpu(emulator_thread: EmulatorThread) -> Iterator[Servers]:
    """An emulated ComfyUI."""
    options = FarmOptions(time_scale=TIME_SCALE, service_s={Tier.LOCAL: 8.0}, runpod_port=None, gemini_port=None)
    farm = emulator_thread.do(Farm.start(options))
    yield servers_of(farm)
    emulator_thread.do(farm.close())


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
@pytest.mark.timeout(300)
def test_a_batch_runs_in_what_the_docker_worker_asks_for(site: Site, gpu: Servers) -> None:
    """The real worker creates and starts one container; its command with its environment alone makes the clip."""
    environment = {
        "HYBRID_VIDEO_HOME": "/data",
        "PREFECT_HOME": PREFECT_HOME,
        "HYBRID_VIDEO_COMFYUI_URLS": gpu.environment["HYBRID_VIDEO_COMFYUI_URLS"],
        "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
    }
    run = site.submit("reel", environment)
    state = site.ended(run)
    container = site.container_of(run)
    said = container.log.read_text() if container.log else ""
    assert state["type"] == "COMPLETED", said[-3000:]
    assert container.body["Image"] == "hybrid-video:latest"
    assert container.body["Cmd"] == ["prefect", "flow-run", "execute"]
    assert container.host["Binds"] == ["hybrid-video:/data:rw"] or container.host["Binds"] == ["hybrid-video:/data"]
    assert container.host["AutoRemove"] is True
    assert container.host["CapDrop"] == ["ALL"]
    assert container.host["SecurityOpt"] == ["no-new-privileges:true"]
    assert container.host["PidsLimit"] == 1024
    assert container.host["Memory"] == 4 * 1024**3
    assert container.host["NetworkMode"] == "host"  # the API is on loopback; Prefect infers it
    assert not container.host.get("Privileged")
    assert container.body["Labels"]["app"] == "hybrid-video"
    assert container.body["Labels"]["io.prefect.flow-run-id"] == run
    clips = list((site.engine.volume / "clips").rglob("*.mp4"))
    assert len(clips) == 1
    ledger = Ledger.open(site.engine.volume / "ledger.sqlite3")
    try:
        assert verify(ledger).ok
    finally:
        ledger.close()


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
@pytest.mark.timeout(300)
def test_no_key_of_the_worker_shows_in_docker_inspect(site: Site) -> None:
    """What was created holds none of the worker's own keys, in no field; the run reads Secret blocks itself."""
    run = site.submit("empty", {"HYBRID_VIDEO_HOME": "/data", "PREFECT_HOME": PREFECT_HOME})
    site.ended(run)
    shown = json.dumps(site.container_of(run).body)
    for secret in SENTINELS.values():
        assert secret not in shown
    # The one that must be there, or the run could not report: who may inspect containers may use Prefect.
    assert site.container_of(run).environment["PREFECT_API_AUTH_STRING"] == PREFECT_AUTH


@pytest.mark.slow
@pytest.mark.xdist_group("prefect")
def test_an_older_plain_pool_gets_the_template_and_a_changed_one_keeps_its_own(site: Site) -> None:
    """Deploying again improves what nobody has touched, and leaves what somebody has set."""
    url = site.server.url
    body = {"base_job_template": DockerWorker.get_default_base_job_template()}
    catalogue = call(url, "GET", "/collections/views/aggregate-worker-metadata")
    plain = next(kinds["docker"] for kinds in catalogue.values() if "docker" in kinds)["default_base_job_configuration"]
    call(url, "PATCH", "/work_pools/cloud-gpu", {"base_job_template": plain})
    assert create_pools(url) == []
    assert call(url, "GET", "/work_pools/cloud-gpu")["base_job_template"] == template()
    body["base_job_template"]["variables"]["properties"]["image"]["default"] = "mine:1"
    call(url, "PATCH", "/work_pools/cloud-gpu", body)
    create_pools(url)
    kept = call(url, "GET", "/work_pools/cloud-gpu")["base_job_template"]
    assert kept["variables"]["properties"]["image"]["default"] == "mine:1"
    call(url, "PATCH", "/work_pools/cloud-gpu", {"base_job_template": template()})
    assert POOLS["cloud-gpu"][0] == "docker"
