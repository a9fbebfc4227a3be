"""The pod backend with pods that the pool opens: nothing to begin with, a clip on a leased pod, and its money."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

import pytest

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.registry import configured_backends
from hybrid_video.backends.runpod import PodBackend
from hybrid_video.errors import ConfigurationError
from hybrid_video.ledger import Caps, Owner
from hybrid_video.ledger.verify import verify
from hybrid_video.models import AttemptState, Batch, JobState, Quote, VideoJob, WorkOrder
from hybrid_video.pods import accounting
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from tests.unit.ledger_rig import make_clip, make_decision
from tests.vendors.pod_rig import GPU, PRICES, PodRig, pod_rig

pytestmark = pytest.mark.timeout(60)

JOB = VideoJob(id="shot-0", prompt="a red fox in snow", duration_s=1, width=320, height=192)


def backend_of(rig: PodRig) -> PodBackend:
    context = BackendContext(rig.settings, Quoter(PRICES, ServiceTimes(), time_scale=rig.clock.scale))
    patience = Patience(poll_interval_s=0.03, outage_s=1.0, lookup_pauses_s=(0.01, 0.02))
    return PodBackend(context, patience=patience)


async def test_the_backend_is_there_before_the_first_pod_is(tmp_path: Path) -> None:
    """Nothing is wrong with having no pod where they are opened when they pay; a quote tells what one would cost."""
    async with pod_rig(tmp_path) as rig:
        assert "runpod-pod" in configured_backends(BackendContext(rig.settings, Quoter(PRICES, ServiceTimes())))
        backend = backend_of(rig)
        await backend.start()
        assert backend.lanes() == ()
        quote = backend.quote(JOB)
        assert isinstance(quote, Quote)
        assert GPU in quote.basis or quote.amount_usd > 0
        health = await backend.health()
        assert (health.healthy, health.detail) == (True, "no pod is open; one is opened when it pays")
        await backend.close()


@pytest.mark.parametrize("changes", [{"image": ""}, {"max_pods": 0}])
async def test_without_an_image_or_a_maximum_there_is_no_backend(tmp_path: Path, changes: dict[str, object]) -> None:
    """And whoever starts it all the same is told both ways."""
    async with pod_rig(tmp_path, **changes) as rig:
        assert configured_backends(BackendContext(rig.settings, Quoter(PRICES, ServiceTimes()))) == {}
        backend = backend_of(rig)
        with pytest.raises(ConfigurationError, match=r"HYBRID_VIDEO_PODS_IMAGE.*HYBRID_VIDEO_RUNPOD_POD_IDS"):
            await backend.start()
        await backend.close()


async def test_a_clip_on_a_leased_pod_is_paid_for_to_the_nano_dollar(tmp_path: Path) -> None:
    """Attached with the token that was made for the installation; job and overhead together are RunPod's bill."""
    async with pod_rig(tmp_path) as rig:
        rig.ledger.register(Batch(name="night", jobs=(JOB,)), out_dir=tmp_path)
        pod = await rig.ready((await rig.pool.open("one job", batch="night")).name)
        backend = backend_of(rig)
        lane = await backend.attach(pod.pod_id or "")
        assert (lane.id, lane.gpu) == (pod.lane, GPU)
        quote = backend.quote(JOB)
        assert isinstance(quote, Quote)
        order = WorkOrder(attempt_id=str(uuid4()), batch="night", job=JOB, number=1, seed=3, lane=lane.id, quote=quote)
        owner = Owner(tmp_path / "run")
        rig.ledger.reserve(order, make_decision(order), Caps(), owner)
        handle = await backend.submit(order)
        rig.ledger.mark_submitted(handle)
        status = await backend.watch(handle)
        path = await backend.collect(handle, status, tmp_path)
        rig.ledger.mark_collected(
            order.attempt_id, make_clip(order, path), execution_s=status.execution_s, queue_s=0.0, gpu=status.gpu
        )
        cost = backend.charge(quote, status)
        rig.ledger.settle(order.attempt_id, cost, state=AttemptState.SETTLED, job_state=JobState.DONE)
        await asyncio.sleep(0.3)
        await rig.pool.close(pod.name, "nothing is left to do")
        await rig.pool.reconcile()
        account = accounting.account(rig.ledger, rig.get(pod.name), rig.pool.tariff.cost(rig.get(pod.name)))
        assert (account.jobs, account.jobs_usd) == (1, cost.amount_usd)
        assert account.overhead_usd == accounting.batch_overhead(rig.ledger, "night") > 0
        assert accounting.job_overheads(rig.ledger, "night").keys() == {JOB.id}
        assert abs(rig.ledger.balance("batch:night").settled_usd - rig.billed_usd()) < Decimal("0.000001")
        report = verify(rig.ledger)
        assert (report.ok, report.reserved_usd, abs(report.pod_difference_usd) < Decimal("0.000001")) == (True, 0, True)
        owner.close()
        await backend.close()


async def test_pods_of_the_users_own_need_the_users_token(tmp_path: Path) -> None:
    """None is made for them: their gate checks what their owner gave it."""
    async with pod_rig(tmp_path, runpod={"pod_ids": ("abc",)}) as rig:
        backend = backend_of(rig)
        with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_RUNPOD_POD_TOKEN"):
            await backend.start()
        await backend.close()
