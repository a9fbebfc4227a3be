"""The alert drill: a real Prometheus scrapes the real API with the shipped configuration; every rule fires and clears.

What a rule is about is brought about by the parts that bring it about in a studio: emulated vendors that fail, the
watcher, the pod pool, runs of the engine, changes over the API. Three things are made quick. A rule's `for` is a
quarter of a second (`quickened`, the only change to the shipped file), the vendors' clock is fast, and what must grow
old is stored with that age: an unknown outcome of two hours, a health check of twenty minutes, a bill of seven hours, a
price of a hundred days.

The tests share one Prometheus, and its memory: the one about a stuck queue comes before any attempt has ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Set
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml
from pipeline_rig import SMALL, EmulatorThread, until

from hybrid_video.emulators.farm import Farm, FarmOptions
from hybrid_video.emulators.runpod import BootTimes
from hybrid_video.engine import cancel
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import run_batch
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.forecasts import Forecast
from hybrid_video.ledger.resolving import resolve
from hybrid_video.metrics import standing
from hybrid_video.models import AttemptState, Batch, Tier, utc_now
from hybrid_video.pods.pool import PodPool
from hybrid_video.pricing.refresh import prices_folder
from hybrid_video.settings import ComfyUISettings, RoutingSettings, Settings
from hybrid_video.watcher import loop
from tests.unit.api_rig import TOKENS, Served, serving

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("alert-drill"), pytest.mark.timeout(120)]

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES = DEPLOY / "alerts.yml"
FAST = 60.0
"""The vendors' clock: a pod's lease of five minutes is five seconds."""
PATIENCE_S = 30.0
GPU = "NVIDIA GeForce RTX 4090"
LABELS = ("backend", "kind", "period", "what", "folder")


def quickened(rules: dict[str, Any]) -> dict[str, Any]:
    """The shipped rules, waiting a quarter of a second instead of minutes; all else about them stays as it is."""
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule["for"] = "250ms"
    return rules


@dataclass
class Drill:
    """Everything that runs."""

    prometheus: str
    api: Served
    thread: EmulatorThread
    farm: Farm
    folder: Path
    token: Path
    fired: set[str] = field(default_factory=set)
    cleared: set[str] = field(default_factory=set)

    def firing(self) -> set[str]:
        """Names of the alerts that fire now, with the label that tells two of a kind apart."""
        alerts = httpx.get(f"{self.prometheus}/api/v1/alerts").json()["data"]["alerts"]
        return {
            ":".join(
                [
                    alert["labels"]["alertname"].removeprefix("HybridVideo"),
                    *(alert["labels"][name] for name in LABELS if name in alert["labels"]),
                ]
            )
            for alert in alerts
            if alert["state"] == "firing"
        }

    def until(self, *, fire: Set[str] = frozenset(), clear: Set[str] = frozenset()) -> None:
        """Waits for alerts to fire and for others to be gone."""
        end_s, firing = time.monotonic() + PATIENCE_S, set[str]()
        while time.monotonic() < end_s:
            firing = self.firing()
            if fire <= firing and not clear & firing:
                self.fired |= fire
                self.cleared |= clear & self.fired
                return
            time.sleep(0.1)
        raise AssertionError(f"wanted {sorted(fire)} and none of {sorted(clear)}; firing are {sorted(firing)}")

    def ledger_changes(self, statement: Any) -> None:
        """What time would do: makes something stored older."""
        with self.api.ledger.writing() as connection:
            connection.execute(statement)

    def settings(self, *, attempts: int = 3, **groups: Any) -> Settings:
        """Settings of a run on the same ledger with other backends."""
        routing = RoutingSettings(
            retry_base_s=0.05, backend_patience_s=1.0, time_scale=FAST, min_free_disk_mb=50, max_attempts=attempts
        )
        return Settings(storage=self.api.settings.storage, routing=routing, **groups)

    def local(self, *, attempts: int = 3) -> Settings:
        """A run on the user's own GPU alone."""
        urls = tuple(server.url for _, server in self.farm.comfyui)
        comfyui = ComfyUISettings(urls=urls, poll_interval_s=0.05, outage_patience_s=0.2)
        return self.settings(attempts=attempts, comfyui=comfyui)

    def fault(self, **rule: Any) -> None:
        """One rule for the vendors."""
        httpx.post(f"{self.farm.comfyui[0][1].url}/_emulator/faults", json=rule).raise_for_status()

    def change(self, method: str, path: str, **values: Any) -> None:
        """A change of limits or preferences by an administrator."""
        self.api.http.request(method, path, json=values).raise_for_status()

    def mend(self) -> None:
        """Takes every fault away."""
        self.farm.comfyui[0][0]._machine.faults.clear()

    def start(self, name: str, jobs: int, settings: Settings, **job: Any) -> Future[BatchReport]:
        """Runs a batch of small shots through the engine, beside the drill."""
        shots = [{"id": f"s{n}", "prompt": f"shot {n}", **SMALL, **job} for n in range(1, jobs + 1)]
        batch = Batch.model_validate({"name": name, "jobs": shots})
        work = run_batch(batch, settings=settings, base_dir=self.folder, out_dir=self.folder / "clips")
        return self.thread.start(work)

    def ran(self, name: str, jobs: int, settings: Settings, **job: Any) -> BatchReport:
        """Runs one to its end."""
        return self.start(name, jobs, settings, **job).result(60)

    @contextmanager
    def watching(self, monkeypatch: pytest.MonkeyPatch, *, health_every_s: float = 0.5) -> Iterator[None]:
        """The watcher, looking at the backends more often than every 30 s."""
        monkeypatch.setattr(loop, "HEALTH_S", health_every_s)
        watcher = loop.Watcher(self.api.settings, self.api.ledger, self.api.owner)
        running = self.thread.start(watcher.run())
        try:
            yield
        finally:

            async def stop() -> None:  # in the loop it belongs to
                watcher.stop()

            self.thread.do(stop())
            running.result(30)


