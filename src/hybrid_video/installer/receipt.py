"""What was installed: the record that makes a second run change nothing, and an uninstall leave nothing.

It is written when the first step begins (`complete` is false) and whenever something in it changes, never otherwise.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import AwareDatetime, Field, ValidationError

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.journal import write_atomically
from hybrid_video.installer.layout import Layout
from hybrid_video.models import Model

MADE_BY = "hybrid-video install-comfyui"


class InstalledFile(Model):
    """A model file that was fetched and verified."""

    path: str
    bytes: int
    sha256: str
    source: str = ""
    licence: str = ""
    trusted_on_first_use: bool = False


class InstalledNode(Model):
    """A node package."""

    name: str
    url: str
    commit: str


class InstalledVersion(Model):
    """A version of ComfyUI that is on disk."""

    id: str
    ref: str
    commit: str
    comfyui_version: str = ""
    torch: str = ""
    python: str = ""
    engine: str = ""
    arguments: tuple[str, ...] = ()


class Receipt(Model):
    """Everything that was put on this machine."""

    made_by: str = MADE_BY
    format: int = 1
    complete: bool = False
    installed_at: AwareDatetime | None = None
    changed_at: AwareDatetime | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    current: InstalledVersion | None = None
    previous: InstalledVersion | None = None
    files: tuple[InstalledFile, ...] = ()
    nodes: tuple[InstalledNode, ...] = ()
    service: str = ""
    """Kind of the service: systemd, launchd, windows, background, system or none."""
    service_files: tuple[str, ...] = ()
    """Files outside the folder, for the uninstaller."""
    settings_file: str = ""
    url: str = ""

    @property
    def known_hashes(self) -> dict[str, str]:
        """Hashes of files by path below models."""
        return {file.path: file.sha256 for file in self.files}

    def with_file(self, file: InstalledFile) -> Self:
        """With one file added or replaced."""
        others = tuple(f for f in self.files if f.path != file.path)
        return self.model_copy(update={"files": tuple(sorted((*others, file), key=lambda f: f.path))})

    def with_node(self, node: InstalledNode) -> Self:
        """With one node package added or replaced."""
        others = tuple(n for n in self.nodes if n.name != node.name)
        return self.model_copy(update={"nodes": tuple(sorted((*others, node), key=lambda n: n.name))})


def read_receipt(layout: Layout) -> Receipt | None:
    """The receipt of a folder; None where there is none.

    Raises:
        ConfigurationError: there is one that cannot be read.
    """
    try:
        text = layout.receipt.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"{str(layout.receipt)!r} cannot be read ({error.strerror}); check its rights"
        ) from None
    try:
        return Receipt.model_validate_json(text)
    except ValidationError:
        raise ConfigurationError(
            f"{str(layout.receipt)!r} is not a receipt of this installer; move the folder {str(layout.folder)!r} away, "
            "or choose another --dir"
        ) from None


def write_receipt(layout: Layout, receipt: Receipt) -> None:
    """Replaces the receipt, where anything in it changed."""
    text = receipt.model_dump_json(indent=1)
    if _text(layout.receipt) != text:
        write_atomically(layout.receipt, text)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
