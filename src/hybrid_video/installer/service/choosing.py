"""Which kind of service a machine gets."""

from __future__ import annotations

import getpass
import os
import platform
from collections.abc import Sequence

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.layout import Layout
from hybrid_video.installer.options import ServiceChoice
from hybrid_video.installer.service.background import BackgroundService
from hybrid_video.installer.service.base import Service
from hybrid_video.installer.service.launchd import LaunchdService
from hybrid_video.installer.service.systemd import (
    Confirm,
    SystemdSystemService,
    SystemdUserService,
    user_systemd_works,
)
from hybrid_video.installer.service.windows import WindowsTaskService


def nobody_agrees(_purpose: str, _commands: Sequence[Sequence[str]]) -> bool:
    """The answer where nobody can be asked."""
    return False


def choose_service(
    wanted: ServiceChoice, layout: Layout, name: str, confirm: Confirm = nobody_agrees, system: str = ""
) -> Service | None:
    """The service for this machine; None where none is wanted.

    Raises:
        ConfigurationError: a system service is wanted where there is none.
    """
    system = system or platform.system()
    if wanted == "system" and system != "Linux":
        raise ConfigurationError(
            "--service system is there for Linux with systemd only; leave it out: ComfyUI then starts when you log in"
        )
    return service_of(_automatic(system) if wanted == "auto" else wanted, layout, name, confirm)


def _automatic(system: str) -> str:
    if system in ("Darwin", "Windows"):
        return {"Darwin": "launchd", "Windows": "windows"}[system]
    return "systemd" if user_systemd_works() else "background"


def service_of(kind: str, layout: Layout, name: str, confirm: Confirm = nobody_agrees) -> Service | None:
    """The service a receipt names."""
    if kind == "systemd":
        return SystemdUserService(name)
    if kind == "system":
        return SystemdSystemService(name, layout.service, confirm)
    if kind == "launchd":
        return LaunchdService(name)
    if kind == "windows":
        return _windows(layout, name)
    return BackgroundService(layout.service) if kind == "background" else None


def _windows(layout: Layout, name: str) -> Service:
    domain = os.environ.get("USERDOMAIN")
    user = f"{domain}\\{getpass.getuser()}" if domain else getpass.getuser()
    return WindowsTaskService(name, layout.service, user)
