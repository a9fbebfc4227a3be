"""What must be true before anything is changed: the folder is ours or empty, and the port is free."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

import httpx

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.hardware import port_owner
from hybrid_video.installer.layout import Layout
from hybrid_video.installer.receipt import Receipt
from hybrid_video.models import Model

OTHERS = ("ComfyUI", "comfy/ComfyUI", "comfyui", "Documents/ComfyUI", "stable-diffusion/ComfyUI")
"""Where other installers put ComfyUI below the home folder (comfy-cli's default is ~/comfy/ComfyUI)."""


class ForeignComfyUI(Model):
    """A ComfyUI that somebody else installed."""

    place: str
    version: str = ""
    models: str = ""


def check_folder(layout: Layout, receipt: Receipt | None) -> None:
    """Refuses a folder that holds something else.

    Raises:
        ConfigurationError: it does, or it cannot be written.
    """
    folder = layout.folder
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"--dir {str(folder)!r} is a file; choose a folder")
    others = [entry.name for entry in folder.iterdir() if entry.name != "progress"] if folder.exists() else []
    if receipt is None and others:
        what = "a ComfyUI that somebody else installed" if _is_comfyui(folder) else f"other things ({others[0]!r})"
        raise ConfigurationError(
            f"--dir {str(folder)!r} holds {what}; nothing was touched. Choose an empty --dir. To use a ComfyUI that is "
            f"there already, start it and set HYBRID_VIDEO_COMFYUI_URLS to its address; its models can be shared with "
            f"--mirror {str(folder / 'models')!r}"
        )
    try:
        layout.folder.mkdir(parents=True, exist_ok=True)
        probe = layout.folder / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigurationError(
            f"--dir {str(folder)!r} cannot be written ({error.strerror}); choose a folder of your own"
        ) from None


def check_port(port: int, *, ours_runs: bool) -> None:
    """Refuses a port that somebody else has.

    Raises:
        ConfigurationError: naming who has it where that can be seen.
    """
    if ours_runs or port_is_free(port):
        return
    url = f"http://127.0.0.1:{port}"
    version = comfyui_at(url)
    if version is not None:
        raise ConfigurationError(
            f"a ComfyUI {version} that this installer did not start answers at {url}; use it as it is by setting "
            f"HYBRID_VIDEO_COMFYUI_URLS={url}, or install beside it with --port {free_port(port + 1)}"
        )
    owner = port_owner(port)
    raise ConfigurationError(
        f"port {port} is taken{' by ' + owner if owner else ''}; choose another with --port {free_port(port + 1)}, or "
        "stop what has it"
    )


def port_is_free(port: int) -> bool:
    """Whether nobody listens on 127.0.0.1 at this port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(start: int) -> int:
    """The next free port from here on."""
    return next((port for port in range(start, min(start + 200, 65536)) if port_is_free(port)), start)


def comfyui_at(url: str) -> str | None:
    """Version of the ComfyUI at an address; None when none answers."""
    with contextlib.suppress(httpx.HTTPError, ValueError, AttributeError, TypeError):
        answer = httpx.get(f"{url}/system_stats", timeout=3, trust_env=False)
        if answer.status_code == 200:
            return str(answer.json()["system"].get("comfyui_version") or "of unknown version")
    return None


def find_foreign(layout: Layout, home: Path | None = None) -> tuple[ForeignComfyUI, ...]:
    """ComfyUIs in the usual places that are not ours; they are told of and left alone."""
    home = home or Path.home()
    found = []
    for name in OTHERS:
        place = home / name
        if _is_comfyui(place) and layout.folder not in (place, *place.parents):
            models = place / "models"
            found.append(ForeignComfyUI(place=str(place), models=str(models) if models.is_dir() else ""))
    return tuple(found)


def _is_comfyui(folder: Path) -> bool:
    return (folder / "main.py").is_file() and (folder / "nodes.py").is_file()
