"""`hybrid-video report`: what a day came to."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.daily_report import DailyReport, csv_text, make_report, markdown, save
from hybrid_video.engine.session import opened
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.local_time import parse_day, studio_zone
from hybrid_video.project import flow_command
from hybrid_video.settings import Settings

FORMATS = ("md", "csv", "json")


@app.command()
def report(
    day: Annotated[str, typer.Option("--day", help="A day like 2026-11-22, or today, or yesterday.")] = "today",
    form: Annotated[
        str | None, typer.Option("--format", metavar="md|csv|json", help="Print it so. Default: a page to look at.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to this file; .md, .csv or .json decides the format.")
    ] = None,
    keep: Annotated[bool, typer.Option("--save", help="Write it into the reports folder of the home as well.")] = False,
    bills: Annotated[
        bool, typer.Option("--bills/--no-bills", help="Compare RunPod's bill (needs its key and the network).")
    ] = False,
    notify: Annotated[
        str | None,
        typer.Option(
            "--notify", metavar="TYPE/NAME", help="Send it through a Prefect block, like slack-webhook/studio."
        ),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Show what a day of the studio came to: money, clips, savings against Google, failures, what to look at."""
    settings = Settings.load()
    shown = _format("json" if json_output else form, out)
    zone = studio_zone(settings)
    wanted = parse_day(day, zone)
    with opened(settings) as (ledger, history):
        found = asyncio.run(make_report(settings, ledger, wanted, zone, history=history, ask_vendors=bills))
    if out is not None:
        _write(out, _text(found, shown or "md"))
        console.print(f"written to {str(out)!r}", soft_wrap=True)
    elif shown in ("md", "csv"):
        sys.stdout.write(_text(found, shown))
    elif shown is None:
        console.print(Markdown(markdown(found)))
    if keep:
        paths = save(found, settings)
        console.print(f"saved as {str(paths['md'])!r}, with .csv, .json and .svg beside it", soft_wrap=True)
    if shown == "json" and out is None:
        print_json(found.model_dump(mode="json"))
    return _notify(notify, wanted.isoformat()) if notify else 0


def _format(form: str | None, out: Path | None) -> str | None:
    if form is not None and form not in FORMATS:
        raise InputError(f"--format: {form!r} is not one of {', '.join(FORMATS)}")
    if form is None and out is not None:
        form = out.suffix.lower().removeprefix(".")
        if form not in FORMATS:
            raise InputError(f"--out: {str(out)!r} does not end in .md, .csv or .json; say which with --format")
    return form


def _text(found: DailyReport, form: str) -> str:
    if form == "csv":
        return csv_text(found)
    if form == "md":
        return markdown(found)
    return json.dumps(found.model_dump(mode="json"), ensure_ascii=False, indent=2) + "\n"


def _write(path: Path, text: str) -> None:
    try:
        part = path.with_name(f"{path.name}.part")
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"--out: {str(path)!r} cannot be written: {error.strerror}; check the folder and its permissions"
        ) from None


def _notify(block: str, day: str) -> int:
    """Runs the flow, which alone knows Prefect's blocks; its messages go to standard error."""
    if not os.environ.get("PREFECT_API_URL"):
        raise ConfigurationError(
            "--notify: the message goes through a block of a Prefect server; set PREFECT_API_URL, for example to "
            "http://127.0.0.1:4200/api while `hybrid-video up` runs"
        )
    command = [*flow_command("daily_report"), json.dumps({"day": day, "notify": block})]
    with contextlib.suppress(KeyboardInterrupt):
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=2, check=False).returncode
    return 130
