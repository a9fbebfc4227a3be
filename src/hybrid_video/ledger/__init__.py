"""The ledger: operational truth about jobs, attempts, decisions and money, shared by every process."""

from hybrid_video.ledger.lanes import LaneBusyError
from hybrid_video.ledger.owner import Owner
from hybrid_video.ledger.store import (
    CANCELLED_MESSAGE,
    Balance,
    Caps,
    JobCancelledError,
    JobRow,
    JobTakenError,
    Ledger,
)

__all__ = [
    "CANCELLED_MESSAGE",
    "Balance",
    "Caps",
    "JobCancelledError",
    "JobRow",
    "JobTakenError",
    "LaneBusyError",
    "Ledger",
    "Owner",
]
