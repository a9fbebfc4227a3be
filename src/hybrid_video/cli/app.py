"""The Typer application that the command modules add themselves to."""

from __future__ import annotations

from typing import Annotated

import typer

from hybrid_video import __version__, logs, observing

app = typer.Typer(
    name="hybrid-video",
    help="Generate batches of AI video on your own GPU, rented GPUs and Google: cheapest first, in time, within "
    "budget, never paid for twice.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    logs.configure()
    observing.start(context.invoked_subcommand or "hybrid-video")
