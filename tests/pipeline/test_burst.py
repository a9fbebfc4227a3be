"""Rented pods inside real batches: opened by one decision, used, shared, replaced when they fail, and gone at the end.

The real engine, watcher, pool and clients over emulators whose time runs fast. The stories in which something happens
to the pods run at the same time, each with vendors, a home and a ledger of its own: mostly they wait for clips. The one
with targets for time runs alone.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.burst import Burst, installation, learn, pod_bill, run, usages
from hybrid_video.emulators.farm import Farm
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import open_ledger, run_batch
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Attempt, AttemptState, Batch
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("burst")]

TIMED = Burst("burst", 24, 90.0, scale=30.0, most=3, billing_lag_s=60.0)
SELDOM = {"HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.15"}
"""Looks are what costs a machine its time: four stories at once look less often than the one that is timed."""
CLIPS = replace(TIMED, environment=SELDOM)
NO_CAPACITY = replace(
    CLIPS,
    jobs=16,
    most=1,
    faults=FaultPlan((FaultRule(server="runpod", operation="create", action="fail", times=1),)),
    environment={
        **SELDOM,
        "HYBRID_VIDEO_PODS_DATA_CENTERS": "EU-RO-1,US-TX-3",
        "HYBRID_VIDEO_PODS_GPUS": "NVIDIA GeForce RTX 4090",
    },
)


def test_a_burst_meets_its_targets(tmp_path: Path) -> None:
    """One decision within twenty emulated seconds, never over the maximum, none left, ledger equal to the bill."""
    figures = run(TIMED, tmp_path).figures
    # the share of idle money needs the longer benchmark: here a delay of ours of 0.1 s counts as 3 s
    assert [miss for miss in figures["misses"] if miss != "idle_percent"] == [], figures
    assert figures["pods"] == 3
    assert figures["pod_jobs"] > 8
    assert figures["idle_percent"] < 15, figures


@dataclass
class Story:
    """Batches that run at the same time, each as a run of its own, and what happens meanwhile."""

    farm: Farm
    settings: Settings
    batches: list[Batch]
    meanwhile: Coroutine[Any, Any, None] | None = None

    async def tell(self) -> Told:
        """Runs it, and notes what it has left behind."""
        happening = asyncio.create_task(self.meanwhile) if self.meanwhile is not None else None
        try:
            reports = await asyncio.gather(*(self._run(batch) for batch in self.batches))
        finally:
            if happening is not None:
                happening.cancel()
                await asyncio.gather(happening, return_exceptions=True)
        self._is_sound()
        ledger = open_ledger(self.settings)
        try:
            return Told(reports, ledger.attempts(), PodStore(ledger).all())
        finally:
            ledger.close()

    async def _run(self, batch: Batch) -> BatchReport:
        home = self.settings.storage.home
        return await run_batch(batch, settings=self.settings, base_dir=home, out_dir=home / "clips")

    def _is_sound(self) -> None:
        """What must be true at the end of every story."""
        ledger = open_ledger(self.settings)
        try:
            report = verify(ledger)
            assert report.duplicates == 0
            assert report.orphans == 0
            assert not PodStore(ledger).alive()
            assert all(usage.ended_at is not None for usage in usages(self.farm))
            settled = ledger.balance("all").settled_usd
            # within 1 % by the longer benchmark: here a delay of ours of 0.1 s counts as 3 s of a pod
            assert abs(settled - pod_bill(self.farm)) <= pod_bill(self.farm) * 3 / 100
        finally:
            ledger.close()


@dataclass(frozen=True)
class Told:
    """A story that is over: its reports, every attempt, and every pod there ever was."""

    reports: list[BatchReport]
    attempts: list[Attempt]
    pods: tuple[PodRecord, ...]

    def of_the_burst(self) -> list[Attempt]:
        """The attempts of the batch `burst`."""
        return [attempt for attempt in self.attempts if attempt.batch == "burst"]


Meanwhile = Callable[[Farm, Settings], Coroutine[Any, Any, None]]


async def a_busy_pod(settings: Settings) -> str:
    """RunPod's id of the first pod that works on a clip."""
    ledger = open_ledger(settings)
    try:
        while True:
            await asyncio.sleep(0.05)
            attempts = [a for a in ledger.open_attempts() if a.lane.startswith("runpod-pod/")]
            if attempts and attempts[0].state is AttemptState.RUNNING:
                return attempts[0].lane.removeprefix("runpod-pod/")
    finally:
        ledger.close()


async def kill_one_busy_pod(farm: Farm, settings: Settings) -> None:
    """Ends a pod that works, as RunPod does with a machine that breaks."""
    assert farm.runpod is not None
    url = f"{farm.runpod[1].url}/v2/pods/{await a_busy_pod(settings)}"
    async with httpx.AsyncClient(headers={"Authorization": "Bearer any"}) as client:
        (await client.delete(url)).raise_for_status()


