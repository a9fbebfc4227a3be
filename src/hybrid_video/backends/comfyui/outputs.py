"""Finds the clip among a prompt's outputs.

Savers differ in where they put their files: core savers and SaveWEBM use `images` also for videos, VHS_VideoCombine
uses `gifs`. So every list of objects with a `filename` is walked, whatever its key, and a video is known by its
extension or format (observed on ComfyUI 0.8.0; VideoHelperSuite of 2026-05).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hybrid_video.backends.comfyui.records import HistoryEntry

PREFERENCE = (".mp4", ".webm", ".mov", ".mkv", ".webp", ".gif")
"""Containers a clip may come in, the most wanted first."""

MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".webp": "image/webp",
    ".gif": "image/gif",
}


@dataclass(frozen=True)
class OutputFile:
    """One file that history names."""

    node: str
    filename: str
    subfolder: str
    type: str
    format: str = ""
    animated: bool = False

    @property
    def suffix(self) -> str:
        """Extension in lower case, with its dot."""
        return "." + self.filename.rpartition(".")[2].lower() if "." in self.filename else ""

    @property
    def is_video(self) -> bool:
        """Whether it moves: a still WEBP or a picture does not count."""
        if self.suffix == ".webp":
            return self.animated or bool(self.format)
        return self.suffix in PREFERENCE

    @property
    def parameters(self) -> dict[str, str]:
        """Query of `/view`."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}


def output_files(entry: HistoryEntry) -> tuple[OutputFile, ...]:
    """Every file of a finished prompt that lies in the output folder, in execution order; previews are left out."""
    files = [file for node, output in entry.outputs.items() for file in _files(node, output)]
    return tuple(dict.fromkeys(file for file in files if file.type == "output"))


def videos(entry: HistoryEntry, output_node: str = "") -> tuple[OutputFile, ...]:
    """The videos among them, best first: the given node's, then by container, then the one made last."""
    found = [file for file in output_files(entry) if file.is_video]
    ranked = sorted(
        enumerate(found),
        key=lambda pair: (pair[1].node != output_node, PREFERENCE.index(pair[1].suffix), -pair[0]),
    )
    return tuple(file for _, file in ranked)


def _files(node: str, output: Any) -> Iterator[OutputFile]:
    if not isinstance(output, Mapping):
        return
    animated = output.get("animated")
    moves = any(animated) if isinstance(animated, list) else bool(animated)
    for items in output.values():
        for item in items if isinstance(items, list) else ():
            if isinstance(item, Mapping) and isinstance(item.get("filename"), str) and item["filename"]:
                yield OutputFile(
                    node=str(node),
                    filename=item["filename"],
                    subfolder=str(item.get("subfolder") or ""),
                    type=str(item.get("type") or "output"),
                    format=str(item.get("format") or ""),
                    animated=moves,
                )
