"""The families, and one scrape of them as Prometheus text."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.engine import Connection

from hybrid_video import __version__, views
from hybrid_video.errors import FailureKind
from hybrid_video.ledger import Ledger
from hybrid_video.ledger import schema as t
from hybrid_video.metrics import standing
from hybrid_video.metrics.totals import BUCKETS_S, Spread, Total, attempt_totals, ended_well
from hybrid_video.models import JobState, utc_now
from hybrid_video.settings import Settings
from hybrid_video.views.pods import pod_summary
from hybrid_video.views.reading import reading

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "hybrid_video_"
DAY_S = 86_400
OUTCOMES = (
    ("settled", ""),
    ("cancelled", FailureKind.CANCELLED.value),
    *(("failed", kind.value) for kind in FailureKind if kind is not FailureKind.CANCELLED),
)
"""How an attempt may end, and for what reason."""

POD_STATES = ("intended", "creating", "starting", "ready", "draining", "closing", "closed", "failed")

Number = TypeVar("Number", int, Decimal)
Samples = Mapping[Any, float | int | Decimal]
"""Label values (a tuple of text, one for each label) to the number; `Mapping` is invariant in its key."""


def exposition(ledger: Ledger, settings: Settings) -> bytes:
    """One scrape, as text.

    Args:
        settings: with stored preferences applied, so that the limits shown are the ones in force.

    Raises:
        LedgerError: the ledger cannot be read now. A scrape that fails is told by Prometheus itself (`up` is 0).
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Once(families(ledger, settings)))
    return generate_latest(registry)


