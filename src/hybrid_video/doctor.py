"""Looks at everything the product stands on and says, for each, what was found and what to do."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, date, datetime
from typing import Literal

import duckdb
import sqlalchemy

from hybrid_video.backends.base import Backend, BackendContext
from hybrid_video.backends.registry import BACKENDS
from hybrid_video.engine.prepare import build_context
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import HybridVideoError, LedgerError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Model
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.settings import Settings

CHECK_TIMEOUT_S = 30.0
OLD_PRICES_DAYS = 120

SETUP = {
    "comfyui": "set HYBRID_VIDEO_COMFYUI_URLS to your ComfyUI's address, for example http://127.0.0.1:8188",
    "runpod-serverless": "set RUNPOD_API_KEY and HYBRID_VIDEO_RUNPOD_ENDPOINT_ID",
    "runpod-pod": "set RUNPOD_API_KEY and HYBRID_VIDEO_PODS_IMAGE to have pods opened when they pay, or "
    "HYBRID_VIDEO_RUNPOD_POD_IDS and HYBRID_VIDEO_RUNPOD_POD_TOKEN to use running ones",
    "gemini": "set GEMINI_API_KEY",
    "veo": "set HYBRID_VIDEO_GEMINI_PROJECT and sign in with Google Cloud's application default credentials",
}


class Finding(Model):
    """One thing looked at. `level` off means: not configured, and that is fine."""

    subject: str
    level: Literal["ok", "warning", "error", "off"]
    detail: str
    remedy: str = ""


async def examine(settings: Settings) -> list[Finding]:
    """Every check, the storage first, then each backend."""
    findings = [_disk(settings)]
    try:
        ledger = open_ledger(settings)
    except HybridVideoError as error:
        return [*findings, Finding(subject="ledger", level="error", detail=str(error), remedy="mend the ledger first")]
    try:
        history = History(settings.storage.history_path)
        seen = _history(history, ledger)
        findings += [_ledger(ledger), seen, _prices(settings)]
        context = build_context(settings, history if seen.level == "ok" else None)
        findings += await asyncio.gather(*(_backend(key, context) for key in BACKENDS))
    finally:
        ledger.close()
    if not any(f.level == "ok" for f in findings if f.subject in BACKENDS):
        findings.append(
            Finding(
                subject="backends",
                level="error",
                detail="no backend is ready, so no clip can be made",
                remedy="configure one of those above; `hybrid-video demo` runs without any",
            )
        )
    return findings


def _disk(settings: Settings) -> Finding:
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


def _ledger(ledger: Ledger) -> Finding:
    report = verify(ledger)
    detail = (
        f"{report.batches} batches, {report.jobs} jobs, {report.attempts} attempts, ${report.settled_usd:f} settled, "
        f"${report.reserved_usd:f} reserved (SQLAlchemy {sqlalchemy.__version__})"
    )
    if not report.ok:
        remedy = "run `hybrid-video ledger verify` to see them"
        return Finding(subject="ledger", level="error", detail=f"{detail}; it contradicts itself", remedy=remedy)
    if report.uncertain:
        remedy = (
            "run `hybrid-video reconcile`: they are looked up, never sent twice. What nobody can look up is settled by "
            "`hybrid-video ledger resolve ATTEMPT_ID --as never-accepted|charged|free`; `ledger verify` lists the ids"
        )
        detail = f"{detail}; {report.uncertain} attempts have an unknown outcome"
        return Finding(subject="ledger", level="warning", detail=detail, remedy=remedy)
    return Finding(subject="ledger", level="ok", detail=detail)


def _history(history: History, ledger: Ledger) -> Finding:
    try:
        added = history.update(ledger)
        count = int(history.query("select count(*) as n from attempts")["n"].iloc[0])
    except LedgerError as error:
        remedy = "batches run without it, but expect the published times; do what the message says"
        return Finding(subject="history", level="error", detail=str(error), remedy=remedy)
    detail = f"{count} attempts, {added} of them just copied (DuckDB {duckdb.__version__})"
    return Finding(subject="history", level="ok", detail=detail)


def _prices(settings: Settings) -> Finding:
    book = load_prices(settings.routing.prices, settings)
    today: date = datetime.now(UTC).date()
    age = book.age_days(today)
    detail = f"profile {book.profile}, {len(book.entries)} entries, the oldest checked {age} days ago"
    if book.profile == "current" and age > OLD_PRICES_DAYS:
        remedy = "compare the GPU or model you use with its vendor's page; RunPod's prices move within weeks"
        return Finding(subject="prices", level="warning", detail=detail, remedy=remedy)
    return Finding(subject="prices", level="ok", detail=detail)


async def _backend(key: str, context: BackendContext) -> Finding:
    entry = BACKENDS[key]
    if not entry.is_configured(context.settings):
        return Finding(subject=key, level="off", detail="not configured", remedy=SETUP.get(key, ""))
    backend = entry.build(context)
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            return await _look(key, backend)
    except TimeoutError:
        detail = f"no answer within {CHECK_TIMEOUT_S:.0f} s"
        return Finding(subject=key, level="error", detail=detail, remedy="check the address and the network")
    except HybridVideoError as error:
        return Finding(subject=key, level="error", detail=str(error), remedy=SETUP.get(key, ""))
    finally:
        await backend.close()


async def _look(key: str, backend: Backend) -> Finding:
    await backend.start()
    health = await backend.health()
    lanes = backend.lanes()
    gpus = sorted({lane.gpu for lane in lanes if lane.gpu})
    detail = f"{health.detail}; {len(lanes)} at once{', on ' + ', '.join(gpus) if gpus else ''}"
    return Finding(subject=key, level="ok" if health.healthy else "error", detail=detail, remedy=health.remedy)
