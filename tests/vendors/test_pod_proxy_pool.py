"""The product's own pool opens a pod at the RunPod emulator; in it run the real programs of the image."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from pod_image_rig import IMAGE, TOKEN, free_port, pod
from pydantic import SecretStr

from hybrid_video.emulators.runpod import BootTimes
from hybrid_video.settings import PodPoolSettings
from tests.vendors.pod_rig import pod_rig

pytestmark = [pytest.mark.timeout(90), pytest.mark.slow]


def test_the_pool_asks_for_hosts_that_can_run_the_image() -> None:
    """The CUDA that PyTorch brings into the image is the least that a host must offer."""
    runtime = re.search(
        r"^nvidia-cuda-runtime-cu\d+==(\d+\.\d+)\.", (IMAGE / "constraints.txt").read_text(), re.MULTILINE
    )
    assert runtime is not None
    assert PodPoolSettings().min_cuda_version == runtime[1]


async def test_a_pod_that_the_pool_opened_becomes_ready_and_ends_itself(tmp_path: Path) -> None:
    """The environment that the pool sends is all the programs need: ready by a rendered probe through the gate, and
    when the lease runs out the pod ends itself, which the pool notices and books."""
    port = free_port()
    boot = BootTimes(provisioning_s=0.1, starting_s=0.1, service_s=0.1)
    runpod = {"pod_token": SecretStr(TOKEN), "proxy_url": f"http://127.0.0.1:{port}"}
    async with pod_rig(tmp_path / "home", scale=1.0, runpod=runpod, emulator={"boot": boot}) as rig:
        record = await rig.pool.open("60 jobs wait")
        (made,) = rig.emulator.fleet.listed()
        assert made.request.gpu is not None
        assert made.request.gpu.minCudaVersion == "12.8"
        environment = {**made.request.env, "RUNPOD_POD_ID": made.id, "RUNPOD_API_KEY": "rpa_of_the_pod_0123456789"}
        with pod(tmp_path / "pod", wait=False, gate_port=port, **environment) as image:
            await rig.until(lambda: rig.get(record.name).state == "ready", patience_s=40)
            assert "rendered a probe" in rig.store.events(record.name)[-1].detail
            assert image.program.event("began") == {
                "who": "keeper",
                "event": "began",
                "name": record.name,
                "lease_s": rig.settings.pods.lease_s,
            }
            assert (await asyncio.to_thread(image.lease, 1)).status_code == 200
            assert await asyncio.to_thread(image.program.ended) == 0
        await rig.pool.reconcile()
        assert rig.get(record.name).state == "closed"
        assert rig.listed() == []
        assert rig.get(record.name).closed_because
