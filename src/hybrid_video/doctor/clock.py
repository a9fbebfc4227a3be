"""Compares this machine's clock with that of a server it talks to: leases, sign-in and stored times need it right."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from hybrid_video.doctor.findings import Finding, Level
from hybrid_video.redaction import redact
from hybrid_video.settings import Settings, is_loopback

WARN_S = 20.0
WRONG_S = 120.0
GOOGLE = "https://generativelanguage.googleapis.com"


async def look_at_clock(settings: Settings) -> Finding:
    """The difference to the Date header of a configured service."""
    urls = _servers(settings)
    if not urls:
        detail = "not compared: no service elsewhere is configured"
        return Finding(subject="clock", level="off", detail=detail)
    for url in urls:
        skew = await _skew_s(url)
        if skew is not None:
            return _judge(skew, httpx.URL(url).host)
    hosts = ", ".join(httpx.URL(url).host for url in urls)
    remedy = "check the network; a proxy is taken from https_proxy"
    return Finding(subject="clock", level="warning", detail=f"not compared: no answer from {hosts}", remedy=remedy)


def _judge(skew_s: float, host: str) -> Finding:
    detail = f"{abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} {host}"
    if abs(skew_s) < WARN_S:
        return Finding(subject="clock", level="ok", detail=f"agrees with {host}")
    remedy = "set the clock: `timedatectl set-ntp true` on Linux, Date & Time in the settings of macOS and Windows"
    level: Level = "error" if abs(skew_s) >= WRONG_S else "warning"
    return Finding(subject="clock", level=level, detail=detail, remedy=remedy)


def _servers(settings: Settings) -> list[str]:
    """Services of others first; this machine's own have its own clock."""
    urls = []
    if settings.runpod.api_key:
        urls += [settings.runpod.management_url, settings.runpod.jobs_url]
    if settings.gemini.api_key or settings.gemini.project:
        urls.append(settings.gemini.url or GOOGLE)
    urls += [url for url in settings.comfyui.urls if not is_loopback(url)]
    return list(dict.fromkeys(urls))


async def _skew_s(url: str) -> float | None:
    try:
        async with httpx.AsyncClient(timeout=5, trust_env=not is_loopback(url)) as http:
            asked = datetime.now(UTC)
            answer = await http.head(url)
            answered = datetime.now(UTC)
    except httpx.HTTPError:
        return None
    try:
        theirs = parsedate_to_datetime(redact(answer.headers.get("Date", ""), 60))
    except ValueError:
        return None
    if theirs.tzinfo is None:
        return None
    # The header has whole seconds, cut off: half a second more is the best guess.
    return (asked + (answered - asked) / 2 - theirs).total_seconds() - 0.5
