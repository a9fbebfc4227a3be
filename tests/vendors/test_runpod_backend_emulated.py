"""The serverless backend end to end over the RunPod emulator: real clips, and one charge per accepted job."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import av
import pytest
from pydantic import SecretStr

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.runpod import ServerlessBackend
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod import RunPodEmulator
from hybrid_video.emulators.server import ScaledClock, start_server
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TransientError
from hybrid_video.models import JobHandle, Quote, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import RunPodSettings, Settings

pytestmark = pytest.mark.timeout(60)

SCALE = 200.0
PRICES = PriceBook.load("current")
JOB = VideoJob(id="shot-01", prompt="a red fox in snow", duration_s=1, width=320, height=192)


@dataclass
class Rig:
    """One emulator, one backend, one fault plan."""

    emulator: RunPodEmulator
    backend: ServerlessBackend
    faults: FaultPlan

    def order(self, **changes: Any) -> WorkOrder:
        quote = self.backend.quote(JOB)
        assert isinstance(quote, Quote)
        fields: dict[str, Any] = {
            "attempt_id": str(uuid4()),
            "batch": "reel",
            "job": JOB,
            "number": 1,
            "seed": 3,
            "lane": "runpod-serverless/1",
            "quote": quote,
        }
        return WorkOrder(**(fields | changes))

    def fault(self, **rule: Any) -> None:
        self.faults.add(FaultRule(server="runpod", **rule))

    async def fails(self, handle: JobHandle) -> BackendError:
        with pytest.raises(BackendError) as caught:
            await self.backend.watch(handle)
        return caught.value

    @property
    def charges(self) -> list[tuple[str, str, Decimal]]:
        return [(row.job, row.state, row.usd) for row in self.emulator.charges.rows]


MakeRig = Callable[..., Any]


@pytest.fixture
async def rig_with() -> AsyncIterator[MakeRig]:
    async with AsyncExitStack() as stack:

        async def make(*, settings: dict[str, Any] | None = None, patience_s: float = 900.0, **emulator: Any) -> Rig:
            faults = FaultPlan()
            fields: dict[str, Any] = {"service_s": 20.0, "cold_start_s": 20.0, "jitter": 0.0} | emulator
            served = RunPodEmulator(clock=ScaledClock(SCALE), faults=faults, prices=PRICES, **fields)
            server = await start_server(served.app())
            stack.push_async_callback(server.close)
            group = {"api_key": SecretStr("rpa_123456789"), "jobs_url": server.url, "poll_interval_s": 0.02}
            context = BackendContext(
                Settings(runpod=RunPodSettings(**(group | (settings or {})))), Quoter(PRICES, ServiceTimes())
            )
            backend = ServerlessBackend(context, outage_patience_s=patience_s)
            stack.push_async_callback(backend.close)
            await backend.start()
            return Rig(served, backend, faults)

        yield make


@pytest.mark.parametrize("delivery", ["s3", "base64"])
async def test_a_job_becomes_a_clip_and_the_charge_agrees(rig_with: MakeRig, tmp_path: Path, delivery: str) -> None:
    """Both ways of delivery bring the clip that was promised, and our cost equals the provider's to the cent."""
    rig = await rig_with(delivery=delivery)
    order = rig.order()
    handle = await rig.backend.submit(order)
    phases: list[str] = []
    status = await rig.backend.watch(handle, lambda s: phases.append(s.phase))
    path = await rig.backend.collect(handle, status, tmp_path)
    assert path == tmp_path / f"{order.attempt_id}.mp4"
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height) == (order.quote.output.width, order.quote.output.height)
        assert sum(1 for _ in container.decode(stream)) == order.quote.output.frames
    assert phases[-1] == "succeeded"
    cost = rig.backend.charge(order.quote, status)
    assert rig.charges == [("reel/shot-01", "done", cost.amount_usd)]
    assert cost.amount_usd == Decimal("0.0062")
    assert "Signature" not in handle.model_dump_json()


async def test_a_lost_answer_is_one_charge_and_uncertain(rig_with: MakeRig) -> None:
    """The job was accepted although we never heard of it: paid once, never sent again."""
    rig = await rig_with()
    rig.fault(operation="submit", action="drop_after")
    order = rig.order()
    with pytest.raises(SubmitUncertain):
        await rig.backend.submit(order)
    assert len(rig.charges) == 1
    assert await rig.backend.find(order) == "unknown"


@pytest.mark.parametrize("action", ["refuse", "drop"])
async def test_a_dropped_submit_costs_nothing_but_stays_uncertain(rig_with: MakeRig, action: str) -> None:
    """From here a connection that dies after the request looks the same whether the job was taken or not."""
    rig = await rig_with()
    rig.fault(operation="submit", action=action)
    with pytest.raises(SubmitUncertain):
        await rig.backend.submit(rig.order())
    assert rig.charges == []


