"""Pods in a running batch, from the ledger's word alone: in when ready, out when they go, aside when they fail."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from hybrid_video.engine.demand import DemandPublisher, demand_of
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.roster import Roster, ready_in_s
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import FailureKind, TransientError
from hybrid_video.goals import LaneState
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.models import Candidate, EffectivePreferences, Lane, Tier, utc_now
from hybrid_video.pods.store import PodStore
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.lease import WatcherLease
from tests.unit.deciding_rig import job, quote
from tests.unit.engine_rig import ScriptedBackend, ran, small
from tests.unit.watcher_rig import opened, ready_pod, settings_in


@dataclass
class PodsBackend(ScriptedBackend):
    """A backend whose lanes are the pods attached to it."""

    key: str = "runpod-pod"
    attached: list[str] = field(default_factory=list)
    refuses: bool = False

    async def attach(self, pod_id: str) -> Lane:
        """Takes it, or does not."""
        if self.refuses:
            raise TransientError("not up yet", kind=FailureKind.UNREACHABLE, backend=self.key)
        self.attached.append(pod_id)
        return self.lanes()[-1]

    async def detach(self, pod_id: str) -> None:
        """Forgets it."""
        self.attached.remove(pod_id)

    def lanes(self) -> tuple[Lane, ...]:
        """One for each."""
        return tuple(Lane(id=f"runpod-pod/{pod}", backend=self.key, tier=Tier.CLOUD, ahead=1) for pod in self.attached)


@dataclass
class Rig:
    """A roster with what it looks at."""

    ledger: Ledger
    owner: Owner
    store: PodStore
    backend: PodsBackend
    fleet: Fleet
    roster: Roster
    busy: set[str]
    told: list[str]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """A run that may use pods and has none."""
    with opened(tmp_path) as (ledger, owner):
        backend = PodsBackend()
        fleet, busy, told = Fleet({"runpod-pod": backend}), set[str](), list[str]()
        roster = Roster(fleet, ledger, settings_in(tmp_path), lambda: busy, told.append)
        yield Rig(ledger, owner, PodStore(ledger), backend, fleet, roster, busy, told)


async def test_a_ready_pod_joins_and_a_draining_one_gets_no_more_jobs(rig: Rig) -> None:
    """It is attached once, its lane closes as soon as it drains, and it is forgotten when its last job is over."""
    pod = ready_pod(rig.store)
    await rig.roster.look()
    await rig.roster.look()
    assert rig.backend.attached == [pod.pod_id]
    assert [lane.id for lane in rig.fleet.lanes()] == [pod.lane]
    rig.busy.add(pod.lane)
    rig.store.mark_draining(pod.name, "not needed")
    await rig.roster.look()
    assert rig.fleet.lanes() == []
    assert rig.backend.attached == [pod.pod_id]
    rig.busy.clear()
    await rig.roster.look()
    assert rig.backend.attached == []
    assert len(rig.told) == 2


async def test_a_pod_that_cannot_be_used_yet_is_tried_again(rig: Rig) -> None:
    """Ready says the pool; the run sees for itself, and looks again."""
    pod = ready_pod(rig.store)
    rig.backend.refuses = True
    await rig.roster.look()
    assert rig.fleet.lanes() == []
    rig.backend.refuses = False
    await rig.roster.look()
    assert [lane.id for lane in rig.fleet.lanes()] == [pod.lane]


async def test_a_pod_that_fails_twice_in_a_row_rests_and_the_others_go_on(rig: Rig) -> None:
    """One bad machine must not open the breaker of all."""
    bad, good = ready_pod(rig.store), ready_pod(rig.store)
    await rig.roster.look()
    rig.roster.failed(bad.lane)
    rig.roster.succeeded(bad.lane)
    rig.roster.failed(bad.lane)
    assert len(rig.fleet.lanes()) == 2
    rig.roster.failed(bad.lane)
    assert [lane.id for lane in rig.fleet.lanes()] == [good.lane]


async def test_without_a_watcher_pods_are_not_waited_for(rig: Rig, tmp_path: Path) -> None:
    """Nobody would open one: the backend is down with a sentence that says what to do, until a watcher comes."""
    await rig.roster.look()
    assert "hybrid-video watch" in rig.fleet.down["runpod-pod"]
    lease = WatcherLease(settings_in(tmp_path), rig.ledger, rig.owner)
    lease.take({})
    await rig.roster.look()
    assert "runpod-pod" not in rig.fleet.down
    lease.renew({"pods_stopped": "the balance is too low; top up the account"})
    await rig.roster.look()
    refusal = rig.fleet.unavailable("runpod-pod", "m")
    assert refusal is not None
    assert (refusal.code, refusal.reason) == (
        "health",
        "no pod can be opened: the balance is too low; top up the account",
    )
    lease.renew({"pods_stopped": "the daily budget is used up; raise it", "pods_stopped_by_limit": True})
    await rig.roster.look()
    refusal = rig.fleet.unavailable("runpod-pod", "m")
    assert refusal is not None
    assert refusal.code == "limit"
    ready_pod(rig.store)
    await rig.roster.look()
    assert "runpod-pod" not in rig.fleet.down
    lease.give_up()


async def test_starting_pods_count_as_lanes_to_come(rig: Rig) -> None:
    """Nothing dear is bought for jobs that a pod will make in a minute; but it is given none yet."""
    pod = ready_pod(rig.store)
    assert rig.roster.expected() == []
    starting = pod.model_copy(update={"state": "starting", "created_at": utc_now() - timedelta(seconds=30)})
    rig.roster._starting = (starting,)
    [lane] = rig.roster.expected()
    assert lane.outstanding == 1
    assert lane.free_s == pytest.approx(60, abs=1)
    assert ready_in_s(starting, 90.0, utc_now() + timedelta(seconds=600)) == pytest.approx(18)


def shot(name: str, *keys: str) -> Shot:
    """A job with these offers."""
    prices = {"comfyui": "0", "runpod-pod": "0.01", "gemini": "0.3"}
    seconds = {"comfyui": 100.0, "runpod-pod": 60.0, "gemini": 30.0}
    offers = tuple(
        Candidate(backend=key, tier=quote(key, "0", 1).tier, quote=quote(key, prices[key], seconds[key]))
        for key in keys
    )
    return Shot(job(name), 1, EffectivePreferences(), offers=offers)


def test_a_demand_says_what_the_autoscaler_needs(tmp_path: Path) -> None:
    """Means of the waiting jobs by lane, how many of them may run on pods, and how long they take there."""
    both = [shot(f"s{n}", "comfyui", "runpod-pod") for n in range(6)] + [shot(f"l{n}", "comfyui") for n in range(2)]
    told = demand_of(
        batch="film",
        owner="me",
        jobs=10,
        waiting=both,
        under_way_jobs=1.5,
        lanes=[LaneState("comfyui/0", "comfyui", 12.0, 1), LaneState("runpod-pod/x", "runpod-pod")],
        deadline_s=300.0,
        budget_left_usd=Decimal(2),
        value_of_time_usd_per_h=10.0,
    )
    assert (told.waiting_jobs, told.pod_jobs, told.podable_jobs, told.work_jobs) == (8, 6, 6, 9.5)
    assert told.pod_service_s == 60
    assert [(lane.id, lane.service_s, lane.free_in_s) for lane in told.lanes] == [("comfyui/0", 100.0, 12.0)]


async def test_a_demand_is_written_when_it_changes_and_goes_with_its_run(tmp_path: Path) -> None:
    """A standing queue costs no commit every second."""
    with opened(tmp_path) as (ledger, owner):
        store, waiting = DemandStore(ledger, owner), [shot("a", "comfyui")]
        written: list[int] = []
        publish = store.publish

        def count(demand: object) -> None:
            written.append(1)
            publish(demand)  # type: ignore[arg-type]

        store.publish = count  # type: ignore[method-assign]
        publisher = DemandPublisher(
            store,
            lambda: demand_of(
                batch="film",
                owner=owner.id,
                jobs=1,
                waiting=waiting,
                under_way_jobs=0,
                lanes=[],
                deadline_s=None,
                budget_left_usd=None,
                value_of_time_usd_per_h=10,
            ),
        )
        for _ in range(3):
            await publisher.publish()
        assert len(written) == 1
        waiting.append(shot("b", "comfyui"))
        await publisher.publish()
        assert len(written) == 2
        assert store.live()[0].waiting_jobs == 2
        await publisher.end()
        assert store.live() == ()


@pytest.mark.parametrize(
    ("pod_usd", "serverless_usd", "prefer", "used"),
    [
        ("0.010", "0.030", False, "runpod-pod"),
        ("0.030", "0.010", False, "runpod-serverless"),
        ("0.010", "0.030", True, "runpod-serverless"),
    ],
)
async def test_pod_or_serverless_by_expected_cost(
    tmp_path: Path, pod_usd: str, serverless_usd: str, *, prefer: bool, used: str
) -> None:
    """Within the cloud the cheaper expected cost makes the clip, unless the user prefers serverless."""
    backends = [
        PodsBackend(usd=pod_usd, service_s=0.05, attached=["by-hand"]),
        ScriptedBackend("runpod-serverless", serverless_usd, service_s=0.05),
    ]
    preferences = {"prefer_serverless": prefer}
    async with ran(backends, tmp_path, (small("one"),), preferences=preferences) as done:
        assert [clip.provider for clip in done.report.clips] == [used], done.report.errors
