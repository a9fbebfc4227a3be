"""`hybrid-video prices`."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import TIER_STYLE, console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.report import money
from hybrid_video.pricing.catalog import PriceEntry
from hybrid_video.pricing.refresh import OLD_DAYS, Refresh, load_prices
from hybrid_video.settings import Settings
from hybrid_video.tidying import refresh_prices

HOUR_S = 3600


@app.command()
def prices(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Fetch RunPod's prices now (needs RUNPOD_API_KEY).")
    ] = False,
    json_output: JsonOption = False,
) -> int:
    """Show every price in use with its source and age, or fetch RunPod's present ones. Old entries are kept."""
    settings = Settings.load()
    fetched = asyncio.run(refresh_prices(settings)) if refresh else None
    book = load_prices(settings.routing.prices, settings)
    today = datetime.now(UTC).date()
    entries = sorted(book.in_use(), key=lambda e: (e.tier, e.backend, e.gpu, e.model, e.resolution))
    old = [entry for entry in entries if (today - entry.checked).days > OLD_DAYS and entry.profile == "current"]
    warning = _warning(old, today, settings)
    _show(entries, today)
    for line in (*(fetched.changed if fetched else ()), *(fetched.doubtful if fetched else ())):
        console.print(line, markup=False, soft_wrap=True)
    if fetched is not None:
        console.print(f"{len(fetched.entries)} prices of RunPod are in {fetched.path}", soft_wrap=True)
    if warning:
        console.print(f"[yellow]{warning}[/]", soft_wrap=True)
    if json_output:
        print_json(
            {
                "profile": book.profile,
                "prices": [_json(entry, (today - entry.checked).days) for entry in entries],
                "oldest_days": book.age_days(today),
                "warning": warning,
                "refreshed": None if fetched is None else _refresh_json(fetched),
            }
        )
    return 0


def _warning(old: list[PriceEntry], today: Any, settings: Settings) -> str:
    if not old:
        return ""
    oldest = max((today - entry.checked).days for entry in old)
    fetchable = [entry for entry in old if entry.backend.startswith("runpod")]
    remedy = "compare the ones you use with the vendor's page"
    if fetchable:
        key = "" if settings.runpod.api_key is not None else "set RUNPOD_API_KEY and "
        remedy = f"{key}run `hybrid-video prices --refresh` for RunPod's {len(fetchable)}; {remedy}"
    return f"{len(old)} prices were checked more than {OLD_DAYS} days ago, the oldest {oldest} days ago: {remedy}"


def _show(entries: list[PriceEntry], today: Any) -> None:
    table = Table(title="Prices in use", title_justify="left")
    for name in ("backend", "for", "price", "per hour", "age", "source"):
        table.add_column(name, justify="right" if name in ("price", "per hour", "age") else "left", overflow="fold")
    for entry in entries:
        age = (today - entry.checked).days
        style = TIER_STYLE.get(entry.tier.value, "")
        table.add_row(
            f"[{style}]{entry.tier.value}[/] {entry.backend}",
            " ".join(part for part in (entry.gpu, entry.model, entry.resolution) if part) or "anything",
            f"${money(entry.usd)} a {entry.unit.replace('_', ' ')}",
            f"${entry.usd * HOUR_S:.2f}" if entry.unit == "gpu_second" else "",
            f"[yellow]{age} d[/]" if age > OLD_DAYS else f"{age} d",
            f"{entry.source} ({entry.confidence})".replace("[", r"\["),
        )
    console.print(table)


def _json(entry: PriceEntry, age_days: int) -> dict[str, Any]:
    data: dict[str, Any] = entry.model_dump(mode="json", exclude={"profile", "seconds"})
    usd: Decimal = entry.usd
    return data | {"usd": money(usd), "age_days": age_days}


def _refresh_json(fetched: Refresh) -> dict[str, Any]:
    return {
        "file": None if fetched.path is None else str(fetched.path),
        "prices": len(fetched.entries),
        "changed": list(fetched.changed),
        "doubtful": list(fetched.doubtful),
    }
