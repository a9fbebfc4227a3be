"""Pods over the real API beside RunPod's emulator: opened by hand, counted, ended, and never more than the maximum."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from pipeline_rig import Project, Servers, until

from hybrid_video.api.bodies import SpawnRequest
from hybrid_video.client import ApiError, Client
from hybrid_video.errors import HybridVideoError, LimitError, NotFoundError

pytestmark = pytest.mark.slow


def test_pods_are_opened_counted_and_ended_over_the_api(project: Project, farm: Servers) -> None:
    """One by hand with its reason; twelve at once give the maximum; ending all leaves none; the limits are hard."""
    project.use(farm, "cloud")
    project.set(HYBRID_VIDEO_PODS_IMAGE="registry.example/comfyui-pod:1", HYBRID_VIDEO_PODS_MAX_PODS=3)
    process = project.start("api", "--port", "0")
    try:
        until("the API listens", lambda: "http://" in process.outcome(0).err or process.popen.poll())
        with Client(process.outcome(0).err.split("API: ")[1].split()[0]) as api:
            until("the API answers", lambda: _answers(api))
            first = api.spawn(SpawnRequest(reason="a hand on the keyboard"))
            assert first.opened_because == "a hand on the keyboard"
            assert first.price_usd_per_h > 0
            status = api.cloud_status()
            assert (status.configured, status.pods.open) == (True, 1)
            assert status.pods.usd_per_h == first.price_usd_per_h + first.storage_usd_per_h
            assert status.reserved_usd == first.reserved_usd > 0

            def spawn(_number: int) -> str:
                try:
                    return api.spawn().name
                except LimitError:
                    return ""

            with ThreadPoolExecutor(12) as callers:
                opened = [name for name in callers.map(spawn, range(12)) if name]
            assert len(opened) == 2, "one is open already and three may be"
            assert api.configure_cloud(max_pods=1).max_pods == 1
            with pytest.raises(LimitError):
                api.spawn()
            ended = api.terminate(first.name)
            assert ended.state in ("closing", "closed")
            assert ended.closed_because == "ended over the API"
            story = [event.event for event in api.pod(first.name).events]
            assert len(story) >= 2
            with pytest.raises(NotFoundError):
                api.terminate("pod-9")
            rest = api.shutdown_all()
            assert set(rest.pods) == set(opened)
            until("none is open", lambda: api.cloud_status().pods.open == 0)
            assert len(api.pods(include_closed=True).items) == 3
            api.configure_cloud(max_pods=None)
            api.change_preferences(daily_budget_usd=Decimal("0.0001"))
            with pytest.raises(LimitError, match="daily budget"):
                api.spawn()
        process.signal(signal.SIGTERM)
        assert process.wait(30).code == 0
    finally:
        process.end()


def _answers(api: Client) -> bool:
    try:
        return api.health().status == "ok"
    except (ApiError, HybridVideoError):
        return False
