"""The models this emulator knows, and which of them Google has switched off.

Only facts a client can observe: ids, methods, lengths and sizes. Prices come from the price book.
"""

from __future__ import annotations

from dataclasses import dataclass

FPS = 24
RETENTION_S = 2 * 86_400
"""Files are deleted two days after they were made."""

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}


@dataclass(frozen=True)
class VideoModel:
    """One model. `durations` are whole seconds; `price_id` is its name in the price book where that differs."""

    name: str
    durations: tuple[int, ...]
    resolutions: tuple[str, ...]
    default_duration: int
    method: str
    seed: bool = False
    references: bool = True
    price_id: str = ""

    @property
    def priced_as(self) -> str:
        """The id the price book uses."""
        return self.price_id or self.name


def _veo(name: str, *, lite: bool = False, price_id: str = "") -> VideoModel:
    return VideoModel(
        name=name,
        durations=(4, 6, 8),
        resolutions=("720p", "1080p") if lite else ("720p", "1080p", "4k"),
        default_duration=8,
        method="predictLongRunning",
        seed=True,
        references=not lite,
        price_id=price_id,
    )


def _omni(name: str, longest: int, *, seed: bool = False) -> VideoModel:
    return VideoModel(
        name=name,
        durations=tuple(range(3, longest + 1)),
        resolutions=("360p", "720p", "1080p", "4k"),
        default_duration=8,
        method="createInteraction",
        seed=seed,
    )


OMNI = {
    model.name: model
    for model in (
        _omni("gemini-omni-1.1-flash", 10),
        _omni("gemini-omni-1.2-flash", 15, seed=True),
        _omni("gemini-omni-flash-preview", 10),
    )
}

VEO_API = {
    model.name: model
    for model in (
        _veo("veo-3.1-generate-preview", price_id="veo-3.1-generate-001"),
        _veo("veo-3.1-fast-generate-preview", price_id="veo-3.1-fast-generate-001"),
        _veo("veo-3.1-lite-generate-preview", lite=True, price_id="veo-3.1-lite-generate-001"),
    )
}

VEO_CLOUD = {
    model.name: model
    for model in (
        _veo("veo-3.1-generate-001"),
        _veo("veo-3.1-fast-generate-001"),
        _veo("veo-3.1-lite-generate-001", lite=True),
    )
}

RETIRED = frozenset(
    {
        "veo-2.0-generate-001",
        "veo-3.0-generate-001",
        "veo-3.0-fast-generate-001",
        *VEO_API,
        "gemini-omni-flash-preview",
    }
)
"""Gone from the Gemini API in November 2026; Veo 3.1 went on 2026-10-22 and lives on Google Cloud only."""
