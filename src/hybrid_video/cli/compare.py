"""`hybrid-video compare FILE`: the same shots in two or more ways, with cost and time beside each other."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from hybrid_video.batchfile import load_batch
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json, progress_of
from hybrid_video.cli.run import BudgetOption, DeadlineOption, FileArgument, JsonOption, OutOption, with_goal
from hybrid_video.comparing import Comparison, compare, ways_of
from hybrid_video.comparing_sheet import HEADS, figures_of, write_sheet
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import open_ledger, run_batch
from hybrid_video.errors import InputError
from hybrid_video.models import Batch
from hybrid_video.settings import Settings


@app.command("compare")
def compare_command(
    file: FileArgument,
    workflows: Annotated[
        str,
        typer.Option("--workflows", metavar="A,B", help="Workflows to compare: shipped templates or your own files."),
    ] = "",
    models: Annotated[
        str, typer.Option("--models", metavar="A,B", help="Google models to compare; no other tier is used for them.")
    ] = "",
    shots: Annotated[int | None, typer.Option("--shots", help="Only the first so many shots of the file.")] = None,
    out: OutOption = None,
    deadline: DeadlineOption = None,
    budget: BudgetOption = None,
    json_output: JsonOption = False,
) -> int:
    """Make the same shots in two or more ways, and show cost, time and clips side by side.

    The ways run one after the other, with the same seeds. The same command again resumes and pays for nothing twice.
    A budget is for all ways together, a deadline for each.
    """
    settings = Settings.load()
    batch = _first(with_goal(load_batch(file), deadline, budget), shots)
    ways = ways_of(_listed(workflows), _listed(models))
    base_dir = file.resolve().parent
    folder = out or settings.storage.clips_dir

    async def run_one(one: Batch, its: Settings) -> BatchReport:
        console.print(f"[bold]{one.name}[/]: {len(one.jobs)} shots")
        with progress_of(one.name, len(one.jobs)) as observer:
            return await run_batch(one, settings=its, base_dir=base_dir, out_dir=folder, observer=observer)

    found = asyncio.run(compare(batch, ways, settings=settings, run=run_one, ledger=lambda: open_ledger(settings)))
    sheet = write_sheet(found, folder / f"{batch.name}.comparison")
    _show(found)
    console.print(f"the clips side by side: {sheet['html']}", soft_wrap=True)
    if json_output:
        print_json({**found.to_json(), "sheet": {ending: str(path) for ending, path in sheet.items()}})
    return found.exit_code


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _first(batch: Batch, shots: int | None) -> Batch:
    if shots is None:
        return batch
    if not 1 <= shots <= len(batch.jobs):
        raise InputError(f"--shots: {shots} is not between 1 and {len(batch.jobs)}, the shots of the file")
    return batch.model_copy(update={"jobs": batch.jobs[:shots]})


def _show(comparison: Comparison) -> None:
    title = f"{comparison.name}{' (SIMULATED)' if comparison.simulated else ''}"
    table = Table(title=title, title_justify="left")
    for number, head in enumerate(HEADS):
        table.add_column(head, justify="left" if not number else "right")
    for made in comparison.made:
        table.add_row(*(text for _, text in figures_of(made)))
    console.print(table)
    for pair in comparison.pairs:
        console.print(pair.sentence, soft_wrap=True, markup=False)
    for made in comparison.made:
        for shot in made.shots:
            if shot.error:
                console.print(f"{made.way.name}, {shot.job}: {shot.error}", soft_wrap=True, markup=False)
