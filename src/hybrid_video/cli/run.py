"""`hybrid-video run FILE`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated

import httpx
import typer

from hybrid_video import logs
from hybrid_video.batchfile import load_batch
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json, print_report, progress_of
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import run_batch
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.models import MAX_BUDGET_USD, MAX_DEADLINE_S, Batch, whole_nano_usd
from hybrid_video.prefect_api import gone
from hybrid_video.project import flow_command
from hybrid_video.settings import Settings

PREFECT_TIMEOUT_S = 3.0
FLOW_END_PATIENCE_S = 30.0
GONE_PATIENCE_S = 4.0
"""How long a Prefect server that nobody reaches is given to come back once the batch has ended."""

FileArgument = Annotated[Path, typer.Argument(help="Batch file: YAML, JSON or CSV.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", help="Folder for the clips.")]
DeadlineOption = Annotated[
    str | None,
    typer.Option("--deadline", metavar="SECONDS", help="Finish within so many seconds; overrides the file's."),
]
BudgetOption = Annotated[
    str | None,
    typer.Option("--budget", metavar="USD", help="Hard limit in US dollars; the smaller of this and the file's holds."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the report as one line of JSON on standard output.")]
PrefectOption = Annotated[
    bool | None,
    typer.Option(
        "--prefect/--no-prefect",
        help="Run as a Prefect flow run, or without Prefect. Default: as a flow run if PREFECT_API_URL answers.",
    ),
]


@app.command()
def run(
    file: FileArgument,
    out: OutOption = None,
    deadline: DeadlineOption = None,
    budget: BudgetOption = None,
    json_output: JsonOption = False,
    prefect: PrefectOption = None,
) -> int:
    """Make every clip of a batch file. The same batch name again resumes where it stopped."""
    settings = Settings.load()
    batch = with_goal(load_batch(file), deadline, budget)
    base_dir = file.resolve().parent
    if wants_prefect(prefect):
        report = run_as_flow(batch, base_dir, out)
    else:
        with progress_of(batch.name, len(batch.jobs)) as observer:
            report = asyncio.run(run_batch(batch, settings=settings, base_dir=base_dir, out_dir=out, observer=observer))
    print_report(report)
    if json_output:
        print_json(report.to_json())
    return report.exit_code


def with_goal(batch: Batch, deadline: str | None, budget: str | None) -> Batch:
    """The batch with the command's deadline and budget; a budget in the file can only be tightened.

    Raises:
        InputError: a value is out of range.
    """
    return batch.with_goal(
        None if deadline is None else parse_seconds("--deadline", deadline),
        None if budget is None else parse_usd("--budget", budget),
    )


def parse_seconds(name: str, text: str) -> float:
    """A deadline given on the command line.

    Raises:
        InputError: not a number, not above 0, or more than 30 days.
    """
    try:
        seconds = float(text)
    except ValueError:
        raise InputError(f"{name}: {text!r} is not a number; give seconds from the start, for example 3600") from None
    if not 0 < seconds <= MAX_DEADLINE_S:
        raise InputError(f"{name}: {text!r} is not between 0 and {MAX_DEADLINE_S}; give seconds from the start")
    return seconds


def parse_usd(name: str, text: str) -> Decimal:
    """A dollar amount given on the command line.

    Raises:
        InputError: not a number, negative, not finite, or more than any batch may have.
    """
    try:
        amount = Decimal(text.strip().removeprefix("$"))
    except InvalidOperation:
        raise InputError(f"{name}: {text!r} is not an amount; write dollars like 4.60") from None
    if not amount.is_finite() or amount < 0:
        raise InputError(f"{name}: {text!r} is not an amount of 0 or more; write dollars like 4.60")
    if amount > MAX_BUDGET_USD:
        raise InputError(f"{name}: {text!r} is more than {MAX_BUDGET_USD}; write dollars like 4.60")
    return whole_nano_usd(amount)


def wants_prefect(choice: bool | None) -> bool:
    """Whether to run as a Prefect flow run: as asked, else if a configured server answers.

    Raises:
        ConfigurationError: Prefect was asked for and its server does not answer.
    """
    url = os.environ.get("PREFECT_API_URL", "")
    if choice is False:
        return False
    if not url:
        if choice:
            raise ConfigurationError(
                "--prefect needs a server: set PREFECT_API_URL (for example http://127.0.0.1:4200/api after "
                "`prefect server start`), or leave --prefect out"
            )
        return False
    try:
        answer = httpx.get(f"{url.rstrip('/')}/health", timeout=PREFECT_TIMEOUT_S)
        alive = answer.status_code == httpx.codes.OK
    except httpx.HTTPError:
        alive = False
    if not alive and choice:
        raise ConfigurationError(f"the Prefect server at {url!r} does not answer; start it, or leave --prefect out")
    if not alive:
        console.print(f"the Prefect server at {url} does not answer; running without it")
    return alive


def run_as_flow(
    batch: Batch, base_dir: Path, out_dir: Path | None, *, environment: dict[str, str] | None = None
) -> BatchReport:
    """Runs the flow file as a child process, which shares the terminal, and reads its report.

    Raises:
        HybridVideoError: whatever the child was stopped by.
    """
    with tempfile.TemporaryDirectory() as folder:
        request, answer = Path(folder, "request.json"), Path(folder, "answer.json")
        request.write_text(
            json.dumps(
                {
                    "batch": batch.model_dump(mode="json", exclude_none=True),
                    "base_dir": str(base_dir),
                    "out_dir": str(out_dir.resolve()) if out_dir else None,
                }
            ),
            encoding="utf-8",
        )
        command = [*flow_command("generate_batch"), str(request), str(answer)]
        code = _run_child(command, {**os.environ, **logs.prefect_environment(), **(environment or {})}, answer)
        if not answer.exists():
            raise ConfigurationError(f"the flow ended without a report (exit {code}); see the messages above")
        data = json.loads(answer.read_text(encoding="utf-8"))
    if "error" in data:
        raise _restored(data)
    return BatchReport.model_validate(data)


def _run_child(command: list[str], environment: dict[str, str], answer: Path) -> int:
    """Runs the flow process to its end. Ctrl-C and SIGTERM are passed on, so that it can stop the remote work first.

    It gets a session of its own: a terminal would otherwise send it the same Ctrl-C a second time. Once its report is
    there it has a while to tell the Prefect server, and only moments where nobody listens any more: a server that has
    gone would hold it for many minutes.
    """
    url = environment.get("PREFECT_API_URL", "").rstrip("/")
    child = subprocess.Popen(command, env=environment, stdout=2, start_new_session=os.name == "posix")
    previous = {}
    with contextlib.suppress(ValueError):  # not the main thread: nothing to pass on
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, lambda got, _frame: child.send_signal(got))
    try:
        answered_s = reached_s = math.inf
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return child.wait(1)
            if answer.exists():
                answered_s = min(answered_s, time.monotonic())
                if reached_s == math.inf or not gone(url):
                    reached_s = time.monotonic()
            waited_s, alone_s = time.monotonic() - answered_s, time.monotonic() - reached_s
            if waited_s > FLOW_END_PATIENCE_S or alone_s > GONE_PATIENCE_S:
                console.print(
                    "the batch has ended, but the Prefect server does not take note of it; leaving the flow run"
                )
                child.kill()
                return child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _restored(data: dict[str, object]) -> InputError:
    error = InputError(str(data["error"]), tuple(str(p) for p in data.get("problems", [])))  # type: ignore[attr-defined]
    error.exit_code = int(str(data["exit_code"]))
    return error
