"""What a running prompt says about itself: websocket messages and the messages of its history."""

from __future__ import annotations

from typing import Any

from hybrid_video.emulators.comfyui.channel import Channel
from hybrid_video.emulators.comfyui.errors import NodeError
from hybrid_video.emulators.comfyui.graph import Graph
from hybrid_video.emulators.comfyui.saving import Shown

_OOM_TIP = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)
_PRINTED_TENSOR = "tensor([[[[0.5216, 0.6902, 0.9216],\n          [0.5216, 0.6902, 0.9216]]]])"


class Reporter:
    """Messages of one prompt.

    Most go to the client that sent it, and to nobody if it gave no id; progress goes to everyone in that case.
    """

    def __init__(self, channel: Channel, prompt_id: str, client_id: str | None) -> None:
        self._channel = channel
        self._prompt_id = prompt_id
        self._client_id = client_id
        self._states: dict[str, dict[str, Any]] = {}
        self.messages: list[list[Any]] = []

    def note(self, kind: str, moment_s: float, data: dict[str, Any], *, everyone: bool = False) -> None:
        """A message that also goes into the history."""
        data = {**data, "prompt_id": self._prompt_id, "timestamp": int(moment_s * 1000)}
        self.messages.append([kind, data])
        if everyone or self._client_id is not None:
            self._channel.send(kind, data, self._client_id)

    def started(self, node: str) -> None:
        """A node begins."""
        self._progress(node, 0.0, 1.0, "running")
        if self._client_id is not None:
            self._channel.node = node
        self._tell("executing", {"node": node, "display_node": node})

    def step(self, node: str, step: int, steps: int) -> None:
        """A sampler made a step."""
        self._progress(node, float(step), float(steps), "running")
        data = {"value": step, "max": steps, "prompt_id": self._prompt_id, "node": node}
        self._channel.send("progress", data, self._client_id)

    def executed(self, node: str, shown: Shown | None) -> None:
        """A node showed something, now or from the cache."""
        self._tell("executed", {"node": node, "display_node": node, "output": shown})

    def finished(self, node: str) -> None:
        """A node is over."""
        most = self._states.get(node, {"max": 1.0})["max"]
        self._progress(node, most, most, "finished")

    def ended(self) -> None:
        """The end marker, sent when the history has been written."""
        self._channel.node = None
        self._tell("executing", {"node": None})

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        if self._client_id is not None:
            self._channel.send(kind, data | {"prompt_id": self._prompt_id}, self._client_id)

    def _progress(self, node: str, value: float, most: float, state: str) -> None:
        self._states[node] = {
            "value": value,
            "max": most,
            "state": state,
            "node_id": node,
            "prompt_id": self._prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }
        data = {"prompt_id": self._prompt_id, "nodes": dict(self._states)}
        self._channel.send("progress_state", data, self._client_id)


def error_details(error: Exception, graph: Graph, node: str, executed: list[str], cached: list[str]) -> dict[str, Any]:
    """The body of `execution_error`; like the original it prints the inputs of the node, tensors and all."""
    kind = error.kind if isinstance(error, NodeError) else type(error).__name__
    tip = _OOM_TIP if kind == "torch.OutOfMemoryError" else ""
    return {
        "node_id": node,
        "node_type": graph[node]["class_type"],
        "executed": list(executed),
        "exception_message": f"{error}\n{tip}",
        "exception_type": kind,
        "traceback": ['  File "/opt/ComfyUI/execution.py", line 496, in execute\n'],
        "current_inputs": {
            name: [_PRINTED_TENSOR if isinstance(value, list) else value]
            for name, value in graph[node]["inputs"].items()
        },
        "current_outputs": [*cached, *executed, node],
    }
