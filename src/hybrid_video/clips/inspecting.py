"""Decodes a file once, from beginning to end, with constant memory, and says what it holds.

The container is recognised by its first bytes and the demuxer is chosen by us: a playlist or a script that calls itself
`.mp4` never reaches FFmpeg's format guessing, which could open further files or addresses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from PIL import Image

from hybrid_video.clips.facts import ClipFacts, reject
from hybrid_video.clips.signatures import DEMUXERS, HEAD_BYTES, IMAGES, container_of, looks_like
from hybrid_video.redaction import redact

MAX_SIDE = 8192
_SAMPLE_SIDE = 160
"""Longest side of the grey copies. A copy's pixel averages at least 8 by 8 pixels of the frame, which removes grain
and most of what an encoder changes between one key frame and the next."""
_DENSE = 32
"""So many first frames are all sampled; later ones ever more sparsely, at distances that match no regular motion."""
_LARGE_PIXELS = 640 * 360
"""Below this size starting decoder threads takes longer than they save."""
_UNTIMED_FRAME_S = 0.1
"""What browsers give a frame of an animated image that names no duration."""

Grey = NDArray[np.int16]


def inspect(path: Path) -> ClipFacts:
    """Facts about a video file or animated image.

    Raises:
        ClipRejected: it is not a video, or does not decode to its end.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            container = container_of(head)
            if container is None:
                raise reject(path, "not_a_video", f"is not a video: it {looks_like(head)}")
            tally = _Tally(path, container)
            if container in IMAGES:
                return _read_image(tally, file)
            return _read_video(tally, file)
    except IsADirectoryError:
        raise reject(path, "not_a_video", "is a folder, not a video") from None
    except FileNotFoundError:
        raise reject(path, "not_a_video", "does not exist") from None
    except PermissionError:
        raise reject(path, "not_a_video", "may not be read") from None


@dataclass
class _Tally:
    """Running figures of one file; no frame is kept but the first, as a small grey copy."""

    path: Path
    container: str
    codec: str = ""
    width: int = 0
    height: int = 0
    frames: int = 0
    mean: float = 0.0
    std: float = 0.0
    peak: float = 0.0
    motion: float = 0.0
    first: Grey | None = None
    scaler: VideoReformatter = field(default_factory=VideoReformatter)
    """One for all frames: making its tables takes longer than using them."""

    @property
    def due(self) -> bool:
        """Whether the next frame is one of the samples."""
        return self.frames % (1 + self.frames // _DENSE) == 0

    @property
    def sample_size(self) -> tuple[int, int]:
        """Width and height of the grey copies."""
        divisor = max(8.0, max(self.width, self.height) / _SAMPLE_SIDE)
        return max(8, round(self.width / divisor)), max(8, round(self.height / divisor))

    def begin(self, width: int, height: int) -> None:
        """Takes the size, and refuses frames that would take gigabytes to decode."""
        self.width, self.height = width, height
        if max(width, height) > MAX_SIDE:
            raise reject(self.path, "too_large", f"is {width}x{height}; clips have at most {MAX_SIDE} pixels a side")

    def sample(self, grey: Grey) -> None:
        """Adds the grey copy of one frame to the figures."""
        self.mean = max(self.mean, float(grey.mean()))
        self.std = max(self.std, float(grey.std()))
        self.peak = max(self.peak, float(grey.max()))
        if self.first is None:
            self.first = grey
        else:
            self.motion = max(self.motion, float(np.abs(grey - self.first).max()))

    def facts(self, *, fps: float, duration_s: float) -> ClipFacts:
        """The finished facts."""
        return ClipFacts(
            container=self.container,
            codec=self.codec,
            width=self.width,
            height=self.height,
            fps=round(fps, 3),
            frames=self.frames,
            duration_s=round(duration_s, 3),
            size_bytes=self.path.stat().st_size,
            luma_mean=round(self.mean, 2),
            luma_std=round(self.std, 2),
            luma_peak=self.peak,
            motion=self.motion,
        )


def _read_video(tally: _Tally, file: BinaryIO) -> ClipFacts:
    times: list[float] = []
    nominal = length = 0.0
    try:
        with av.open(file, "r", format=DEMUXERS[tally.container], metadata_errors="ignore") as source:
            stream = source.streams.best("video")
            if not isinstance(stream, av.VideoStream):
                raise reject(tally.path, "not_a_video", "holds no video stream")
            tally.codec = stream.codec_context.name
            tally.begin(stream.codec_context.width, stream.codec_context.height)
            nominal = float(stream.average_rate or 0)
            large = stream.codec_context.width * stream.codec_context.height >= _LARGE_PIXELS
            stream.thread_type = "AUTO" if large else "NONE"
            for frame in source.decode(stream):
                _take(tally, frame)
                if frame.time is not None:
                    times = [times[0] if times else frame.time, frame.time]
                if frame.duration and frame.time_base:
                    length = float(frame.duration * frame.time_base)
    except (FFmpegError, ValueError) as error:
        where = f"after {tally.frames} frames" if tally.frames else "at its beginning"
        sentence = f"does not decode ({redact(getattr(error, 'strerror', None) or error, 200)}) {where}"
        raise reject(tally.path, "undecodable", sentence) from None
    if tally.frames == 0:
        raise reject(tally.path, "undecodable", "holds a video stream without a single frame")
    duration_s, fps = _timing(tally.frames, times[-1] - times[0] if times else 0.0, nominal, length)
    return tally.facts(fps=fps, duration_s=duration_s)


def _take(tally: _Tally, frame: av.VideoFrame) -> None:
    if frame.is_corrupt:
        raise reject(tally.path, "undecodable", f"is damaged at frame {tally.frames + 1}")
    if tally.frames == 0:
        tally.begin(frame.width, frame.height)
    if tally.due:
        width, height = tally.sample_size
        grey = tally.scaler.reformat(frame, width=width, height=height, format="gray", interpolation="AREA")
        tally.sample(grey.to_ndarray().astype(np.int16))
    tally.frames += 1


def _timing(frames: int, span: float, nominal: float, length: float) -> tuple[float, float]:
    """Duration in seconds and frames per second.

    The clock of the frames decides: headers may promise another rate, and WebM rounds times to milliseconds.

    Args:
        span: seconds from the first frame to the last.
        nominal: the rate the header gives, 0 if none.
        length: seconds the last frame is shown for, 0 if unknown.
    """
    if frames == 1 or span <= 0:
        fps = nominal or (1 / length if length else 1 / _UNTIMED_FRAME_S)
        return frames / fps, fps
    measured = (frames - 1) / span
    fps = nominal if nominal and abs(nominal - measured) <= 0.02 * measured else measured
    return (frames / fps if fps == nominal else span + (length or 1 / measured)), fps


def _read_image(tally: _Tally, file: BinaryIO) -> ClipFacts:
    """Animated WebP, GIF and PNG: Pillow decodes one frame after the other."""
    duration_s = 0.0
    try:
        with Image.open(file, formats=("WEBP", "GIF", "PNG")) as image:
            tally.codec = str(image.format).lower()
            tally.begin(*image.size)
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                image.load()
                duration_s += float(image.info.get("duration") or 0) / 1000 or _UNTIMED_FRAME_S
                if tally.due:
                    grey = image.convert("L").resize(tally.sample_size, Image.Resampling.BOX)
                    tally.sample(np.asarray(grey, dtype=np.int16))
                tally.frames += 1
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        sentence = f"does not decode ({redact(error, 200)}) after {tally.frames} frames"
        raise reject(tally.path, "undecodable", sentence) from None
    return tally.facts(fps=tally.frames / duration_s, duration_s=duration_s)
