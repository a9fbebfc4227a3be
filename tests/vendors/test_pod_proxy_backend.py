"""The product against the real programs of the pod image: a job through the gate, and the pod's end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import av
import pytest
from pod_image_rig import POD_KEY, TOKEN, Pod, pod
from pydantic import SecretStr
from runpod_rig import Rig, rig

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.comfyui.patience import Patience
from hybrid_video.backends.runpod import PodBackend
from hybrid_video.backends.runpod.pod_door import PodDoor, client
from hybrid_video.errors import BackendError, ConfigurationError, FailureKind
from hybrid_video.models import JobHandle, Quote, VideoJob, WorkOrder
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import RunPodSettings, Settings

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]

JOB = VideoJob(id="shot-01", prompt="a red fox in snow", duration_s=1, width=320, height=192)


@dataclass
class Stage:
    """RunPod's emulator with one pod, and that pod's real programs."""

    api: Rig
    pod_id: str
    pod: Pod

    def backend(self, token: str = TOKEN) -> PodBackend:
        """The product's backend for this pod."""
        settings = RunPodSettings(
            api_key=SecretStr(POD_KEY),
            pods_url=self.api.url,
            pod_ids=(self.pod_id,),
            pod_token=SecretStr(token),
            proxy_url=self.pod.url,
        )
        context = BackendContext(Settings(runpod=settings), Quoter(PriceBook.load("current"), ServiceTimes()))
        return PodBackend(context, patience=Patience(poll_interval_s=0.05, outage_s=2.0, lookup_pauses_s=(0.05, 0.1)))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    """A pod that RunPod says is RUNNING, with a lease of ten minutes."""
    async with rig(api_key=POD_KEY, scale=1000.0) as api:
        api.http.headers["Authorization"] = f"Bearer {POD_KEY}"
        pod_id = (await api.create_pod(name="hybrid-video-0123abcd-1")).json()["id"]
        await api.pod_in(pod_id, "RUNNING")
        environment = {
            "RUNPOD_POD_ID": pod_id,
            "HYBRID_VIDEO_POD_LEASE_S": "600",
            "HYBRID_VIDEO_POD_API_URL": f"{api.url}/v2",
        }
        with pod(tmp_path / "pod", wait=False, **environment) as made:
            await asyncio.to_thread(made.until_ready)
            yield Stage(api, pod_id, made)


def order(backend: PodBackend, pod_id: str) -> WorkOrder:
    """One attempt at the job on this pod."""
    quote = backend.quote(JOB)
    assert isinstance(quote, Quote)
    return WorkOrder(
        attempt_id=str(uuid4()), batch="reel", job=JOB, number=1, seed=3, lane=f"runpod-pod/{pod_id}", quote=quote
    )


async def until_refused(backend: PodBackend, handle: JobHandle, pod_id: str) -> None:
    """Waits for one job after the other: the first may just have been finished when the lease runs out."""
    while True:
        await backend.watch(handle)
        handle = await backend.submit(order(backend, pod_id))


async def test_a_job_goes_end_to_end_through_the_real_gate(stage: Stage, tmp_path: Path) -> None:
    """The proof that the pod is closed, pre-flight, submit, watch and download all pass; the clip decodes."""
    backend = stage.backend()
    try:
        await backend.start()
        assert await backend.preflight(JOB) is None
        work = order(backend, stage.pod_id)
        handle = await backend.submit(work)
        found = await backend.find(work)
        assert found not in (None, "unknown")
        status = await backend.watch(handle)
        path = await backend.collect(handle, status, tmp_path)
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == work.quote.output.frames
        assert (await backend.health()).healthy
    finally:
        await backend.close()
    assert TOKEN not in stage.pod.program.text


async def test_the_pools_own_door_renews_and_proves_what_the_image_runs(stage: Stage) -> None:
    """Ready by a rendered probe; a renewal counts; a wrong token is refused; after the end nothing answers."""
    async with client(stage.pod.url) as http:
        door = PodDoor(stage.pod_id, stage.pod.url, TOKEN, http, backend="runpod-pod")
        assert await door.prove_ready(patience_s=20, pause_s=0.05) > 0
        assert await door.renew(300) == "renewed"
        assert 290 < (await asyncio.to_thread(stage.pod.http.get, "/lease")).json()["ends_in_s"] <= 300
        stranger = PodDoor(stage.pod_id, stage.pod.url, "another-token-0123456789", http, backend="runpod-pod")
        assert await stranger.renew(300) == "refused"
        await asyncio.to_thread(stage.pod.http.post, "/lease", json={"lease_s": 1})
        await asyncio.to_thread(stage.pod.program.ended)
        assert await door.renew(300) == "out of reach"


async def test_a_wrong_token_is_our_own_mistake_and_is_named(stage: Stage) -> None:
    """The gate refuses us like anybody else."""
    backend = stage.backend("another-token-0123456789")
    try:
        with pytest.raises(ConfigurationError, match="valid token"):
            await backend.start()
    finally:
        await backend.close()


async def test_a_pod_whose_lease_ran_out_in_mid_job_is_gone_for_the_product_too(stage: Stage) -> None:
    """The job is reported as lost with the pod, so that it is made again elsewhere and not waited for."""
    backend = stage.backend()
    try:
        await backend.start()
        handle = await backend.submit(order(backend, stage.pod_id))
        assert (await asyncio.to_thread(stage.pod.lease, 1)).status_code == 200
        with pytest.raises(BackendError) as caught:
            await until_refused(backend, handle, stage.pod_id)
        assert await asyncio.to_thread(stage.pod.program.ended) == 0
        assert not (await backend.health()).healthy
    finally:
        await backend.close()
    assert caught.value.kind in (FailureKind.RESTARTED, FailureKind.UNREACHABLE)
    assert (await stage.api.pod(stage.pod_id)).get("status", "TERMINATED") == "TERMINATED"
