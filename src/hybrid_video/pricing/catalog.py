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
from pathlib import Path
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
    def load(cls, profile: Profile, folder: Path | None = None) -> PriceBook:
        """The shipped prices of a profile, and those in the `*.toml` files of a folder.

        Of two entries of one day the one in the later file counts, and a file of the folder before the shipped ones.

        Raises:
            ConfigurationError: a file of the folder is not understood; names it.
        """
        own = _own(folder) if folder is not None else ()
        return cls(profile, tuple(entry for entry in (*own, *_shipped()) if entry.profile == profile))

    @property
    def entries(self) -> tuple[PriceEntry, ...]:
        """Every entry, the newest first."""
        return self._entries

    def in_use(self) -> tuple[PriceEntry, ...]:
        """The newest entry for each backend, GPU, model and resolution: those that later ones have not replaced."""
        newest: dict[tuple[str, ...], PriceEntry] = {}
        for entry in self._entries:
            newest.setdefault((entry.tier, entry.backend, entry.gpu, entry.model, entry.resolution), entry)
        return tuple(newest.values())

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
        return max(((today - entry.checked).days for entry in self.in_use()), default=0)


@cache
def _shipped() -> tuple[PriceEntry, ...]:
    entries: list[PriceEntry] = []
    for file in sorted(resources.files(__package__).joinpath("data").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            entries += _parsed(file.read_text(encoding="utf-8"))
    return tuple(entries)


def _own(folder: Path) -> list[PriceEntry]:
    """Entries of an installation's own files, the latest file first."""
    entries: list[PriceEntry] = []
    for path in sorted(folder.glob("*.toml"), reverse=True):
        try:
            entries += _parsed(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, KeyError, TypeError, ArithmeticError) as error:
            reason = " ".join(str(error).split())[:300]
            raise ConfigurationError(
                f"the price file {str(path)!r} is not understood: {type(error).__name__}: {reason}; correct it, or "
                "move it away"
            ) from None
    return entries


def _parsed(text: str) -> list[PriceEntry]:
    rows = tomllib.loads(text)["price"]
    return [PriceEntry.model_validate({**row, "usd": Decimal(str(row["usd"]))}) for row in rows]
