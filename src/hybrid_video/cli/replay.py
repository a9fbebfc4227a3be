"""`hybrid-video replay`: a past batch under other conditions."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import BudgetOption, DeadlineOption, JsonOption, parse_seconds, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.errors import InputError
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.replay import Outcome, Replay
from hybrid_video.replay import replay as replay_batch
from hybrid_video.settings import Settings


@app.command()
def replay(
    batch: Annotated[str, typer.Argument(help="Name of a batch that has been run.", show_default=False)],
    deadline: DeadlineOption = None,
    budget: BudgetOption = None,
    prices: Annotated[str | None, typer.Option("--prices", help="Another price list: current or seed.")] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", metavar="TIER", help="Leave a tier out; repeat for more.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Run a past batch again on a virtual clock, with the times it really took: another deadline, budget, price list,
    or without a tier."""
    settings = Settings.load()
    excluded = [_tier(name) for name in without or ()]
    with opened(settings) as (ledger, _history):
        found = replay_batch(
            ledger,
            batch,
            settings,
            deadline_s=None if deadline is None else parse_seconds("--deadline", deadline),
            budget_usd=None if budget is None else parse_usd("--budget", budget),
            prices=None if prices is None else _book(prices, settings),
            without=excluded,
        )
    _show(found)
    if json_output:
        print_json(to_json(found))
    return 0


def to_json(found: Replay) -> dict[str, Any]:
    """The answer; money as strings."""
    return {
        "batch": found.batch,
        "jobs": found.jobs,
        "actual": _outcome_json(found.actual),
        "again": _outcome_json(found.again),
        "replayed": _outcome_json(found.replayed),
        "hindsight": _outcome_json(found.hindsight),
        "difference_usd": money(found.replayed.cost_usd - found.again.cost_usd),
        "difference_s": round(found.replayed.duration_s - found.again.duration_s, 3),
        "feasible": not found.note,
        "note": found.note,
        "advice": list(found.advice),
        "backends": [
            {
                "backend": line.backend,
                "slots": line.slots,
                "service_s": round(line.service_s, 3),
                "price_usd": money(line.price_usd),
            }
            for line in found.pool
        ],
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "cost_usd": money(outcome.cost_usd),
        "duration_s": round(outcome.duration_s, 3),
        "split": outcome.split,
    }


def _show(found: Replay) -> None:
    table = Table(title=f"{found.batch}: {found.jobs} clips", title_justify="left")
    for name in ("", "cost", "duration", "split"):
        table.add_column(name, justify="right" if name in ("cost", "duration") else "left")
    rows = (
        ("what happened", found.actual),
        ("the same goal, replayed", found.again),
        ("as asked, replayed", found.replayed),
        ("best plan in hindsight, same goal", found.hindsight),
    )
    for name, outcome in rows:
        split = ", ".join(f"{count} {key}" for key, count in outcome.split.items())
        table.add_row(name, f"${money(outcome.cost_usd)}", f"{outcome.duration_s:.1f} s", split)
    console.print(table)
    if found.note:
        console.print(f"[yellow]{found.note}[/]")
    for sentence in found.advice:
        console.print(sentence)


def _tier(name: str) -> Tier:
    try:
        return Tier(name)
    except ValueError:
        raise InputError(f"--without: {name!r} is not a tier; use {', '.join(Tier)}") from None


def _book(name: str, settings: Settings) -> PriceBook:
    profiles: dict[str, Literal["current", "seed"]] = {"current": "current", "seed": "seed"}
    if name not in profiles:
        raise InputError(f"--prices: {name!r} is not a price profile; use current or seed")
    return load_prices(profiles[name], settings)
