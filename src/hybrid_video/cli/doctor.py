"""`hybrid-video doctor`."""

from __future__ import annotations

import asyncio

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.doctor import examine
from hybrid_video.settings import Settings

MARKS = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "error": "[red]error[/]", "off": "[dim]off[/]"}


@app.command()
def doctor(json_output: JsonOption = False) -> int:
    """Check every backend, key, model, database and disk, and say what to do. Exit 1 if something needs mending."""
    findings = asyncio.run(examine(Settings.load()))
    for finding in findings:
        console.print(f"{MARKS[finding.level]:>18}  [bold]{finding.subject}[/]: {finding.detail}", soft_wrap=True)
        if finding.remedy:
            console.print(f"          → {finding.remedy}", soft_wrap=True)
    bad = [finding for finding in findings if finding.level == "error"]
    if json_output:
        print_json({"ok": not bad, "findings": [finding.model_dump(mode="json") for finding in findings]})
    return 1 if bad else 0
