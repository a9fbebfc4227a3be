"""The picture that stands for a clip until somebody plays it: made once, kept under the home folder."""

from __future__ import annotations

from pathlib import Path

from hybrid_video.clips.posters import poster_of
from hybrid_video.settings import Settings
from hybrid_video.views import ClipLine


def poster(clip: ClipLine, settings: Settings) -> Path | None:
    """The poster's file; None where the clip is gone or cannot be read."""
    return poster_of(Path(clip.path), sha256=clip.sha256, folder=settings.storage.home / "posters")
