"""Renders a tiny clip without a model on ComfyUIs of this machine: answering is not yet working."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from hybrid_video.doctor.findings import Finding
from hybrid_video.errors import HybridVideoError
from hybrid_video.installer import Installation
from hybrid_video.installer.rendering import RenderCheck, render_check
from hybrid_video.settings import Settings

Render = Literal["none", "installed", "all"]
TIMEOUT_S = 90.0


async def look_at_rendering(settings: Settings, render: Render) -> list[Finding]:
    """One finding for each ComfyUI that is tried: the installed one, or all that are configured."""
    if render == "none":
        return []
    installed, output = _installed()
    urls = [installed] if installed else []
    if render == "all":
        urls += [url for url in settings.comfyui.urls if url != installed]
    checks = [render_check(url, output=output if url == installed else None, timeout_s=TIMEOUT_S) for url in urls]
    found = await asyncio.gather(*checks)
    return [_finding(url, check) for url, check in zip(urls, found, strict=True)]


def _installed() -> tuple[str, Path | None]:
    try:
        installation = Installation()
        status = installation.status()
    except HybridVideoError:
        return "", None
    return (status.url if status.answers else "", installation.layout.data / "output")


def _finding(url: str, check: RenderCheck) -> Finding:
    if check.busy:
        remedy = "run it again when the queue is empty"
        return Finding(subject="rendering", level="warning", detail=f"{url}: {check.detail}", remedy=remedy)
    level: Literal["ok", "error"] = "ok" if check.ok else "error"
    return Finding(subject="rendering", level=level, detail=f"{url}: {check.detail}", remedy=check.remedy)
