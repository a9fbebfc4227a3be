"""The output cache: a node that was the same in the last prompt, with everything upstream of it, does not run again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from hybrid_video.emulators.comfyui.folders import Folders
from hybrid_video.emulators.comfyui.graph import Graph, is_link
from hybrid_video.emulators.comfyui.saving import Shown


def signatures(graph: Graph, order: list[str], folders: Folders) -> dict[str, str]:
    """A signature per node: ids, `_meta` and unrelated nodes do not count; the content of input files does.

    Args:
        order: the nodes, each after everything upstream of it.
    """
    found: dict[str, str] = {}
    for node in order:
        parts: dict[str, Any] = {"class": graph[node]["class_type"]}
        for name, value in sorted(graph[node].get("inputs", {}).items()):
            parts[name] = [found.get(value[0], ""), value[1]] if is_link(value) else value
        for name in ("image", "file"):
            value = parts.get(name)
            if isinstance(value, str) and folders.input_path(value).is_file():
                parts[f"{name} content"] = hashlib.sha256(folders.input_path(value).read_bytes()).hexdigest()
        found[node] = hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
    return found


@dataclass
class NodeCache:
    """What the last prompt left behind: signatures that ran, and what their nodes showed."""

    shown: dict[str, Shown | None] = field(default_factory=dict)

    def keep_only(self, used: set[str]) -> None:
        """Forgets what the prompt about to run does not use."""
        self.shown = {signature: shown for signature, shown in self.shown.items() if signature in used}

    def __contains__(self, signature: object) -> bool:
        return signature in self.shown

    def clear(self) -> None:
        """Forgets everything, as `/free` with `free_memory` does."""
        self.shown.clear()
