"""The backends as they stand: configured or not, the last health check with its age, load, breakers, prices with age.

Asks nobody: health is what the watcher last stored, and what running batches have lived through.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field
from sqlalchemy.engine import Connection

from hybrid_video.backends.registry import BACKENDS
from hybrid_video.engine.breaker import Breaker
from hybrid_video.errors import FailureKind, HybridVideoError
from hybrid_video.failures import policy
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN
from hybrid_video.models import AttemptState, Health, Model, Tier, utc_now
from hybrid_video.pricing.catalog import PriceBook, PriceEntry
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.settings import Settings
from hybrid_video.views.figures import NOTHING, Money, day_start
from hybrid_video.views.reading import reading

STALE_S = 120.0
"""A check older than this says nothing about now: the watcher looks every 30 s."""

REMEMBERED = timedelta(hours=1)

BackendState = Literal["off", "healthy", "unhealthy", "unknown"]
"""off: not configured; unknown: nobody has looked lately."""


class HealthLine(Model):
    """The last real check."""

    healthy: bool
    detail: str
    remedy: str
    checked_at: datetime
    age_s: float
    latency_s: float | None = None
    queued: int = 0


class BreakerLine(Model):
    """One backend with one model or workflow, as the attempts of the last hour leave it."""

    model: str
    state: Literal["closed", "open", "half-open"]
    failures: int = Field(description="Failures in a row that count against the backend.")
    rests_s: float = Field(description="Seconds until a trial job may be sent; 0 when one may be sent now.")
    last_error: str


class PriceLine(Model):
    """A price in use."""

    id: str
    unit: str
    usd: Money
    gpu: str
    model: str
    resolution: str
    source: str
    checked: date
    age_days: int
    confidence: str


class BackendView(Model):
    """One backend."""

    backend: str
    tier: Tier
    configured: bool
    state: BackendState
    setup: str = Field(description="How to configure it; empty when it is.")
    health: HealthLine | None
    lanes: int = Field(description="Clips it can make at once, as configured.")
    active: int
    uncertain: int
    completed_today: int
    failed_today: int
    spent_today_usd: Money
    breakers: tuple[BreakerLine, ...]
    prices: tuple[PriceLine, ...]


def backends(
    ledger: Ledger,
    settings: Settings,
    *,
    checked: Mapping[str, Health] | None = None,
    now: datetime | None = None,
) -> tuple[BackendView, ...]:
    """Every backend the product knows, configured or not, in the order they are shown.

    Args:
        checked: direct checks made by the caller; used where they are newer than the stored ones.
    """
    moment = now or utc_now()
    book = _prices(settings)
    with reading(ledger) as connection:
        stored = stored_health(connection, moment)
        load = _load(connection)
        today = _today(connection, day_start(moment))
        breakers = breakers_of(connection, moment)
        ready_pods = connection.execute(
            sa.select(sa.func.count()).select_from(t.pods).where(t.pods.c.state == "ready")
        ).scalar_one()
    views = []
    for key, entry in BACKENDS.items():
        configured = entry.is_configured(settings)
        health = _newest(stored.get(key), (checked or {}).get(key), moment)
        done, failed, spent = today.get(key, (0, 0, NOTHING))
        views.append(
            BackendView(
                backend=key,
                tier=entry.tier,
                configured=configured,
                state=_state(configured, health),
                setup="" if configured else entry.setup,
                health=health,
                lanes=lanes(key, settings, ready_pods) if configured else 0,
                active=load.get(key, (0, 0))[0],
                uncertain=load.get(key, (0, 0))[1],
                completed_today=done,
                failed_today=failed,
                spent_today_usd=spent,
                breakers=tuple(breakers.get(key, ())),
                prices=tuple(price_line(e, moment.date()) for e in prices_of(book, key, entry.tier, settings)),
            )
        )
    return tuple(views)


def stored_health(connection: Connection, now: datetime) -> dict[str, HealthLine]:
    """The watcher's last look at each backend."""
    found = {}
    for row in connection.execute(sa.select(t.health)):
        document: dict[str, Any] = json.loads(row.document)
        found[row.backend] = HealthLine(
            healthy=bool(document.get("healthy")),
            detail=str(document.get("detail", "")),
            remedy=str(document.get("remedy", "")),
            checked_at=row.checked_at,
            age_s=max(0.0, (now - row.checked_at).total_seconds()),
            latency_s=document.get("latency_s"),
            queued=int(document.get("queued") or 0),
        )
    return found


def lanes(key: str, settings: Settings, ready_pods: int) -> int:
    """Clips a backend can make at once."""
    return {
        "comfyui": len(settings.comfyui.urls),
        "runpod-serverless": settings.runpod.max_workers,
        "runpod-pod": max(ready_pods, len(settings.runpod.pod_ids)),
    }.get(key, settings.gemini.max_concurrent)


def prices_of(book: PriceBook | None, key: str, tier: Tier, settings: Settings) -> list[PriceEntry]:
    """The prices in use that a backend may be charged at: those of its own GPU where it names one."""
    gpu = {"comfyui": settings.comfyui.gpu, "runpod-serverless": settings.runpod.gpu}.get(key, "")
    wanted = set(settings.pods.gpus) if key == "runpod-pod" else {gpu} - {""}
    entries = [e for e in (book.in_use() if book else ()) if e.tier is tier and e.backend in (key, "*")]
    return [e for e in entries if not e.gpu or not wanted or e.gpu in wanted]


