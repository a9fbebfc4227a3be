"""One installation from nothing to a clip, a second run, an update, one that fails, a rollback, and back to nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from install_rig import FileServer, Rig, git, make_repository, sha256, some_bytes, stand_in_files, tree

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import Installation
from hybrid_video.installer.journal import read_events
from hybrid_video.settings import Settings

pytestmark = pytest.mark.xdist_group("installation")

PLAIN = some_bytes(300_000, 1)
FLAKY = some_bytes(900_000, 2)
UNKNOWN = some_bytes(50_000, 3)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A machine that the tests of this file use one after the other."""
    server = FileServer()
    rig = Rig(tmp_path_factory.mktemp("machine"), server)
    make_repository(rig.root / "node-pack", {"__init__.py": "NODE_CLASS_MAPPINGS = {}\n"}, "v1")
    yield rig
    rig.close()
    server.close()


@pytest.fixture(autouse=True)
def _here(machine: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.enter(monkeypatch)
    machine.events.clear()


def the_installation(machine: Rig) -> Installation:
    """As the first run was asked for it."""
    files = {"plain.bin": (PLAIN, sha256(PLAIN)), "flaky.bin": (FLAKY, sha256(FLAKY)), "unknown.bin": (UNKNOWN, "")}
    nodes = [("node-pack", str(machine.root / "node-pack"))]
    return machine.installation(bundles=["tiny"], manifest=machine.manifest(files, nodes))


def test_from_nothing_to_a_comfyui_that_renders(machine: Rig) -> None:
    """Code, Python, packages, nodes, verified models, a running service, a rendered proof, and a receipt."""
    machine.server.add("/models/flaky.bin", FLAKY, break_after=[200_000, 150_000])
    installation = the_installation(machine)
    state = installation.run(machine.events.append)
    assert state.status == "done"
    assert {step.status for step in state.steps} == {"done"}
    status = installation.status()
    assert (status.installed, status.running, status.answers, status.version) == (True, True, True, "1.0.0")
    assert httpx.get(f"{status.url}/prompt").json()["exec_info"]["queue_remaining"] == 0
    models = machine.folder / "data/models/checkpoints"
    assert (models / "flaky.bin").read_bytes() == FLAKY
    assert sorted(file.name for file in models.iterdir()) == ["flaky.bin", "plain.bin", "unknown.bin"]
    assert machine.server.ranges("/models/flaky.bin") == ["", "bytes=200000-", "bytes=350000-"]
    assert (machine.folder / "data/custom_nodes/node-pack/__init__.py").exists()
    assert not any((machine.folder / "data/output").iterdir()), "the proof was not cleaned up"


def test_the_receipt_says_what_is_there(machine: Rig) -> None:
    """Hashes of every model, the one without a known hash marked as trusted on first use."""
    receipt = the_installation(machine).receipt
    assert receipt is not None
    assert receipt.complete
    assert receipt.known_hashes["checkpoints/unknown.bin"] == sha256(UNKNOWN)
    assert [file.path for file in receipt.files if file.trusted_on_first_use] == ["checkpoints/unknown.bin"]
    assert receipt.current is not None
    assert receipt.current.commit == git(machine.repository, "rev-parse", "v1.0.0")
    assert not list(machine.folder.rglob("*.part*"))


def test_another_process_can_follow_it(machine: Rig) -> None:
    """State and events are files; bytes of downloads only grow, and what the page shows ends at 100 %."""
    installation = Installation.at(machine.folder)
    state = installation.state()
    assert state.status == "done"
    assert state.share_done == 1.0
    assert state.bytes_done == state.bytes_total == len(PLAIN) + len(FLAKY) + len(UNKNOWN)
    events, position = installation.events()
    assert {event.kind for event in events} >= {"started", "step", "file", "notice", "done"}
    assert installation.events(position) == ([], position)
    flaky = [event.bytes_done or 0 for event in events if event.file == "flaky.bin"]
    assert flaky == sorted(flaky)


def test_a_second_run_changes_nothing(machine: Rig) -> None:
    """Not a byte and not a time of any file, and no request to anybody."""
    before, asked = tree(machine.folder), len(machine.server.requests)
    pid = machine.processes()
    state = the_installation(machine).run()
    assert state.message.endswith("nothing had to be changed")
    assert tree(machine.folder) == before
    assert len(machine.server.requests) == asked
    assert machine.processes() == pid, "the service was restarted"


def test_the_product_finds_it_and_makes_a_clip(machine: Rig) -> None:
    """The address is in the settings, below the environment; a batch runs on it."""
    assert Settings.load().comfyui.urls == (f"http://127.0.0.1:{machine.port}",)
    batch = {"name": "first", "jobs": [{"id": "one", "prompt": "a kite", "duration_s": 1, "width": 128, "height": 96}]}
    (machine.root / "batch.json").write_text(json.dumps(batch), encoding="utf-8")
    code = "from hybrid_video.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "batch.json", "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    clip = json.loads(done.stdout.splitlines()[-1])["clips"][0]
    assert clip["backend"] == "local"
    assert Path(clip["path"]).stat().st_size > 1000


def test_an_own_setting_goes_before_the_installed_one(machine: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the user says in .env or the environment is not overruled."""
    (machine.root / ".env").write_text("HYBRID_VIDEO_COMFYUI_URLS=http://127.0.0.1:1\n", encoding="utf-8")
    try:
        assert Settings.load().comfyui.urls == ("http://127.0.0.1:1",)
        monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:2")
        assert Settings.load().comfyui.urls == ("http://127.0.0.1:2",)
    finally:
        (machine.root / ".env").unlink()


def test_a_changed_model_is_seen_by_repair_and_fetched_anew(machine: Rig) -> None:
    """Same size, other bytes: a plain run trusts the receipt, repair hashes."""
    file = machine.folder / "data/models/checkpoints/plain.bin"
    file.write_bytes(b"x" * len(PLAIN))
    installation = the_installation(machine)
    assert installation.run(machine.events.append, action="repair").status == "done"
    assert file.read_bytes() == PLAIN
    assert "plain.bin.wrong" in machine.said()
    (file.parent / "plain.bin.wrong").unlink()


def test_a_service_that_was_killed_is_started_by_the_next_run(machine: Rig) -> None:
    """Also when only its supervisor was killed, which leaves ComfyUI alone with the port."""
    supervisor = next(process for process in machine.processes() if "supervisor.py" in " ".join(process.cmdline()))
    supervisor.kill()
    supervisor.wait(5)
    installation = the_installation(machine)
    assert not installation.status().running
    assert installation.run().status == "done"
    assert installation.status().answers
    assert len([p for p in machine.processes() if "stand_in.py" in " ".join(p.cmdline())]) == 1


def test_an_update_takes_the_newest_release_and_keeps_the_one_before(machine: Rig) -> None:
    """Models and nodes stay where they are; two versions are on disk."""
    make_repository(machine.repository, stand_in_files("1.1.0"), "v1.1.0")
    asked = machine.options()
    del asked["ref"]
    installation = Installation(asked)
    models = tree(machine.folder / "data/models")
    assert installation.run(action="update").status == "done"
    status = installation.status()
    assert (status.version, status.previous, status.answers) == ("1.1.0", "1.0.0", True)
    assert tree(machine.folder / "data/models") == models
    assert len(list((machine.folder / "versions").iterdir())) == 2
    again = Installation.at(machine.folder)
    assert again.run().message.endswith("nothing had to be changed"), "an update must not make every run an update"


def test_an_update_that_does_not_start_is_taken_back(machine: Rig) -> None:
    """The version before runs again, the broken one is gone, and the message has the end of its log."""
    broken = textwrap.dedent("""
        print("cannot start: planned in the test", flush=True)
        raise SystemExit(3)
    """)
    make_repository(machine.repository, stand_in_files("1.2.0", broken), "v1.2.0")
    asked = machine.options()
    del asked["ref"]
    with pytest.raises(ConfigurationError, match="planned in the test") as caught:
        Installation(asked).run(action="update")
    assert "version before is running again" in caught.value.message
    status = Installation.at(machine.folder).status()
    assert (status.version, status.answers) == ("1.1.0", True)
    assert not any(
        "1.2.0" in (v / "ComfyUI/comfyui_version.py").read_text() for v in (machine.folder / "versions").iterdir()
    )


def test_rollback_returns_to_the_version_before(machine: Rig) -> None:
    """Without any network; and it can be taken forward again."""
    machine.repository.rename(machine.root / "gone")
    try:
        installation = Installation.at(machine.folder)
        installation.run(action="rollback")
        status = installation.status()
        assert (status.version, status.previous, status.answers) == ("1.0.0", "1.1.0", True)
    finally:
        (machine.root / "gone").rename(machine.repository)


def test_uninstalling_keeps_models_when_asked_to(machine: Rig) -> None:
    """Then nothing but models and a receipt that knows them is left, no process, and no line in the settings."""
    installation = Installation.at(machine.folder)
    installation.uninstall(delete_models=False, delete_outputs=True)
    left = {str(file.relative_to(machine.folder)) for file in machine.folder.rglob("*") if file.is_file()}
    assert left == {"receipt.json"} | {f"data/models/checkpoints/{name}.bin" for name in ("plain", "flaky", "unknown")}
    assert machine.processes() == []
    assert Settings.load().comfyui.urls == ()


def test_models_that_were_kept_are_taken_up_by_a_new_installation_and_uninstalling_leaves_nothing(machine: Rig) -> None:
    """No byte is fetched twice; then the folder is gone altogether."""
    asked = len([path for path, _, _ in machine.server.requests if path.startswith("/models/")])
    installation = the_installation(machine)
    assert installation.run().status == "done"
    assert len([path for path, _, _ in machine.server.requests if path.startswith("/models/")]) == asked
    (machine.folder / "data/output/mine.mp4").write_bytes(b"a clip of the user's own")
    installation.uninstall(delete_models=True, delete_outputs=True)
    assert not machine.folder.exists()
    assert not (machine.home / "settings.env").exists()
    assert machine.processes() == []
    assert read_events(machine.folder / "progress") == ([], 0)
