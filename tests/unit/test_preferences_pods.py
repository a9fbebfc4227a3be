"""Limits of pods that are changed at run time reach the watcher's next decision."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid_video import preferences
from hybrid_video.ledger import Ledger, Owner
from hybrid_video.pods.pool import PodPool
from hybrid_video.settings import Settings
from hybrid_video.watcher.demand_store import DemandStore
from hybrid_video.watcher.scaling import Scaling


async def test_the_watcher_follows_a_change_of_the_maximum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not started again: five may be open, then none, then five again."""
    monkeypatch.setenv("RUNPOD_API_KEY", "a-key-that-is-never-used")
    monkeypatch.setenv("HYBRID_VIDEO_PODS_IMAGE", "registry.example/pod:1")
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_PODS_URL", "http://127.0.0.1:9/v2")
    settings = Settings.load()
    ledger = Ledger.open(tmp_path / "ledger.sqlite3")
    owner, pool = Owner(tmp_path), PodPool(settings, ledger)
    scaling = Scaling(settings, ledger, pool, DemandStore(ledger, owner))
    try:
        for stored, expected in ((None, 5), (0, 0), (2, 2), (None, 5)):
            preferences.change(ledger, settings, {"max_pods": stored})
            await scaling.round()
            assert scaling._settings.pods.max_pods == expected
    finally:
        await pool.aclose()
        owner.close()
        ledger.close()
