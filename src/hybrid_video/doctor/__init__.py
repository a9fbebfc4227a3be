"""Looks at everything the product stands on and says, for each, what was found and what to do."""

from hybrid_video.doctor.examining import examine
from hybrid_video.doctor.findings import Finding
from hybrid_video.doctor.storage import OLD_PRICES_DAYS

__all__ = ["OLD_PRICES_DAYS", "Finding", "examine"]
