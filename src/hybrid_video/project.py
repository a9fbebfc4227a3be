"""Where the Prefect project (flows, tasks, prefect.yaml) lives: the checkout, or the copy inside the wheel."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from hybrid_video.errors import ConfigurationError


def project_dir() -> Path:
    """The folder that holds `flows/`, `tasks/` and `prefect.yaml`.

    Raises:
        ConfigurationError: the installation is incomplete.
    """
    package = Path(__file__).resolve().parent
    for folder in (package.parent.parent, package / "_project"):
        if (folder / "flows" / "generate_batch.py").is_file():
            return folder
    raise ConfigurationError(
        "the Prefect flows are missing from this installation; reinstall hybrid-video, or run from a checkout"
    )


def enter() -> dict[str, str]:
    """Prefect's pull step of every deployment: goes to the project of the machine that runs the flow."""
    folder = project_dir()
    os.chdir(folder)
    return {"directory": str(folder)}


def flow_command(name: str) -> list[str]:
    """The command that runs a flow file of the project as a program."""
    return [sys.executable, str(project_dir() / "flows" / f"{name}.py")]
