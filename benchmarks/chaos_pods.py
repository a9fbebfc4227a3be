"""Kills a controller of pods over and over, at random and at dangerous instants: is a pod forgotten, or not paid for?

    python benchmarks/chaos_pods.py --kills 500 [--seed N]        # about a quarter of an hour

The controller runs in a process of its own against a RunPod emulator in this one. It is killed (SIGKILL) at a random
moment, when a call reaches RunPod, or at a commit of the ledger; answers are lost, refused and delayed; sometimes a
second controller works beside it, and sometimes nobody comes back before the leases have run out. After every round the
ledger must know each pod that ever existed, hold no reservation and come to RunPod's bill, and pods of others must be
as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.chaos_farm import TappedFaults
from benchmarks.chaos_fork import ForkParent, Line
from benchmarks.chaos_pods_child import BATCH, JOBS, STORE_POINTS
from hybrid_video.backends.runpod import PodsClient, PodSpec
from hybrid_video.emulators.faults import FaultRule
from hybrid_video.emulators.runpod import BootTimes, RunPodEmulator
from hybrid_video.emulators.runpod.pods import PodStatus
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.installation import installation_id
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, Batch, CostEntry, JobState, VideoJob
from hybrid_video.pods.naming import whose
from hybrid_video.pods.pool import PodPool
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.settings import PodPoolSettings, RoutingSettings, RunPodSettings, Settings, StorageSettings

T = TypeVar("T")

TIME_SCALE = 100.0
LEASE_S = 150.0
BOOT = BootTimes(provisioning_s=3.0, starting_s=4.0, service_s=6.0)
MAX_PODS = 3
GPU = "NVIDIA GeForce RTX 4090"
READY_TIMEOUT_S = 120.0
CONTROLLER_S = 3.0
RIVAL_S = 1.5
KILLS_PER_ROUND = 10
LONG_PAUSE_SHARE = 0.15
RIVAL_SHARE = 0.2
FOREIGN = ("my-training-pod", "hybrid-video-ffffffff-abcdefghij", "hybrid-video-lab")
CALLS = ("create", "create", "create", "list", "get", "delete", "lease", "submit")
NANO_TOLERANCE = Decimal("0.000001")

FAULTS: tuple[dict[str, Any], ...] = (
    {"operation": "create", "action": "drop_after"},
    {"operation": "create", "action": "drop_after", "times": 2},
    {"operation": "create", "action": "truncate"},
    {"operation": "create", "action": "drop"},
    {"operation": "create", "action": "fail"},
    {"operation": "create", "action": "delay", "delay_s": 0.2},
    {"operation": "create", "action": "status", "status": 503},
    {"operation": "create", "action": "status", "status": 429, "headers": {"Retry-After": "0.1"}},
    {"operation": "delete", "action": "status", "status": 503, "times": 5},
    {"operation": "delete", "action": "drop_after"},
    {"operation": "list", "action": "status", "status": 503, "times": 5},
    {"operation": "list", "action": "garbage"},
    {"operation": "lease", "action": "drop", "times": 3},
    {"operation": "lease", "action": "drop_after"},
    {"operation": "submit", "action": "status", "status": 500},
)


@dataclass
class Tally:
    """Everything counted so far."""

    seed: int
    kills: int = 0
    kills_by_kind: dict[str, int] = field(default_factory=dict)
    controllers: int = 0
    rivals: int = 0
    rounds: int = 0
    pods: int = 0
    lost_creates: int = 0
    self_ended: int = 0
    adopted: int = 0
    findings: list[str] = field(default_factory=list)
    billed_usd: str = "0"
    ledger_usd: str = "0"
    most_at_once: int = 0
    elapsed_s: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether every invariant has held."""
        return not self.findings


