"""How long to wait for what on a ComfyUI server."""

from __future__ import annotations

from dataclasses import dataclass

from hybrid_video.settings import ComfyUISettings


@dataclass(frozen=True)
class Patience:
    """Waiting times in real seconds."""

    poll_interval_s: float = 1.0
    outage_s: float = 60.0
    """An unreachable server is waited for so long while it holds a job."""
    job_timeout_s: float = 3600.0
    """The longest a clip may run; then it is interrupted."""
    wedge_after_s: float = 10.0
    """Prompts wait although nothing runs for so long: the worker is dead. A healthy one starts within a second, and
    a Python garbage collection of 0.7 s is the longest delay observed (ComfyUI 0.8.0)."""
    cancel_s: float = 30.0
    """An interrupt takes effect only between nodes and steps, not while a video is encoded."""
    lookup_pauses_s: tuple[float, ...] = (0.2, 0.8, 2.0)
    """Pauses before each look after a lost answer: a request cut off here may still be on its way through there."""
    object_info_ttl_s: float = 60.0

    @classmethod
    def from_settings(cls, settings: ComfyUISettings) -> Patience:
        """What the user configured, the rest by default."""
        return cls(
            poll_interval_s=settings.poll_interval_s,
            outage_s=settings.outage_patience_s,
            job_timeout_s=settings.job_timeout_s,
        )
