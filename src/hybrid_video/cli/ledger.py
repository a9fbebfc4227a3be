"""`hybrid-video ledger …`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.errors import InputError
from hybrid_video.ledger import Balance, Owner
from hybrid_video.ledger.lookups import BatchRow, find_attempt, known_batches
from hybrid_video.ledger.resolving import Word, advice
from hybrid_video.ledger.resolving import resolve as resolve_attempt
from hybrid_video.ledger.verify import verify as verify_ledger
from hybrid_video.models import Attempt, AttemptState, JobState
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
    names = ["batches", "jobs", "attempts", "settled_usd", "reserved_usd", "uncertain", "orphans", "duplicates"]
    if report.pods:
        names += ["pods", "pods_alive", "pod_overhead_usd", "pod_billed_usd", "pod_difference_usd"]
    for name in names:
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
        data |= {name: money(getattr(report, name)) for name in data if name.endswith("_usd")}
        print_json(data)
    return 0 if report.ok else 1


@ledger_app.command("rebuild-history")
def rebuild_history() -> int:
    """Make the analysis history again from the ledger."""
    with opened(Settings.load()) as (ledger, history):
        console.print(f"{history.rebuild(ledger)} attempts are in the history")
    return 0


@ledger_app.command()
def resolve(
    attempt_id: Annotated[str, typer.Argument(help="Id of the uncertain attempt, or its first characters.")],
    word: Annotated[
        str,
        typer.Option(
            "--as", metavar="WORD", help="never-accepted, charged or free: what the vendor's own records say."
        ),
    ],
    usd: Annotated[
        str | None,
        typer.Option("--usd", help="What was charged. Default: what is reserved for it.", show_default=False),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Let the next run make the job again.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Settle an attempt whose outcome nobody can look up, by your own word.

    never-accepted gives its reservation back and lets the next run make the job. charged books the reservation, or
    --usd. free books nothing. After the last two the job counts as failed, unless you add --retry.
    """
    chosen = _word(word)
    if usd is not None and chosen != "charged":
        raise InputError(f"--usd: only an attempt that was charged has a price, and --as says {word!r}")
    amount = None if usd is None else parse_usd("--usd", usd)
    settings = Settings.load()
    with opened(settings) as (ledger, history):
        attempt = find_attempt(ledger, attempt_id)
        owner = Owner(settings.storage.home)
        try:
            job_state = resolve_attempt(ledger, owner, attempt, chosen, usd=amount, retry=retry)
        finally:
            owner.close()
        settled = ledger.attempt(attempt.attempt_id)
        history.update(ledger)
    cost = money(settled.cost_usd or Decimal(0))
    released = money(attempt.reserved_usd)
    console.print(
        f"{settled.batch}/{settled.job}: ${cost} booked, ${released} released from reservation; the job is "
        f"{job_state.value}{', run the batch again to make it' if job_state is JobState.PENDING else ''}",
        soft_wrap=True,
        markup=False,
    )
    if json_output:
        print_json(
            {
                "attempt_id": settled.attempt_id,
                "batch": settled.batch,
                "job": settled.job,
                "as": chosen,
                "cost_usd": cost,
                "released_usd": released,
                "job_state": job_state.value,
            }
        )
    return 0


@ledger_app.command()
def show(
    batch: Annotated[str | None, typer.Argument(help="Batch to show; all of them in short when left out.")] = None,
    job: Annotated[str | None, typer.Option("--job", metavar="ID", help="Only this job.")] = None,
    json_output: JsonOption = False,
) -> int:
    """Show batches, or every attempt of one: state, backend, cost, what it still holds, and its id."""
    if job is not None and batch is None:
        raise InputError("--job: name the batch as well")
    with opened(Settings.load()) as (ledger, _history):
        rows = known_batches(ledger, [batch] if batch else [])
        balances = {name: ledger.balance(f"batch:{name}") for name in rows}
        attempts = ledger.attempts(batch, job=job) if batch else []
    lines = [_batch_line(row, balances[name]) for name, row in rows.items()]
    _print_rows("Batches", lines)
    if batch:
        _print_rows("Attempts", [_attempt_line(attempt) for attempt in attempts])
        for attempt in attempts:
            if attempt.state is AttemptState.UNCERTAIN:
                text = f"{attempt.job}: {attempt.error_message}; {advice(attempt)}"
                console.print(text, soft_wrap=True, markup=False)
    if json_output:
        print_json({"batches": lines, "attempts": [_attempt_line(attempt) for attempt in attempts]})
    return 0


def _word(text: str) -> Word:
    words: tuple[Word, ...] = ("never-accepted", "charged", "free")
    for word in words:
        if word == text:
            return word
    raise InputError(f"--as: {text!r} is not understood; say never-accepted, charged or free")


def _batch_line(row: BatchRow, balance: Balance) -> dict[str, Any]:
    return {
        "batch": row.name,
        "jobs": sum(row.jobs.values()),
        **{state.value: row.jobs[state] for state in JobState},
        "settled_usd": money(balance.settled_usd),
        "reserved_usd": money(balance.reserved_usd),
    }


def _attempt_line(attempt: Attempt) -> dict[str, Any]:
    return {
        "job": attempt.job,
        "number": attempt.number,
        "backend": attempt.backend,
        "state": attempt.state.value,
        "cost_usd": money(attempt.cost_usd or Decimal(0)),
        "reserved_usd": money(attempt.reserved_usd),
        "error_kind": attempt.error_kind,
        "attempt_id": attempt.attempt_id,
    }


def _print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name, overflow="fold")
    for row in rows[-MOST_SHOWN:]:
        table.add_row(*(str(value) for value in row.values()))
    console.print(table if rows else f"{title.lower()}: none")
    if len(rows) > MOST_SHOWN:
        console.print(f"and {len(rows) - MOST_SHOWN} more (all of them with --json)")
