"""A systemd unit: the user's own by default, the system's only where it was asked for, each command shown first."""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import CommandResult, ask
from hybrid_video.installer.service.base import Launch

Confirm = Callable[[str, Sequence[Sequence[str]]], bool]


def unit_text(launch: Launch, *, user: str = "") -> str:
    """The unit file. `user` is named in a system unit only."""
    lines = [
        "[Unit]",
        f"Description=ComfyUI for hybrid-video ({launch.url})",
        "After=network.target",
        "StartLimitIntervalSec=300",
        "StartLimitBurst=5",
        "",
        "[Service]",
        "Type=exec",
        *([f"User={user}"] if user else []),
        f"WorkingDirectory={_escape(str(launch.folder))}",
        f"ExecStart={' '.join(_quote(part) for part in launch.command)}",
        *(f"Environment={_quote(f'{name}={value}')}" for name, value in launch.environment.items()),
        "Restart=on-failure",
        "RestartSec=5",
        "NoNewPrivileges=yes",
        f"StandardOutput=append:{_escape(str(launch.log))}",
        f"StandardError=append:{_escape(str(launch.log))}",
        "",
        "[Install]",
        f"WantedBy={'multi-user.target' if user else 'default.target'}",
        "",
    ]
    return "\n".join(lines)


def _escape(text: str) -> str:
    return text.replace("%", "%%")


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'


def user_systemd_works() -> bool:
    """Whether a systemd of this user answers; in containers it mostly does not."""
    answer = ask(("systemctl", "--user", "show-environment"))
    return bool(answer and answer.ok)


class SystemdUserService:
    """A unit below `~/.config/systemd/user`."""

    kind = "systemd"

    def __init__(self, name: str) -> None:
        self._name = f"{name}.service"

    @property
    def unit(self) -> Path:
        """The unit file."""
        config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(config) / "systemd" / "user" / self._name

    @property
    def sentence(self) -> str:
        """How it runs."""
        return (
            f"ComfyUI runs as your systemd unit {self._name} while you are logged in; `loginctl enable-linger` keeps "
            "it running after you log out and starts it with the machine"
        )

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Writes the unit and enables it."""
        launch.log.parent.mkdir(parents=True, exist_ok=True)
        self.unit.parent.mkdir(parents=True, exist_ok=True)
        text = unit_text(launch)
        if not self.unit.exists() or self.unit.read_text(encoding="utf-8") != text:
            self.unit.write_text(text, encoding="utf-8")
            self._must("daemon-reload")
        self._must("enable", self._name)
        return (self.unit,)

    def start(self) -> None:
        """Starts it."""
        self._must("start", self._name)

    def stop(self) -> None:
        """Stops it."""
        if self.unit.exists():
            self._must("stop", self._name)

    def running(self) -> bool:
        """Whether systemd says active."""
        answer = ask(("systemctl", "--user", "is-active", self._name))
        return bool(answer and answer.out.strip() in ("active", "activating"))

    def uninstall(self) -> None:
        """Stops, disables and deletes it."""
        if not self.unit.exists():
            return
        self._must("stop", self._name)
        self._must("disable", self._name)
        self.unit.unlink(missing_ok=True)
        self._must("daemon-reload")

    def _must(self, *arguments: str) -> None:
        _checked(ask(("systemctl", "--user", *arguments), timeout_s=90), f"systemctl --user {' '.join(arguments)}")


class SystemdSystemService:
    """A unit of the whole machine, by sudo. Nothing is run before `confirm` has seen the commands.

    Args:
        staging: a folder of the installation in which the unit is written first.
    """

    kind = "system"

    def __init__(self, name: str, staging: Path, confirm: Confirm) -> None:
        self._name = f"{name}.service"
        self._staging = staging
        self._confirm = confirm

    @property
    def unit(self) -> Path:
        """The unit file."""
        return Path("/etc/systemd/system") / self._name

    @property
    def sentence(self) -> str:
        """How it runs."""
        return f"ComfyUI runs as the system's unit {self._name} under your user, and starts with the machine"

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Shows the commands, then runs them."""
        self._staging.mkdir(parents=True, exist_ok=True)
        text = unit_text(launch, user=getpass.getuser())
        if self.unit.exists() and self.unit.read_text(encoding="utf-8") == text:
            return (self.unit,)
        draft = self._staging / self._name
        draft.write_text(text, encoding="utf-8")
        self._sudo(
            f"registers a service of the whole machine that runs ComfyUI as {getpass.getuser()}",
            ("install", "-m", "644", str(draft), str(self.unit)),
            ("systemctl", "daemon-reload"),
            ("systemctl", "enable", self._name),
        )
        return (self.unit,)

    def start(self) -> None:
        """Starts it."""
        if not self.running():
            self._sudo("starts ComfyUI", ("systemctl", "start", self._name))

    def stop(self) -> None:
        """Stops it."""
        if self.running():
            self._sudo("stops ComfyUI", ("systemctl", "stop", self._name))

    def running(self) -> bool:
        """Whether systemd says active; needs no rights."""
        answer = ask(("systemctl", "is-active", self._name))
        return bool(answer and answer.out.strip() in ("active", "activating"))

    def uninstall(self) -> None:
        """Shows the commands, then runs them."""
        if self.unit.exists():
            self._sudo(
                "takes the service of the whole machine away",
                ("systemctl", "disable", "--now", self._name),
                ("rm", str(self.unit)),
                ("systemctl", "daemon-reload"),
            )

    def _sudo(self, purpose: str, *commands: Sequence[str]) -> None:
        whole = [("sudo", *command) for command in commands]
        if not self._confirm(purpose, whole):
            raise ConfigurationError(
                f"not agreed to what {purpose}; use --service auto, which needs no administrator, or run the commands "
                "yourself and this again"
            )
        for command in whole:
            _checked(ask(command, timeout_s=120), " ".join(command))


def _checked(answer: CommandResult | None, shown: str) -> None:
    if answer is None or not answer.ok:
        said = answer.tail if answer else "no answer"
        raise ConfigurationError(f"`{shown}` failed: {said}; use --service background to do without systemd")
