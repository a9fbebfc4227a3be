"""The shipped workflow templates: a graph and a manifest each, as package data.

The model files are those of the Comfy-Org repackaged repositories, as the official templates of ComfyUI name them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Literal

from pydantic import Field

from hybrid_video.models import Model
from hybrid_video.workflows.graph import Graph, check_graph
from hybrid_video.workflows.sizing import FrameRule, SizeRule

DEFAULT_TEMPLATE = "wan2.2-ti2v-5b"
"""What `auto` means: one model that makes both kinds and fits an 8 GB card."""


class ModelFile(Model):
    """A file a workflow loads, below ComfyUI's `models/` folder."""

    folder: str = Field(description="Folder below models/, e.g. diffusion_models.")
    file: str
    url: str = Field("", description="Where to get it; empty when not known.")
    size_gib: float | None = None


class CustomNodes(Model):
    """A package of nodes that is not part of ComfyUI."""

    name: str
    url: str


class Switch(Model):
    """A named yes/no choice of a template, and what changes in the graph when it is off."""

    default: bool
    off: dict[str, Any] = Field(description='"node.input" -> value or link.')


class WithoutImage(Model):
    """What a text-to-video run leaves out of the graph."""

    remove: tuple[str, ...]


class TemplateInfo(Model):
    """Manifest of one template."""

    name: str
    title: str
    summary: str
    kinds: tuple[Literal["text-to-video", "image-to-video"], ...] = Field(min_length=1)
    min_vram_gb: float
    min_vram_basis: str
    steps: int
    frames: FrameRule
    size: SizeRule
    models: tuple[ModelFile, ...]
    custom_nodes: tuple[CustomNodes, ...] = ()
    bind: dict[str, tuple[str, ...]] = Field(description='Job field or further input -> "node.input".')
    switches: dict[str, Switch] = Field(default_factory=dict)
    without_image: WithoutImage | None = None

    @property
    def further_inputs(self) -> tuple[str, ...]:
        """Names `job.inputs` may use."""
        return (*(name for name in self.bind if name not in JOB_FIELDS), *self.switches)


JOB_FIELDS = frozenset({"prompt", "negative_prompt", "seed", "image", "width", "height", "frames", "fps"})


def _folder() -> resources.abc.Traversable:
    return resources.files(__package__).joinpath("templates")


@cache
def template_names() -> tuple[str, ...]:
    """Names of the shipped templates, the one `auto` stands for first."""
    names = sorted(entry.name.removesuffix(".toml") for entry in _folder().iterdir() if entry.name.endswith(".toml"))
    return (DEFAULT_TEMPLATE, *(name for name in names if name != DEFAULT_TEMPLATE))


@cache
def template_info(name: str) -> TemplateInfo:
    """Manifest of a shipped template. `name` must be one of `template_names()`."""
    text = _folder().joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return TemplateInfo.model_validate(tomllib.loads(text))


@cache
def template_graph(name: str) -> Graph:
    """Graph of a shipped template. Shared: copy it before changing it."""
    text = _folder().joinpath(f"{name}.json").read_text(encoding="utf-8")
    return check_graph(json.loads(text), f"{name}.json")


def describe() -> tuple[TemplateInfo, ...]:
    """Every shipped template, for the command line and the documentation."""
    return tuple(template_info(name) for name in template_names())


@cache
def known_models() -> Mapping[str, ModelFile]:
    """Every model file the templates name, by file name."""
    return {model.file: model for info in describe() for model in info.models}


_LOADERS: dict[str, tuple[tuple[str, str], ...]] = {
    "UNETLoader": (("unet_name", "diffusion_models"),),
    "CLIPLoader": (("clip_name", "text_encoders"),),
    "DualCLIPLoader": (("clip_name1", "text_encoders"), ("clip_name2", "text_encoders")),
    "VAELoader": (("vae_name", "vae"),),
    "CLIPVisionLoader": (("clip_name", "clip_vision"),),
    "CheckpointLoaderSimple": (("ckpt_name", "checkpoints"),),
    "ImageOnlyCheckpointLoader": (("ckpt_name", "checkpoints"),),
    "LoraLoader": (("lora_name", "loras"),),
    "LoraLoaderModelOnly": (("lora_name", "loras"),),
    "UpscaleModelLoader": (("model_name", "upscale_models"),),
    "ADE_AnimateDiffLoaderGen1": (("model_name", "animatediff_models"),),
    "ADE_AnimateDiffLoaderWithContext": (("model_name", "animatediff_models"),),
    "ADE_LoadAnimateDiffModel": (("model_name", "animatediff_models"),),
}

_BUILT_IN = frozenset({"pixel_space"})


def models_of(graph: Graph) -> tuple[ModelFile, ...]:
    """The model files a graph loads, in its order, each once; with their source where a template knows it."""
    found: dict[tuple[str, str], ModelFile] = {}
    for node in graph.values():
        for name, folder in _LOADERS.get(node["class_type"], ()):
            file = node["inputs"].get(name)
            if isinstance(file, str) and file and file not in _BUILT_IN:
                known = known_models().get(file)
                url, size = (known.url, known.size_gib) if known else ("", None)
                found.setdefault((folder, file), ModelFile(folder=folder, file=file, url=url, size_gib=size))
    return tuple(found.values())
