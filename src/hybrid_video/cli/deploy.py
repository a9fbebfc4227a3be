"""`hybrid-video deploy`: work pools and deployments on a Prefect server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.local_time import studio_zone
from hybrid_video.prefect_deploy import create_pools
from hybrid_video.prefect_deploy import deploy as deploy_project
from hybrid_video.project import project_dir
from hybrid_video.schedules import switch
from hybrid_video.settings import Settings


@app.command()
def deploy(
    schedules: Annotated[
        str | None,
        typer.Option(
            "--schedules", metavar="on|off", help="Also switch every schedule on or off; as they are when not given."
        ),
    ] = None,
) -> int:
    """Create the work pools local-gpu and cloud-gpu and the deployments on the server at PREFECT_API_URL."""
    if schedules not in (None, "on", "off"):
        raise InputError(f"--schedules: {schedules!r} is not understood; say on or off")
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if not url:
        raise ConfigurationError(
            "PREFECT_API_URL is not set: start a server with `prefect server start` and set it, for example to "
            "http://127.0.0.1:4200/api"
        )
    made = create_pools(url)
    console.print(f"work pools: {', '.join(made) if made else 'both there already'}")
    home = Path(os.environ.get("PREFECT_HOME", Path.home() / ".prefect"))
    for name in deploy_project(url, project_dir(), home=home):
        console.print(f"deployed {name}")
    if schedules is not None:
        for line in switch(url, (), active=schedules == "on", zone=studio_zone(Settings.load())):
            console.print(f"schedule {line.name}: {'on' if line.active else 'off'}, {line.cron} {line.zone}")
    else:
        console.print("schedules are as they were; `hybrid-video schedules` shows and switches them")
    console.print("next: `prefect worker start --pool local-gpu`, then for example")
    console.print("      prefect deployment run generate-batch/local-gpu --param batch_file='\"/path/shots.yaml\"'")
    return 0
