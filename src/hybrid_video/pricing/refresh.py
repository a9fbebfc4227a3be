"""Prices fetched from RunPod's catalogue into files of their own, beside the shipped ones; nothing is overwritten.

Each refresh writes one file `<home>/prices/runpod-<UTC time>.toml` with the prices of that moment. `PriceBook` takes
the newest entry for what is asked, so an old quote can still be explained. A price that has moved by more than a factor
of three is not believed: a catalogue that is wrong, or in another unit, must not decide what is spent.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Protocol

from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook, PriceEntry, Profile
from hybrid_video.settings import Settings

FOLDER = "prices"
OLD_DAYS = 30
"""RunPod's prices moved by a fifth within twelve weeks of 2026: after a month a price is worth another look."""

LARGEST_MOVE = 3
QUANTUM = Decimal("0.0000001")
HOUR_S = 3600
SOURCE = "RunPod catalogue, GET /v2/catalog/gpus"


class HourlyPrice(Protocol):
    """Dollars per GPU-hour as the catalogue lists them; 0 or None where it is not offered."""

    @property
    def secure(self) -> Decimal:
        """Pods in the secure cloud."""
        ...

    @property
    def serverless(self) -> Decimal | None:
        """Serverless workers."""
        ...


class Offered(Protocol):
    """One GPU type of the catalogue."""

    @property
    def id(self) -> str:
        """The name under which prices are kept."""
        ...

    @property
    def price(self) -> HourlyPrice:
        """Its list prices."""
        ...


@dataclass(frozen=True)
class Refresh:
    """What a refresh found. `path` is None when nothing was worth writing."""

    entries: tuple[PriceEntry, ...]
    changed: tuple[str, ...]
    doubtful: tuple[str, ...]
    path: Path | None = None


def prices_folder(settings: Settings) -> Path:
    """Where fetched and hand-written prices of this installation are."""
    return settings.storage.home / FOLDER


def load_prices(profile: Profile, settings: Settings) -> PriceBook:
    """The shipped prices and those of this installation.

    Raises:
        ConfigurationError: a file of this installation is not understood.
    """
    return PriceBook.load(profile, prices_folder(settings))


def compare(catalogue: Sequence[Offered], book: PriceBook, today: date) -> Refresh:
    """The catalogue's prices as entries, what has changed, and what is not believed."""
    entries: list[PriceEntry] = []
    changed: list[str] = []
    doubtful: list[str] = []
    for gpu in catalogue:
        for backend, hourly in (("runpod-pod", gpu.price.secure), ("runpod-serverless", gpu.price.serverless)):
            if not hourly or hourly <= 0:
                continue
            entry = _entry(gpu.id, backend, hourly, today)
            old = _known(book, entry)
            if old is not None and not old.usd / LARGEST_MOVE <= entry.usd <= old.usd * LARGEST_MOVE:
                doubtful.append(
                    f"{backend} {gpu.id}: ${hourly:f}/h is {entry.usd / old.usd:.1f} times the ${old.usd * HOUR_S:f}/h "
                    f"of {old.checked}; not taken. If it is right, add it to a file in the prices folder by hand"
                )
                continue
            entries.append(entry)
            if old is None:
                changed.append(f"{backend} {gpu.id}: ${hourly:f}/h, new")
            elif old.usd != entry.usd:
                changed.append(
                    f"{backend} {gpu.id}: ${hourly:f}/h, was ${(old.usd * HOUR_S).quantize(Decimal('0.0001')):f}/h"
                )
    return Refresh(tuple(entries), tuple(changed), tuple(doubtful))


def write(found: Refresh, folder: Path, now: datetime) -> Path:
    """Writes the entries into a new file, all of it or none.

    Raises:
        ConfigurationError: the folder cannot be written to.
    """
    path = folder / f"runpod-{now.astimezone(UTC):%Y%m%dT%H%M%S%f}.toml"
    partial = path.with_suffix(".part")
    text = f"# {SOURCE}, read {now.astimezone(UTC).isoformat(timespec='seconds')}.\n\n" + "\n".join(
        _toml(entry) for entry in found.entries
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.rename(path)
    except OSError as error:
        raise ConfigurationError(
            f"the prices cannot be written to {str(path)!r}: {error.strerror or error}; check the folder's permissions"
        ) from None
    return path


def _entry(gpu: str, backend: str, hourly: Decimal, today: date) -> PriceEntry:
    return PriceEntry(
        id=f"{backend}-{gpu.lower().replace(' ', '-')}-{today.isoformat()}",
        profile="current",
        tier=Tier.CLOUD,
        backend=backend,
        unit="gpu_second",
        usd=(hourly / HOUR_S).quantize(QUANTUM, rounding=ROUND_HALF_EVEN),
        gpu=gpu,
        source=f"{SOURCE}; ${hourly:f}/h",
        checked=today,
        confidence="vendor",
    )


def _known(book: PriceBook, entry: PriceEntry) -> PriceEntry | None:
    return next((old for old in book.in_use() if (old.backend, old.gpu) == (entry.backend, entry.gpu)), None)


def _toml(entry: PriceEntry) -> str:
    fields = entry.model_dump(mode="json", exclude={"checked", "seconds"}, exclude_defaults=True)
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["[[price]]", *lines, f"checked = {entry.checked.isoformat()}", ""])