class Provider:
    """The RunPod emulator in a thread of its own, with pods of strangers on the account. Use as a context manager."""

    def __init__(self) -> None:
        self.faults = TappedFaults()
        self.clock = ScaledClock(TIME_SCALE)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="provider", daemon=True)
        self._thread.start()
        self._do(self._start())

    async def _start(self) -> None:
        self.emulator = RunPodEmulator(
            clock=self.clock,
            faults=self.faults,
            prices=PriceBook.load("current"),
            boot=BOOT,
            billing_lag_s=0.0,
            management_per_minute=10_000_000,
        )
        self._server = await start_server(self.emulator.app())
        self.url = self._server.url
        client = PodsClient.from_settings(RunPodSettings(api_key="rpa_strangers", pods_url=self.url))
        for name in FOREIGN:
            await client.create(PodSpec(name=name, image="someone/else", gpu=GPU, ports=("8188/http",)))
        await client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._do(self._server.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def call_later(self, delay_s: float, action: Any) -> None:
        """Does something from the provider's thread after real seconds."""
        self._loop.call_soon_threadsafe(self._loop.call_later, delay_s, action)

    def ours(self, installation: str) -> dict[str, dict[str, Any]]:
        """Every pod of the installation there ever was, by id: name, living, lease left, billed dollars."""

        async def read() -> dict[str, dict[str, Any]]:
            fleet, now = self.emulator.fleet, self.clock.now()
            fleet.listed()  # ends what is due
            billed: dict[str, Decimal] = {}
            for usage in fleet.usages():
                seconds = Decimal(str(round(usage.seconds_within(0.0, now), 6)))
                amount = seconds * (usage.usd_per_s + usage.disk_usd_per_s)
                billed[usage.resource] = billed.get(usage.resource, Decimal(0)) + amount
            return {
                pod_id: {
                    "name": pod.request.name,
                    "alive": pod.status(now) is not PodStatus.TERMINATED,
                    "lease_left_s": None if pod.lease_until is None else pod.lease_until - now,
                    "billed_usd": billed.get(pod_id, Decimal(0)),
                }
                for pod_id, pod in fleet._pods.items()  # noqa: SLF001 - also those that ended long ago
                if whose(pod.request.name, installation) == "ours"
            }

        return self._do(read())

    def strangers(self) -> list[str]:
        """Names of the living pods that are not ours."""

        async def read() -> list[str]:
            now = self.clock.now()
            return sorted(
                pod.request.name
                for pod in self.emulator.fleet.listed()
                if pod.request.name in FOREIGN and pod.status(now) is PodStatus.RUNNING
            )

        return self._do(read())

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)


def forking_parent(folder: Path) -> ForkParent:
    """What controllers are forked from."""
    return ForkParent(Path(__file__).with_name("chaos_pods_child.py"), folder)


