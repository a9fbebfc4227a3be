"""What the watcher makes of the policy's decisions: nothing closed that holds a job, no refusal repeated, all told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from hybrid_video.autoscaler import ScaleDecision
from hybrid_video.errors import ConfigurationError, FailureKind, LimitError, TransientError
from hybrid_video.ledger import LaneBusyError, Ledger, Owner
from hybrid_video.models import AttemptState, WorkOrder, utc_now
from hybrid_video.pods.records import PodRecord
from hybrid_video.pods.store import PodStore
from hybrid_video.watcher import picture
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.pod_care import failed_in_a_row
from hybrid_video.watcher.scaling import Scaling
from tests.unit.deciding_rig import job
from tests.unit.ledger_rig import advance, fail, make_batch, make_order, reserve
from tests.unit.watcher_rig import WrittenPool, demand, opened, ready_pod, settings_in


@dataclass
class Rig:
    """A scaling with its ledger and pool."""

    ledger: Ledger
    owner: Owner
    pool: WrittenPool
    demands: DemandStore
    scaling: Scaling

    def wants(self, waiting: int, **values: Any) -> None:
        """A run publishes."""
        self.demands.publish(demand("film", self.owner.id, waiting=waiting, **values))

    def on_pod(self, pod: PodRecord, name: str = "shot-0", number: int = 1) -> WorkOrder:
        """A job under way on a pod."""
        order = make_order("film", job(name), number=number, backend="runpod-pod")
        return order.model_copy(update={"lane": pod.lane})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """An installation with at most five pods."""
    with opened(tmp_path) as (ledger, owner):
        ledger.register(make_batch("film"), out_dir=tmp_path)
        pool, demands = WrittenPool(PodStore(ledger)), DemandStore(ledger, owner)
        yield Rig(ledger, owner, pool, demands, Scaling(settings_in(tmp_path), ledger, pool, demands))  # type: ignore[arg-type]


async def test_a_burst_opens_pods_by_one_decision_and_never_more(rig: Rig) -> None:
    """Sixty waiting clips of minutes are worth five pods at once; the next look opens none."""
    rig.wants(60)
    done = await rig.scaling.round()
    assert done is not None
    assert len(done.opened) == 5
    assert "60" in done.reason
    again = await rig.scaling.round()
    assert again is None
    assert rig.pool.calls == ["open"] * 5


async def test_nothing_is_opened_for_nobody(rig: Rig) -> None:
    """Without a live run there is no reason for a pod."""
    assert await rig.scaling.round() is None
    assert rig.pool.calls == []


async def test_idle_pods_are_closed_when_the_work_is_over(rig: Rig) -> None:
    """At the end of a batch its pods go at once, drained first so that nothing slips in."""
    pod = ready_pod(rig.pool.store, at=utc_now() - timedelta(seconds=400))
    done = await rig.scaling.round()
    assert done is not None
    assert done.closed == (pod.name,)
    assert rig.pool.calls == [f"drain {pod.name}", f"close {pod.name}"]


async def test_a_pod_that_got_a_job_in_the_last_moment_is_not_closed(rig: Rig) -> None:
    """Between the decision and the end of a pod a run may have reserved there: draining shows it."""
    pod = ready_pod(rig.pool.store, at=utc_now() - timedelta(seconds=400))
    drained = rig.pool.drain

    async def slip_in(name: str, reason: str) -> PodRecord:
        reserve(rig.ledger, rig.on_pod(pod), rig.owner)
        return await drained(name, reason)

    rig.pool.drain = slip_in  # type: ignore[method-assign]
    assert await rig.scaling.round() is None
    assert [one.state for one in rig.pool.store.alive()] == ["draining"]


def test_a_draining_pod_takes_no_job(rig: Rig) -> None:
    """The spend gate looks at the pod in the same transaction, so no job is reserved on one that goes."""
    pod = ready_pod(rig.pool.store)
    rig.pool.store.mark_draining(pod.name, "not needed")
    order = rig.on_pod(pod)
    with pytest.raises(LaneBusyError, match="draining"):
        reserve_beside(rig, order, 1)
    assert rig.ledger.balance("all").reserved_usd == pod.reserved_usd


def test_a_lane_filled_by_another_run_takes_no_more(rig: Rig) -> None:
    """One running and one waiting prompt is all a machine may hold, whoever sent them."""
    pod = ready_pod(rig.pool.store)
    other = Owner(rig.owner._folder.parent)
    try:
        for number in range(2):
            reserve(rig.ledger, rig.on_pod(pod, f"shot-{number}"), other)
        with pytest.raises(LaneBusyError, match="2 jobs of other runs"):
            reserve_beside(rig, rig.on_pod(pod, "shot-2"), 1)
        reserve_beside(rig, rig.on_pod(pod, "shot-2"), 2)
    finally:
        other.close()


def reserve_beside(rig: Rig, order: WorkOrder, beside: int) -> None:
    """Passes the spend gate with a bound on what others may hold there."""
    from hybrid_video.ledger import Caps
    from tests.unit.ledger_rig import make_decision

    rig.ledger.reserve(order, make_decision(order), Caps(), rig.owner, beside)


@pytest.mark.parametrize(
    ("refusal", "stopped"),
    [
        (TransientError("sold out", kind=FailureKind.NO_CAPACITY, backend="runpod-pod"), False),
        (LimitError("the daily budget is used up; raise it"), True),
        (ConfigurationError("the key is wrong; set another"), True),
    ],
)
async def test_a_refusal_is_not_asked_for_again_every_five_seconds(
    rig: Rig, refusal: Exception, *, stopped: bool
) -> None:
    """After a refusal nothing is asked for a while; one that only a person can change is told to the runs."""
    rig.pool.refusals = [refusal] * 20
    rig.wants(60)
    first = await rig.scaling.round()
    assert first is not None
    assert first.failed == str(refusal)
    asked = len(rig.pool.calls)
    for _ in range(3):
        await rig.scaling.round()
    assert len(rig.pool.calls) == asked
    assert bool(rig.scaling.stopped) is stopped


async def test_pods_that_runs_leave_idle_are_not_opened_again_at_once(rig: Rig) -> None:
    """Two judgements of what waiting is worth may differ; they must not open and close pods in turn for ever."""
    long_ago = utc_now() - timedelta(seconds=4000)
    for _ in range(2):
        ready_pod(rig.pool.store, at=long_ago)
    rig.wants(60)
    rig.scaling._decide = _closing_everything(rig)  # type: ignore[method-assign]
    done = await rig.scaling.round()
    assert done is not None
    assert len(done.closed) == 2
    del rig.scaling._decide
    assert await rig.scaling.round() is None
    assert "open" not in rig.pool.calls


def _closing_everything(rig: Rig) -> Any:
    def decide() -> Any:
        pods = rig.pool.store.alive()
        close = tuple(pod.name for pod in pods)
        return rig.demands.live(), pods, ScaleDecision(close=close, reason="idle, though jobs wait")

    return decide


async def test_at_the_end_of_the_watcher_idle_pods_go_and_busy_ones_stay(rig: Rig) -> None:
    """What holds a job is left to its lease and to the next watcher."""
    idle, busy = ready_pod(rig.pool.store), ready_pod(rig.pool.store)
    reserve(rig.ledger, rig.on_pod(busy), rig.owner)
    rig.scaling.winding_up = True
    done = await rig.scaling.round()
    assert done is not None
    assert done.closed == (idle.name,)


def test_emulated_hours_reach_the_policy_as_hours(rig: Rig) -> None:
    """Beside emulators sixty times faster, a clip of one real second is one of a minute, and dollars stay dollars."""
    told = demand(waiting=3, deadline_s=10.0, pod_service_s=1.5)
    seen = picture.scaled(told, told.published_at + timedelta(seconds=2), 60.0)
    assert seen.deadline_s == pytest.approx(480)
    assert seen.pod_service_s == pytest.approx(90)
    assert seen.lanes[0].service_s == pytest.approx(170 * 60)
    assert seen.value_of_time_usd_per_h == pytest.approx(10 / 60)


def test_the_cold_start_is_what_the_last_pods_took(rig: Rig, tmp_path: Path) -> None:
    """The configured figure is a guess; pods that were opened here know better."""
    settings = settings_in(tmp_path, cold_start_s=90)
    assert picture.cold_start_s((), settings) == 90
    pod = ready_pod(rig.pool.store)
    late = pod.model_copy(update={"ready_at": pod.billed_from + timedelta(seconds=150)})
    assert picture.cold_start_s([late] * 3, settings) == pytest.approx(150)


def test_three_failures_of_the_machine_in_a_row_make_a_pod_sick(rig: Rig) -> None:
    """A failure that is the workflow's fault says nothing of the machine."""
    pod = ready_pod(rig.pool.store)
    for number in range(1, 4):
        order = rig.on_pod(pod, number=number)
        reserve(rig.ledger, order, rig.owner)
        advance(rig.ledger, order, AttemptState.RUNNING)
        if number < 3:
            _fail(rig.ledger, order)
        else:
            fail(rig.ledger, order)  # out of memory
    assert failed_in_a_row(rig.ledger, pod.lane) == 0
    for number in range(4, 7):
        order = rig.on_pod(pod, number=number)
        reserve(rig.ledger, order, rig.owner)
        advance(rig.ledger, order, AttemptState.RUNNING)
        _fail(rig.ledger, order)
    assert failed_in_a_row(rig.ledger, pod.lane) == 3


def _fail(ledger: Ledger, order: WorkOrder) -> None:
    from hybrid_video.models import JobState
    from tests.unit.ledger_rig import cost

    ledger.settle(
        order.attempt_id,
        cost("0"),
        state=AttemptState.FAILED,
        job_state=JobState.PENDING,
        error_kind=FailureKind.UNREACHABLE.value,
        error_message="no answer",
    )
