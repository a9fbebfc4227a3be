"""`hybrid-video doctor`."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.settings import Settings

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]", "off": "[dim]off[/]"}


@app.command()
def doctor(
    render: Annotated[
        bool | None,
        typer.Option(
            "--render/--no-render",
            help="Render a tiny clip on every configured ComfyUI, or on none; when not given, on the one that "
            "install-comfyui put here.",
        ),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Check machine, versions, keys, backends, database, disk and pods, and say what to do. Exit 1: mend something."""
    from hybrid_video.doctor import examine  # noqa: PLC0415 - it looks at everything, and so loads everything
    from hybrid_video.doctor.rendering import Render  # noqa: PLC0415

    where: Render = "installed" if render is None else "all" if render else "none"
    findings = asyncio.run(examine(Settings.load(), render=where))
    for finding in findings:
        console.print(
            f"{' ' * (8 - len(finding.level))}{MARKS[finding.level]}  [bold]{finding.subject}[/]: {finding.detail}",
            soft_wrap=True,
        )
        if finding.remedy:
            console.print(f"          → {finding.remedy}", soft_wrap=True)
    bad = [finding for finding in findings if finding.level == "error"]
    if json_output:
        print_json({"ok": not bad, "findings": [finding.model_dump(mode="json") for finding in findings]})
    return 1 if bad else 0
