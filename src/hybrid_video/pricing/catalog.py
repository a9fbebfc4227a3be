"""The price book: dated entries with source and checked date, loaded from `data/*.toml`, never overwritten.

A new price is a new entry with a later `checked` date; the newest one that matches is used and the old ones stay, so
that an old quote can still be explained.
"""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Model, Tier, Usd

Profile = Literal["current", "seed"]
Unit = Literal["video", "gpu_second", "video_second"]


class PriceEntry(Model):
    """One published price."""

    id: str
    profile: Profile
    tier: Tier
    backend: str = Field(description="Registry key it applies to, or * for every backend of the tier.")
    unit: Unit
    usd: Usd = Field(ge=0)
    gpu: str = ""
    model: str = ""
    resolution: str = ""
    seconds: float | None = Field(None, description="Flat service time that belongs to a seed price, seconds.")
    source: str
    checked: date
    confidence: Literal["vendor", "third-party", "estimate", "specification"]


class PriceBook:
    """All entries of one profile."""

    def __init__(self, profile: Profile, entries: tuple[PriceEntry, ...]) -> None:
        self.profile = profile
        self._entries = tuple(sorted(entries, key=lambda e: e.checked, reverse=True))

    @classmethod
    def load(cls, profile: Profile) -> PriceBook:
        """The shipped prices of a profile."""
        return cls(profile, tuple(entry for entry in _shipped() if entry.profile == profile))

    @property
    def entries(self) -> tuple[PriceEntry, ...]:
        """Every entry, the newest first."""
        return self._entries

    def find(self, *, backend: str, tier: Tier, gpu: str = "", model: str = "", resolution: str = "") -> PriceEntry:
        """The newest entry for this backend, GPU, model and resolution.

        Raises:
            ConfigurationError: no price is known; nothing is ever bought at an unknown price.
        """
        for entry in self._entries:
            if (
                entry.backend in (backend, "*")
                and entry.tier is tier
                and entry.gpu in ("", gpu)
                and entry.model in ("", model)
                and entry.resolution in ("", resolution)
            ):
                return entry
        what = ", ".join(part for part in (gpu, model, resolution) if part)
        raise ConfigurationError(
            f"no price is known for {backend} ({what or 'any'}) in the profile {self.profile!r}; add an entry to "
            "the price data, or configure a GPU or model that has one"
        )

    def age_days(self, today: date) -> int:
        """Age of the oldest price still in use, in days."""
        return max(((today - entry.checked).days for entry in self._entries), default=0)


@cache
def _shipped() -> tuple[PriceEntry, ...]:
    entries: list[PriceEntry] = []
    for file in sorted(resources.files(__package__).joinpath("data").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            rows = tomllib.loads(file.read_text(encoding="utf-8"))["price"]
            entries += [PriceEntry.model_validate({**row, "usd": Decimal(str(row["usd"]))}) for row in rows]
    return tuple(entries)
