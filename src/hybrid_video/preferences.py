"""System-wide preferences and limits that were changed at run time, kept in the ledger above the environment's.

Each field stands for itself: what was never changed, or was reset, is the environment's. Every run, quote and plan
asks for `applied` settings when it begins, so a change holds from the next batch on, whoever starts it; a running batch
asks for the limits again before each attempt. Knows nothing of levels below: batches and jobs still override wishes and
only tighten limits.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

import sqlalchemy as sa
from pydantic import Field, ValidationError

from hybrid_video.errors import InputError, LedgerError
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.models import BackendChoice, Model, Tier, UsdLimit, utc_now
from hybrid_video.redaction import redact
from hybrid_video.settings import PodPoolSettings, RoutingSettings, Settings

MOST_USD = 1_000_000


class Routing(Model):
    """Wishes and limits. None: the environment's."""

    backend: BackendChoice | None = Field(None, description="Preferred tier; auto lets the router choose.")
    max_cost_per_job_usd: UsdLimit | None = Field(
        None, ge=0, le=1000, description="Hard limit per job in US dollars, all attempts together."
    )
    prioritize_speed: bool | None = Field(None, description="Earliest finish before lowest price, within the limits.")
    allow_cloud_fallback: bool | None = Field(None, description="Whether paid tiers may be used at all.")
    prefer_serverless: bool | None = Field(None, description="Within the cloud tier, serverless before pods.")
    weight_priority: float | None = Field(None, ge=0, le=1000, description="Weight of the tier order in the score.")
    weight_cost: float | None = Field(None, ge=0, le=1000, description="Weight of the price.")
    weight_speed: float | None = Field(None, ge=0, le=1000, description="Weight of the expected finish.")
    weight_queue: float | None = Field(None, ge=0, le=1000, description="Weight of the expected wait.")
    daily_budget_usd: UsdLimit | None = Field(None, ge=0, le=MOST_USD, description="Hard limit per UTC day.")
    monthly_budget_usd: UsdLimit | None = Field(None, ge=0, le=MOST_USD, description="Hard limit per UTC month.")
    monthly_cloud_budget_usd: UsdLimit | None = Field(
        None, ge=0, le=MOST_USD, description="Hard limit for rented GPUs per UTC month."
    )
    monthly_gemini_budget_usd: UsdLimit | None = Field(
        None, ge=0, le=MOST_USD, description="Hard limit for Google per UTC month."
    )
    value_of_time_usd_per_h: float | None = Field(
        None, ge=0, le=10_000, description="What an hour of waiting is worth with neither deadline nor budget."
    )


class Pods(Model):
    """How rented pods are opened and closed. None: the environment's."""

    max_pods: int | None = Field(None, ge=0, le=100, description="Most pods at once, starting ones included; 0: none.")
    max_price_usd_per_h: UsdLimit | None = Field(None, gt=0, le=100, description="Dearest pod that may be opened.")
    policy: Literal["break-even", "threshold"] | None = Field(None, description="When pods open and close.")
    value_of_waiting_usd_per_job_h: float | None = Field(
        None, ge=0, le=10_000, description="Break-even: what it is worth that one job waits an hour less."
    )
    threshold_queue: int | None = Field(
        None, ge=0, le=10_000, description="Threshold: open while more jobs than this wait."
    )
    threshold_idle_s: float | None = Field(
        None, ge=0, le=86_400, description="Threshold: close after so many idle seconds."
    )


class Stored(Model):
    """What was changed, and when."""

    routing: Routing = Routing()
    pods: Pods = Pods()
    changed: dict[str, datetime] = Field(
        default_factory=dict, description="When each field that was changed last was, by its name."
    )


_GROUPS: dict[str, type[Model]] = {"routing": Routing, "pods": Pods}
_PER_TIER = {"monthly_cloud_budget_usd": Tier.CLOUD, "monthly_gemini_budget_usd": Tier.GEMINI}
_OF_PODS = frozenset(Pods.model_fields)


def load(ledger: Ledger) -> Stored:
    """What is stored. A field that this version does not know or would refuse is left out."""
    with ledger.reading() as connection:
        found = {row.name: row for row in connection.execute(sa.select(t.preferences))}
    values: dict[str, dict[str, Any]] = {"routing": {}, "pods": {}}
    changed: dict[str, datetime] = {}
    for name, row in found.items():
        group = "pods" if name in _OF_PODS else "routing"
        try:
            value = json.loads(row.document)
            _GROUPS[group].model_validate({name: value})
        except ValueError:
            continue
        values[group][name], changed[name] = value, row.updated_at
    return Stored(routing=Routing(**values["routing"]), pods=Pods(**values["pods"]), changed=changed)


