"""`hybrid-video ledger …`."""

from __future__ import annotations

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.ledger.verify import verify as verify_ledger
from hybrid_video.settings import Settings

ledger_app = typer.Typer(
    help="Look after the ledger: where every job, decision and dollar is written.", no_args_is_help=True
)
app.add_typer(ledger_app, name="ledger")

MOST_SHOWN = 50


@ledger_app.command()
def verify(json_output: JsonOption = False) -> int:
    """Recompute every balance and report every contradiction. Exit 1 if there is a serious one."""
    with opened(Settings.load()) as (ledger, _history):
        report = verify_ledger(ledger)
    table = Table(title="Ledger", title_justify="left", show_header=False)
    for name in ("batches", "jobs", "attempts", "settled_usd", "reserved_usd", "uncertain", "orphans", "duplicates"):
        value = getattr(report, name)
        table.add_row(name, f"${money(value)}" if name.endswith("_usd") else str(value))
    console.print(table)
    for finding in report.findings[:MOST_SHOWN]:
        style = "red" if finding.serious else "yellow"
        console.print(f"[{style}]{finding.kind}[/] {finding.subject}: {finding.message}", soft_wrap=True)
    if len(report.findings) > MOST_SHOWN:
        console.print(f"and {len(report.findings) - MOST_SHOWN} more (all of them with --json)")
    console.print("[green]every balance agrees[/]" if report.ok else "[red]the ledger contradicts itself[/]")
    if json_output:
        data = report.model_dump(mode="json")
        data |= {"settled_usd": money(report.settled_usd), "reserved_usd": money(report.reserved_usd)}
        print_json(data)
    return 0 if report.ok else 1


@ledger_app.command("rebuild-history")
def rebuild_history() -> int:
    """Make the analysis history again from the ledger."""
    with opened(Settings.load()) as (ledger, history):
        console.print(f"{history.rebuild(ledger)} attempts are in the history")
    return 0