class Chaos:
    """One home, one provider, and the controllers that die on it."""

    def __init__(self, tally: Tally, provider: Provider, lines: tuple[Line, Line], folder: Path) -> None:
        self._tally, self._provider, self._folder = tally, provider, folder
        self._line, self._second = lines
        self._rng = random.Random(tally.seed)
        self._home = folder / "home"
        self.settings = Settings(
            runpod=RunPodSettings(api_key="rpa_0123456789", pods_url=provider.url),
            pods=PodPoolSettings(
                image="chaos/pod:1",
                gpus=(GPU,),
                max_pods=MAX_PODS,
                lease_s=LEASE_S,
                ready_timeout_s=READY_TIMEOUT_S,
                cold_start_s=20,
            ),
            routing=RoutingSettings(time_scale=TIME_SCALE),
            storage=StorageSettings(home=self._home),
        )
        self._environment = {
            "HYBRID_VIDEO_HOME": str(self._home),
            "HYBRID_VIDEO_TIME_SCALE": f"{TIME_SCALE:g}",
            "HYBRID_VIDEO_RUNPOD_PODS_URL": provider.url,
            "RUNPOD_API_KEY": "rpa_0123456789",
            "HYBRID_VIDEO_PODS_IMAGE": "chaos/pod:1",
            "HYBRID_VIDEO_PODS_GPUS": GPU,
            "HYBRID_VIDEO_PODS_MAX_PODS": str(MAX_PODS),
            "HYBRID_VIDEO_PODS_LEASE_S": f"{LEASE_S:g}",
            "HYBRID_VIDEO_PODS_READY_TIMEOUT_S": f"{READY_TIMEOUT_S:g}",
            "HYBRID_VIDEO_PODS_COLD_START_S": "20",
        }
        self.installation = installation_id(self._home)
        self.ledger = Ledger.open(self.settings.storage.ledger_path)
        jobs = tuple(VideoJob(id=f"s{number}", prompt="chaos") for number in range(JOBS))
        self.ledger.register(Batch(name=BATCH, jobs=jobs), out_dir=folder)

    def round(self, most_kills: int) -> None:
        """Some kills on one home, then everything is brought to its end and audited."""
        for _ in range(most_kills):
            self._one_life()
            if not self._tally.clean:
                return
            if self._rng.random() < LONG_PAUSE_SHARE:
                self._nobody_looks()
        self._provider.faults.clear()
        self._provider.faults.listener = None
        asyncio.run(self._finish())
        self._audit()
        self._tally.rounds += 1

    def _one_life(self) -> None:
        rng, tally = self._rng, self._tally
        self._provider.faults.clear()
        for fault in rng.sample(FAULTS, rng.choice((0, 1, 1, 2))):
            self._provider.faults.add(FaultRule(server="runpod", after=rng.randint(0, 1), **fault))
        kind = rng.choices(("random", "wire", "ledger"), (3, 5, 4))[0]
        crash = None
        if kind == "ledger":
            crash = {
                "point": rng.choice(STORE_POINTS),
                "when": rng.choice(("before", "after")),
                "nth": rng.randint(1, 4),
            }
        request = {
            "env": self._environment,
            "seed": rng.randrange(10**9),
            "seconds": CONTROLLER_S,
            "crash": crash,
            "log": str(self._folder / "controllers.log"),
        }
        rival = rng.random() < RIVAL_SHARE  # another controller on the same ledger, which lives on
        if rival:
            self._second.start({**request, "seed": rng.randrange(10**9), "crash": None, "seconds": RIVAL_S})
            tally.rivals += 1
        pid = self._line.start(request)
        over = threading.Event()

        def kill() -> None:
            if not over.is_set():
                os.kill(pid, signal.SIGKILL)

        if kind == "random":
            self._provider.call_later(rng.uniform(0.05, 1.2), kill)
        self._provider.faults.listener = self._listener(rng, kill if kind == "wire" else None)
        code = self._line.wait()
        over.set()
        if rival:
            self._check(self._second.wait())
        tally.controllers += 1
        if code == -signal.SIGKILL:
            tally.kills += 1
            tally.kills_by_kind[kind] = tally.kills_by_kind.get(kind, 0) + 1
        else:
            self._check(code)

    def _check(self, code: int) -> None:
        if code != 0:
            tail = (self._folder / "controllers.log").read_text(encoding="utf-8")[-1500:]
            self._tally.findings.append(f"a controller ended with {code}: {tail}")

    def _listener(self, rng: random.Random, kill: Any) -> Any:
        """Hears every call before the provider does anything about it: counts pods, and kills at the n-th of a kind."""
        wanted, nth, delay_s = rng.choice(CALLS), rng.choice((1, 1, 2, 3)), rng.choice((0.0, rng.uniform(0, 0.03)))
        seen = 0

        def heard(_server: str, operation: str, _name: str) -> None:
            nonlocal seen
            if operation == "create":
                now = self._provider.clock.now()
                living = sum(
                    whose(pod.request.name, self.installation) == "ours" and pod.status(now) is not PodStatus.TERMINATED
                    for pod in self._provider.emulator.fleet._pods.values()  # noqa: SLF001 - without ending anything
                )
                self._tally.most_at_once = max(self._tally.most_at_once, living + 1)
            seen += operation == wanted
            if kill is not None and operation == wanted and seen == nth:
                if delay_s:
                    self._provider.call_later(delay_s, kill)
                else:
                    kill()

        return heard

    def _nobody_looks(self) -> None:
        """Until every lease must be over: then no pod of ours may live."""
        longest_s = BOOT.provisioning_s + BOOT.starting_s + LEASE_S
        time.sleep((longest_s + 20) / TIME_SCALE)
        left = [pod["name"] for pod in self._provider.ours(self.installation).values() if pod["alive"]]
        if left:
            self._tally.findings.append(f"pods outlived their lease: {left}")
        self._tally.self_ended += 1

    async def _finish(self) -> None:
        """What a person or the next controller does: nothing is wanted any more, everything is settled."""
        for attempt in self.ledger.open_attempts():
            nothing = CostEntry(amount_usd=Decimal(0), basis="never sent", source="metered")
            self.ledger.settle(
                attempt.attempt_id,
                nothing,
                state=AttemptState.FAILED,
                job_state=JobState.PENDING,
                error_kind="cancelled",
            )
        pool = PodPool(self.settings, self.ledger, bill_final_after_s=0.0)
        try:
            give_up = time.monotonic() + 60
            while pool.store.alive() or pool.store.unreconciled():
                if time.monotonic() > give_up:
                    states = [(pod.name, pod.state, pod.error) for pod in pool.store.alive()]
                    self._tally.findings.append(f"not settled within 60 s: {states}")
                    return
                for pod in pool.store.ready():
                    await pool.drain(pod.name, "the round is over")
                await pool.reconcile()
                await asyncio.sleep(0.1)
        finally:
            await pool.aclose()

    def _audit(self) -> None:
        tally = self._tally
        store = PodPool(self.settings, self.ledger).store
        records, real = store.all(), self._provider.ours(self.installation)
        known = {pod.pod_id for pod in records if pod.pod_id}
        alive = [pod["name"] for pod in real.values() if pod["alive"]]
        if alive:
            tally.findings.append(f"still running: {alive}")
        if unknown := sorted(real[pod_id]["name"] for pod_id in real.keys() - known):
            tally.findings.append(f"the ledger does not know: {unknown}")
        if invented := sorted(known - real.keys()):
            tally.findings.append(f"the ledger has pods that never were: {invented}")
        if self._provider.strangers() != sorted(FOREIGN):
            tally.findings.append(f"pods of others were touched: {self._provider.strangers()} are left")
        report = verify(self.ledger)
        if not report.ok or report.reserved_usd:
            words = [f"{finding.subject}: {finding.message}" for finding in report.findings]
            tally.findings.append(f"verify: reserved {report.reserved_usd}, {words}")
        billed = sum((pod["billed_usd"] for pod in real.values()), Decimal(0))
        if abs(billed - report.settled_usd) > NANO_TOLERANCE * max(1, len(real)):
            tally.findings.append(f"RunPod billed ${billed}, the ledger has ${report.settled_usd}")
        if tally.most_at_once > MAX_PODS:
            tally.findings.append(f"{tally.most_at_once} pods at once, {MAX_PODS} allowed")
        events = [event.event for pod in records for event in store.events(pod.name)]
        tally.pods, tally.lost_creates = len(real), events.count("uncertain")
        tally.adopted = sum("found" in event.detail for pod in records for event in store.events(pod.name))
        tally.billed_usd, tally.ledger_usd = f"{billed:f}", f"{report.settled_usd:f}"


