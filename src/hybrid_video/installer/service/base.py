"""What a service is asked to run, and what every kind of service can do."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

from pydantic import Field

from hybrid_video.installer.layout import Layout, Version
from hybrid_video.models import Model

NAME = "hybrid-video-comfyui"


class Launch(Model):
    """One ComfyUI to run."""

    name: str
    command: tuple[str, ...]
    folder: Path
    """Working folder."""
    log: Path
    url: str
    environment: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, layout: Layout, version: Version, *, port: int, name: str, arguments: tuple[str, ...]) -> Launch:
        """ComfyUI of this version, on loopback, with its data outside of the code."""
        command = (
            str(version.python),
            str(version.code / "main.py"),
            "--listen",
            "127.0.0.1",
            "--port",
            str(port),
            "--base-directory",
            str(layout.data),
            "--disable-auto-launch",
            *arguments,
        )
        return cls(
            name=name,
            command=command,
            folder=version.code,
            log=layout.log,
            url=f"http://127.0.0.1:{port}",
            # Python buffers what goes to a file; a log that lags is of no use. Hub calls home without these.
            environment={"PYTHONUNBUFFERED": "1", "DO_NOT_TRACK": "1", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )


class Service(Protocol):
    """One way to keep it running."""

    kind: str

    @property
    def sentence(self) -> str:
        """How it runs, for people: since when, until when, after a restart."""

    def install(self, launch: Launch) -> tuple[Path, ...]:
        """Registers it; returns the files it made outside the installation's folder.

        Raises:
            ConfigurationError: with what the system said.
        """

    def start(self) -> None:
        """Starts it; does nothing where it runs."""

    def stop(self) -> None:
        """Stops it and waits; does nothing where it does not run."""

    def running(self) -> bool:
        """Whether the system says that it runs."""

    def uninstall(self) -> None:
        """Stops it and takes every trace away; safe to call again."""


def service_name(folder: Path, default_folder: Path) -> str:
    """Name of the service; installations in other folders get one of their own."""
    if folder == default_folder:
        return NAME
    return f"{NAME}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
