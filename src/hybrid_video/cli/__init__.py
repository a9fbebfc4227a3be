"""The command line. Exit 0 done, 1 some jobs failed, 2 bad input or configuration, 3 refused by a budget or limit.

With `--json` a command prints one JSON object as the last line of standard output and nothing else there; progress and
messages go to standard error.
"""

from __future__ import annotations

import sys

from hybrid_video.cli.app import app
from hybrid_video.cli.output import guarded

# Each import registers its commands.
from hybrid_video.cli import api, cancel, dashboard, demo, deploy, doctor, emulate, explain, inbox, ledger, plan, prices  # noqa: F401  isort: skip
from hybrid_video.cli import compare, install, ledger_copies, ledger_upgrade  # noqa: F401  isort: skip
from hybrid_video.cli import pods, reconcile, replay, report, run, schedules, up, watch  # noqa: F401  isort: skip

__all__ = ["app", "main"]


def main() -> None:
    """Entry point of `hybrid-video`."""
    sys.exit(guarded(app, sys.argv[1:]))
