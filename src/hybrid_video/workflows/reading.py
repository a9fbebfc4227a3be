"""What clip a graph will really make, as far as its known nodes tell: size, frames and rate.

The chain is followed upstream from the node that saves the clip. Every part is known or None; a node whose effect is
not known here makes its parts None rather than a guess. Rounding is that of the nodes themselves (latents of Wan and
Hunyuan hold 4n+1 frames; ComfyUI 0.3.64 source, checked by running the weightless ones).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hybrid_video.workflows.graph import Graph, is_link

MAX_DEPTH = 200


@dataclass(frozen=True)
class Measured:
    """A clip's figures, each None where the graph does not tell.

    `rounded` marks formats that cannot keep every rate and frame (GIF, WEBP): figures are near, not exact.
    """

    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    rounded: bool = False

    @property
    def exact(self) -> bool:
        """Whether every figure is known and certain."""
        return not self.rounded and None not in (self.width, self.height, self.frames, self.fps)


NOTHING = Measured()

_PRIMITIVES = frozenset({"PrimitiveInt", "PrimitiveFloat", "PrimitiveNode", "INTConstant", "FloatConstant"})

_SAME_IMAGES = {
    "ImageAddNoise": "image",
    "ImageBlur": "image",
    "ImageSharpen": "image",
    "ImageQuantize": "image",
    "ImageInvert": "image",
    "ImageBlend": "image1",
    "WanMoveVisualizeTracks": "images",
}

_SAMPLERS = {
    "KSampler": "latent_image",
    "KSamplerAdvanced": "latent_image",
    "SamplerCustom": "latent_image",
    "SamplerCustomAdvanced": "latent_image",
}


@dataclass(frozen=True)
class _Latent:
    """How a latent node turns its inputs into a clip: floor to `multiple`, frames to `base + n * step`."""

    frames_input: str
    multiple: int
    step: int = 1
    base: int = 1


_LATENTS = {
    "EmptyLatentImage": _Latent("batch_size", 8),
    "ADE_EmptyLatentImageLarge": _Latent("batch_size", 8),
    "EmptyHunyuanLatentVideo": _Latent("length", 16, 4),
    "WanImageToVideo": _Latent("length", 16, 4),
    "WanFirstLastFrameToVideo": _Latent("length", 16, 4),
    "Wan22ImageToVideoLatent": _Latent("length", 32, 4),
    "SVD_img2vid_Conditioning": _Latent("video_frames", 8),
    "EmptyLTXVLatentVideo": _Latent("length", 32, 8),
    "LTXVImgToVideo": _Latent("length", 32, 8),
}


def read_output(graph: Graph, save_node: str) -> Measured:
    """The clip that `save_node` will write.

    Args:
        graph: A checked graph with its values set.
        save_node: Id of the node that saves the clip.
    """
    node = graph[save_node]
    reader = _SAVERS.get(node["class_type"])
    return reader(_Reader(graph), node["inputs"]) if reader else NOTHING


class _Reader:
    """Follows links through one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._images: dict[str, Measured] = {}  # nested switches would otherwise be walked 2^n times

    def number(self, value: object, depth: int = 0) -> float | None:
        """A literal number, or the number of the primitive node it is linked to."""
        if isinstance(value, bool) or depth > MAX_DEPTH:
            return None
        if isinstance(value, int | float):
            return float(value)
        if is_link(value):
            node = self.graph[value[0]]
            if node["class_type"] in _PRIMITIVES:
                return self.number(node["inputs"].get("value"), depth + 1)
        return None

    def whole(self, value: object) -> int | None:
        """Like `number`, as a whole number."""
        number = self.number(value)
        return None if number is None else int(number)

    def images(self, value: object, depth: int = 0) -> Measured:
        """The frames that arrive over a link to an image output."""
        if not is_link(value) or depth > MAX_DEPTH:
            return NOTHING
        id_ = value[0]
        if id_ not in self._images:
            self._images[id_] = self._read_images(self.graph[id_], depth)
        return self._images[id_]

    def _read_images(self, node: dict[str, Any], depth: int) -> Measured:
        class_type, inputs = node["class_type"], node["inputs"]
        if class_type in _SAME_IMAGES:
            return self.images(inputs.get(_SAME_IMAGES[class_type]), depth + 1)
        if class_type in ("VAEDecode", "VAEDecodeTiled"):
            return self.latent(inputs.get("samples"), depth + 1)
        if class_type == "ComfySwitchNode":
            sides = {self.images(inputs.get(side), depth + 1) for side in ("on_false", "on_true")}
            return sides.pop() if len(sides) == 1 else NOTHING
        reader = _IMAGES.get(class_type)
        return reader(self, inputs, depth) if reader else NOTHING

    def latent(self, value: object, depth: int = 0) -> Measured:
        """The frames that a latent will decode to."""
        if not is_link(value) or depth > MAX_DEPTH:
            return NOTHING
        node = self.graph[value[0]]
        class_type, inputs = node["class_type"], node["inputs"]
        if class_type in _SAMPLERS:
            return self.latent(inputs.get(_SAMPLERS[class_type]), depth + 1)
        rule = _LATENTS.get(class_type)
        if rule is None or (rule.step > 1 and self.number(inputs.get("batch_size", 1)) != 1):
            return NOTHING
        frames = self.whole(inputs.get(rule.frames_input))
        if frames is not None:
            frames = rule.base + (frames - rule.base) // rule.step * rule.step
        return Measured(
            width=_floored(self.whole(inputs.get("width")), rule.multiple),
            height=_floored(self.whole(inputs.get("height")), rule.multiple),
            frames=frames,
        )


