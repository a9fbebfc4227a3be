"""`hybrid-video ledger upgrade`."""

from __future__ import annotations

from hybrid_video.cli.ledger import ledger_app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.report import money
from hybrid_video.engine.session import opened
from hybrid_video.ledger.schema import MIGRATIONS
from hybrid_video.ledger.verify import verify
from hybrid_video.settings import Settings


@ledger_app.command()
def upgrade(json_output: JsonOption = False) -> int:
    """Bring the ledger to this version's form, keeping a copy of the file as it was, and verify it.

    Every other command does the same when it opens an older ledger; this one says what was done. The history is made
    again where this version keeps it in another form. Exit 1 if the ledger contradicts itself.
    """
    with opened(Settings.load()) as (ledger, history):
        done = ledger.upgraded
        history.update(ledger)
        report = verify(ledger)
    if done is None:
        console.print(f"the ledger is up to date (migration {len(MIGRATIONS)})")
    else:
        console.print(f"the ledger was brought from migration {done.before} to {done.after}")
        if done.copy is not None:
            console.print(f"as it was: {str(done.copy)!r}", soft_wrap=True, markup=False)
        else:
            console.print("no copy of it was made: it is on a database server, whose own backups hold it")
    console.print(
        f"{report.batches} batches, {report.attempts} attempts, ${money(report.settled_usd)} settled, "
        f"${money(report.reserved_usd)} reserved: "
        + ("[green]every balance agrees[/]" if report.ok else "[red]it contradicts itself; see `ledger verify`[/]")
    )
    if json_output:
        print_json(
            {
                "before": done.before if done else len(MIGRATIONS),
                "after": len(MIGRATIONS),
                "copy": str(done.copy) if done and done.copy else None,
                "ok": report.ok,
            }
        )
    return 0 if report.ok else 1
