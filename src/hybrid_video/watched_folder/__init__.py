"""Batch files that people drop into a folder: found, made in one night within one budget, and put away with a report.

    inbox/
      spring.yaml  hero.png        a batch file with its pictures beside it
      autumn/shots.csv  …          or a folder with one batch file and whatever it names
      running/                     what is being made now; nobody else takes it
      done/2026-11-22/spring/      the batch file, its pictures and report.md
      failed/2026-11-22/autumn/    the same; report.md says why and what to do

A batch file never changes its own name on the way, because a batch without a name of its own is named after its file,
and the same name is the same batch: put back and made again, finished clips are not paid for again.
"""

from hybrid_video.watched_folder.claiming import Claim, Claims
from hybrid_video.watched_folder.inbox import Inbox, Unit
from hybrid_video.watched_folder.listing import Listing, list_inbox
from hybrid_video.watched_folder.night import Night, run_night
from hybrid_video.watched_folder.outcomes import NightLine, NightReport, Ran

__all__ = [
    "Claim",
    "Claims",
    "Inbox",
    "Listing",
    "Night",
    "NightLine",
    "NightReport",
    "Ran",
    "Unit",
    "list_inbox",
    "run_night",
]