@pytest.fixture(scope="module")
def drill(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Drill]:
    """Vendors, the API over an empty ledger, and Prometheus with the shipped files, told where the API is."""
    program = shutil.which("prometheus")
    if program is None:
        assert not os.environ.get("CI"), "CI must have Prometheus (Debian's package prometheus)"
        pytest.skip("Prometheus is not installed; it is in Debian's package prometheus")
    folder = tmp_path_factory.mktemp("drill")
    thread = EmulatorThread()
    options = FarmOptions(
        comfyui_ports=(0, 0),
        time_scale=FAST,
        service_s={Tier.LOCAL: 3.0, Tier.GEMINI: 3.0},
        pods=True,
        pod_boot=BootTimes(provisioning_s=2.0, starting_s=5.0, service_s=5.0),
        billing_lag_s=0.0,
    )
    with ExitStack() as ends:
        ends.callback(thread.close)
        farm = thread.do(Farm.start(options))
        ends.callback(lambda: thread.do(farm.close()))
        patch = ends.enter_context(pytest.MonkeyPatch.context())
        for name, value in farm.environment().items():
            patch.setenv(name, value)
        (folder / "clips").symlink_to(folder)
        patch.setenv("HYBRID_VIDEO_OUT", str(folder / "clips"))
        patch.setenv("HYBRID_VIDEO_PODS_GPUS", GPU)
        patch.setenv("HYBRID_VIDEO_PODS_LEASE_S", "300")
        api = ends.enter_context(serving(folder / "home", roles=True))
        token = folder / "hybrid-video-token"
        token.write_text(TOKENS["read"])
        prometheus = ends.enter_context(running_prometheus(program, folder, api.url))
        yield Drill(prometheus, api, thread, farm, folder, token)