def change(ledger: Ledger, settings: Settings, changes: Mapping[str, Any]) -> Stored:
    """Stores some fields; None resets one to the environment's. All of them or none.

    Args:
        settings: the environment's, without anything stored.

    Raises:
        InputError: one sentence for each field that is unknown or out of range.
    """
    known = {**Routing.model_fields, **Pods.model_fields}
    problems = [_unknown(name, list(known)) for name in changes if name not in known]
    wanted: dict[str, Any] = {}
    for group, names in (("routing", Routing.model_fields), ("pods", Pods.model_fields)):
        mine = {name: value for name, value in changes.items() if name in names}
        try:
            wanted |= _GROUPS[group].model_validate(mine).model_dump(mode="json", include=set(mine))
        except ValidationError as error:
            problems += [_sentence(str(e["loc"][0]), e["input"], e["msg"]) for e in error.errors(include_url=False)]
    if problems:
        raise InputError("\n".join(problems), tuple(problems))
    now = utc_now()
    with ledger.writing() as connection:
        for name, value in wanted.items():
            connection.execute(sa.delete(t.preferences).where(t.preferences.c.name == name))
            if value is not None:
                connection.execute(
                    sa.insert(t.preferences).values(name=name, document=json.dumps(value), updated_at=now)
                )
        rows = connection.execute(sa.select(t.preferences)).all()
        _merged(settings, {row.name: json.loads(row.document) for row in rows})
    return load(ledger)


def reset(ledger: Ledger) -> Stored:
    """Forgets every change: everything is the environment's again."""
    with ledger.writing() as connection:
        connection.execute(sa.delete(t.preferences))
    return Stored()


def applied(settings: Settings, ledger: Ledger) -> Settings:
    """The settings with what is stored now above the environment's; the same object where nothing is.

    Settings that were returned from here before can be given again, and follow what was changed since. A stored set
    that no longer makes sense beside the environment is left out rather than ending every run.
    """
    base = settings.base or settings
    stored = load(ledger)
    if not stored.changed:
        return base
    values = stored.routing.model_dump(exclude_none=True) | stored.pods.model_dump(exclude_none=True)
    try:
        return _merged(base, values)
    except InputError:
        return base


def effective(settings: Settings) -> Settings:
    """`applied`, for callers that have no ledger open. Without a ledger yet, or with an unreadable one: `settings`."""
    url = settings.storage.ledger_url
    if url is None and not settings.storage.ledger_path.exists():
        return settings
    try:
        ledger = Ledger.open(url.get_secret_value() if url is not None else settings.storage.ledger_path)
    except LedgerError:
        return settings
    try:
        return applied(settings, ledger)
    finally:
        ledger.close()


def _merged(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Both together, checked as one.

    Raises:
        InputError: they contradict each other (every weight 0).
    """
    tiers = dict(settings.routing.monthly_tier_budgets_usd)
    routing, pods = settings.routing.model_dump(), settings.pods.model_dump()
    for name, value in values.items():
        if name in _PER_TIER:
            tiers[_PER_TIER[name]] = Decimal(str(value))
        elif name in _OF_PODS:
            pods[name] = value
        else:
            routing[name] = value
    routing["monthly_tier_budgets_usd"] = tiers
    try:
        return settings.with_groups(routing=RoutingSettings(**routing), pods=PodPoolSettings(**pods))
    except ValidationError as error:
        problems = tuple(_plain(e["msg"]) for e in error.errors(include_url=False))
        raise InputError("\n".join(problems), problems) from None


def environment_values(settings: Settings) -> dict[str, Any]:
    """What each field is without any change: the defaults that a reset returns to."""
    tiers = settings.routing.monthly_tier_budgets_usd
    routing = {name: getattr(settings.routing, name) for name in Routing.model_fields if name not in _PER_TIER}
    pods = {name: getattr(settings.pods, name) for name in Pods.model_fields}
    return routing | {name: tiers.get(tier) for name, tier in _PER_TIER.items()} | pods


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{name[:80]!r} is no preference; {hint}"


def _sentence(name: str, value: object, reason: str) -> str:
    return f"{name}: {redact(repr(value), limit=80)} is refused: {_plain(reason)}"


def _plain(reason: str) -> str:
    text = reason.removeprefix("Value error, ")
    return text[0].lower() + text[1:] if text[:1].isupper() and not text[:2].isupper() else text
