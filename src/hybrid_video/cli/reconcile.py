"""`hybrid-video reconcile`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.reconcile import ReconcileReport
from hybrid_video.engine.reconcile import reconcile as reconcile_batches
from hybrid_video.engine.report import money
from hybrid_video.errors import InputError
from hybrid_video.pods.pool import PoolReport
from hybrid_video.settings import Settings

MOST_SHOWN = 50
STYLES = {"collected": "green", "released": "green", "uncertain": "red", "running": "yellow"}


@app.command()
def reconcile(
    batches: Annotated[
        list[str] | None, typer.Argument(metavar="[BATCH]...", help="Batches to look at; all when none is named.")
    ] = None,
    wait: Annotated[
        float | None,
        typer.Option("--wait", metavar="S", help="Wait so many seconds for what still runs. Default: until it ends."),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Settle what crashes left open, without ever sending anything again, and compare disk and vendors with the ledger.

    Exit 1 if differences remain.
    """
    if wait is not None and wait < 0:
        raise InputError(f"--wait: {wait!r} is negative; give seconds")
    report = asyncio.run(
        reconcile_batches(
            Settings.load(),
            batches or (),
            wait_s=wait,
            tell=lambda text: console.print(text, soft_wrap=True, markup=False),
        )
    )
    _show(report)
    if json_output:
        print_json(report.to_json())
    return report.exit_code


def _show(report: ReconcileReport) -> None:
    if report.attempts:
        table = Table(title="Attempts that were open", title_justify="left")
        for name in ("job", "backend", "outcome", "cost", "held"):
            table.add_column(name, justify="right" if name in ("cost", "held") else "left", overflow="fold")
        for line in report.attempts[:MOST_SHOWN]:
            outcome = f"[{STYLES.get(line.outcome, 'default')}]{line.outcome}[/]"
            held = f"${money(line.reserved_usd)}"
            table.add_row(f"{line.batch}/{line.job}", line.backend, outcome, f"${money(line.cost_usd)}", held)
        console.print(table)
    for line in report.attempts[:MOST_SHOWN]:
        if line.outcome not in ("collected", "elsewhere"):
            _say(f"{line.batch}/{line.job}: {line.message}")
    for finding in report.clips[:MOST_SHOWN]:
        _say(finding.message)
    for pod in report.pods:
        _say(
            f"pod {pod.name!r} ({pod.id}, {pod.status}, ${money(pod.cost_usd_per_h)} per hour) carries our name and "
            "is not in HYBRID_VIDEO_RUNPOD_POD_IDS; use it or end it in the RunPod console"
        )
    if report.pool is not None:
        _show_pool(report.pool)
    for bill in report.bills:
        _say(
            f"RunPod's bill of {bill.day}: ${money(bill.billed_usd)}, the ledger has ${money(bill.ledger_usd)}: "
            f"${money(bill.difference_usd)} for start-up, idle time or what the ledger does not know; not booked"
        )
    for notice in report.notices:
        _say(notice)
    clean = (
        "[green]everything agrees[/]" if not report.differences else f"[red]{report.differences} differences remain[/]"
    )
    console.print(f"{len(report.batches)} batches, {report.clips_checked} clips checked on disk: {clean}")


def _show_pool(pool: PoolReport) -> None:
    for name in pool.ended:
        _say(f"pod {name!r} carried this installation's name and no living record stood for it; it is being ended")
    for name in pool.vanished:
        _say(f"pod {name!r} is gone at RunPod; what it cost is booked")
    for name in pool.unresolved:
        _say(f"RunPod has not confirmed pod {name!r} or its end yet; run `hybrid-video reconcile` again in two minutes")
    for pod in pool.other_installations:
        _say(
            f"pod {pod.name!r} ({pod.id}, {pod.status}, ${money(pod.cost_usd_per_h)} per hour) belongs to another "
            "installation of hybrid-video and is left alone"
        )
    for line in pool.bills:
        state = "booked" if line.final else "not complete yet"
        _say(
            f"RunPod's bill for pod {line.pod!r}: ${money(line.billed_usd)}, by our clock ${money(line.booked_usd)}: "
            f"${money(line.difference_usd)} difference, {state}"
        )
    for alarm in pool.alarms:
        _say(alarm)


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
