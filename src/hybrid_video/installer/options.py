"""What an installation is asked to be: every choice in one record, from the command line, the page or the environment.

The environment variables are the same on every system, because only this module reads them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from hybrid_video import redaction
from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Model
from hybrid_video.redaction import redact
from hybrid_video.settings import settings_file

COMFYUI_SOURCE = "https://github.com/Comfy-Org/ComfyUI.git"
COMFYUI_REF = "v0.8.0"
"""The release whose behaviour this product was observed on; `latest` takes the newest release tag instead."""

COMFY_CLI = "comfy-cli==1.23.0"
DEFAULT_PORT = 8188

Engine = Literal["auto", "comfy-cli", "git"]
ServiceChoice = Literal["auto", "background", "system", "none"]
Action = Literal["install", "update", "repair", "rollback", "uninstall"]


def default_folder() -> Path:
    """`<home>/comfyui`, where `hybrid-video` keeps its state."""
    return settings_file().parent / "comfyui"


def _comma_separated(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _variable(option: str) -> AliasChoices:
    """The environment variable of a field that is not called as its option is."""
    return AliasChoices(f"HYBRID_VIDEO_INSTALL_{option}")


class InstallOptions(BaseSettings):
    """One installation. Fields not given are read from `HYBRID_VIDEO_INSTALL_*`, then take their default."""

    model_config = SettingsConfigDict(
        env_prefix="HYBRID_VIDEO_INSTALL_", extra="forbid", frozen=True, populate_by_name=True, env_ignore_empty=True
    )

    folder: Path = Field(
        default_factory=default_folder, validation_alias=_variable("DIR"), description="Folder of the installation."
    )
    bundles: Annotated[tuple[str, ...], NoDecode] = Field(
        (), validation_alias=_variable("BUNDLE"), description="Model bundles, comma-separated."
    )
    source: str = Field(COMFYUI_SOURCE, description="Git repository of ComfyUI: an address or a folder.")
    ref: str = Field(COMFYUI_REF, description="Tag, branch or commit; latest: the newest release.")
    engine: Engine = Field("auto", description="Who fetches ComfyUI: git and uv (auto), or comfy-cli.")
    torch: str = Field("auto", description="PyTorch build: auto, cpu, cu126, cu128, cu130, rocm…, xpu, default, none.")
    torch_index: str = Field("", description="Package index for PyTorch instead of download.pytorch.org.")
    python: str = Field("", description="Python for ComfyUI: a path or a version; found or fetched when empty.")
    port: int = Field(DEFAULT_PORT, ge=1, le=65535, description="Port on 127.0.0.1.")
    service: ServiceChoice = Field("auto", description="How ComfyUI is kept running.")
    manifest: Path | None = Field(None, description="TOML file with further model bundles.")
    mirrors: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias=AliasChoices("HYBRID_VIDEO_INSTALL_MIRROR", "HYBRID_VIDEO_MODEL_MIRRORS"),
        description="Addresses or folders that are asked for models first, comma-separated.",
    )
    extra_args: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validation_alias=_variable("COMFYUI_ARG"),
        description="Further arguments for ComfyUI, comma-separated, for example --lowvram.",
    )
    min_free_gb: float = Field(2.0, ge=0, description="Disk space that must be left over.")

    _split = field_validator("bundles", "mirrors", "extra_args", mode="before")(_comma_separated)

    @field_validator("folder", "manifest")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value

    @field_validator("source", "torch_index", "mirrors")
    @classmethod
    def _without_password(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for address in (value,) if isinstance(value, str) else value:
            if urlsplit(address).password:
                raise ValueError(
                    "holds a password, which would be stored; leave it out of the address (git has credential helpers, "
                    "uv and pip read ~/.netrc)"
                )
        return value

    @field_validator("extra_args")
    @classmethod
    def _loopback_only(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for argument in value:
            if argument.split("=")[0] in {"--listen", "--port", "--base-directory", "--enable-cors-header"}:
                raise ValueError(
                    f"holds {argument!r}, which this installer sets itself: ComfyUI has no password, so it listens on "
                    "127.0.0.1 only. Choose the port with --port"
                )
        return value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The options with these values; None means not given.

        Raises:
            ConfigurationError: one sentence for each value that is wrong.
        """
        given = {name: value for name, value in values.items() if value is not None and value != []}
        try:
            return cls(**given)
        except ValidationError as error:
            raise ConfigurationError("\n".join(_sentences(error))) from None

    @property
    def url(self) -> str:
        """Where the installed ComfyUI answers."""
        return f"http://127.0.0.1:{self.port}"

    def stored(self) -> dict[str, Any]:
        """What the receipt keeps; holds no secret, since a token is never an option."""
        return self.model_dump(mode="json")


def _sentences(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors(include_url=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        alias = InstallOptions.model_fields[name].validation_alias if name in InstallOptions.model_fields else None
        variable = str(alias.choices[0]) if isinstance(alias, AliasChoices) else name.upper()
        word = variable.removeprefix("HYBRID_VIDEO_INSTALL_")
        option = f"--{word.lower().replace('_', '-')} (or HYBRID_VIDEO_INSTALL_{word})"
        reason = problem["msg"].removeprefix("Value error, ")
        lines.append(f"{option} is {redact(problem['input'])!r}: {reason[0].lower()}{reason[1:]}.")
    return lines


class Token(Model):
    """A Hugging Face token, read when it is needed and never written down."""

    value: str = ""

    @classmethod
    def from_environment(cls) -> Self:
        """HF_TOKEN, or its older name."""
        value = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN") or ""
        redaction.register(value)
        return cls(value=value)

    def __repr__(self) -> str:
        return f"Token({'set' if self.value else 'not set'})"

    __str__ = __repr__