async def break_one_busy_pod(farm: Farm, settings: Settings) -> None:
    """Makes the program of a pod that works unreachable, while RunPod goes on calling the pod RUNNING."""
    assert farm.runpod is not None
    pod = farm.runpod[0].fleet.get(await a_busy_pod(settings))
    assert pod is not None
    pod._service_at = float("inf")


async def watch_queues(farm: Farm, most: dict[str, int]) -> None:
    """Notes the longest queue of every pod's ComfyUI, by its own word; a prompt stays in it for three seconds."""
    assert farm.runpod is not None
    fleet = farm.runpod[0].fleet
    async with httpx.AsyncClient() as client:
        while True:
            await asyncio.sleep(0.1)
            for pod_id, service in list(fleet._services.items()):
                try:
                    queue = (await client.get(f"{service.server.url}/queue")).json()
                except httpx.HTTPError:
                    continue
                held = len(queue["queue_running"]) + len(queue["queue_pending"])
                most[pod_id] = max(most.get(pod_id, 0), held)


@dataclass(frozen=True)
class Stories:
    """How each ended, and the longest queue of every pod of the two batches."""

    ends: dict[str, Told | BaseException]
    queues: dict[str, int]

    def __getitem__(self, name: str) -> Told:
        """A story's end; raises what ended it."""
        told = self.ends[name]
        if isinstance(told, BaseException):
            raise told
        return told


@pytest.fixture(scope="module")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stories]:
    """All stories but the timed one, told at the same time by installations that have made the same clips before."""
    folder = tmp_path_factory.mktemp("stories")
    learn(CLIPS, folder / "before")
    queues: dict[str, int] = {}
    with ExitStack() as ends:

        def story(
            name: str, burst: Burst, meanwhile: Callable[[Farm, Settings], Any] | None, batches: int = 1
        ) -> Story:
            home = Path(shutil.copytree(folder / "before", folder / name))
            farm, settings = ends.enter_context(installation(burst, home))
            made = [burst.batch(), burst.batch().model_copy(update={"name": "second"})][:batches]
            return Story(farm, settings, made, meanwhile(farm, settings) if meanwhile else None)

        told = {
            "a pod vanishes": story("vanishing", CLIPS, kill_one_busy_pod),
            "a pod is sick": story("sick", CLIPS, break_one_busy_pod),
            "no capacity": story("capacity", NO_CAPACITY, None),
            "two batches": story("two", CLIPS, lambda farm, _: watch_queues(farm, queues), 2),
        }

        async def all_of_them() -> list[Told | BaseException]:
            return await asyncio.gather(*(each.tell() for each in told.values()), return_exceptions=True)

        yield Stories(dict(zip(told, asyncio.run(all_of_them()), strict=True)), queues)


def test_a_pod_that_vanishes_in_mid_job_loses_and_doubles_nothing(stories: Stories) -> None:
    """Its jobs go elsewhere, once; another pod takes its place if that still pays."""
    told = stories["a pod vanishes"]
    assert told.reports[0].completed == CLIPS.jobs, told.reports[0].errors
    done = Counter(a.job for a in told.of_the_burst() if a.state.value == "settled")
    assert set(done.values()) == {1}
    assert any(a.state.value == "failed" and a.lane.startswith("runpod-pod/") for a in told.of_the_burst())


def test_another_data_centre_is_used_when_one_has_no_capacity(stories: Stories) -> None:
    """RunPod says no in the first; the pods come up in the second, and the first is not asked at once again."""
    told = stories["no capacity"]
    assert told.reports[0].completed == NO_CAPACITY.jobs
    assert [pod.data_center for pod in told.pods] == ["US-TX-3"]


def test_two_batches_share_pods_without_filling_them_twice(stories: Stories) -> None:
    """Each pod holds one running and one waiting prompt at most, whichever run sent them, and both runs get pods."""
    told, most = stories["two batches"], stories.queues
    assert [report.completed for report in told.reports] == [CLIPS.jobs] * 2, [report.errors for report in told.reports]
    on_pods = Counter(a.batch for a in told.attempts if a.lane.startswith("runpod-pod/"))
    assert most
    assert max(most.values()) <= 2, most
    assert min(on_pods["burst"], on_pods["second"]) >= 6, on_pods
    assert len(told.pods) >= 1


def test_a_sick_pod_is_ended_and_its_jobs_are_made_elsewhere(stories: Stories) -> None:
    """RunPod says RUNNING, its ComfyUI answers nothing: after three looks it is ended as sick."""
    told = stories["a pod is sick"]
    assert told.reports[0].completed == CLIPS.jobs, told.reports[0].errors
    reasons = [pod.closed_because for pod in told.pods]
    assert any("sick" in reason for reason in reasons), reasons
