"""Looks at what is kept on this machine: disk, ledger, history, prices."""

from __future__ import annotations

import shutil
from datetime import UTC, date, datetime
from typing import Literal

import duckdb
import sqlalchemy

from hybrid_video.doctor.findings import Finding
from hybrid_video.errors import LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.settings import Settings

OLD_PRICES_DAYS = 120


def look_at_disk(settings: Settings) -> Finding:
    """Space where state and clips go."""
    home = settings.storage.home
    try:
        home.mkdir(parents=True, exist_ok=True)
        free_mb = shutil.disk_usage(home).free // 2**20
    except OSError as error:
        return Finding(
            subject="disk",
            level="error",
            detail=f"{str(home)!r} cannot be used: {error.strerror}",
            remedy="set HYBRID_VIDEO_HOME to a folder you can write",
        )
    wanted = settings.storage.min_free_disk_mb
    level: Literal["ok", "error"] = "ok" if free_mb >= wanted else "error"
    remedy = "" if level == "ok" else "free some space or set HYBRID_VIDEO_HOME to a larger disk"
    return Finding(subject="disk", level=level, detail=f"{free_mb} MB free at {str(home)!r}", remedy=remedy)


def look_at_ledger(ledger: Ledger) -> Finding:
    """Whether the ledger agrees with itself, and what is undecided."""
    report = verify(ledger)
    detail = (
        f"{report.batches} batches, {report.jobs} jobs, {report.attempts} attempts, ${report.settled_usd:f} settled, "
        f"${report.reserved_usd:f} reserved (SQLAlchemy {sqlalchemy.__version__})"
    )
    if not report.ok:
        remedy = "run `hybrid-video ledger verify` to see them"
        return Finding(subject="ledger", level="error", detail=f"{detail}; it contradicts itself", remedy=remedy)
    if gap := next((finding for finding in report.findings if finding.kind == "gap"), None):
        remedy = "run `hybrid-video reconcile`; nothing that costs money is sent before that"
        return Finding(subject="ledger", level="warning", detail=f"{detail}; it {gap.message}", remedy=remedy)
    if report.uncertain:
        remedy = (
            "run `hybrid-video reconcile`: they are looked up, never sent twice. What nobody can look up is settled by "
            "`hybrid-video ledger resolve ATTEMPT_ID --as never-accepted|charged|free`; `ledger verify` lists the ids"
        )
        detail = f"{detail}; {report.uncertain} attempts have an unknown outcome"
        return Finding(subject="ledger", level="warning", detail=detail, remedy=remedy)
    return Finding(subject="ledger", level="ok", detail=detail)


def look_at_history(history: History, ledger: Ledger) -> Finding:
    """Whether the history opens; brings it up to date."""
    try:
        added = history.update(ledger)
        count = int(history.query("select count(*) as n from attempts")["n"].iloc[0])
    except LedgerError as error:
        remedy = "batches run without it, but expect the published times; do what the message says"
        return Finding(subject="history", level="error", detail=str(error), remedy=remedy)
    detail = f"{count} attempts, {added} of them just copied (DuckDB {duckdb.__version__})"
    return Finding(subject="history", level="ok", detail=detail)


def look_at_prices(settings: Settings) -> Finding:
    """How old the prices are."""
    book = load_prices(settings.routing.prices, settings)
    today: date = datetime.now(UTC).date()
    age = book.age_days(today)
    detail = f"profile {book.profile}, {len(book.entries)} entries, the oldest checked {age} days ago"
    if book.profile == "current" and age > OLD_PRICES_DAYS:
        remedy = "compare the GPU or model you use with its vendor's page; RunPod's prices move within weeks"
        return Finding(subject="prices", level="warning", detail=detail, remedy=remedy)
    return Finding(subject="prices", level="ok", detail=detail)
