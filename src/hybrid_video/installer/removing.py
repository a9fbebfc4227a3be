"""Takes an installation away, and only it: what is not named in its receipt or does not lie in its folder stays."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from hybrid_video.installer.layout import Layout
from hybrid_video.installer.receipt import Receipt, write_receipt
from hybrid_video.installer.service import Service
from hybrid_video.installer.settings_file import remove_url
from hybrid_video.models import Model

OUTPUTS = ("output", "input", "user")


class Removal(Model):
    """What was taken away and what stayed."""

    removed: tuple[str, ...]
    kept: tuple[str, ...]

    def finish(self, layout: Layout) -> None:
        """Takes the installer's own log away, and the folder where nothing is left in it."""
        shutil.rmtree(layout.progress, ignore_errors=True)
        for folder in (layout.data, layout.folder):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def remove(
    layout: Layout,
    receipt: Receipt,
    service: Service | None,
    *,
    delete_models: bool,
    delete_outputs: bool,
    say: Callable[[str], None],
) -> Removal:
    """Removes the installation; safe to call again after being broken off.

    The receipt goes last, so that what was broken off can be gone on with.
    """
    removed: list[str] = []
    kept: list[str] = []
    if service is not None:
        service.uninstall()
        removed.append(f"service ({service.kind})")
        say("the service is gone")
    if receipt.settings_file and receipt.url and remove_url(Path(receipt.settings_file), receipt.url):
        removed.append(f"{receipt.url} in {receipt.settings_file}")
    for folder in (layout.versions, layout.service, layout.custom_nodes, layout.data / "temp"):
        _take(folder, removed)
    _choose((layout.models,), delete_models and not layout.models.is_symlink(), removed, kept)
    _choose(tuple(layout.data / name for name in OUTPUTS), delete_outputs, removed, kept)
    if kept:  # what stays is still known: a later run takes it up, a later uninstall may take it away
        files = receipt.files if layout.models.exists() else ()
        write_receipt(layout, Receipt(files=files, options=receipt.options))
    else:
        layout.receipt.unlink(missing_ok=True)
        removed.append(str(layout.receipt))
    return Removal(removed=tuple(removed), kept=tuple(kept))


def _choose(folders: tuple[Path, ...], delete: bool, removed: list[str], kept: list[str]) -> None:
    for folder in folders:
        if delete or _is_hollow(folder):
            _take(folder, removed)
        elif folder.exists():
            kept.append(str(folder))


def _take(folder: Path, removed: list[str]) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    else:
        return
    removed.append(str(folder))


def _is_hollow(folder: Path) -> bool:
    """Whether there is no file in it at any depth."""
    return folder.is_dir() and not any(entry.is_file() or entry.is_symlink() for entry in folder.rglob("*"))