@contextmanager
def running_prometheus(program: str, folder: Path, api_url: str) -> Iterator[str]:
    """The server, with the shipped files quickened."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "250ms", "scrape_timeout": "500ms"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [api_url.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    (folder / "alerts.yml").write_text(yaml.safe_dump(quickened(yaml.safe_load(RULES.read_text()))))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    url, log = f"http://127.0.0.1:{port}", folder / "prometheus.log"
    command = [program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=output, stderr=output)
        try:
            end_s = time.monotonic() + 30
            while not _answers(url):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < end_s
                time.sleep(0.1)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready").status_code == 200
    except httpx.HTTPError:
        return False


def test_a_queue_that_stands_still_is_noticed_until_it_moves(drill: Drill) -> None:
    """A GPU that hangs over its first clip, and two more shots for it; then somebody cancels the batch."""
    slow = drill.thread.do(Farm.start(FarmOptions(runpod_port=None, gemini_port=None, service_s={Tier.LOCAL: 600.0})))
    try:
        alone = drill.settings(comfyui=ComfyUISettings(urls=(slow.comfyui[0][1].url,), poll_interval_s=0.1))
        run = drill.start("slow", 3, alone)
        drill.until(fire={"QueueStuck"})
        drill.thread.do(cancel.cancel(alone, batch="slow"))
        drill.until(clear={"QueueStuck"})
        assert run.result(30).completed == 0
    finally:
        drill.thread.do(slow.close())


def test_a_sick_backend_and_a_watcher_that_no_longer_looks(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI refuses connections; then the watcher hangs, so that its last findings grow old, and is started again."""
    with drill.watching(monkeypatch):
        drill.fault(server="comfyui", operation="health", action="drop", times=None)
        drill.until(fire={"BackendUnhealthy:comfyui"})
        drill.mend()
        drill.until(clear={"BackendUnhealthy:comfyui"})
    with drill.watching(monkeypatch, health_every_s=3600.0):
        time.sleep(1.0)  # its first look
        drill.ledger_changes(sa.update(t.health).values(checked_at=utc_now() - timedelta(minutes=20)))
        drill.until(fire={"HealthStale:comfyui"})
    with drill.watching(monkeypatch):
        drill.until(clear={"HealthStale:comfyui"})