async def test_a_rate_limited_submit_was_not_accepted(rig_with: MakeRig) -> None:
    """429 is certain: transient, with the time to wait, and no charge."""
    rig = await rig_with()
    rig.fault(operation="submit", action="status", status=429, headers={"Retry-After": "3"})
    with pytest.raises(TransientError) as caught:
        await rig.backend.submit(rig.order())
    assert (caught.value.kind, caught.value.retry_after_s) == (FailureKind.RATE_LIMITED, 3)
    assert rig.charges == []


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"action": "oom"}, FailureKind.OUT_OF_MEMORY),
        ({"action": "fail"}, FailureKind.EXECUTION_FAILED),
        ({"action": "lose"}, FailureKind.EXPIRED),
        ({"action": "garbage"}, FailureKind.BAD_CLIP),
        ({"action": "refuse"}, FailureKind.RESTARTED),
        ({"action": "drop"}, FailureKind.RESTARTED),
        ({"action": "wedge"}, FailureKind.TIMED_OUT),
    ],
)
async def test_every_way_to_fail_has_its_kind_and_its_cost(
    rig_with: MakeRig, rule: dict[str, Any], kind: FailureKind
) -> None:
    """What the vendor bills for a failure is what the ledger is told; for a lost result it is the reservation."""
    rig = await rig_with(settings={"execution_timeout_s": 40})
    rig.fault(operation="execute", **rule)
    order = rig.order()
    error = await rig.fails(await rig.backend.submit(order))
    assert error.kind is kind
    cost = rig.backend.charge(order.quote, None, error).amount_usd
    assert len(rig.charges) == 1
    billed = rig.charges[0][2]
    assert cost == (order.quote.reserve_usd if kind is FailureKind.EXPIRED else billed)
    assert cost >= billed


async def test_an_execution_timeout_worded_as_a_failure_is_one_too(rig_with: MakeRig) -> None:
    """The documentation has both wordings; both mean the same."""
    rig = await rig_with(settings={"execution_timeout_s": 40}, timeout_state="FAILED")
    rig.fault(operation="execute", action="wedge")
    error = await rig.fails(await rig.backend.submit(rig.order()))
    assert error.kind is FailureKind.TIMED_OUT
    assert error.execution_s == 40


async def test_missing_models_and_nodes_are_named(rig_with: MakeRig) -> None:
    """What the worker's ComfyUI refuses reaches the user as the file or node that is missing."""
    from hybrid_video import workflows

    plan = workflows.plan(JOB, workflow_path=None)
    classes = {node["class_type"] for node in plan.bind(seed=1, filename_prefix="x", image_name=None).values()}
    model = plan.models[0].file
    node = next(name for name in sorted(classes) if "Loader" in name)
    for changes, kind, name in [
        ({"missing_models": frozenset({model})}, FailureKind.MISSING_MODEL, model),
        ({"missing_nodes": frozenset({node})}, FailureKind.MISSING_NODE, node),
    ]:
        rig = await rig_with(**changes)
        error = await rig.fails(await rig.backend.submit(rig.order()))
        assert error.kind is kind
        assert name in error.message


async def test_a_lost_worker_only_delays_the_job(rig_with: MakeRig) -> None:
    """The job goes back to the queue under the same id, and there is one charge."""
    rig = await rig_with()
    rig.fault(operation="execute", action="restart")
    status = await rig.backend.watch(await rig.backend.submit(rig.order()))
    assert status.phase == "succeeded"
    assert len(rig.charges) == 1


async def test_an_outage_of_status_is_waited_out(rig_with: MakeRig, tmp_path: Path) -> None:
    """Dropped, garbled and refused looks do not lose a job that was paid for."""
    rig = await rig_with()
    for action in ("drop", "garbage", "truncate", "status"):
        rig.fault(operation="status", action=action, times=2)
    handle = await rig.backend.submit(rig.order())
    status = await rig.backend.watch(handle)
    assert (await rig.backend.collect(handle, status, tmp_path)).exists()


async def test_a_cut_download_still_brings_the_clip(rig_with: MakeRig, tmp_path: Path) -> None:
    """Half a file is not a file."""
    rig = await rig_with()
    rig.fault(operation="download", action="truncate", times=2)
    handle = await rig.backend.submit(rig.order())
    path = await rig.backend.collect(handle, await rig.backend.watch(handle), tmp_path)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) > 0


async def test_an_expired_address_makes_the_clip_expired(rig_with: MakeRig, tmp_path: Path) -> None:
    """The address is asked for again; when RunPod still gives the dead one, the clip is gone."""
    rig = await rig_with(url_valid_for_s=0.0)
    handle = await rig.backend.submit(rig.order())
    with pytest.raises(TransientError) as caught:
        await rig.backend.collect(handle, await rig.backend.watch(handle), tmp_path)
    assert caught.value.kind is FailureKind.EXPIRED


async def test_cancel_stops_a_queued_job_for_nothing(rig_with: MakeRig) -> None:
    """Throttled, so that it never starts: cancelled without cost, and the watch says so."""
    rig = await rig_with(throttled=True)
    order = rig.order()
    handle = await rig.backend.submit(order)
    assert not (await rig.backend.health()).healthy
    assert await rig.backend.cancel(handle) == "stopped"
    error = await rig.fails(handle)
    assert error.kind is FailureKind.CANCELLED
    assert rig.backend.charge(order.quote, None, error).amount_usd == 0
    assert await rig.backend.cancel(handle) == "stopped"


async def test_cancel_of_a_finished_job_changes_nothing(rig_with: MakeRig, tmp_path: Path) -> None:
    """A clip that is done is not lost by a late cancel."""
    rig = await rig_with()
    handle = await rig.backend.submit(rig.order())
    status = await rig.backend.watch(handle)
    assert await rig.backend.cancel(handle) == "finished"
    assert (await rig.backend.collect(handle, status, tmp_path)).exists()


async def test_another_process_collects_with_the_stored_receipt(rig_with: MakeRig, tmp_path: Path) -> None:
    """The receipt alone is enough after a crash: no status is kept."""
    rig = await rig_with()
    handle = JobHandle.model_validate_json((await rig.backend.submit(rig.order())).model_dump_json())
    await rig.backend.close()
    status = await rig.backend.watch(handle)
    bare = status.model_copy(update={"files": ()})
    assert (await rig.backend.collect(handle, bare, tmp_path)).exists()
    assert len(rig.charges) == 1
