"""`hybrid-video explain`: why this backend, and why not each of the others."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import TIER_STYLE, console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.ledger.explaining import Explained, explained
from hybrid_video.models import Candidate
from hybrid_video.settings import Settings


@app.command()
def explain(
    job: Annotated[str | None, typer.Argument(help="Id of the job.", show_default=False)] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", help="Name of the batch; alone, one line for each of its decisions.")
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Show why a job went where it went: every candidate with its score, what it lost by, and quote against actual."""
    with opened(Settings.load()) as (ledger, _history):
        found = explained(ledger, batch=batch, job=job)
    if job is None:
        _lines(found)
    else:
        for entry in found:
            _show(entry)
    if json_output:
        print_json({"batch": found[0].batch, "job": job, "decisions": [to_json(entry) for entry in found]})
    return 0


def to_json(entry: Explained) -> dict[str, Any]:
    """One decision with its outcome; money as strings."""
    decision, quote = entry.decision, entry.quote
    return {
        "job": decision.job,
        "attempt": decision.attempt,
        "decided_at": decision.decided_at.isoformat(),
        "chosen": decision.chosen,
        "tier": decision.tier.value if decision.tier else None,
        "reason": decision.reason,
        "elapsed_us": round(decision.elapsed_us, 1),
        "candidates": [_candidate_json(candidate, decision.chosen) for candidate in decision.candidates],
        "outcome": entry.state.value if entry.state else None,
        "quoted_usd": money(quote.amount_usd) if quote else None,
        "cost_usd": money(entry.cost_usd) if entry.cost_usd is not None else None,
        "cost_basis": entry.cost_basis,
        "quoted_s": round(quote.service_s, 3) if quote else None,
        "quoted_p90_s": round(quote.service_p90_s, 3) if quote and quote.service_p90_s else None,
        "took_s": round(entry.served_s, 3) if entry.served_s is not None else None,
        "quote_basis": quote.basis if quote else "",
        "error": {"kind": entry.error_kind, "message": entry.error_message} if entry.error_kind else None,
    }


def _candidate_json(candidate: Candidate, chosen: str | None) -> dict[str, Any]:
    quote = candidate.quote
    return {
        "backend": candidate.backend,
        "tier": candidate.tier.value,
        "chosen": candidate.backend == chosen,
        "score": None if candidate.score is None else round(candidate.score, 3),
        "terms": {term.name: round(term.points, 3) for term in candidate.terms},
        "price_usd": money(quote.amount_usd) if quote else None,
        "service_s": round(quote.service_s, 3) if quote else None,
        "wait_s": round(candidate.wait_s, 3),
        "queued": candidate.queued,
        "refusal": candidate.refusal.code if candidate.refusal else None,
        "lost_because": candidate.lost_because,
    }


def _show(entry: Explained) -> None:
    decision = entry.decision
    console.print(
        f"[bold]{entry.batch}/{decision.job}[/] attempt {decision.attempt}, {decision.decided_at:%Y-%m-%d %H:%M:%S} UTC"
    )
    console.print(f"  [bold]{decision.chosen or 'none'}[/]: {_plain(decision.reason)}", soft_wrap=True)
    table = Table(show_edge=False, pad_edge=False)
    for name in ("backend", "score", "priority", "cost", "speed", "queue", "price", "wait", "service"):
        table.add_column(name, justify="left" if name == "backend" else "right")
    table.add_column("why not", overflow="fold")
    for candidate in decision.candidates:
        table.add_row(*_cells(candidate, decision.chosen))
    console.print(table)
    console.print(f"  {_outcome(entry)}", soft_wrap=True, markup=False)


def _cells(candidate: Candidate, chosen: str | None) -> list[str]:
    quote, points = candidate.quote, {term.name: f"{term.points:.1f}" for term in candidate.terms}
    style = TIER_STYLE.get(candidate.tier.value, "")
    return [
        f"[{style}]{candidate.backend}[/]",
        "" if candidate.score is None else f"{candidate.score:.1f}",
        *(points.get(name, "") for name in ("priority", "cost", "speed", "queue")),
        f"${money(quote.amount_usd)}" if quote else "",
        f"{candidate.wait_s:.0f} s" if quote else "",
        f"{quote.service_s:.1f} s" if quote else "",
        "[bold]chosen[/]" if candidate.backend == chosen else _plain(candidate.lost_because),
    ]


def _outcome(entry: Explained) -> str:
    """What came of it against its quote, as a sentence."""
    quote = entry.quote
    if entry.state is None or quote is None:
        return "led to no attempt"
    cost = "not settled yet" if entry.cost_usd is None else f"${money(entry.cost_usd)}"
    took = "" if entry.served_s is None else f", took {entry.served_s:.1f} s"
    p90 = f" (nine of ten within {quote.service_p90_s:.1f} s)" if quote.service_p90_s else ""
    failed = f"; {entry.error_kind}: {entry.error_message}" if entry.error_kind else ""
    return (
        f"{entry.state.value}: cost {cost}{took}; quoted ${money(quote.amount_usd)} and {quote.service_s:.1f} s{p90}, "
        f"from {quote.basis}{failed}"
    )


def _lines(found: list[Explained]) -> None:
    table = Table(title=found[0].batch, title_justify="left")
    for name in ("job", "try", "backend", "outcome", "cost", "quoted", "took", "expected", "why"):
        numeric = name in ("try", "cost", "quoted", "took", "expected")
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for entry in found:
        decision, quote = entry.decision, entry.quote
        table.add_row(
            decision.job,
            str(decision.attempt),
            decision.chosen or "none",
            entry.state.value if entry.state else "no attempt",
            "" if entry.cost_usd is None else f"${money(entry.cost_usd)}",
            f"${money(quote.amount_usd)}" if quote else "",
            "" if entry.served_s is None else f"{entry.served_s:.1f} s",
            f"{quote.service_s:.1f} s" if quote else "",
            _plain(decision.reason),
        )
    console.print(table)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
