"""The node classes a simulated ComfyUI knows, from recorded `object_info`, and the model files it seems to have.

Combo lists of model files and of uploaded inputs are live, as on the real server: they shrink with `missing_models`
and grow with uploads.
"""

from __future__ import annotations

import copy
import json
from functools import cache
from importlib import resources
from typing import Any

from hybrid_video.emulators.comfyui.folders import Folders

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".sft", ".gguf")
FOLDERS = (
    "checkpoints",
    "configs",
    "loras",
    "vae",
    "text_encoders",
    "diffusion_models",
    "clip_vision",
    "style_models",
    "embeddings",
    "diffusers",
    "vae_approx",
    "controlnet",
    "gligen",
    "upscale_models",
    "latent_upscale_models",
    "custom_nodes",
    "hypernetworks",
    "photomaker",
    "classifiers",
    "model_patches",
    "audio_encoders",
    "animatediff_models",
    "animatediff_motion_lora",
)
"""Folder names of `GET /models`, observed on ComfyUI 0.3.64, and those AnimateDiff-Evolved adds."""

_UPLOAD_OPTIONS = {"image_upload": "image", "video_upload": "video", "audio_upload": "audio"}
_FOLDER_OF_INPUT = {
    "ckpt_name": "checkpoints",
    "lora_name": "loras",
    "vae_name": "vae",
    "unet_name": "diffusion_models",
    "clip_name": "text_encoders",
    "clip_name1": "text_encoders",
    "clip_name2": "text_encoders",
}
_FOLDER_OF_NODE = {
    "CLIPVisionLoader": "clip_vision",
    "UpscaleModelLoader": "upscale_models",
    "ADE_LoadAnimateDiffModel": "animatediff_models",
    "ADE_AnimateDiffLoaderGen1": "animatediff_models",
    "ADE_AnimateDiffLoRALoader": "animatediff_motion_lora",
}

InputConfig = tuple[Any, dict[str, Any]]
"""Type (a name, or a list of choices) and options of one input."""


class NodeCatalog:
    """What `GET /object_info` shows and validation goes by.

    Args:
        missing_models: file names taken out of every list, as if not downloaded.
        missing_nodes: classes that do not exist, as if the custom node were not installed.
        folders: where uploaded files are; without it there are none.
    """

    def __init__(
        self,
        *,
        missing_models: frozenset[str] = frozenset(),
        missing_nodes: frozenset[str] = frozenset(),
        folders: Folders | None = None,
    ) -> None:
        self._missing_models = missing_models
        self._missing_nodes = missing_nodes
        self._folders = folders

    def __contains__(self, class_type: object) -> bool:
        return class_type in _recorded() and class_type not in self._missing_nodes

    def names(self) -> list[str]:
        """Every class."""
        return [name for name in _recorded() if name not in self._missing_nodes]

    def info(self, class_type: str) -> dict[str, Any] | None:
        """The `object_info` entry of one class with its lists as they are now; None if there is no such class."""
        if class_type not in self:
            return None
        entry = copy.deepcopy(_recorded()[class_type])
        for category in ("required", "optional"):
            for name, config in entry["input"].get(category, {}).items():
                _replace_choices(config, self._choices(class_type, name, config))
        return entry

    def inputs(self, class_type: str, category: str) -> dict[str, InputConfig]:
        """Inputs of a class in declared order; `category` is required or optional."""
        entry = self.info(class_type) or {"input": {}}
        declared: dict[str, list[Any]] = entry["input"].get(category, {})
        return {name: (config[0], config[1] if len(config) > 1 else {}) for name, config in declared.items()}

    def outputs(self, class_type: str) -> list[Any]:
        """Output types by slot."""
        return list(_recorded()[class_type]["output"])

    def is_output(self, class_type: str) -> bool:
        """Whether the class saves or shows something."""
        return bool(_recorded()[class_type].get("output_node"))

    def has_file(self, name: str) -> bool:
        """Whether an input such as LoadImage's `image` names a file that is there; `sub/a.png [temp]` is allowed."""
        return self._folders is not None and self._folders.input_path(name).is_file()

    def models(self) -> dict[str, list[str]]:
        """Model files by folder, for `GET /models/{folder}`."""
        found: dict[str, set[str]] = {folder: set() for folder in FOLDERS}
        for class_type in self.names():
            for category in ("required", "optional"):
                for name, (kind, options) in self.inputs(class_type, category).items():
                    folder = _FOLDER_OF_NODE.get(class_type) or _FOLDER_OF_INPUT.get(name)
                    if folder:
                        found[folder].update(filter(_is_model, choices_of(kind, options) or []))
        return {folder: sorted(files) for folder, files in found.items()}

    def _choices(self, class_type: str, name: str, config: list[Any]) -> list[Any] | None:
        options = config[1] if len(config) > 1 else {}
        choices = choices_of(config[0], options)
        if choices is None:
            return None
        if upload_kind(options):
            return self._folders.input_names() if self._folders else []
        return [choice for choice in choices if choice not in self._missing_models]


def upload_kind(options: dict[str, Any]) -> str | None:
    """image, video or audio for an input that takes an uploaded file, else None."""
    return next((kind for option, kind in _UPLOAD_OPTIONS.items() if options.get(option)), None)


def choices_of(kind: Any, options: dict[str, Any]) -> list[Any] | None:
    """The choices of a combo input in either style: a list as the type, or `COMBO` with `options`."""
    if isinstance(kind, list):
        return kind
    if kind == "COMBO":
        return list(options.get("options") or [])
    return None


def _replace_choices(config: list[Any], choices: list[Any] | None) -> None:
    if choices is None:
        return
    if isinstance(config[0], list):
        config[0] = choices
    else:
        config[1]["options"] = choices


def _is_model(choice: Any) -> bool:
    return isinstance(choice, str) and choice.lower().endswith(MODEL_SUFFIXES)


@cache
def _recorded() -> dict[str, dict[str, Any]]:
    file = resources.files("hybrid_video.emulators").joinpath("data/object_info.json")
    entries: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return entries
