"""What the watcher last found at each backend, and in short what it found before.

One row for each backend, replaced with every look: a table that only grows would be all that a long-lived watcher
writes. Readers (API, dashboard, doctor) need no watcher; the age of a look says what it is worth.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import Health, utc_now
from hybrid_video.redaction import redact

KEPT = 120
"""Looks kept for each backend: an hour at one every 30 s."""


@dataclass(frozen=True)
class Glance:
    """One earlier look, in short."""

    at: datetime
    healthy: bool
    latency_s: float | None
    queued: int


@dataclass(frozen=True)
class Seen:
    """The newest look at a backend, with the earlier ones, oldest first (the newest among them)."""

    health: Health
    history: tuple[Glance, ...]

    @property
    def age_s(self) -> float:
        """Seconds since the look."""
        return max(0.0, (utc_now() - self.health.checked_at).total_seconds())

    @property
    def since(self) -> datetime:
        """Since when it has been as it is now, as far back as the history goes."""
        start = self.health.checked_at
        for glance in reversed(self.history):
            if glance.healthy is not self.health.healthy:
                break
            start = glance.at
        return start

    @property
    def uptime(self) -> float | None:
        """Share of the kept looks that found it healthy; None without any."""
        return sum(glance.healthy for glance in self.history) / len(self.history) if self.history else None


class HealthStore:
    """The table `health` of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def save(self, found: Iterable[Health]) -> None:
        """Stores one round of looks in one commit. Words of vendors are redacted once more."""
        with self._ledger.writing() as connection:
            rows = {row.backend: row.history for row in connection.execute(sa.select(t.health))}
            for health in found:
                clean = health.model_copy(
                    update={"detail": redact(health.detail, 1000), "remedy": redact(health.remedy, 500)}
                )
                earlier = json.loads(rows.get(health.backend, "[]"))
                values: dict[str, Any] = {
                    "document": clean.model_dump_json(),
                    "history": json.dumps([*earlier, _short(clean)][-KEPT:], separators=(",", ":")),
                    "checked_at": clean.checked_at,
                }
                if health.backend in rows:
                    connection.execute(sa.update(t.health).where(t.health.c.backend == health.backend).values(values))
                else:
                    connection.execute(sa.insert(t.health).values(backend=health.backend, **values))

    def forget(self, keep: Iterable[str]) -> None:
        """Drops backends that are not configured any more."""
        with self._ledger.writing() as connection:
            connection.execute(sa.delete(t.health).where(t.health.c.backend.not_in(list(keep))))

    def latest(self) -> dict[str, Seen]:
        """The newest look at every backend, by registry key."""
        with self._ledger.reading() as connection:
            return {row.backend: _seen(row) for row in connection.execute(sa.select(t.health))}


def _short(health: Health) -> list[object]:
    latency_s = None if health.latency_s is None else round(health.latency_s, 4)
    return [health.checked_at.isoformat(timespec="seconds"), int(health.healthy), latency_s, health.queued]


def _seen(row: Row[Any]) -> Seen:
    glances = tuple(
        Glance(datetime.fromisoformat(at), bool(healthy), latency_s, queued)
        for at, healthy, latency_s, queued in json.loads(row.history)
    )
    return Seen(Health.model_validate_json(row.document), glances)
