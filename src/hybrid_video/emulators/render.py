"""Writes the clips the emulators hand out: real, playable, moving, and marked as simulated on every frame.

What is shown comes from `hybrid_video.emulators.scene`; here it becomes a file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import av
import numpy as np
from PIL import Image

from hybrid_video.emulators.scene import Scene

SIMULATED_COMMENT = "simulated by hybrid-video"
"""Metadata comment of every rendered file; EXIF image description of a `.webp` or `.png`."""

_AUDIO_RATE = 48_000
_AUDIO_BLOCK = 1024
_WORKERS = 2
_IMAGE_SUFFIXES = frozenset({".webp", ".png", ".gif"})
_VIDEO_CODECS = {
    ".mp4": ("libx264", {"preset": "ultrafast", "crf": "26"}),
    ".webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "crf": "36", "b:v": "0"}),
}


def render_clip(
    path: Path,
    *,
    prompt: str,
    seed: int,
    width: int,
    height: int,
    fps: float,
    frames: int,
    kind: str = "ComfyUI",
    audio: bool = False,
    black: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes one clip; the suffix of `path` chooses the format. The same arguments give the same frames.

    Args:
        path: `.mp4` (H.264), `.webm` (VP9), or an animated `.webp`, `.png` or `.gif`. Its folder must exist.
        prompt: decides colours and motion together with `seed`; its first words are drawn into the picture.
        kind: whose output this stands for; drawn beside the mark.
        audio: adds a stereo AAC tone (`.mp4` only).
        black: every frame all black, without any mark: what a broken render looks like.
        metadata: further container tags, as ComfyUI embeds its graph (`.mp4` and `.webm`).

    Raises:
        ValueError: the suffix is unknown, or the size is not possible in that format.
    """
    if min(width, height, frames) < 1 or fps <= 0:
        raise ValueError(f"cannot render {frames!r} frames of {width}x{height} at {fps!r} fps; use more than 0")
    suffix = path.suffix.lower()
    scene = Scene(prompt, seed, width, height, kind, black)
    if suffix in _IMAGE_SUFFIXES:
        _write_images(path, scene, fps, frames)
    elif suffix in _VIDEO_CODECS:
        if width % 2 or height % 2:
            raise ValueError(f"{suffix} needs an even size, not {width}x{height}; add or remove one pixel")
        tags = {"comment": SIMULATED_COMMENT, **(metadata or {})}
        _write_video(path, scene, Fraction(fps).limit_denominator(1001), frames, audio=audio, tags=tags)
    else:
        known = ", ".join(sorted(_IMAGE_SUFFIXES | set(_VIDEO_CODECS)))
        raise ValueError(f"cannot render a {path.suffix!r} file; use one of {known}")


async def render_clip_async(
    path: Path,
    *,
    prompt: str,
    seed: int,
    width: int,
    height: int,
    fps: float,
    frames: int,
    kind: str = "ComfyUI",
    audio: bool = False,
    black: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """`render_clip` on one of a few shared threads; numpy, Pillow and PyAV release the interpreter lock."""
    work = partial(
        render_clip,
        path,
        prompt=prompt,
        seed=seed,
        width=width,
        height=height,
        fps=fps,
        frames=frames,
        kind=kind,
        audio=audio,
        black=black,
        metadata=metadata,
    )
    await asyncio.get_running_loop().run_in_executor(_pool(), work)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=min(_WORKERS, os.cpu_count() or 1), thread_name_prefix="render")


def _write_images(path: Path, scene: Scene, fps: float, frames: int) -> None:
    exif = Image.Exif()
    exif[0x010E] = SIMULATED_COMMENT
    first, *rest = (Image.fromarray(picture) for picture in scene.pictures(frames))
    duration = round(1000 / fps)
    if path.suffix.lower() == ".webp":
        first.save(
            path,
            save_all=True,
            append_images=rest,
            duration=duration,
            loop=0,
            exif=exif,
            quality=70,
            method=0,
        )
    else:
        first.save(path, save_all=True, append_images=rest, duration=duration, loop=0, exif=exif)


def _write_video(
    path: Path, scene: Scene, rate: Fraction, frames: int, *, audio: bool, tags: Mapping[str, str]
) -> None:
    suffix = path.suffix.lower()
    codec, options = _VIDEO_CODECS[suffix]
    # Without this flag the mp4 writer drops tags it does not know, such as the graph.
    container_options = {"movflags": "use_metadata_tags"} if suffix == ".mp4" else {}
    with av.open(str(path), "w", options=container_options) as container:
        container.metadata.update(tags)
        video = container.add_stream(codec, rate=rate, options=options)
        if not isinstance(video, av.VideoStream):
            raise TypeError(f"{codec!r} is not a video codec")
        video.width, video.height, video.pix_fmt = scene.width, scene.height, "yuv420p"
        video.codec_context.thread_count = 1
        sound = container.add_stream("aac", rate=_AUDIO_RATE, layout="stereo") if audio and suffix == ".mp4" else None
        for picture in scene.pictures(frames):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        if isinstance(sound, av.AudioStream):
            for block in _tone(scene.tone_hz, float(frames / rate)):
                container.mux(sound.encode(block))
            container.mux(sound.encode(None))


def _tone(pitch_hz: float, duration_s: float) -> Iterator[av.AudioFrame]:
    """A quiet note with a slow swell, a fifth higher in the right ear."""
    total = round(duration_s * _AUDIO_RATE)
    for start in range(0, total, _AUDIO_BLOCK):
        seconds = np.arange(start, min(start + _AUDIO_BLOCK, total), dtype=np.float64) / _AUDIO_RATE
        swell = 0.12 * (1 + 0.4 * np.sin(np.pi * seconds))
        ears = [swell * np.sin(2 * np.pi * pitch_hz * step * seconds) for step in (1.0, 1.5)]
        frame = av.AudioFrame.from_ndarray(np.stack(ears).astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate = _AUDIO_RATE
        frame.pts = start
        frame.time_base = Fraction(1, _AUDIO_RATE)
        yield frame
