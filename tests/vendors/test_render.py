"""Clips of the renderer: playable, distinct, marked, repeatable."""

from __future__ import annotations

import asyncio
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from hybrid_video.emulators.render import SIMULATED_COMMENT, render_clip, render_clip_async
from hybrid_video.emulators.scene import Picture, Scene


def render(
    path: Path, *, seed: int = 1, audio: bool = False, black: bool = False, tags: dict[str, str] | None = None
) -> None:
    """12 frames of 256x144 at 16 fps."""
    render_clip(
        path,
        prompt="a lake",
        seed=seed,
        width=256,
        height=144,
        fps=16,
        frames=12,
        audio=audio,
        black=black,
        metadata=tags,
    )


def frames_of(path: Path) -> Picture:
    """Every decoded frame."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.mark.parametrize(("suffix", "codec"), [(".mp4", "h264"), (".webm", "vp9")])
def test_a_clip_has_the_frames_size_rate_and_codec_asked_for(tmp_path: Path, suffix: str, codec: str) -> None:
    """12 frames of 256x144 at 16 fps, in the codec of the suffix."""
    path = tmp_path / f"clip{suffix}"
    render(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == codec
        assert stream.average_rate == 16
        comment = container.metadata.get("comment") or container.metadata.get("COMMENT")
        assert comment == SIMULATED_COMMENT
    assert frames_of(path).shape == (12, 144, 256, 3)


def test_a_webp_is_animated_and_marked(tmp_path: Path) -> None:
    """An odd size is fine for a picture format."""
    path = tmp_path / "clip.webp"
    render_clip(path, prompt="a lake", seed=1, width=161, height=91, fps=10, frames=5)
    with Image.open(path) as image:
        assert (getattr(image, "n_frames", 1), image.size) == (5, (161, 91))
        assert image.getexif()[0x010E] == SIMULATED_COMMENT


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    """Content addressing and the cache rely on it."""
    for name in ("a.mp4", "b.mp4"):
        render(tmp_path / name)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


@pytest.mark.parametrize(("prompt", "seed"), [("a desert", 1), ("a lake", 2)])
def test_prompt_and_seed_change_the_picture(prompt: str, seed: int) -> None:
    """Mean difference of the first frame is visible to the eye."""
    first = next(Scene("a lake", 1, 256, 144, "ComfyUI").pictures(1)).astype(int)
    other = next(Scene(prompt, seed, 256, 144, "ComfyUI").pictures(1)).astype(int)
    assert np.abs(first - other).mean() > 10


def test_the_picture_moves_and_is_not_dark(tmp_path: Path) -> None:
    """Checks for frozen or black clips must not reject a good one."""
    path = tmp_path / "clip.mp4"
    for seed in range(8):
        render(path, seed=seed)
        frames = frames_of(path).astype(int)
        assert frames.mean() > 40
        assert np.abs(np.diff(frames, axis=0)).mean() > 0.5


def test_every_frame_shows_the_mark() -> None:
    """The caption's yellow letters are in the bottom part of each frame."""
    for picture in Scene("a lake", 1, 256, 144, "ComfyUI").pictures(4):
        bottom = picture[144 * 3 // 5 :].astype(int)
        yellow = (bottom[..., 0] > 225) & (bottom[..., 1] > 185) & (bottom[..., 2] < 110)
        assert yellow.sum() > 100


def test_black_is_black(tmp_path: Path) -> None:
    """No mark, no light."""
    render(tmp_path / "clip.mp4", black=True)
    assert frames_of(tmp_path / "clip.mp4").max() <= 2


def test_audio_is_stereo_aac_and_audible(tmp_path: Path) -> None:
    """As long as the picture."""
    path = tmp_path / "clip.mp4"
    render(path, audio=True)
    with av.open(str(path)) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        blocks = [frame.to_ndarray() for frame in container.decode(audio=0)]
    sound = np.concatenate(blocks, axis=1)
    assert sound.shape[0] == 2
    assert sound.shape[1] / 48_000 == pytest.approx(0.75, abs=0.06)
    assert np.abs(sound).max() > 0.05


def test_further_tags_survive_in_mp4(tmp_path: Path) -> None:
    """ComfyUI embeds the graph under the tag `prompt`."""
    render(tmp_path / "clip.mp4", tags={"prompt": '{"1": {}}'})
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.metadata["prompt"] == '{"1": {}}'
        assert container.metadata["comment"] == SIMULATED_COMMENT


def test_an_odd_size_is_refused_for_h264(tmp_path: Path) -> None:
    """yuv420p halves both sides."""
    with pytest.raises(ValueError, match="even size, not 321x181"):
        render_clip(tmp_path / "clip.mp4", prompt="x", seed=1, width=321, height=181, fps=8, frames=2)


async def test_async_rendering_leaves_the_loop_free(tmp_path: Path) -> None:
    """What else the loop has to do goes on while 48 frames of 640x384 are rendered."""
    path = tmp_path / "clip.mp4"
    rendering = asyncio.create_task(
        render_clip_async(path, prompt="x", seed=1, width=640, height=384, fps=24, frames=48)
    )
    turns = 0
    while not rendering.done():
        await asyncio.sleep(0.001)
        turns += 1
    await rendering
    assert turns > 5
    assert (tmp_path / "clip.mp4").stat().st_size > 10_000
