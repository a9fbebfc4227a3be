"""A supervised process of the user: for containers and systems without a service manager. Gone after a restart."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import psutil

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.journal import write_atomically
from hybrid_video.installer.service.base import Launch

GRACE_S = 25.0
START_S = 10.0


class BackgroundService:
    """Starts `supervisor.py` as a process of its own session.

    Args:
        folder: the installation's `service` folder.
        sentence: why it is this kind.
    """

    kind = "background"

    def __init__(self, folder: Path, *, after_restart: str = "") -> None:
        self._folder = folder
        self._after_restart = after_restart or (
            "it does not come back by itself after a restart of the machine; "
            "`hybrid-video install-comfyui start` starts it again"
        )

    @property
    def sentence(self) -> str:
        """How it runs."""
        return f"ComfyUI runs as a supervised process in the background; {self._after_restart}"

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Writes what the supervisor needs; everything is inside the installation."""
        self._folder.mkdir(parents=True, exist_ok=True)
        code = resources.files(__package__).joinpath("supervisor.py").read_text(encoding="utf-8")
        for name, text in (("supervisor.py", code), ("launch.json", launch.model_dump_json(indent=1))):
            file = self._folder / name
            if not file.exists() or file.read_text(encoding="utf-8") != text:
                write_atomically(file, text)
        return ()

    def supervisor_command(self) -> list[str]:
        """What has to be run."""
        launch = Launch.model_validate_json((self._folder / "launch.json").read_text(encoding="utf-8"))
        return [launch.command[0], str(self._folder / "supervisor.py"), str(self._folder)]

    def start(self) -> None:
        """Starts the supervisor, which starts ComfyUI."""
        if self.running():
            return
        self._end_orphan()
        with (self._folder / "supervisor.log").open("ab") as log:
            process = subprocess.Popen(
                self.supervisor_command(),
                cwd=self._folder,
                env=_quiet_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
                creationflags=0 if os.name == "posix" else 0x00000208,  # DETACHED_PROCESS | CREATE_NEW_PROCESS_GROUP
            )
        deadline = time.monotonic() + START_S
        while not self._state.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder / "supervisor.log").read_text(encoding="utf-8", errors="replace").strip()
                raise ConfigurationError(
                    f"ComfyUI could not be started: {said.splitlines()[-1] if said else 'no reason given'}; run "
                    "`hybrid-video install-comfyui repair`"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """Ends the supervisor and ComfyUI."""
        found = self._processes()
        for process in found[:1]:  # the supervisor ends its child
            _quietly(process.terminate)
        _, alive = psutil.wait_procs(found, timeout=GRACE_S)
        for process in alive:
            _quietly(process.kill)
        psutil.wait_procs(alive, timeout=5)
        self._end_orphan()
        self._state.unlink(missing_ok=True)

    def running(self) -> bool:
        """Whether the supervisor is there."""
        return bool(self._processes())

    def deaths(self) -> int:
        """How often ComfyUI has died within the last five minutes."""
        try:
            return int(json.loads(self._state.read_text(encoding="utf-8"))["deaths"])
        except (OSError, ValueError, KeyError):
            return 0

    def uninstall(self) -> None:
        """Ends it and takes its files away."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _state(self) -> Path:
        return self._folder / "supervisor.json"

    def _end_orphan(self) -> None:
        """Ends a ComfyUI whose supervisor was killed: it would hold the port."""
        with contextlib.suppress(OSError, ValueError, KeyError, psutil.Error):
            process = psutil.Process(int(json.loads(self._state.read_text(encoding="utf-8"))["child"]))
            if str(self._folder.parent / "data") in process.cmdline():
                process.kill()
                process.wait(5)
        self._state.unlink(missing_ok=True)

    def _processes(self) -> list[psutil.Process]:
        """The supervisor and what it started; a process id that another program has by now is not taken for it."""
        try:
            pid = int(json.loads(self._state.read_text(encoding="utf-8"))["pid"])
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or str(self._folder) not in process.cmdline():
                return []
            return [process, *process.children(recursive=True)]
        except (OSError, ValueError, KeyError, psutil.Error):
            return []


def _quietly(action: Callable[[], object]) -> None:
    with contextlib.suppress(psutil.Error):
        action()


def _quiet_environment() -> dict[str, str]:
    """The environment without this product's own settings and keys: ComfyUI's nodes are other people's programs."""
    hidden = ("HYBRID_VIDEO_", "RUNPOD_", "GEMINI_", "GOOGLE_", "HF_TOKEN", "HUGGING_FACE_", "PREFECT_", "AWS_")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
