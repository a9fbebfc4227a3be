"""A launchd agent of the user on macOS. Commands as in `man launchctl`: bootstrap, bootout, print in `gui/<uid>`."""

from __future__ import annotations

import os
import plistlib
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import ask
from hybrid_video.installer.service.base import Launch


def plist_bytes(launch: Launch, label: str) -> bytes:
    """The agent's property list."""
    return plistlib.dumps(
        {
            "Label": label,
            "ProgramArguments": list(launch.command),
            "WorkingDirectory": str(launch.folder),
            "EnvironmentVariables": dict(launch.environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": 10,
            "ProcessType": "Interactive",
            "StandardOutPath": str(launch.log),
            "StandardErrorPath": str(launch.log),
        }
    )


class LaunchdService:
    """An agent below `~/Library/LaunchAgents`."""

    kind = "launchd"

    def __init__(self, name: str) -> None:
        self._label = f"com.{name}"

    @property
    def plist(self) -> Path:
        """The agent's file."""
        return Path.home() / "Library" / "LaunchAgents" / f"{self._label}.plist"

    @property
    def sentence(self) -> str:
        """How it runs."""
        return f"ComfyUI runs as your launchd agent {self._label} and starts when you log in"

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Writes the agent; a changed one is loaded anew."""
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        self.plist.parent.mkdir(parents=True, exist_ok=True)
        data = plist_bytes(launch, self._label)
        if not self.plist.exists() or self.plist.read_bytes() != data:
            self.stop()
            self.plist.write_bytes(data)
        return (self.plist,)

    def start(self) -> None:
        """Loads the agent, which starts it."""
        if self.running():
            return
        answer = ask(("launchctl", "bootstrap", self._domain, str(self.plist)), timeout_s=60)
        if answer is None or not answer.ok:
            said = answer.tail if answer else "no answer"
            raise ConfigurationError(f"launchctl could not start ComfyUI: {said}; use --service background instead")

    def stop(self) -> None:
        """Unloads the agent: launchd would start again what is only stopped."""
        if self.running():
            ask(("launchctl", "bootout", f"{self._domain}/{self._label}"), timeout_s=60)

    def running(self) -> bool:
        """Whether launchd knows it."""
        answer = ask(("launchctl", "print", f"{self._domain}/{self._label}"))
        return bool(answer and answer.ok)

    def uninstall(self) -> None:
        """Unloads and deletes it."""
        self.stop()
        self.plist.unlink(missing_ok=True)

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid() if hasattr(os, 'getuid') else 0}"
