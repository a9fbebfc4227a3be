"""What is registered with each system: exactly ComfyUI, on loopback, as the user; and nothing is left after it."""

from __future__ import annotations

import json
import plistlib
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import psutil
import pytest

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.layout import Layout
from hybrid_video.installer.service import Launch, choose_service, service_name, service_of
from hybrid_video.installer.service.background import BackgroundService
from hybrid_video.installer.service.launchd import plist_bytes
from hybrid_video.installer.service.systemd import SystemdSystemService, unit_text
from hybrid_video.installer.service.windows import NAMESPACE, task_xml

LOOPBACK = ("--listen", "127.0.0.1")


def launch_of(folder: Path, *more: str) -> Launch:
    """ComfyUI in a folder with a space, a per cent sign and a dollar in its name."""
    layout = Layout(folder)
    return Launch.of(layout, layout.version("v1"), port=8188, name="hybrid-video-comfyui", arguments=more)


@pytest.fixture
def awkward(tmp_path: Path) -> Path:
    """Such a folder."""
    folder = tmp_path / "my 100% $HOME"
    folder.mkdir()
    return folder


def test_comfyui_listens_on_loopback_whatever_the_system(awkward: Path) -> None:
    """It has no password."""
    launch = launch_of(awkward, "--cpu")
    at = launch.command.index("--listen")
    assert launch.command[at : at + 2] == LOOPBACK
    assert launch.command[-1] == "--cpu"


def test_a_systemd_unit_starts_the_same_command(awkward: Path) -> None:
    """Spaces, per cent signs and dollars survive systemd's rules; systemd finds no fault where it is here."""
    launch = launch_of(awkward)
    unit = unit_text(launch)
    line = next(part for part in unit.splitlines() if part.startswith("ExecStart=")).removeprefix("ExecStart=")
    back = [part.replace("%%", "%").replace("$$", "$") for part in shlex.split(line)]
    assert tuple(back) == launch.command
    assert "User=" not in unit
    file = awkward.parent / "hybrid-video-test.service"
    file.write_text(unit.replace(launch.command[0].replace("%", "%%").replace("$", "$$"), "/bin/true"))
    try:
        done = subprocess.run(
            ["systemd-analyze", "verify", "--user", str(file)], capture_output=True, text=True, timeout=30, check=False
        )
    except FileNotFoundError:
        return
    assert "hybrid-video-test" not in done.stderr, done.stderr


FAKE_SYSTEMCTL = """#!{python}
import json, pathlib, shlex, subprocess, sys
place = pathlib.Path({place!r})
words = [w for w in sys.argv[1:] if w != "--user"]
with (place / "calls").open("a") as log: log.write(json.dumps(sys.argv[1:]) + "\\n")
units = place / "config/systemd/user"
pid = place / "pid"
verb = words[0]
if verb == "start":
    unit = (units / words[1]).read_text()
    line = next(l for l in unit.splitlines() if l.startswith("ExecStart=")).removeprefix("ExecStart=")
    command = [p.replace("%%", "%").replace("$$", "$") for p in shlex.split(line)]
    pid.write_text(str(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid))
elif verb == "stop" and pid.exists():
    subprocess.run(["kill", pid.read_text()]); pid.unlink()
elif verb == "is-active":
    print("active" if pid.exists() else "inactive"); sys.exit(0 if pid.exists() else 3)
"""


