"""`hybrid-video schedules`, `schedules on` and `schedules off`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.local_time import studio_zone
from hybrid_video.prefect_api import call
from hybrid_video.schedules import ScheduleLine, list_schedules, server_url, switch
from hybrid_video.settings import Settings

schedules_app = typer.Typer(
    help="What runs by itself: nightly batch, daily report, prices, pruning, reconciling. Off until switched on.",
    invoke_without_command=True,
    no_args_is_help=False,
)
app.add_typer(schedules_app, name="schedules")

NamesArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[NAME]...", help="Which schedules; without a name all of them.")
]


@schedules_app.callback()
def show(context: typer.Context, json_output: JsonOption = False) -> int:
    """Show every schedule: on or off, when it runs, when it ran last and what came of it."""
    if context.invoked_subcommand is not None:
        return 0
    settings = Settings.load()
    return _show(server_url(settings), list_schedules(server_url(settings)), studio_zone(settings), json_output)


@schedules_app.command("on")
def switch_on(
    names: NamesArgument = None,
    at: Annotated[
        str | None, typer.Option("--at", metavar="HH:MM", help="Time of day by the studio's clock, for one schedule.")
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify",
            metavar="TYPE/NAME",
            help="Prefect block for the messages of the nightly batch and the daily report, like slack-webhook/studio.",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Switch schedules on, in the studio's time zone. Without a name all but the watcher's: `up` does not need it."""
    settings = Settings.load()
    url, zone = server_url(settings), studio_zone(settings)
    lines = switch(url, names or (), active=True, zone=zone, at=at, notify=notify)
    return _show(url, lines, zone, json_output)


@schedules_app.command("off")
def switch_off(names: NamesArgument = None, json_output: JsonOption = False) -> int:
    """Switch schedules off. What runs now goes on to its end."""
    settings = Settings.load()
    url, zone = server_url(settings), studio_zone(settings)
    return _show(url, switch(url, names or (), active=False, zone=zone), zone, json_output)


def _show(url: str, lines: Sequence[ScheduleLine], zone: ZoneInfo, json_output: bool) -> int:
    table = Table(title="Schedules", title_justify="left")
    for name in ("schedule", "", "runs at", "next", "last", "what it does"):
        table.add_column(name, overflow="fold")
    for line in lines:
        state = "[green]on[/]" if line.active else "[dim]off[/]"
        moment = f"{line.next_at.astimezone(zone):%a %d %b %H:%M}" if line.next_at else "soon" if line.active else ""
        last = f"{line.last_at.astimezone(zone):%d %b %H:%M} {line.last_state}" if line.last_at else ""
        told = f"; told through {line.notify}" if line.notify else ""
        table.add_row(
            line.name, state, f"{line.cron} {line.zone}", moment, last, f"{line.what}{told}".replace("[", r"\[")
        )
    console.print(table)
    if not any(line.active for line in lines):
        console.print("all are off; `hybrid-video schedules on` switches them on", markup=False)
    elif not _served(url):
        console.print(
            "no worker serves the pool 'local-gpu', so nothing would run: `prefect worker start --pool local-gpu`, or "
            "`hybrid-video up`",
            soft_wrap=True,
            markup=False,
        )
    if json_output:
        print_json({"schedules": [line.model_dump(mode="json") for line in lines]})
    return 0


def _served(url: str) -> bool:
    pool = call(url, "GET", "/work_pools/local-gpu", allow=(404,))
    return pool is not None and pool.get("status") != "NOT_READY"
