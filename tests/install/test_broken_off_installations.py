"""An installation that is killed anywhere goes on where it was, and one that is asked to stop does so at once."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from install_rig import MAIN, Rig, make_repository, sha256, some_bytes, stand_in_files, state_of

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import Installation

pytestmark = pytest.mark.xdist_group("installation")

BIG = some_bytes(1_500_000, 4)
WAIT_S = 40.0


def start(rig: Rig, manifest: Path) -> subprocess.Popen[bytes]:
    """The command in a process of its own."""
    return subprocess.Popen(
        rig.command("--bundle", "tiny", "--manifest", str(manifest)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def wait_for_step(rig: Rig, process: subprocess.Popen[bytes], step: str, bytes_done: int = 0) -> bool:
    """Waits until the step runs (and so many bytes have come); False when the process ended before."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        state = state_of(rig.folder)
        running = [s["id"] for s in state.get("steps", []) if s["status"] == "running"]
        if step in running and sum(f["bytes_done"] for f in state.get("files", [])) >= bytes_done:
            return True
        time.sleep(0.01)
    return False


def kill(rig: Rig, process: subprocess.Popen[bytes]) -> None:
    """The whole group, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(10)


def test_killed_in_four_places_it_still_ends_whole(rig: Rig) -> None:
    """kill -9 while fetching code, making Python, fetching a model and starting the service; then a plain run."""
    manifest = rig.manifest({"big.bin": (BIG, sha256(BIG))})
    rig.server.files["/models/big.bin"].pause_s = 0.05
    killed = []
    for step, came in (("code", 0), ("python", 0), ("models", 300_000), ("service", 0)):
        process = start(rig, manifest)
        if wait_for_step(rig, process, step, came):
            killed.append(step)
        kill(rig, process)
        if step == "models":
            assert Installation.at(rig.folder).state().status == "interrupted"
            rig.server.files["/models/big.bin"].pause_s = 0
    assert len(killed) >= 3, f"only {killed} were hit"
    assert "models" in killed
    state = rig.installation(bundles=["tiny"], manifest=manifest).run()
    assert state.status == "done"
    assert (rig.folder / "data/models/checkpoints/big.bin").read_bytes() == BIG
    resumed = [int(r.removeprefix("bytes=").rstrip("-")) for r in rig.server.ranges("/models/big.bin") if r]
    assert resumed, "the download started anew"
    assert max(resumed) >= 300_000
    assert not list(rig.folder.rglob("*.partial"))
    assert not list(rig.folder.rglob("*.part*"))
    assert len([p for p in rig.processes() if "stand_in.py" in " ".join(p.cmdline())]) == 1


def test_killed_while_comfyui_starts_the_next_run_waits_for_it(rig: Rig) -> None:
    """The service outlives the installer; the next run finds it running and not answering yet."""
    slow = MAIN.format(python=sys.executable).replace("os.execv", "import time; time.sleep(4)\nos.execv", 1)
    make_repository(rig.repository, stand_in_files("1.1.0", slow), "v1.1.0")
    process = subprocess.Popen(
        [*rig.command(), "--ref", "v1.1.0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + WAIT_S
    while not (rig.folder / "service/supervisor.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    kill(rig, process)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", rig.port), 1).close()
    assert rig.installation(ref="v1.1.0").run().status == "done"


def test_it_stops_when_another_process_asks_and_resumes_with_its_options(rig: Rig) -> None:
    """As the page does it: start, follow, cancel, resume."""
    manifest = rig.manifest({"big.bin": (BIG, sha256(BIG))})
    rig.server.files["/models/big.bin"].pause_s = 0.1
    installation = rig.installation(bundles=["tiny"], manifest=manifest)
    pid = installation.start()
    assert pid != os.getpid()
    deadline = time.monotonic() + WAIT_S
    while installation.state().bytes_done < 200_000 and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ConfigurationError, match="going on already"):
        installation.start()
    with pytest.raises(ConfigurationError, match="another installer"):
        rig.installation().run()
    assert installation.cancel()
    while installation.state().status == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert installation.state().status == "cancelled"
    assert not installation.cancel()
    rig.server.files["/models/big.bin"].pause_s = 0
    fresh = Installation.at(rig.folder)
    assert fresh.resume().status == "done"
    assert (rig.folder / "data/models/checkpoints/big.bin").read_bytes() == BIG
    assert rig.server.ranges("/models/big.bin")[-1].startswith("bytes=")
    assert fresh.status().answers


def test_a_wrong_model_stops_it_and_the_right_one_lets_it_go_on(rig: Rig) -> None:
    """Nothing of it stays, no service was started, the state names step and reason; software is not fetched twice."""
    manifest = rig.manifest({"model.bin": (BIG, sha256(b"what the publisher signed"))})
    installation = rig.installation(bundles=["tiny"], manifest=manifest)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        installation.run()
    state = Installation.at(rig.folder).state()
    assert state.status == "failed"
    assert [step.id for step in state.steps if step.status == "failed"] == ["models"]
    assert sha256(BIG) in state.message
    assert list((rig.folder / "data/models/checkpoints").iterdir()) == []
    assert rig.processes() == []
    asked = len(rig.server.requests)
    rig.manifest({"model.bin": (BIG, sha256(BIG))})
    assert installation.resume().status == "done"
    assert {path for path, _, _ in rig.server.requests[asked:]} == {"/models/model.bin"}


def test_an_uninstall_that_was_broken_off_is_finished_by_the_next(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The receipt goes last, so what is still there is known."""
    installation = rig.installation()
    installation.run()
    real, taken = shutil.rmtree, []

    def cut(path: Path, *more: object, **how: object) -> None:
        taken.append(path)
        if len(taken) == 3:
            raise KeyboardInterrupt
        real(path, *more, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", cut)
    with pytest.raises(KeyboardInterrupt):
        installation.uninstall(delete_models=True, delete_outputs=True)
    monkeypatch.setattr(shutil, "rmtree", real)
    assert (rig.folder / "receipt.json").exists()
    Installation.at(rig.folder).uninstall(delete_models=True, delete_outputs=True)
    assert not rig.folder.exists()
    assert not (rig.home / "settings.env").exists()
    assert rig.processes() == []
