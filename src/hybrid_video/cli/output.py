"""How commands speak: errors without tracebacks, progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import IO, Any, cast

import typer
import typer.exceptions
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from hybrid_video import logs, observing
from hybrid_video.engine.events import Event
from hybrid_video.engine.report import BatchReport, money
from hybrid_video.errors import HybridVideoError, InputError
from hybrid_video.redaction import redact

PLAIN_WIDTH = 140
_probe = Console(stderr=True)
console = Console(stderr=True, highlight=False, width=None if _probe.is_terminal else PLAIN_WIDTH)
"""Everything for people goes here: standard output is for results."""

log = logging.getLogger("hybrid_video.console")
TIER_STYLE = {"local": "green", "cloud": "cyan", "gemini": "magenta"}


def guarded(app: typer.Typer, arguments: Sequence[str]) -> int:
    """Runs the application; turns every error into one message and an exit code, never a traceback."""
    as_json = "--json" in arguments
    follow_log_format()
    try:
        outcome = app(list(arguments), standalone_mode=False)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.exceptions.TyperException as error:
        text = error.format_message() if hasattr(error, "format_message") else str(error)
        return _failed(InputError(f"{text} See `hybrid-video --help`."), as_json)
    except (KeyboardInterrupt, typer.Abort):
        console.print("interrupted; run the same command again to go on")
        return 130
    except HybridVideoError as error:
        return _failed(error, as_json)
    except Exception as error:  # the last line of defence: nobody should see a traceback
        if os.environ.get("HYBRID_VIDEO_DEBUG"):
            raise
        logging.getLogger("hybrid_video").debug("unexpected", exc_info=True)
        observing.report(error)
        text = redact(f"{type(error).__name__}: {error}", limit=500)
        bug = HybridVideoError(f"unexpected error: {text}. Set HYBRID_VIDEO_DEBUG=1 to see where, and please report it")
        return _failed(bug, as_json)
    return outcome if isinstance(outcome, int) else 0


def follow_log_format() -> None:
    """With HYBRID_VIDEO_LOG_FORMAT=json whatever a command says to people becomes log lines."""
    with contextlib.suppress(HybridVideoError):  # a wrong value is told by the command itself
        logs.configure()
    console.file = cast("IO[str]", logs.LineStream(log)) if logs.is_json() else cast("IO[str]", None)


def _failed(error: HybridVideoError, as_json: bool) -> int:
    problems = error.problems if isinstance(error, InputError) else (str(error),)
    for problem in problems:
        console.print(f"[bold red]error:[/] {_escape(redact(problem))}", soft_wrap=True)
    if as_json:
        print_json(
            {"error": redact(str(error)), "problems": [redact(p) for p in problems], "exit_code": error.exit_code}
        )
    return error.exit_code


def _escape(text: str) -> str:
    return text.replace("[", r"\[")


def print_json(data: Any) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(data, default=_plain, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return money(value)
    return str(value)


@contextlib.contextmanager
def progress_of(batch: str, total: int) -> Iterator[BatchProgress]:
    """A progress display for one batch: bars on a terminal, plain lines elsewhere."""
    if not console.is_terminal:
        yield BatchProgress(None, None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        overall = progress.add_task(f"[bold]{batch}", total=total, note="")
        yield BatchProgress(progress, overall)


class BatchProgress:
    """An `Observer` that draws."""

    def __init__(self, progress: Progress | None, overall: TaskID | None) -> None:
        self._progress = progress
        self._overall = overall
        self._bars: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        """Shows one event."""
        if self._progress is None or self._overall is None:
            if event.kind != "progress" and not logs.is_json():  # the engine has written its own line
                console.print(plain_line(event), soft_wrap=True, markup=False)
            return
        spent = f"${money(event.spent_usd)}" if event.spent_usd is not None else None
        if event.kind == "progress":
            self._bar(event)
        else:
            if event.kind in ("retry", "failed", "uncertain", "notice"):
                self._progress.console.print(plain_line(event), soft_wrap=True, markup=False)
            if event.kind in ("done", "failed", "retry", "uncertain", "cancelled") and event.job in self._bars:
                self._progress.remove_task(self._bars.pop(event.job))
        update: dict[str, Any] = {"completed": event.finished + event.failed}
        if spent is not None:
            update["note"] = spent
        self._progress.update(self._overall, **update)

    def _bar(self, event: Event) -> None:
        assert self._progress is not None  # noqa: S101
        if event.job not in self._bars:
            self._bars[event.job] = self._progress.add_task(f"  {event.job} on {event.backend}", total=100, note="")
        self._progress.update(self._bars[event.job], completed=round(100 * (event.progress or 0)), note=event.message)


def plain_line(event: Event) -> str:
    """One event as a line of text."""
    where = f" on {event.backend}" if event.backend else ""
    what = f"{event.job}{where}" if event.job else ""
    count = f"[{event.finished + event.failed}/{event.total}] " if event.total else ""
    return f"{count}{event.kind}{': ' if what else ''}{what}{': ' if event.message else ''}{event.message}"


def print_report(report: BatchReport) -> None:
    """The outcome as tables."""
    title = f"{report.batch}{' (SIMULATED)' if report.simulated else ''}"
    table = Table(title=title, title_justify="left")
    for name in ("job", "backend", "cost", "tries", "clip"):
        table.add_column(name, justify="right" if name in ("cost", "tries") else "left", overflow="fold")
    for clip in report.clips:
        style = TIER_STYLE.get(clip.backend.value, "")
        place = f"[{style}]{clip.backend.value}[/] {clip.provider}"
        table.add_row(clip.job, place, f"${money(clip.cost_usd)}", str(clip.attempts), clip.path)
    for line in report.errors:
        table.add_row(line.job, f"[red]{line.kind}[/]", "", "", _escape(line.message))
    console.print(table)
    split = Table(title="Cost", title_justify="left")
    for name in ("tier", "clips", "attempts", "cost"):
        split.add_column(name, justify="left" if name == "tier" else "right")
    for tier, tier_line in sorted(report.by_backend.items()):
        style = TIER_STYLE.get(tier, "")
        split.add_row(
            f"[{style}]{tier}[/]", str(tier_line.jobs), str(tier_line.attempts), f"${money(tier_line.cost_usd)}"
        )
    split.add_section()
    split.add_row("total", str(report.completed), "", f"${money(report.cost_usd)} (quoted ${money(report.quoted_usd)})")
    console.print(split)
    if report.pod_overhead_usd:
        console.print(f"of it ${money(report.pod_overhead_usd)} for rented pods beyond the jobs' own seconds")
    console.print(
        f"{report.completed} of {report.jobs} clips in {report.duration_s:.1f} s, {report.failovers} failovers, "
        f"{report.failed} failed"
    )
    for sentence in honesty_lines(report):
        console.print(sentence)


def honesty_lines(report: BatchReport) -> list[str]:
    """How far the plan and the quotes were from what happened."""
    lines = []
    plan, errors = report.plan, report.quote_errors
    if plan is not None and plan.actual_s is not None and plan.actual_usd is not None:
        ended = "" if plan.complete else " (not all of it was made)"
        lines.append(
            f"planned ${money(plan.planned_usd)} in {plan.planned_s:.1f} s, came to ${money(plan.actual_usd)} in "
            f"{plan.actual_s:.1f} s{ended}"
        )
    if errors is not None and errors.time_p50 is not None and errors.time_p90 is not None:
        text = f"times were off by {errors.time_p50:.0%} (half of the clips) and {errors.time_p90:.0%} (nine of ten)"
        if errors.cost_p50 is not None and errors.cost_p90 is not None:
            text += f", prices by {errors.cost_p50:.0%} and {errors.cost_p90:.0%}"
        if errors.within_p90 is not None:
            text += f"; {errors.within_p90:.0%} stayed within what was expected of nine of ten"
        lines.append(text)
    return lines
