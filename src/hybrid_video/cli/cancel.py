"""`hybrid-video cancel`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.cancel import WAIT_S, CancelReport
from hybrid_video.engine.cancel import cancel as cancel_jobs
from hybrid_video.engine.report import money
from hybrid_video.errors import InputError
from hybrid_video.settings import Settings

MOST_SHOWN = 50
STYLES = {"cancelled": "green", "finished": "green", "failed": "yellow", "uncertain": "red", "unconfirmed": "red"}


@app.command()
def cancel(
    batch: Annotated[str | None, typer.Argument(help="Name of the batch.", show_default=False)] = None,
    job: Annotated[
        list[str] | None, typer.Option("--job", metavar="ID", help="Only this job of the batch; repeat for more.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every job of every batch that is not over.")] = False,
    wait: Annotated[
        float, typer.Option("--wait", metavar="S", help="How long a live run is given to confirm, in seconds.")
    ] = WAIT_S,
    json_output: JsonOption = False,
) -> int:
    """Stop jobs, remotely too, and settle what they cost. Exit 1: some may run on.

    Running the batch again makes them.
    """
    if (batch is None) != everything or (everything and job):
        raise InputError("name a batch, with --job for some of its jobs only, or give --all for everything")
    if wait < 0:
        raise InputError(f"--wait: {wait!r} is negative; give seconds")
    report = asyncio.run(
        cancel_jobs(
            Settings.load(),
            batch=batch,
            jobs=job or (),
            wait_s=wait,
            tell=lambda text: console.print(text, soft_wrap=True, markup=False),
        )
    )
    _show(report)
    if json_output:
        print_json(report.to_json())
    return report.exit_code


def _show(report: CancelReport) -> None:
    if not report.jobs:
        console.print("nothing to cancel: every job is over")
        return
    table = Table(title="Cancelled", title_justify="left")
    for name in ("job", "outcome", "cost", "message"):
        table.add_column(name, justify="right" if name == "cost" else "left", overflow="fold")
    shown = sorted(report.jobs, key=lambda line: line.outcome == "cancelled")[:MOST_SHOWN]
    for line in shown:
        outcome = f"[{STYLES[line.outcome]}]{line.outcome}[/]"
        message = line.message.replace("[", r"\[") if line.outcome != "cancelled" else ""
        table.add_row(f"{line.batch}/{line.job}", outcome, f"${money(line.cost_usd)}", message)
    console.print(table)
    if len(report.jobs) > len(shown):
        console.print(f"and {len(report.jobs) - len(shown)} more (all of them with --json)")
