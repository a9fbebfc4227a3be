"""Reads an API-format graph without running it: order of nodes, job label, and what each save node would write.

Values are found by walking upstream from a save node, nearest first; links to primitive nodes are followed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from hybrid_video.models import OutputSpec

Graph = dict[str, dict[str, Any]]
ImageSize = Callable[[str], tuple[int, int]]

DEFAULT_SIZE = (512, 512)
SAMPLERS = frozenset({"KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced"})
"""Nodes that report each step."""

_VIDEO_SUFFIX = {
    "SaveVideo": ".mp4",
    "SaveWEBM": ".webm",
    "SaveAnimatedWEBP": ".webp",
    "SaveAnimatedPNG": ".png",
    "SaveImage": ".png",
    "PreviewImage": ".png",
}
_VHS_SUFFIX = {"image/gif": ".gif", "video/ffmpeg-gif": ".gif", "image/webp": ".webp"}
_FRAME_INPUTS = ("length", "video_frames", "num_frames", "frames", "batch_size")
_FPS_INPUTS = ("fps", "frame_rate")
_SEED_INPUTS = ("seed", "noise_seed")
_TEXT_INPUTS = ("text", "prompt", "value", "string", "string_a")
_LATENT_VIDEO = re.compile(r"^(Wan|EmptyHunyuan|EmptyCosmos)")
_PREFIX = re.compile(r"(?:^|/)hv/([^/]+)/([^/]+)-[0-9a-f]{8}(?:[^0-9a-f].*)?$")
_MODELS = (
    (re.compile(r"ti2v.?5b", re.IGNORECASE), "wan2.2-ti2v-5b"),
    (re.compile(r"wan2\.?2.*i2v.*14b", re.IGNORECASE), "wan2.2-i2v-14b"),
    (re.compile(r"wan2\.?2.*t2v.*14b", re.IGNORECASE), "wan2.2-t2v-14b"),
    (re.compile(r"wan2\.?1.*i2v.*14b", re.IGNORECASE), "wan2.1-i2v-14b"),
    (re.compile(r"wan2\.?1.*t2v.*1\.3b", re.IGNORECASE), "wan2.1-t2v-1.3b"),
    (re.compile(r"svd", re.IGNORECASE), "svd-xt"),
    (re.compile(r"(^|[/_])mm_sd|_mm\.ckpt|animatediff", re.IGNORECASE), "animatediff"),
)


@dataclass(frozen=True)
class ClipPlan:
    """What one save node would write."""

    node: str
    class_type: str
    prefix: str
    suffix: str
    prompt: str
    seed: int
    width: int
    height: int
    fps: float
    frames: int
    audio: bool = False
    keep: bool = True

    @property
    def output(self) -> OutputSpec:
        """The same as the product's own noun; sizes below 16 pixels count as 16."""
        return OutputSpec(width=max(16, self.width), height=max(16, self.height), fps=self.fps, frames=self.frames)


