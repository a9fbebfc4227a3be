"""Reading and checking the bodies of generation requests, as strictly as the real services: nothing is ignored.

A `duration` of Interactions is a string with an `s`; a number is refused, as observed by a published client.
1080p and 4k of Veo are taken with 8 seconds only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from hybrid_video.emulators.google.answers import invalid
from hybrid_video.emulators.google.models import VideoModel

_INTERACTION_FIELDS = {
    "model",
    "input",
    "background",
    "store",
    "stream",
    "labels",
    "response_format",
    "previous_interaction_id",
    "webhook_config",
    "generation_config",
}
_FORMAT_FIELDS = {"type", "delivery", "aspect_ratio", "resolution", "duration"}
_VEO_PARAMETERS = {
    "durationSeconds",
    "aspectRatio",
    "resolution",
    "negativePrompt",
    "personGeneration",
    "sampleCount",
}
_VEO_CLOUD_PARAMETERS = _VEO_PARAMETERS | {
    "seed",
    "generateAudio",
    "storageUri",
    "fps",
    "resizeMode",
    "compressionQuality",
    "enhancePrompt",
}
_INSTANCE_FIELDS = {"prompt", "image", "lastFrame", "referenceImages", "video"}


@dataclass(frozen=True)
class Wanted:
    """One clip as it was asked for."""

    model: VideoModel
    prompt: str
    seconds: int
    resolution: str
    aspect: str
    seed: int | None
    image: bool
    delivery: str = "uri"
    storage_uri: str = ""
    audio: bool = True
    negative_prompt: str = ""


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request body."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise invalid("Invalid JSON payload received. Unexpected token.") from None
    if not isinstance(body, dict):
        raise invalid("Invalid JSON payload received. Expected an object.")
    return body


def read_interaction(body: dict[str, Any], model: VideoModel) -> Wanted:
    """Checks a `POST /interactions` body."""
    _no_others(body, _INTERACTION_FIELDS, "")
    form = body.get("response_format")
    if not isinstance(form, dict) or form.get("type") != "video":
        raise invalid("response_format.type must be 'video' for this model.")
    _no_others(form, _FORMAT_FIELDS, "response_format.")
    prompt, image = _read_input(body.get("input"))
    config = body.get("generation_config") or {}
    if not isinstance(config, dict):
        raise invalid("Invalid value at 'generation_config'.")
    _no_others(config, {"seed"} if model.seed else set(), "generation_config.")
    return Wanted(
        model=model,
        prompt=prompt,
        seconds=_omni_seconds(form.get("duration"), model),
        resolution=_one_of(form.get("resolution", "720p"), model.resolutions, "response_format.resolution"),
        aspect=_one_of(form.get("aspect_ratio", "16:9"), ("16:9", "9:16"), "response_format.aspect_ratio"),
        delivery=_one_of(form.get("delivery", "inline"), ("inline", "uri"), "response_format.delivery"),
        seed=_seed(config.get("seed")),
        image=image,
    )


def read_veo(body: dict[str, Any], model: VideoModel, *, cloud: bool) -> Wanted:
    """Checks a `predictLongRunning` body."""
    _no_others(body, {"instances", "parameters"} | (set() if cloud else {"webhookConfig"}), "")
    instances, parameters = body.get("instances"), body.get("parameters") or {}
    if not isinstance(instances, list) or len(instances) != 1 or not isinstance(instances[0], dict):
        raise invalid("instances must hold exactly one instance.")
    if not isinstance(parameters, dict):
        raise invalid("Invalid value at 'parameters'.")
    _no_others(instances[0], _INSTANCE_FIELDS, "instances[0].")
    _no_others(parameters, _VEO_CLOUD_PARAMETERS if cloud else _VEO_PARAMETERS, "parameters.")
    if parameters.get("sampleCount", 1) != 1:
        raise invalid("sampleCount must be 1.")
    if not model.references and instances[0].keys() & {"lastFrame", "referenceImages", "video"}:
        raise invalid(f"{model.name} takes a prompt and one image only.")
    resolution = _one_of(parameters.get("resolution", "720p"), model.resolutions, "resolution")
    seconds = _veo_seconds(parameters.get("durationSeconds", model.default_duration), model)
    if resolution != "720p" and seconds != 8:
        raise invalid(f"resolution {resolution} is supported for a durationSeconds of 8 only.")
    prompt = instances[0].get("prompt", "")
    image = instances[0].get("image")
    if not isinstance(prompt, str) or not (prompt or image):
        raise invalid("instances[0].prompt must be a non-empty string.")
    if image is not None:
        _read_veo_image(image)
    return Wanted(
        model=model,
        prompt=prompt,
        seconds=seconds,
        resolution=resolution,
        aspect=_one_of(parameters.get("aspectRatio", "16:9"), ("16:9", "9:16"), "aspectRatio"),
        seed=_seed(parameters.get("seed")),
        image=image is not None,
        storage_uri=str(parameters.get("storageUri", "")),
        audio=bool(parameters.get("generateAudio", True)),
        negative_prompt=str(parameters.get("negativePrompt", "")),
    )


def _no_others(given: dict[str, Any], known: set[str], prefix: str) -> None:
    for name in given:
        if name not in known:
            raise invalid(f'Invalid JSON payload received. Unknown name "{prefix}{name}": Cannot find field.')


def _one_of(value: object, allowed: tuple[str, ...], name: str) -> str:
    if not isinstance(value, str) or value not in allowed:
        raise invalid(f"Invalid value {value!r} at '{name}'. Supported: {', '.join(allowed)}.")
    return value


def _omni_seconds(value: object, model: VideoModel) -> int:
    if value is None:
        return model.default_duration
    match = re.fullmatch(r"(\d+)s", value) if isinstance(value, str) else None
    if match is None:
        raise invalid(f"Invalid value {value!r} at 'response_format.duration'. Expected a string like \"8s\".")
    if int(match[1]) not in model.durations:
        raise invalid(f"duration must be between {model.durations[0]}s and {model.durations[-1]}s for {model.name}.")
    return int(match[1])


def _veo_seconds(value: object, model: VideoModel) -> int:
    seconds = int(value) if isinstance(value, str) and value.isdigit() else value
    if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds not in model.durations:
        raise invalid(f"durationSeconds {value!r} is out of bound. Supported values are 4, 6, 8.")
    return seconds


def _seed(value: object) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32):
        raise invalid(f"Invalid value {value!r} at 'seed'.")
    return value


def _read_input(value: object) -> tuple[str, bool]:
    if isinstance(value, str) and value:
        return value, False
    texts, images = [], 0
    for part in _parts(value):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image" and str(part.get("mime_type", "")).startswith("image/"):
            _check_base64(part.get("data"))
            images += 1
        else:
            raise invalid("Invalid value at 'input'. Expected text and image parts.")
    if not texts:
        raise invalid("input must contain a text prompt.")
    return " ".join(texts), images > 0


def _parts(value: object) -> list[Any]:
    """The content parts: given bare, or inside `user_input` steps as google-genai 3.4.0 sends them."""
    parts: list[Any] = []
    for each in value if isinstance(value, list) else []:
        step = isinstance(each, dict) and each.get("type") == "user_input"
        content = each.get("content") if step else [each]
        parts += content if isinstance(content, list) else [content]
    return parts


def _read_veo_image(image: object) -> None:
    if not isinstance(image, dict):
        raise invalid("Invalid value at 'instances[0].image'.")
    if "gcsUri" in image:
        return
    inline = image.get("inlineData")
    data = inline.get("data") if isinstance(inline, dict) else image.get("bytesBase64Encoded")
    holder = inline if isinstance(inline, dict) else image
    if not str(holder.get("mimeType", "")).startswith("image/"):
        raise invalid("image.mimeType must be an image type.")
    _check_base64(data)


def _check_base64(data: object) -> None:
    try:
        base64.b64decode(data if isinstance(data, str) else "*", validate=True)
    except binascii.Error:
        raise invalid("The image is not valid base64.") from None