def test_pods_without_a_watcher(drill: Drill, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod opened over the API: its reservation fills the day, limits come down, its lease runs out, nobody looks; the
    watcher ends it, and it is compared with RunPod's bill."""
    opened = drill.api.post("/api/cloud/spawn", json={"reason": "drill"})
    assert opened.status_code == 201, opened.text
    pool = PodPool(drill.api.settings, drill.api.ledger, bill_final_after_s=0.0)
    until("the pod is ready", lambda: drill.thread.do(pool.tick()) or pool.store.ready(), 20)
    status = drill.api.get("/api/cloud/status").json()
    drill.change("post", "/api/loadbalancer/preferences", daily_budget_usd=status["reserved_usd"])
    drill.change("put", "/api/cloud/config", max_price_usd_per_h="0.05")
    drill.until(fire={"NoWatcher", "BudgetNearlySpent:day", "PodsCostMoreThanPlanned"})
    drill.change("post", "/api/loadbalancer/preferences", daily_budget_usd=None)
    drill.change("put", "/api/cloud/config", max_price_usd_per_h=None)
    drill.until(fire={"Orphans:pods"}, clear={"BudgetNearlySpent:day", "PodsCostMoreThanPlanned"})
    with drill.watching(monkeypatch):
        drill.until(clear={"NoWatcher", "Orphans:pods"})
    drill.ledger_changes(sa.update(t.pods).values(closed_at=utc_now() - timedelta(hours=7)))
    drill.until(fire={"BillDiffers"})
    drill.thread.do(pool.settle_bills())
    drill.thread.do(pool.aclose())
    drill.until(clear={"BillDiffers"})


def test_failures_and_breakers(drill: Drill) -> None:
    """Seven prompts that a node raises on are many failures; three refusals in a row open the breaker; after enough
    clips both are over."""
    drill.fault(server="comfyui", operation="execute", action="fail", times=7)
    drill.ran("bad-node", 7, drill.local())
    drill.fault(server="comfyui", operation="submit", action="refuse", times=None)
    # three runs at once, for what was refused is looked for three seconds before it counts
    for run in [drill.start(f"unreachable-{number}", 1, drill.local(attempts=1)) for number in range(3)]:
        assert run.result(60).completed == 0
    drill.until(fire={"BreakerOpen:comfyui", "ManyFailures:comfyui"})
    drill.mend()
    drill.ran("well-again", 28, drill.local())
    drill.until(clear={"BreakerOpen:comfyui", "ManyFailures:comfyui"})


def test_an_outcome_that_nobody_knows(drill: Drill) -> None:
    """RunPod's answer to a submit is lost, two hours pass, a person looks into the vendor's records and says so."""
    drill.fault(server="runpod", operation="submit", action="drop_after", times=1)
    drill.ran("lost", 1, drill.settings(runpod=drill.api.settings.runpod))
    (lost,) = [a for a in drill.api.ledger.attempts("lost") if a.state is AttemptState.UNCERTAIN]
    aged = sa.update(t.attempts).where(t.attempts.c.attempt_id == lost.attempt_id)
    drill.ledger_changes(aged.values(created_at=utc_now() - timedelta(hours=2)))
    drill.until(fire={"UncertainAttempts"})
    drill.api.ledger.act_as(drill.api.owner)
    resolve(drill.api.ledger, drill.api.owner, lost, "charged")
    drill.until(clear={"UncertainAttempts"})


def test_plans_that_miss_and_plans_that_hit(drill: Drill) -> None:
    """The emulators are sixty times as fast as any plan thinks; then come as many plans that were right as count."""
    drill.ran("faster-than-planned", 2, drill.local())
    drill.until(fire={"PredictionsOff:duration"})
    for number in range(standing.PLANS):
        plan = Forecast(batch=f"b{number}", jobs=1, planned_usd=Decimal(1), planned_s=60.0, split={}, pool=())
        drill.api.ledger.record_outcome(drill.api.ledger.record_plan(plan), duration_s=61.0, made=1)
    drill.until(clear={"PredictionsOff:duration"})


def test_prices_that_nobody_has_checked(drill: Drill) -> None:
    """A price of a hundred days; it is checked again by hand, and the shipped ones against RunPod's catalogue."""
    folder, today = prices_folder(drill.api.settings), utc_now().date()
    folder.mkdir(parents=True, exist_ok=True)

    def price(checked: date) -> None:
        (folder / f"by-hand-{checked}.toml").write_text(
            f'[[price]]\nid = "ours-{checked}"\nprofile = "current"\ntier = "cloud"\nbackend = "runpod-pod"\n'
            f'unit = "gpu_second"\nusd = "0.0002"\ngpu = "{GPU}"\nmodel = "ours"\nsource = "our contract"\n'
            f'checked = {checked}\nconfidence = "vendor"\n'
        )

    price(today - timedelta(days=100))
    drill.until(fire={"PricesOld:runpod-pod"})
    price(today)
    done = subprocess.run(
        [sys.executable, "-m", "hybrid_video", "prices", "--refresh"],
        env={**os.environ, **drill.farm.environment(), "HYBRID_VIDEO_HOME": str(drill.api.settings.storage.home)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    drill.until(clear={"PricesOld:runpod-pod", "PricesOld:runpod-serverless"})


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no file system without room here")
def test_a_disk_without_room(drill: Drill) -> None:
    """The clips' folder leads to a file system without a free byte, and then to one with room."""
    link, full = drill.folder / "clips", drill.folder / "full"
    full.symlink_to("/proc")
    full.replace(link)
    drill.until(fire={"DiskNearlyFull:clips"})
    full.symlink_to(drill.folder)
    full.replace(link)
    if shutil.disk_usage(drill.folder).free > 5e9:
        drill.until(clear={"DiskNearlyFull:clips"})


def test_an_api_that_gives_no_figures(drill: Drill) -> None:
    """A wrong token is as bad as no API."""
    drill.token.write_text("wrong-token-wrong-token")
    drill.until(fire={"Down"})
    drill.token.write_text(TOKENS["read"])
    drill.until(clear={"Down"})


def test_every_rule_has_fired_and_cleared(drill: Drill) -> None:
    """None of the shipped rules was left out, and at the end nothing fires any more."""
    rules = {
        rule["alert"].removeprefix("HybridVideo")
        for group in yaml.safe_load(RULES.read_text())["groups"]
        for rule in group["rules"]
    }
    if len(drill.fired) < 2:
        pytest.skip("the other tests of this file were not run")
    assert {name.partition(":")[0] for name in drill.fired} == rules
    assert drill.cleared == drill.fired
    drill.until(clear=drill.fired)
    assert drill.firing() == set()
