"""What ComfyUI answers, parsed into frozen records; nothing here does I/O.

Shapes observed on ComfyUI 0.8.0. Fields that older versions lack are optional.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = Mapping[str, Any]
"""A decoded JSON object."""

_DEVICE_NAME = re.compile(r"^(?:[a-z]+:\d+\s+)?(?P<name>.*?)(?:\s+:\s+\S+)?$")


class MalformedError(ValueError):
    """An answer that no ComfyUI gives; the client turns it into a BackendError."""


def normalise_gpu(device: str) -> str:
    """The plain GPU name: `cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync` is `NVIDIA GeForce RTX 4090`."""
    match = _DEVICE_NAME.match(device.strip())
    return match["name"].strip() if match and match["name"].strip() else device.strip()


@dataclass(frozen=True)
class SystemStats:
    """The part of `/system_stats` that routing needs. `gpu` is normalised; `cpu` where there is none."""

    version: str
    gpu: str
    vram_total_gb: float

    @classmethod
    def parse(cls, body: Any) -> SystemStats:
        """Reads the answer of `GET /system_stats`."""
        if not isinstance(body, Mapping) or not isinstance(body.get("system"), Mapping):
            raise MalformedError("no 'system' object in /system_stats")
        devices = body.get("devices")
        first = devices[0] if isinstance(devices, Sequence) and devices else {}
        first = first if isinstance(first, Mapping) else {}
        total = first.get("vram_total")
        return cls(
            version=str(body["system"].get("comfyui_version", "")),
            gpu=normalise_gpu(str(first.get("name", ""))),
            vram_total_gb=total / 2**30 if isinstance(total, int | float) else 0.0,
        )


@dataclass(frozen=True)
class QueueState:
    """Ids in `/queue`: what runs now and what waits, the waiting in execution order."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    @classmethod
    def parse(cls, body: Any) -> QueueState:
        """Reads `GET /queue`, whose pending list is a heap and so is sorted by `number` here."""
        if not isinstance(body, Mapping):
            raise MalformedError("/queue is not an object")
        running, pending = body.get("queue_running"), body.get("queue_pending")
        if not isinstance(running, list) or not isinstance(pending, list):
            raise MalformedError("/queue has no queue_running and queue_pending lists")
        try:
            ordered = sorted(pending, key=lambda item: (float(item[0]), str(item[1])))
            return cls(tuple(str(item[1]) for item in running), tuple(str(item[1]) for item in ordered))
        except (TypeError, IndexError, KeyError, ValueError) as error:
            raise MalformedError(f"/queue holds an item of an unknown shape: {error}") from None


@dataclass(frozen=True)
class NodeError:
    """One validation error of one node, from `node_errors`."""

    node: str
    class_type: str
    type: str
    message: str
    details: str
    input_name: str = ""
    received: str = ""


@dataclass(frozen=True)
class PromptAnswer:
    """A 200 of `POST /prompt`. With `node_errors` some outputs were dropped silently: it must not count."""

    prompt_id: str
    number: str
    node_errors: tuple[NodeError, ...]


def parse_prompt_answer(body: Any) -> PromptAnswer:
    """Reads the body of an accepted `POST /prompt`."""
    if not isinstance(body, Mapping) or "prompt_id" not in body:
        raise MalformedError("no prompt_id in the answer to POST /prompt")
    return PromptAnswer(
        prompt_id=str(body["prompt_id"]),
        number=str(body.get("number", "")),
        node_errors=parse_node_errors(body.get("node_errors")),
    )


def parse_node_errors(errors: Any) -> tuple[NodeError, ...]:
    """Flattens `node_errors`: `{node: {class_type, errors: [{type, message, details, extra_info}]}}`."""
    found: list[NodeError] = []
    for node, entry in (errors if isinstance(errors, Mapping) else {}).items():
        entry_map = entry if isinstance(entry, Mapping) else {}
        listed = entry_map.get("errors")
        for error in listed if isinstance(listed, list) else []:
            extra = error.get("extra_info") if isinstance(error, Mapping) else None
            extra = extra if isinstance(extra, Mapping) else {}
            found.append(
                NodeError(
                    node=str(node),
                    class_type=str(entry_map.get("class_type", "")),
                    type=str(error.get("type", "")) if isinstance(error, Mapping) else "",
                    message=str(error.get("message", "")) if isinstance(error, Mapping) else str(error),
                    details=str(error.get("details", "")) if isinstance(error, Mapping) else "",
                    input_name=str(extra.get("input_name", "")),
                    received=str(extra.get("received_value", "")),
                )
            )
    return tuple(found)


@dataclass(frozen=True)
class HistoryEntry:
    """One finished prompt. Times are seconds by the server's own clock."""

    prompt_id: str
    status: str
    """`success` or `error`; interrupted prompts are `error` too."""
    outputs: Mapping[str, Json]
    """In execution order, by node id."""
    graph: Mapping[str, Json] = field(default_factory=dict)
    executed: tuple[str, ...] = ()
    """Output nodes that the server ran; fewer than the graph has when validation dropped some."""
    messages: tuple[tuple[str, Json], ...] = ()
    created_s: float | None = None

    @classmethod
    def parse(cls, prompt_id: str, body: Any) -> HistoryEntry:
        """Reads the value under the prompt id of `GET /history/{id}`."""
        if not isinstance(body, Mapping):
            raise MalformedError("a history entry is not an object")
        status = body.get("status") if isinstance(body.get("status"), Mapping) else {}
        outputs = body.get("outputs")
        prompt = body.get("prompt")
        parts = prompt if isinstance(prompt, list) and len(prompt) >= 5 else [0, prompt_id, {}, {}, []]
        extra = parts[3] if isinstance(parts[3], Mapping) else {}
        created = extra.get("create_time")
        # Versions before the status object wrote history only for prompts that had run to the end.
        word = str(status.get("status_str", "success")) if status is not None else "success"
        return cls(
            prompt_id=prompt_id,
            status=word,
            outputs=outputs if isinstance(outputs, Mapping) else {},
            graph=parts[2] if isinstance(parts[2], Mapping) else {},
            executed=tuple(str(node) for node in parts[4]) if isinstance(parts[4], list) else (),
            messages=_messages(status.get("messages") if status is not None else None),
            created_s=created / 1000 if isinstance(created, int | float) else None,
        )

    def last(self, name: str) -> Json | None:
        """The last message of this name."""
        return next((data for word, data in reversed(self.messages) if word == name), None)

    @property
    def started_s(self) -> float | None:
        """When it began to run."""
        return _timestamp(self.last("execution_start"))

    @property
    def execution_s(self) -> float | None:
        """How long it ran, whatever the end."""
        ends = ("execution_success", "execution_error", "execution_interrupted")
        end = next((at for name in ends if (at := _timestamp(self.last(name))) is not None), None)
        start = self.started_s
        return max(0.0, end - start) if start is not None and end is not None else None

    @property
    def queue_s(self) -> float | None:
        """How long it waited; None on servers that do not stamp prompts (0.3.x)."""
        start = self.started_s
        return max(0.0, start - self.created_s) if start is not None and self.created_s is not None else None


def _messages(raw: Any) -> tuple[tuple[str, Json], ...]:
    pairs = raw if isinstance(raw, list) else []
    return tuple(
        (str(pair[0]), pair[1])
        for pair in pairs
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], Mapping)
    )


def _timestamp(message: Json | None) -> float | None:
    stamp = message.get("timestamp") if message else None
    return stamp / 1000 if isinstance(stamp, int | float) else None