class _Once(Collector):
    def __init__(self, found: tuple[Metric, ...]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found

    def describe(self) -> Iterable[Metric]:
        return ()


def families(ledger: Ledger, settings: Settings, *, now: datetime | None = None) -> tuple[Metric, ...]:
    """Every family with its samples."""
    began, moment = time.monotonic(), now or utc_now()
    found: list[Metric] = []
    known = views.backends(ledger, settings, now=moment)
    used = {b.backend: b.tier.value for b in known if b.configured}
    with reading(ledger) as connection:
        totals = attempt_totals(connection, moment)
        found += _work(connection, totals, used)
        found += _pods(connection, settings, moment)
        found += _care(connection, moment)
    found += _money(views.overview(ledger, settings, now=moment), totals, used)
    found += _backends(known)
    found += _machine(settings)
    found += [
        _gauge("build_info", "Version of hybrid-video; always 1.", {(__version__,): 1}, "version"),
        _gauge("simulated", "1 where everything is only played.", {(): int(settings.routing.simulated)}),
        _gauge("scrape_seconds", "What computing this answer took.", {(): time.monotonic() - began}),
    ]
    return tuple(found)


def _work(connection: Connection, totals: tuple[Total, ...], used: Mapping[str, str]) -> Iterator[Metric]:
    """Jobs, batches, attempts. `used`: the configured backends with their tiers; their counters begin at 0, because
    Prometheus takes no note of a series that begins at the six failures of its first minute."""
    jobs = standing.jobs_by_state(connection)
    yield _gauge("jobs", "Jobs by state.", {(state.value,): jobs.get(state.value, 0) for state in JobState}, "state")
    batches = {"finished": 0, "unfinished": 0} | standing.batches_by_state(connection)
    yield _gauge("batches", "Batches by state.", {(state,): n for state, n in batches.items()}, "state")
    open_now = standing.under_way(connection)
    yield _gauge("attempts_under_way", "Attempts that hold a reservation.", open_now, "backend", "state")
    ended: dict[tuple[str, ...], int] = {(key, tier, *outcome): 0 for key, tier in used.items() for outcome in OUTCOMES}
    retries: dict[tuple[str, ...], int] = {(key,): 0 for key in used}
    for total in totals:
        if (total.backend, total.state) not in open_now:
            _add(ended, (total.backend, total.tier, total.state, total.error_kind), total.attempts)
        _add(retries, (total.backend,), total.again)
    text = "Attempts that have ended, by outcome: settled (a clip), failed, cancelled."
    yield _counter("attempts", text, ended, "backend", "tier", "outcome", "error_kind")
    yield _counter("retries", "Attempts that were not the first of their job.", retries, "backend")
    yield _histogram("clip_duration_seconds", "From decision to stored clip.", totals, "whole", used)
    yield _histogram("execution_seconds", "What the backend itself says it worked on a clip.", totals, "worked", used)


def _money(overview: views.Overview, totals: tuple[Total, ...], used: Mapping[str, str]) -> Iterator[Metric]:
    cost: dict[tuple[str, ...], Decimal] = {(key, tier): Decimal(0) for key, tier in used.items()}
    quoted = dict(cost)
    for total in totals:
        _add(cost, (total.backend, total.tier), total.cost_usd)
        if ended_well(total):
            _add(quoted, (total.backend, total.tier), total.quoted_usd)
    yield _counter("cost_usd", "Booked for attempts, US dollars; pods' idle time is apart.", cost, "backend", "tier")
    yield _counter("quoted_usd", "What the clips among them had been quoted at.", quoted, "backend", "tier")
    spend = overview.spend
    settled = {("day",): spend.today_usd, ("month",): spend.month_usd, ("all",): spend.total_usd}
    yield _gauge("spend_usd", "Settled, pods' idle time included, by UTC period.", settled, "period")
    by_tier = {(line.tier.value,): line.month_usd for line in spend.by_tier}
    yield _gauge("tier_month_spend_usd", "Settled this UTC month.", by_tier, "tier")
    yield _gauge("reserved_usd", "Held for what is under way.", {(): spend.reserved_usd})
    caps = {("day",): spend.day_cap_usd, ("month",): spend.month_cap_usd}
    limits = {period: cap for period, cap in caps.items() if cap is not None}
    yield _gauge("budget_usd", "Hard limits that are set.", limits, "period")


def _pods(connection: Connection, settings: Settings, now: datetime) -> Iterator[Metric]:
    first_lease_s = (settings.pods.ready_timeout_s + settings.pods.lease_s) / settings.routing.time_scale
    counts = standing.pod_counts(connection, now, timedelta(seconds=first_lease_s))
    summary = pod_summary(connection, settings)
    by_state = {(state,): counts.by_state.get(state, 0) for state in POD_STATES}
    yield _gauge("pods", "Rented pods by state.", by_state, "state")
    yield _gauge("pods_open", "Pods that may cost money now.", {(): summary.open})
    yield _gauge("pods_max", "Most pods that may be open.", {(): summary.max_pods})
    yield _gauge("pods_usd_per_hour", "What all open pods cost by the hour.", {(): summary.usd_per_h})
    planned = settings.pods.max_price_usd_per_h * settings.pods.max_pods
    yield _gauge("pods_usd_per_hour_max", "The dearest that the settings allow.", {(): planned})
    yield _gauge("pods_unreconciled", "Closed pods not yet compared with the bill.", {(): counts.unreconciled})
    text = "How long ago the first of them ended."
    yield _gauge("pods_unreconciled_oldest_seconds", text, {(): counts.oldest_unreconciled_s})
    overhead = connection.execute(sa.select(sa.func.sum(t.pod_shares.c.amount_usd))).scalar() or Decimal(0)
    yield _counter("pod_overhead_usd", "Start-up, idle time and storage of pods.", {(): overhead})
    yield _gauge(
        "orphans",
        "What nobody looks after: open pods past their lease, jobs of runs that are gone.",
        {("pods",): counts.past_lease, ("jobs",): standing.abandoned(connection, now)},
        "kind",
    )


def _care(connection: Connection, now: datetime) -> Iterator[Metric]:
    unknown = standing.uncertain(connection, now)
    yield _gauge("uncertain_attempts", "Nobody can say yet whether they were made.", {(): unknown.attempts})
    yield _gauge("uncertain_oldest_seconds", "Age of the oldest of them.", {(): unknown.oldest_s})
    yield _gauge("queue_jobs", "Jobs that live runs have not placed yet.", {(): standing.waiting_jobs(connection, now)})
    errors = {(what,): error for what, error in standing.prediction_errors(connection).items()}
    text = "Mean relative error of the newest finished plans."
    yield _gauge("prediction_error_ratio", text, errors, "what")
    watcher = standing.watcher(connection, now)
    yield _gauge("watcher_up", "1 while a watcher holds its lease.", {(): int(watcher.up)})
    yield _gauge("health_watched", "1 while a watcher is to look at the backends.", {(): int(watcher.looks)})


def _backends(found: tuple[views.BackendView, ...]) -> Iterator[Metric]:
    seen = {b.backend: b for b in found}
    configured = {(key,): int(b.configured) for key, b in seen.items()}
    yield _gauge("backend_configured", "1 where it can be used at all.", configured, "backend")
    health = {key: b.health for key, b in seen.items() if b.configured and b.health is not None}
    healthy = {(key,): int(line.healthy) for key, line in health.items()}
    yield _gauge("backend_healthy", "What the watcher last found, 1 or 0.", healthy, "backend")
    ages = {(key,): line.age_s for key, line in health.items()}
    yield _gauge("backend_health_age_seconds", "How long ago it looked.", ages, "backend")
    latencies = {(key,): line.latency_s for key, line in health.items() if line.latency_s is not None}
    yield _gauge("backend_latency_seconds", "How long the last look took.", latencies, "backend")
    yield _gauge("backend_queue", "Prompts in its own queue.", {(k,): h.queued for k, h in health.items()}, "backend")
    lanes = {(key,): b.lanes for key, b in seen.items()}
    yield _gauge("backend_lanes", "Clips it can make at once.", lanes, "backend")
    rank = {"closed": 0, "half-open": 1, "open": 2}
    breakers = {(k,): max((rank[line.state] for line in b.breakers), default=0) for k, b in seen.items()}
    yield _gauge("breaker_state", "Worst of its breakers: 0 closed, 1 half open, 2 open.", breakers, "backend")
    # That the own GPU costs nothing needs no second look.
    ages_days = {key: [p.age_days for p in b.prices if p.usd] for key, b in seen.items() if b.configured}
    old = {(key,): max(found, default=0) * DAY_S for key, found in ages_days.items()}
    yield _gauge("price_age_seconds", "Age of the oldest price in use.", old, "backend")


def _machine(settings: Settings) -> Iterator[Metric]:
    folders = {"home": settings.storage.home, "clips": settings.storage.clips_dir}
    free = {(name,): _free(folder) for name, folder in folders.items()}
    yield _gauge("disk_free_bytes", "Free space where state and clips are.", free, "folder")


def _free(folder: Path) -> int:
    """Of the nearest folder that exists."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _gauge(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def _counter(name: str, text: str, samples: Samples, *labels: str) -> Metric:
    family = CounterMetricFamily(PREFIX + name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(values, float(number))
    return family


def _histogram(name: str, text: str, totals: tuple[Total, ...], which: str, used: Mapping[str, str]) -> Metric:
    """Of attempts that became clips, by backend."""
    family = HistogramMetricFamily(PREFIX + name, text, labels=("backend",))
    backends = sorted({total.backend for total in totals if ended_well(total)} | set(used))
    for backend in backends:
        mine: list[Spread] = [getattr(x, which) for x in totals if ended_well(x) and x.backend == backend]
        sums = [sum(spread.up_to[place] for spread in mine) for place in range(len(BUCKETS_S))]
        buckets = [(str(bound), count) for bound, count in zip(BUCKETS_S, sums, strict=True)]
        everything = sum(spread.count for spread in mine)
        family.add_metric((backend,), [*buckets, ("+Inf", everything)], sum(spread.sum_s for spread in mine))
    return family


def _add(sums: dict[tuple[str, ...], Number], key: tuple[str, ...], more: Number) -> None:
    sums[key] = sums[key] + more if key in sums else more