def _floored(value: int | None, multiple: int) -> int | None:
    return None if value is None else value // multiple * multiple


def _empty_image(reader: _Reader, inputs: dict[str, Any], _depth: int) -> Measured:
    return Measured(
        width=reader.whole(inputs.get("width")),
        height=reader.whole(inputs.get("height")),
        frames=reader.whole(inputs.get("batch_size", 1)),
    )


def _image_scale(reader: _Reader, inputs: dict[str, Any], depth: int) -> Measured:
    source = reader.images(inputs.get("image"), depth + 1)
    width, height = reader.whole(inputs.get("width")), reader.whole(inputs.get("height"))
    known = bool(width) and bool(height)  # a zero keeps the proportions
    return replace(source, width=width if known else None, height=height if known else None)


def _image_from_batch(reader: _Reader, inputs: dict[str, Any], depth: int) -> Measured:
    source = reader.images(inputs.get("image"), depth + 1)
    start, length = reader.whole(inputs.get("batch_index")), reader.whole(inputs.get("length"))
    if source.frames is None or start is None or length is None:
        return replace(source, frames=None)
    start = min(start, source.frames - 1)
    return replace(source, frames=min(length, source.frames - start))


def _repeat_images(reader: _Reader, inputs: dict[str, Any], depth: int) -> Measured:
    source, amount = reader.images(inputs.get("image"), depth + 1), reader.whole(inputs.get("amount"))
    frames = None if source.frames is None or amount is None else source.frames * amount
    return replace(source, frames=frames)


def _load_image(_reader: _Reader, _inputs: dict[str, Any], _depth: int) -> Measured:
    return Measured(frames=1)


_IMAGES: dict[str, Callable[[_Reader, dict[str, Any], int], Measured]] = {
    "LoadImage": _load_image,
    "EmptyImage": _empty_image,
    "ImageScale": _image_scale,
    "ImageFromBatch": _image_from_batch,
    "RepeatImageBatch": _repeat_images,
}


def _save_video(reader: _Reader, inputs: dict[str, Any]) -> Measured:
    video = inputs.get("video")
    if not is_link(video):
        return NOTHING
    node = reader.graph[video[0]]
    if node["class_type"] != "CreateVideo":
        return NOTHING
    source = node["inputs"]
    return replace(reader.images(source.get("images")), fps=reader.number(source.get("fps")))


def _save_webm(reader: _Reader, inputs: dict[str, Any]) -> Measured:
    return replace(reader.images(inputs.get("images")), fps=reader.number(inputs.get("fps")))


def _video_combine(reader: _Reader, inputs: dict[str, Any]) -> Measured:
    source = reader.images(inputs.get("images"))
    if inputs.get("pingpong") is not False and source.frames is not None:
        source = replace(source, frames=max(source.frames, 2 * source.frames - 2))
    # GIF and WEBP count in hundredths and thousandths of a second.
    rounded = not str(inputs.get("format", "")).startswith("video/")
    return replace(source, fps=reader.number(inputs.get("frame_rate")), rounded=rounded)


def _animated_webp(reader: _Reader, inputs: dict[str, Any]) -> Measured:
    # Equal neighbours may be merged into one longer frame, and a frame lasts whole milliseconds.
    return replace(reader.images(inputs.get("images")), fps=reader.number(inputs.get("fps")), rounded=True)


_SAVERS: dict[str, Callable[[_Reader, dict[str, Any]], Measured]] = {
    "SaveVideo": _save_video,
    "SaveWEBM": _save_webm,
    "VHS_VideoCombine": _video_combine,
    "SaveAnimatedWEBP": _animated_webp,
}