def is_link(value: Any) -> bool:
    """Whether an input is a link to another node's output."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def links(graph: Graph, node: str) -> Iterator[str]:
    """Nodes directly upstream, in the order of the inputs."""
    for value in graph[node].get("inputs", {}).values():
        if is_link(value) and value[0] in graph:
            yield value[0]


def execution_order(graph: Graph, outputs: list[str]) -> list[str]:
    """The nodes the outputs need, each after everything it depends on."""
    order: list[str] = []
    stack = [(output, False) for output in reversed(outputs)]
    seen: set[str] = set()
    while stack:
        node, ready = stack.pop()
        if ready:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(source, False) for source in reversed(list(links(graph, node)))]
    return order


def value_of(graph: Graph, value: Any, depth: int = 12) -> Any:
    """A literal, or what a chain of primitive nodes holds; None when it cannot be known without running."""
    while is_link(value) and depth and value[0] in graph:
        inputs = graph[value[0]].get("inputs", {})
        value = next((inputs[name] for name in _TEXT_INPUTS if name in inputs), None)
        depth -= 1
    return None if isinstance(value, list | dict) else value


def clip_plans(graph: Graph, outputs: list[str], image_size: ImageSize | None = None) -> list[ClipPlan]:
    """What each of these output nodes would write; nodes that save no pictures are left out.

    Args:
        image_size: size of an uploaded file, for graphs that take theirs from it.
    """
    return [_clip_plan(graph, node, image_size) for node in outputs if _suffix(graph[node]) is not None]


def job_label(graph: Graph, extra_data: dict[str, Any] | None = None) -> str:
    """`batch/job` from `extra_data["hybrid_video"]["job"]`, else from the prefix `hv/<batch>/<job>-<8 hex>`.

    A graph with neither is labelled by its first prefix.
    """
    marked = (extra_data or {}).get("hybrid_video")
    if isinstance(marked, dict) and isinstance(marked.get("job"), str):
        return str(marked["job"])
    prefixes = [
        str(node["inputs"]["filename_prefix"])
        for node in graph.values()
        if isinstance(node, dict) and "filename_prefix" in (node.get("inputs") or {})
    ]
    for prefix in prefixes:
        found = _PREFIX.search(prefix)
        if found:
            return f"{found[1]}/{found[2]}"
    return prefixes[0] if prefixes else ""


def model_name(graph: Graph) -> str:
    """The workflow template this looks like, by its model files; empty if it loads none we know."""
    texts = [
        value
        for node in graph.values()
        for value in node.get("inputs", {}).values()
        if isinstance(value, str) and "." in value and len(value) < 200
    ]
    return next((name for pattern, name in _MODELS if any(pattern.search(text) for text in texts)), "")


def steps_of(graph: Graph, node: str) -> int:
    """Steps a sampler reports; 0 for a node that reports none."""
    if graph[node]["class_type"] not in SAMPLERS:
        return 0
    inputs = graph[node]["inputs"]
    steps = next((_number(graph, graph[n]["inputs"], ("steps",)) for n in _upstream(graph, node)), None) or 20
    first, last = value_of(graph, inputs.get("start_at_step")) or 0, value_of(graph, inputs.get("end_at_step"))
    return max(1, int(min(last or steps, steps) - first))


def _suffix(node: dict[str, Any]) -> str | None:
    if node["class_type"] == "VHS_VideoCombine":
        form = str(node["inputs"].get("format", ""))
        return _VHS_SUFFIX.get(form) or (".webm" if "webm" in form else ".mp4")
    return _VIDEO_SUFFIX.get(node["class_type"])


def _upstream(graph: Graph, node: str, *, skip: str = "") -> Iterator[str]:
    """The node and everything upstream, nearest first; inputs named `skip` are not followed."""
    queue, seen = [node], {node}
    while queue:
        current = queue.pop(0)
        yield current
        for name, value in graph[current].get("inputs", {}).items():
            if name != skip and is_link(value) and value[0] in graph and value[0] not in seen:
                seen.add(value[0])
                queue.append(value[0])


def _clip_plan(graph: Graph, node: str, image_size: ImageSize | None) -> ClipPlan:
    inputs = graph[node]["inputs"]
    upstream = list(_upstream(graph, node))
    width, height = _size(graph, upstream, image_size)
    image = next((graph[n]["inputs"].get("image") for n in upstream if graph[n]["class_type"] == "LoadImage"), None)
    return ClipPlan(
        node=node,
        class_type=graph[node]["class_type"],
        prefix=str(value_of(graph, inputs.get("filename_prefix")) or ""),
        suffix=_suffix(graph[node]) or ".mp4",
        prompt=_prompt(graph, node),
        seed=_seed(graph, upstream, str(image) if image else ""),
        width=width,
        height=height,
        fps=_first_fps(graph, upstream),
        frames=_frames(graph, upstream),
        audio=any(is_link(graph[n]["inputs"].get("audio")) for n in upstream),
        keep=bool(inputs.get("save_output", True)),
    )


def _number(graph: Graph, inputs: dict[str, Any], names: tuple[str, ...]) -> float | None:
    for name in names:
        value = value_of(graph, inputs.get(name))
        if isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return value
    return None


def _first_fps(graph: Graph, upstream: list[str]) -> float:
    found = (_number(graph, graph[node]["inputs"], _FPS_INPUTS) for node in upstream)
    return min(240.0, next((float(fps) for fps in found if fps), 24.0))


def _size(graph: Graph, upstream: list[str], image_size: ImageSize | None) -> tuple[int, int]:
    for node in upstream:
        inputs, class_type = graph[node]["inputs"], graph[node]["class_type"]
        width, height = (_number(graph, inputs, (name,)) for name in ("width", "height"))
        if width and height:
            step = 8 if "Latent" in class_type or _LATENT_VIDEO.match(class_type) else 1
            return int(width) // step * step or step, int(height) // step * step or step
        if class_type == "LoadImage" and image_size:
            return image_size(str(inputs.get("image", "")))
    return DEFAULT_SIZE


def _frames(graph: Graph, upstream: list[str]) -> int:
    """Frames of the nearest node that says how many; video models decode 4n+1 of them."""
    repeat = 1
    for node in upstream:
        inputs, class_type = graph[node]["inputs"], graph[node]["class_type"]
        if class_type == "RepeatImageBatch":
            repeat *= int(_number(graph, inputs, ("amount",)) or 1)
        count = _number(graph, inputs, _FRAME_INPUTS)
        if count:
            whole = (int(count) - 1) // 4 * 4 + 1 if _LATENT_VIDEO.match(class_type) else int(count)
            return whole * repeat
    return repeat


def _seed(graph: Graph, upstream: list[str], image: str) -> int:
    found = (_number(graph, graph[node]["inputs"], _SEED_INPUTS) for node in upstream)
    seed = next((int(value) for value in found if value is not None), 0)
    # Another first frame must give another picture.
    return seed ^ int(hashlib.sha256(image.encode()).hexdigest()[:8], 16) if image else seed


def _prompt(graph: Graph, node: str) -> str:
    """The positive prompt: a node titled PROMPT, else what feeds `positive`, else the nearest text."""
    for title in ("PROMPT", "POSITIVE"):
        for entry in graph.values():
            if str((entry.get("_meta") or {}).get("title", "")).strip().upper() == title:
                text = _text(graph, entry)
                if text:
                    return text
    nodes = list(_upstream(graph, node, skip="negative"))
    for current in nodes:
        if is_link(graph[current]["inputs"].get("positive")):
            for source in _upstream(graph, graph[current]["inputs"]["positive"][0], skip="negative"):
                text = _text(graph, graph[source])
                if text:
                    return text
    return next((text for current in nodes if (text := _text(graph, graph[current]))), "")


def _text(graph: Graph, entry: dict[str, Any]) -> str:
    for name in _TEXT_INPUTS:
        value = value_of(graph, entry.get("inputs", {}).get(name))
        if isinstance(value, str) and value.strip():
            return value
    return ""
