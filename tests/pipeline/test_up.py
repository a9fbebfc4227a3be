"""`hybrid-video up --demo` as a real process: everything answers, what crashes comes back, one signal ends it all."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pipeline_rig import COMMAND, SMALL, Project, until

from hybrid_video.prefect_api import call
from hybrid_video.services import answers

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect")]

ANY = ("--prefect-port", "0", "--api-port", "0", "--dashboard-port", "0")
SHOTS = {
    "name": "from-up",
    "jobs": [{"id": name, "prompt": f"shot {name}", **SMALL} for name in ("a", "b")],
}


@dataclass
class Up:
    """A running `up`."""

    process: subprocess.Popen[str]
    addresses: dict[str, Any]
    errors: Path

    def children(self) -> list[psutil.Process]:
        """Everything it started, and what that started."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def said(self) -> str:
        """What it has told so far."""
        return self.errors.read_text(encoding="utf-8")


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """`up --demo` once it has said where everything is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRID_VIDEO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    errors = tmp_path / "up.err"
    with errors.open("w", encoding="utf-8") as writing:
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "up", "--demo", "--json", *ANY],
            stdout=subprocess.PIPE,
            stderr=writing,
            stdin=subprocess.DEVNULL,
            text=True,
            env=dict(os.environ),
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, errors.read_text(encoding="utf-8")
        yield Up(process, json.loads(line), errors)
    finally:
        if process.poll() is None:
            left = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
            for child in left:
                if child.is_running():
                    child.kill()


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs any more."""
    return not [one for one in processes if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_everything_comes_up_works_and_ends_with_one_signal(up: Up, tmp_path: Path) -> None:
    """Prefect, API and dashboard answer; a batch given to Prefect is made; a killed part comes back; Ctrl-C."""
    assert answers(f"{up.addresses['prefect']}/api/health")
    assert answers(f"{up.addresses['api']}/health")
    assert answers(f"{up.addresses['dashboard']}/_stcore/health")

    api = f"{up.addresses['prefect']}/api"
    deployment = call(api, "GET", "/deployments/name/generate-batch/local-gpu")
    body = {"parameters": {"batch": SHOTS, "out_dir": str(tmp_path / "clips")}}
    run = call(api, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)["id"]
    until(
        "the batch is made",
        lambda: call(api, "GET", f"/flow_runs/{run}")["state"]["type"] == "COMPLETED",
        timeout_s=90,
        every_s=0.25,
    )
    assert len(list((tmp_path / "clips").rglob("*.mp4"))) == 2

    victim = next(child for child in up.children() if "api" in child.cmdline() and "hybrid_video" in child.cmdline())
    victim.kill()
    until("the API is back", lambda: "the API runs again" in up.said(), timeout_s=60)
    assert answers(f"{up.addresses['api']}/health")

    second = subprocess.run(
        [sys.executable, "-c", COMMAND, "up", *ANY], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 0
    assert f"runs already (process {up.process.pid})" in second.stderr

    children = up.children()
    began = time.monotonic()
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(60) == 0
    assert time.monotonic() - began < 30
    until("every child is gone", lambda: gone(children), timeout_s=10)
    assert not (tmp_path / "home" / "up.json").exists()


def test_a_killed_up_leaves_nobody_behind(up: Up) -> None:
    """SIGKILL gives it no chance to end its children; they notice, and end."""
    children = up.children()
    assert len(children) >= 6
    up.process.kill()
    up.process.wait()
    until("every child is gone", lambda: gone(children), timeout_s=60)


def test_a_taken_port_is_said_before_anything_starts(project: Project) -> None:
    """One sentence for each port that is taken, with the option that changes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = project.command("up", "--prefect-port", port, "--api-port", 0, "--dashboard-port", 0)
    assert outcome.code == 2
    assert f"port {port} is taken" in outcome.err
    assert "--prefect-port" in outcome.err
    assert not (project.home / "prefect").exists()
