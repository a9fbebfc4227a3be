"""Fixtures of the whole-path tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pipeline_rig import SERVICE_S, TIME_SCALE, Deployed, EmulatorThread, FarmMaker, Project, Servers, servers_of

from hybrid_video.emulators.farm import Farm, FarmOptions


@pytest.fixture(scope="session")
def emulator_thread() -> Iterator[EmulatorThread]:
    """Where all emulators of the session run."""
    thread = EmulatorThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    """Our pools and deployments, ready to be copied: to make them takes some 6 s of CPU."""
    own = tmp_path_factory.getbasetemp()
    return Deployed.made_in(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)


@pytest.fixture
def start_farm(emulator_thread: EmulatorThread) -> Iterator[FarmMaker]:
    """Starts emulators with options of their own; they end with the test."""
    farms: list[Farm] = []

    def start(options: FarmOptions) -> Servers:
        farms.append(emulator_thread.do(Farm.start(options)))
        return servers_of(farms[-1])

    yield start
    for farm in farms:
        emulator_thread.do(farm.close())


@pytest.fixture(scope="session")
def _session_farm(emulator_thread: EmulatorThread) -> Iterator[Servers]:
    options = FarmOptions(time_scale=TIME_SCALE, service_s=SERVICE_S, cold_start_s=4.0)
    farm = emulator_thread.do(Farm.start(options))
    yield servers_of(farm)
    emulator_thread.do(farm.close())


@pytest.fixture
def farm(_session_farm: Servers) -> Servers:
    """One ComfyUI, RunPod and Google, as new: no jobs, no charges, no faults."""
    _session_farm.reset()
    return _session_farm


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Project:
    """A user's folder, which is also the working folder; no backend is configured yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_VIDEO_TIME_SCALE", str(TIME_SCALE))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Project(tmp_path, monkeypatch, capsys)
