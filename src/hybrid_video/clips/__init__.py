"""Finished clips: what a file really holds, whether it is the clip that was asked for, and where it is kept.

Everything here is synchronous and works the CPU or the disk; call it through `asyncio.to_thread`.
"""

from hybrid_video.clips.checking import check_clip
from hybrid_video.clips.facts import ClipFacts, ClipRejected
from hybrid_video.clips.inspecting import inspect
from hybrid_video.clips.storing import free_disk_mb, store_clip

__all__ = ["ClipFacts", "ClipRejected", "check_clip", "free_disk_mb", "inspect", "store_clip"]
