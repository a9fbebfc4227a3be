"""`hybrid-video watch` as a real process: looks at every tier, never runs twice, collects what dead runs paid for."""

from __future__ import annotations

import signal

import pytest
from pipeline_rig import Project, Servers, until

from hybrid_video.ledger import Ledger
from hybrid_video.models import AttemptState
from hybrid_video.watcher.health_store import HealthStore, Seen


def seen(project: Project) -> dict[str, Seen]:
    """The stored findings."""
    if not (project.home / "ledger.sqlite3").exists():
        return {}
    ledger = Ledger.open(project.home / "ledger.sqlite3")
    try:
        return HealthStore(ledger).latest()
    finally:
        ledger.close()


def test_it_looks_at_every_tier_and_ends_cleanly(project: Project, farm: Servers) -> None:
    """Local, RunPod and Google are really asked; a sick one is told apart; Ctrl-C ends it with exit 0."""
    project.use(farm)
    project.set(HYBRID_VIDEO_COMFYUI_URLS="http://127.0.0.1:9")
    watching = project.start("watch", "--json")
    try:
        until("all three are looked at", lambda: len(seen(project)) == 3, timeout_s=60)
        second = project.command("watch", "--json")
        assert second.code == 0
        assert second.json["watched"] is False
        assert f"process {watching.popen.pid}" in second.json["holder"]
        watching.signal(signal.SIGINT)
        outcome = watching.wait(30)
    finally:
        watching.end()
    assert outcome.code == 0, outcome
    assert outcome.json["watched"] is True
    found = seen(project)
    assert not found["comfyui"].health.healthy
    assert found["runpod-serverless"].health.healthy
    assert found["gemini"].health.healthy
    assert all(one.health.latency_s is not None for one in found.values() if one.health.healthy)


@pytest.mark.slow
def test_it_collects_what_a_dead_run_has_paid_for(project: Project, farm: Servers) -> None:
    """RunPod forgets a result after half an hour; the watcher brings the clip in without anybody running the batch."""
    project.use(farm, "cloud")
    file = project.batch([{}])
    run = project.start_run(file)
    try:
        until("the job is accepted", lambda: farm.charges() and project.attempts_in(AttemptState.RUNNING))
        run.signal(signal.SIGKILL)
        run.popen.wait()
    finally:
        run.end()
    watching = project.start("watch")
    try:
        until("its clip is there", lambda: project.attempts_in(AttemptState.SETTLED) == 1, timeout_s=90)
    finally:
        watching.signal(signal.SIGTERM)
        watching.wait(30)
    assert len(project.clip_files()) == 1
    assert len(farm.charges()) == 1
    assert project.verify().ok
