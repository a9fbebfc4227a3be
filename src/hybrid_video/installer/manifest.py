"""The model bundles: which files make up which, where they come from, and what they must look like."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator

from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import Model
from hybrid_video.workflows import template_info, template_names

NO_MODELS = "none"


class ModelSource(Model):
    """One file. An empty hash is not known: size is checked, and the first download's hash holds from then on."""

    folder: str
    name: str
    url: str
    bytes: int = Field(gt=0)
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    licence: str = ""
    licence_url: str = ""

    @field_validator("folder", "name")
    @classmethod
    def _inside(cls, value: str) -> str:
        parts = PurePosixPath(value).parts
        if not parts or value.startswith("/") or ".." in parts or "\\" in value or ":" in value:
            raise ValueError("must be a plain name below ComfyUI's models folder")
        return value

    @field_validator("url")
    @classmethod
    def _address(cls, value: str) -> str:
        if urlsplit(value).scheme not in {"http", "https"}:
            raise ValueError("must be an http(s) address")
        return value

    @property
    def path(self) -> str:
        """Below `models/`."""
        return f"{self.folder}/{self.name}"


class NodeSource(Model):
    """A package of nodes that is not part of ComfyUI."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    url: str
    ref: str = "HEAD"


class Bundle(Model):
    """A set of files that makes certain workflows run."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str
    summary: str = ""
    workflows: tuple[str, ...] = ()
    files: tuple[ModelSource, ...] = ()
    nodes: tuple[NodeSource, ...] = ()
    min_vram_gb: float = 0

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(file.bytes for file in self.files)

    @property
    def licences(self) -> tuple[str, ...]:
        """What its files are under, each once."""
        return tuple(dict.fromkeys(file.licence or "unknown" for file in self.files))


class _RawBundle(Model):
    id: str
    title: str
    summary: str = ""
    workflows: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    nodes: tuple[NodeSource, ...] = ()
    min_vram_gb: float = 0


class Manifest(Model):
    """Every bundle that can be installed."""

    bundles: tuple[Bundle, ...]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [bundle.id for bundle in self.bundles]
        if len(ids) != len(set(ids)) or NO_MODELS in ids:
            raise ValueError(f"a bundle is there twice, or is called {NO_MODELS!r}")
        return self

    def choose(self, names: Sequence[str]) -> tuple[Bundle, ...]:
        """The bundles with these names; `none` stands for no models.

        Raises:
            InputError: a name is not known.
        """
        wanted = [name for name in dict.fromkeys(names) if name != NO_MODELS]
        known = {bundle.id: bundle for bundle in self.bundles}
        unknown = [name for name in wanted if name not in known]
        if unknown:
            raise InputError(f"--bundle {unknown[0]!r} is not known; choose from {', '.join(known)}, or {NO_MODELS}")
        return tuple(known[name] for name in wanted)

    def recommended(self, vram_gb: float | None) -> str:
        """The bundle a machine should start with."""
        if not vram_gb:
            return NO_MODELS
        fitting = [b for b in self.bundles if b.id in ("video-14b", "video-5b") and b.min_vram_gb <= vram_gb]
        return max(fitting, key=lambda b: b.min_vram_gb).id if fitting else "minimal"


def files_of(bundles: Sequence[Bundle]) -> tuple[ModelSource, ...]:
    """Their files, each once, smallest first, so that a fault shows early."""
    return tuple(sorted({file.path: file for bundle in bundles for file in bundle.files}.values(), key=_size))


def _size(file: ModelSource) -> int:
    return file.bytes


def nodes_of(bundles: Sequence[Bundle]) -> tuple[NodeSource, ...]:
    """Their node packages, each once."""
    return tuple({node.name: node for bundle in bundles for node in bundle.nodes}.values())


@cache
def shipped_manifest() -> Manifest:
    """The bundles that come with this product."""
    text = resources.files(__package__).joinpath("data/models.toml").read_text(encoding="utf-8")
    return _parse(text)


def load_manifest(path: Path | None) -> Manifest:
    """The shipped bundles and those of a file; a bundle of the file replaces a shipped one of the same name.

    Raises:
        ConfigurationError: the file cannot be read or is not a manifest.
    """
    shipped = shipped_manifest()
    if path is None:
        return shipped
    try:
        own = _parse(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, ValidationError, KeyError) as error:
        reason = _reason(error)
        raise ConfigurationError(
            f"--manifest {str(path)!r} cannot be used: {reason}; see docs/installing.md for its form"
        ) from None
    mine = {bundle.id for bundle in own.bundles}
    return Manifest(bundles=(*own.bundles, *(b for b in shipped.bundles if b.id not in mine)))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
    if isinstance(error, KeyError):
        return f"a bundle names the file {error.args[0]!r}, which is not described"
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _parse(text: str) -> Manifest:
    data = tomllib.loads(text)
    files = {file.name: file for file in (ModelSource.model_validate(entry) for entry in data.get("file", []))}
    bundles = []
    for entry in data.get("bundle", []):
        raw = _RawBundle.model_validate(entry)
        known = [template_info(name).min_vram_gb for name in raw.workflows if name in template_names()]
        bundles.append(
            Bundle(
                **{**raw.model_dump(exclude={"files", "min_vram_gb", "nodes"}), "nodes": raw.nodes},
                files=tuple(files[name] for name in raw.files),
                min_vram_gb=raw.min_vram_gb or max(known, default=0),
            )
        )
    return Manifest(bundles=tuple(bundles))