def price_line(entry: PriceEntry, today: date) -> PriceLine:
    """A price with its age."""
    names = ("id", "unit", "usd", "gpu", "model", "resolution", "source", "checked", "confidence")
    return PriceLine(**{name: getattr(entry, name) for name in names}, age_days=(today - entry.checked).days)


def breakers_of(connection: Connection, now: datetime) -> dict[str, list[BreakerLine]]:
    """Every breaker that is not plainly closed, found by letting the last hour's attempts pass through one again.

    Each running batch keeps breakers of its own; this is what one that had seen all attempts would say.
    """
    columns = ("backend", "model", "state", "error_kind", "error_message", "finished_at")
    query = (
        sa.select(*(t.attempts.c[name] for name in columns))
        .where(t.attempts.c.finished_at >= now - REMEMBERED)
        .order_by(t.attempts.c.finished_at)
    )
    seen: dict[tuple[str, str], tuple[Breaker, str]] = defaultdict(lambda: (Breaker(), ""))
    for row in connection.execute(query):
        breaker, error = seen[row.backend, row.model]
        at_s = row.finished_at.timestamp()
        breaker.started(at_s)
        if row.state == AttemptState.SETTLED.value:
            breaker.succeeded()
            error = ""
        elif row.error_kind in set(FailureKind):
            rule = policy(FailureKind(row.error_kind))
            if rule.fault == "backend" or rule.fatal_for_backend:
                breaker.failed(at_s, fatal=rule.fatal_for_backend)
                error = row.error_message
            else:
                breaker.abandoned()
        seen[row.backend, row.model] = (breaker, error)
    return _told(seen, now.timestamp())


def _told(seen: Mapping[tuple[str, str], tuple[Breaker, str]], now_s: float) -> dict[str, list[BreakerLine]]:
    lines: dict[str, list[BreakerLine]] = defaultdict(list)
    for (backend, model), (breaker, error) in seen.items():
        state = breaker.state(now_s)
        if state == "closed" and not breaker.failures:
            continue
        lines[backend].append(
            BreakerLine(
                model=model,
                state="open" if state == "open" else "half-open" if state == "half-open" else "closed",
                failures=breaker.failures,
                rests_s=max(0.0, (breaker.open_until_s or now_s) - now_s),
                last_error=error,
            )
        )
    return lines


def _prices(settings: Settings) -> PriceBook | None:
    try:
        return load_prices(settings.routing.prices, settings)
    except HybridVideoError:
        return None


def _newest(stored: HealthLine | None, direct: Health | None, now: datetime) -> HealthLine | None:
    if direct is None or (stored is not None and stored.checked_at >= direct.checked_at):
        return stored
    return HealthLine(
        healthy=direct.healthy,
        detail=direct.detail,
        remedy=direct.remedy,
        checked_at=direct.checked_at,
        age_s=max(0.0, (now - direct.checked_at).total_seconds()),
        latency_s=direct.latency_s,
        queued=direct.queued,
    )


def _state(configured: bool, health: HealthLine | None) -> BackendState:
    if not configured:
        return "off"
    if health is None or health.age_s > STALE_S:
        return "unknown"
    return "healthy" if health.healthy else "unhealthy"


def _load(connection: Connection) -> dict[str, tuple[int, int]]:
    query = (
        sa.select(t.attempts.c.backend, t.attempts.c.state, sa.func.count())
        .where(t.attempts.c.state.in_([state.value for state in OPEN]))
        .group_by(t.attempts.c.backend, t.attempts.c.state)
    )
    counted: dict[str, tuple[int, int]] = {}
    for backend, state, count in connection.execute(query):
        active, uncertain = counted.get(backend, (0, 0))
        unknown = state == AttemptState.UNCERTAIN.value
        counted[backend] = (active + (0 if unknown else count), uncertain + (count if unknown else 0))
    return counted


def _today(connection: Connection, midnight: datetime) -> dict[str, tuple[int, int, Any]]:
    """Clips, failures and money of each backend today; money by the day it was booked on."""
    ended = (
        sa.select(t.attempts.c.backend, t.attempts.c.state, sa.func.count())
        .where(t.attempts.c.finished_at >= midnight)
        .group_by(t.attempts.c.backend, t.attempts.c.state)
    )
    spent = (
        sa.select(t.attempts.c.backend, sa.func.sum(t.attempts.c.cost_usd))
        .where(t.attempts.c.day == midnight.date().isoformat())
        .group_by(t.attempts.c.backend)
    )
    shares = sa.select(sa.func.sum(t.pod_shares.c.amount_usd)).where(t.pod_shares.c.day == midnight.date().isoformat())
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for backend, state, count in connection.execute(ended):
        counts[backend][state] = count
    money = {backend: amount or NOTHING for backend, amount in connection.execute(spent)}
    overhead = connection.execute(shares).scalar()
    if overhead:
        money["runpod-pod"] = money.get("runpod-pod", NOTHING) + overhead
    keys: Iterable[str] = counts.keys() | money.keys()
    return {
        key: (
            counts[key].get(AttemptState.SETTLED.value, 0),
            counts[key].get(AttemptState.FAILED.value, 0),
            money.get(key, NOTHING),
        )
        for key in keys
    }
