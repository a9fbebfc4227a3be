"""Turns websocket messages about one prompt into a share between 0 and 1. Pure.

ComfyUI says which nodes have finished and the step of the running one, not how long a node takes. Sampling dominates
video workflows, then decoding and encoding, so these nodes weigh more: a rule of thumb that only moves a progress bar.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_WEIGHTS = (("sampler", 40.0), ("vaedecode", 6.0), ("save", 4.0), ("combine", 4.0), ("encode", 2.0))


def node_weight(class_type: str) -> float:
    """Relative share of the time a node is expected to take."""
    name = class_type.lower()
    return next((weight for word, weight in _WEIGHTS if word in name), 1.0)


class PromptProgress:
    """What is known of one prompt; fed with messages, asked for `share`."""

    def __init__(self, graph: Mapping[str, Any]) -> None:
        self._weights = {
            str(node_id): node_weight(str(node.get("class_type", "")) if isinstance(node, Mapping) else "")
            for node_id, node in graph.items()
        }
        self._shares: dict[str, float] = {}
        self._running = ""
        self._reached = 0.0
        self.ended = False
        self.heard = False

    @property
    def share(self) -> float:
        """Done so far; never falls, and 1 only when the end was announced."""
        if self.ended:
            return 1.0
        total = sum(self._weights.values()) or 1.0
        done = sum(self._weights.get(node, 0.0) * share for node, share in self._shares.items())
        self._reached = max(self._reached, min(done / total, 0.99))
        return self._reached

    def feed(self, kind: str, data: Mapping[str, Any]) -> None:
        """Takes in one message that carries this prompt's id."""
        self.heard = True
        if kind == "execution_cached":
            for node in _list(data.get("nodes")):
                self._shares[str(node)] = 1.0
        elif kind == "executing":
            self._move_to(data.get("node"))
        elif kind == "executed":
            self._shares[str(data.get("node"))] = 1.0
        elif kind == "progress":
            self._shares[str(data.get("node", self._running))] = _ratio(data.get("value"), data.get("max"))
        elif kind == "progress_state":
            nodes = data.get("nodes")
            for node, state in (nodes if isinstance(nodes, Mapping) else {}).items():
                if isinstance(state, Mapping):
                    finished = state.get("state") == "finished"
                    self._shares[str(node)] = 1.0 if finished else _ratio(state.get("value"), state.get("max"))
        elif kind in ("execution_error", "execution_interrupted"):
            self.ended = True

    def _move_to(self, node: Any) -> None:
        if self._running:
            self._shares[self._running] = 1.0
        if node is None:
            self.ended = True  # sent after history was written, unlike execution_success
        else:
            self._running = str(node)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _ratio(value: Any, most: Any) -> float:
    if isinstance(value, int | float) and isinstance(most, int | float) and most > 0:
        return min(max(value / most, 0.0), 1.0)
    return 0.0