def test_the_user_unit_is_enabled_started_stopped_and_taken_away(
    awkward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a small systemctl that starts what the unit says."""
    tool = tmp_path / "bin/systemctl"
    tool.parent.mkdir()
    tool.write_text(FAKE_SYSTEMCTL.format(python=sys.executable, place=str(tmp_path)), encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    layout = Layout(awkward)
    service = choose_service("auto", layout, "hybrid-video-comfyui", system="Linux")
    assert service is not None
    assert service.kind == "systemd"
    mark = tmp_path / "started"
    code = f"import pathlib, time; pathlib.Path({str(mark)!r}).touch(); time.sleep(60)"
    launch = launch_of(awkward).model_copy(update={"command": (sys.executable, "-c", code)})
    (unit,) = service.install(launch)
    assert unit == tmp_path / "config/systemd/user/hybrid-video-comfyui.service"
    service.start()
    deadline = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert mark.exists()
    assert service.running()
    service.install(launch)
    service.uninstall()
    assert not unit.exists()
    assert not service.running()
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert all(call[0] == "--user" for call in calls)
    assert [c[1] for c in calls].count("daemon-reload") == 2, "an unchanged unit was loaded again"


def test_a_system_service_shows_every_command_before_it_runs_any(tmp_path: Path) -> None:
    """Who does not agree gets a way out, and nothing was run."""
    shown: list[tuple[str, ...]] = []

    def refuse(purpose: str, commands: object) -> bool:
        assert "whole machine" in purpose
        shown.extend(commands)  # type: ignore[arg-type]
        return False

    service = SystemdSystemService("hybrid-video-test-never-there", tmp_path / "staging", refuse)
    with pytest.raises(ConfigurationError, match="needs no administrator"):
        service.install(launch_of(tmp_path))
    assert {command[0] for command in shown} == {"sudo"}
    assert [command[1:3] for command in shown][1:] == [("systemctl", "daemon-reload"), ("systemctl", "enable")]
    assert not service.unit.exists()


def test_a_system_service_is_there_for_linux_only(tmp_path: Path) -> None:
    """Elsewhere the user's own does."""
    with pytest.raises(ConfigurationError, match="Linux with systemd only"):
        choose_service("system", Layout(tmp_path), "n", system="Darwin")


def test_a_launchd_agent_starts_the_same_command(awkward: Path) -> None:
    """And comes back when it crashes, not when it is stopped."""
    launch = launch_of(awkward)
    agent = plistlib.loads(plist_bytes(launch, "com.x"))
    assert tuple(agent["ProgramArguments"]) == launch.command
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
    assert agent["StandardOutPath"] == str(launch.log)


def test_a_windows_task_runs_the_supervisor_at_log_on_without_rights(awkward: Path) -> None:
    """No administrator, no limit on its run time, one instance."""
    text = task_xml(["pythonw.exe", str(awkward / "supervisor.py")], awkward, "PC\\me").split("\n", 1)[1]
    root = ET.fromstring(text)  # noqa: S314 - our own

    def value(path: str) -> str | None:
        return root.findtext("/".join(f"{{{NAMESPACE}}}{part}" for part in path.split("/")))

    assert value("Principals/Principal/RunLevel") == "LeastPrivilege"
    assert value("Triggers/LogonTrigger/UserId") == "PC\\me"
    assert value("Settings/ExecutionTimeLimit") == "PT0S"
    assert value("Actions/Exec/Arguments") == f'"{awkward / "supervisor.py"}"'


def background(folder: Path, code: str) -> BackgroundService:
    """A supervised Python program."""
    service = BackgroundService(folder / "service")
    launch = launch_of(folder).model_copy(
        update={"command": (sys.executable, "-c", code, str(folder / "data")), "folder": folder}
    )
    service.install(launch)
    return service


def test_the_supervisor_starts_again_what_dies_and_ends_it_when_told(awkward: Path) -> None:
    """And it writes down what happened."""
    service = background(awkward, "import time; print('up', flush=True); time.sleep(60)")
    service.start()
    service.start()
    state = awkward / "service/supervisor.json"
    first = json.loads(state.read_text())["child"]
    psutil.Process(first).send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 15
    while json.loads(state.read_text())["child"] == first and time.monotonic() < deadline:
        time.sleep(0.05)
    second = json.loads(state.read_text())["child"]
    assert second != first
    assert service.deaths() == 1
    service.stop()
    assert not service.running()
    assert not psutil.pid_exists(second)
    assert "starting again" in (awkward / "service/comfyui.log").read_text()


def test_comfyui_gets_no_keys_of_the_product(awkward: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its nodes are other people's programs."""
    monkeypatch.setenv("RUNPOD_API_KEY", "rp-secret")
    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    seen = awkward / "seen.json"
    write = f"pathlib.Path({str(seen)!r}).write_text(json.dumps(dict(os.environ)))"
    code = f"import json, os, pathlib, time; {write}; time.sleep(60)"
    service = background(awkward, code)
    service.start()
    deadline = time.monotonic() + 10
    while (not seen.exists() or not seen.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    service.uninstall()
    environment = json.loads(seen.read_text())
    assert not {"RUNPOD_API_KEY", "HF_TOKEN"} & set(environment)
    assert environment["DO_NOT_TRACK"] == "1"
    assert not (awkward / "service").exists()


def test_two_installations_have_services_of_their_own(tmp_path: Path) -> None:
    """The default folder has the plain name."""
    assert service_name(tmp_path, tmp_path) == "hybrid-video-comfyui"
    assert service_name(tmp_path / "a", tmp_path) != service_name(tmp_path / "b", tmp_path)
    assert service_of("none", Layout(tmp_path), "n") is None
