"""The whole examination, in the order in which things depend on each other."""

from __future__ import annotations

import asyncio

from hybrid_video.backends.registry import BACKENDS
from hybrid_video.doctor.backends import look_at_backend
from hybrid_video.doctor.clock import look_at_clock
from hybrid_video.doctor.findings import Finding
from hybrid_video.doctor.machine import (
    look_at_gpu,
    look_at_installation,
    look_at_ports,
    look_at_python,
    look_at_versions,
)
from hybrid_video.doctor.rendering import Render, look_at_rendering
from hybrid_video.doctor.storage import look_at_disk, look_at_history, look_at_ledger, look_at_prices
from hybrid_video.doctor.watching import look_at_pods, look_at_watcher
from hybrid_video.engine.prepare import build_context
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import HybridVideoError
from hybrid_video.history import History
from hybrid_video.ledger import Ledger
from hybrid_video.settings import Settings

NONE_READY = Finding(
    subject="backends",
    level="error",
    detail="no backend is ready, so no clip can be made",
    remedy="configure one of those above; `hybrid-video demo` runs without any",
)


async def examine(settings: Settings, *, render: Render = "none") -> list[Finding]:
    """Every check: the machine, the storage, each backend, what looks after them.

    Args:
        render: on which ComfyUIs a tiny clip is rendered: none, the installed one, or all that are configured.
    """
    findings = [look_at_python(), look_at_versions(), look_at_disk(settings)]
    findings += await asyncio.gather(
        asyncio.to_thread(look_at_gpu, settings), asyncio.to_thread(look_at_ports, settings)
    )
    try:
        ledger = open_ledger(settings)
    except HybridVideoError as error:
        return [*findings, Finding(subject="ledger", level="error", detail=str(error), remedy="mend the ledger first")]
    try:
        findings += await _with_ledger(ledger, settings)
    finally:
        ledger.close()
    findings.append(await look_at_clock(settings))
    findings.append(await asyncio.to_thread(look_at_installation))
    findings += await look_at_rendering(settings, render)
    if not any(f.level == "ok" for f in findings if f.subject in BACKENDS):
        findings.append(NONE_READY)
    return findings


async def _with_ledger(ledger: Ledger, settings: Settings) -> list[Finding]:
    history = History(settings.storage.history_path)
    seen = look_at_history(history, ledger)
    findings = [look_at_ledger(ledger), seen, look_at_prices(settings)]
    context = build_context(settings, history if seen.level == "ok" else None)
    findings += await asyncio.gather(*(look_at_backend(key, context) for key in BACKENDS))
    return [*findings, look_at_pods(ledger, settings), look_at_watcher(ledger, settings)]
