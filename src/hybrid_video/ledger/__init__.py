"""The ledger: operational truth about jobs, attempts, decisions and money, shared by every process."""

from hybrid_video.ledger.owner import Owner
from hybrid_video.ledger.store import Balance, Caps, JobRow, JobTakenError, Ledger

__all__ = ["Balance", "Caps", "JobRow", "JobTakenError", "Ledger", "Owner"]
