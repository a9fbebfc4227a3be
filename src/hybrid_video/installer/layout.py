"""Where everything of one installation is. Code and data are apart, so that an update never touches models or clips.

<folder>/receipt.json           what was installed, from where, with which hashes
<folder>/versions/<id>/         one version of ComfyUI with its own Python; two are kept for rolling back
<folder>/data/                  ComfyUI's --base-directory: models, custom_nodes, output, input, user
<folder>/service/               what keeps it running, and its log
<folder>/progress/              state and events of the installer itself, for a page that follows it
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class Version:
    """One version of ComfyUI on disk."""

    folder: Path

    @property
    def id(self) -> str:
        """Its name."""
        return self.folder.name

    @property
    def code(self) -> Path:
        """The checkout."""
        return self.folder / "ComfyUI"

    @property
    def venv(self) -> Path:
        """Its Python environment."""
        return self.folder / "venv"

    @property
    def python(self) -> Path:
        """The interpreter in that environment."""
        return self.venv / ("Scripts/python.exe" if WINDOWS else "bin/python")

    @property
    def made(self) -> Path:
        """Which steps are finished, and with what."""
        return self.folder / "made.json"


@dataclass(frozen=True)
class Layout:
    """The paths of one installation."""

    folder: Path

    @property
    def receipt(self) -> Path:
        """What was installed."""
        return self.folder / "receipt.json"

    @property
    def versions(self) -> Path:
        """All versions."""
        return self.folder / "versions"

    @property
    def data(self) -> Path:
        """ComfyUI's base directory."""
        return self.folder / "data"

    @property
    def models(self) -> Path:
        """Model files, by folder."""
        return self.data / "models"

    @property
    def custom_nodes(self) -> Path:
        """Node packages."""
        return self.data / "custom_nodes"

    @property
    def service(self) -> Path:
        """What keeps ComfyUI running, and its log."""
        return self.folder / "service"

    @property
    def log(self) -> Path:
        """ComfyUI's own log."""
        return self.service / "comfyui.log"

    @property
    def progress(self) -> Path:
        """State and events of the installer."""
        return self.folder / "progress"

    def version(self, id_: str) -> Version:
        """A version by its name."""
        return Version(self.versions / id_)

    def data_folders(self) -> tuple[Path, ...]:
        """Folders ComfyUI expects below its base directory."""
        return tuple(self.data / name for name in ("models", "custom_nodes", "output", "input", "user", "temp"))