def run(tally: Tally, kills: int, *, keep: Path | None = None, tell: bool = False) -> Tally:
    """Goes on until so many kills are done or an invariant has failed."""
    folder = keep or Path(tempfile.mkdtemp(prefix="hybrid-video-chaos-pods-"))
    began = time.monotonic()
    with Provider() as provider, forking_parent(folder) as parent:
        chaos = Chaos(tally, provider, (parent.line(), parent.line()), folder)
        try:
            while tally.kills < kills and tally.clean:
                chaos.round(min(KILLS_PER_ROUND, kills - tally.kills))
                tally.elapsed_s = round(time.monotonic() - began, 1)
                if tell:
                    print(f"{tally.kills} kills, {tally.pods} pods, {tally.elapsed_s:.0f} s", file=sys.stderr)
        finally:
            chaos.ledger.close()
    if keep is None and tally.clean:
        shutil.rmtree(folder, ignore_errors=True)
    elif not tally.clean:
        print(f"the evidence is in {folder}", file=sys.stderr)
    return tally


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=None, help="a new one is drawn and printed when left out")
    parser.add_argument("--keep", type=Path, default=None, help="folder for home and logs, kept")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}", file=sys.stderr)
    tally = run(Tally(seed=seed), options.kills, keep=options.keep, tell=True)
    print(json.dumps(asdict(tally) | {"clean": tally.clean}, indent=2))
    raise SystemExit(0 if tally.clean else 1)


if __name__ == "__main__":
    main()
