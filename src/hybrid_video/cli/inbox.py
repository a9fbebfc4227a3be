"""`hybrid-video inbox`, `inbox run` and `inbox retry`: the watched folder."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json, progress_of
from hybrid_video.cli.run import JsonOption, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.engine.session import batch_run, stop_on_signal
from hybrid_video.errors import InputError
from hybrid_video.local_time import next_at, parse_clock, studio_zone
from hybrid_video.models import Batch, utc_now
from hybrid_video.plain_text import clock
from hybrid_video.settings import Settings
from hybrid_video.watched_folder import Listing, Night, NightReport, Ran, list_inbox, run_night
from hybrid_video.watched_folder.listing import retry as put_back

MOST_SHOWN = 50
STYLES = {"ready": "green", "arriving": "yellow", "wrong": "red", "done": "green", "failed": "red", "waits": "yellow"}

inbox_app = typer.Typer(
    help="The folder that batch files are dropped into: what waits, what it would cost, what failed and why. "
    "`inbox run` makes what waits.",
    invoke_without_command=True,
    no_args_is_help=False,
)
app.add_typer(inbox_app, name="inbox")

FolderOption = Annotated[
    Path | None, typer.Option("--folder", help="Another folder than HYBRID_VIDEO_INBOX.", show_default=False)
]


@inbox_app.callback()
def show(context: typer.Context, folder: FolderOption = None, json_output: JsonOption = False) -> int:
    """Show what waits in the inbox and what it would cost, what is being made, and what failed and why."""
    if context.invoked_subcommand is not None:
        return 0
    listing = list_inbox(Settings.load(), folder)
    _show(listing)
    if json_output:
        print_json(listing.to_json())
    return 0


@inbox_app.command("run")
def run(
    folder: FolderOption = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by", metavar="HH:MM", help="When the clips are to be ready; HYBRID_VIDEO_INBOX_READY_BY. none: no time."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="USD", help="Hard limit for the whole night; the smaller one holds."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the clips.")] = None,
    json_output: JsonOption = False,
) -> int:
    """Make every batch of the inbox now, as the nightly schedule does. Finished clips are never made again."""
    settings = Settings.load()
    if by not in (None, "none", ""):
        parse_clock(by or "")
    ready_by = "" if by == "none" else by
    night = Night.of(settings, ready_by=ready_by, budget_usd=None if budget is None else parse_usd("--budget", budget))
    if night.ready_by:
        zone = studio_zone(settings)
        moment = next_at(night.ready_by, zone, utc_now()).astimezone(zone)
        left_s = (moment - utc_now()).total_seconds()
        console.print(f"to be ready by {moment:%A %H:%M} ({zone.key}), in {clock(left_s)}; --by none: no such time")
    report = asyncio.run(run_night(settings, _maker(settings, out), night=night, folder=folder, tell=_say))
    _show_night(report)
    if json_output:
        print_json(report.to_json())
    return report.exit_code


@inbox_app.command("retry")
def retry(
    name: Annotated[str, typer.Argument(help="Name of a failed batch, as `hybrid-video inbox` shows it.")],
    folder: FolderOption = None,
) -> int:
    """Put a failed batch back into the inbox. Its finished clips are neither made nor paid for again."""
    if not name or "/" in name or "\\" in name:
        raise InputError(f"{name!r} is no name of a failed batch; `hybrid-video inbox` lists them")
    place = put_back(Settings.load(), name, folder)
    _say(f"{name} waits again: {place}")
    return 0


def _maker(settings: Settings, out: Path | None) -> Callable[[Batch, Path], Awaitable[Ran]]:
    async def make(batch: Batch, base_dir: Path) -> Ran:
        stopped = False
        with progress_of(batch.name, len(batch.jobs)) as observer:
            async with batch_run(
                batch, settings=settings, base_dir=base_dir, out_dir=out, observer=observer
            ) as batch_in_hand:

                def stop() -> None:
                    nonlocal stopped
                    stopped = True
                    batch_in_hand.cancel()

                with stop_on_signal(stop):
                    return Ran(await batch_in_hand.run(), stopped)

    return make


def _show(listing: Listing) -> None:
    table = Table(title=f"Waiting in {listing.folder}", title_justify="left")
    for name in ("batch", "state", "priority", "clips", "cost", "time", "where", "why it waits"):
        table.add_column(name, justify="right" if name in ("priority", "clips", "cost", "time") else "left")
    for line in listing.waiting[:MOST_SHOWN]:
        table.add_row(
            line.entry,
            f"[{STYLES[line.state]}]{line.state}[/]",
            str(line.priority or ""),
            f"{line.left} of {line.jobs}" if line.jobs else "",
            "" if line.cost_usd is None else f"${line.cost_usd:.2f}",
            "" if line.duration_s is None else clock(line.duration_s),
            ", ".join(f"{count} {key}" for key, count in line.split.items()),
            _escape(line.reason),
        )
    if listing.waiting:
        console.print(table)
    else:
        _say(f"nothing waits in {listing.folder}; drop a batch file into it, or a folder with one and its pictures")
    for running in listing.running:
        _say(f"{running.unit}: being made on {running.machine}, {running.clips} of {running.jobs} clips")
    _show_failed(listing)
    budget = f", of ${money(listing.budget_usd)} for a night" if listing.budget_usd is not None else ""
    if listing.waiting:
        _say(f"together about ${listing.cost_usd:.2f}{budget}; `hybrid-video inbox run` makes them now")
    if listing.done:
        _say(f"{len(listing.done)} were made in the last two weeks: {Path(listing.done[0].place).parent.parent}")


def _show_failed(listing: Listing) -> None:
    if not listing.failed:
        return
    table = Table(title="Failed in the last two weeks", title_justify="left")
    for name in ("batch", "when", "clips", "why"):
        table.add_column(name, overflow="fold")
    zone = studio_zone(Settings.load())
    for line in listing.failed[:MOST_SHOWN]:
        clips = f"{line.clips} of {line.jobs}" if line.jobs else ""
        table.add_row(line.unit, f"{line.at.astimezone(zone):%Y-%m-%d %H:%M}", clips, _escape(line.reason))
    console.print(table)
    _say(f"the whole reason is in report.md beside each, for example {listing.failed[0].place}/report.md")


def _show_night(report: NightReport) -> None:
    table = Table(title=f"Night of {report.night}", title_justify="left")
    for name in ("batch", "outcome", "clips", "cost", "time", "why"):
        table.add_column(name, justify="right" if name in ("clips", "cost", "time") else "left", overflow="fold")
    for line in report.lines:
        style = STYLES.get(line.outcome, "yellow")
        clips = f"{line.clips} of {line.jobs}" if line.jobs else ""
        table.add_row(
            line.unit,
            f"[{style}]{line.outcome}[/]",
            clips,
            f"${money(line.cost_usd)}",
            clock(line.duration_s),
            _escape(line.reason),
        )
    if report.lines:
        console.print(table)
    for notice in report.notices:
        _say(notice)
    _say(report.summary)


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
