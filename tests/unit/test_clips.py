"""What counts as the clip that was asked for: decodes to its end, moves, is not black, has the right size, lasts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hybrid_video.clips import ClipRejected, check_clip, inspect
from hybrid_video.models import OutputSpec

Picture = NDArray[np.uint8]
WIDTH, HEIGHT, FPS, FRAMES = 320, 180, 16, 24
EXPECTED = OutputSpec(width=WIDTH, height=HEIGHT, fps=FPS, frames=FRAMES)
RNG = np.random.default_rng(7)


def ball(number: int) -> Picture:
    """A bright square that moves over a gradient."""
    frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    frame[:] = np.linspace(30, 160, WIDTH, dtype=np.uint8)[None, :, None]
    x = 10 + number * 10 % (WIDTH - 40)
    frame[70:100, x : x + 30] = 250
    return frame


def night(number: int) -> Picture:
    """A 6-pixel light that crosses a black frame."""
    frame = np.full((HEIGHT, WIDTH, 3), 3, np.uint8)
    x = 4 + number * 12 % (WIDTH - 12)
    frame[90:96, x : x + 6] = 230
    return frame


NOISE = RNG.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def still(_number: int) -> Picture:
    """The same detailed picture each time."""
    return NOISE


def black(_number: int) -> Picture:
    """Black with sensor noise."""
    return RNG.integers(0, 9, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def write(
    path: Path,
    draw: Callable[[int], Picture] = ball,
    *,
    frames: int = FRAMES,
    fps: int = FPS,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encodes a small clip."""
    with av.open(str(path), "w", options=container_options or {}) as target:
        stream = target.add_stream(codec, rate=fps, options=options or {"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(frames):
            target.mux(stream.encode(av.VideoFrame.from_ndarray(draw(number), format="rgb24")))
        target.mux(stream.encode(None))
    return path


def rejection(path: Path, expected: OutputSpec = EXPECTED, *, lenient: bool = False) -> ClipRejected:
    with pytest.raises(ClipRejected) as caught:
        check_clip(path, expected, lenient=lenient)
    assert repr(path.name) in str(caught.value), "the message names the file"
    return caught.value


def test_facts_of_an_mp4_are_counted_not_read(tmp_path: Path) -> None:
    """Every figure of a plain H.264 clip."""
    facts = inspect(write(tmp_path / "a.mp4"))
    assert (facts.container, facts.codec, facts.suffix) == ("mp4", "h264", ".mp4")
    assert (facts.width, facts.height, facts.fps, facts.frames) == (WIDTH, HEIGHT, 16.0, 24)
    assert facts.duration_s == pytest.approx(1.5)
    assert facts.size_bytes == (tmp_path / "a.mp4").stat().st_size


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.webm", "libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
        ("a.mkv", "libx264", {"preset": "ultrafast"}),
        ("a.mov", "libx264", {"preset": "ultrafast"}),
        ("a.avi", "mpeg4", {}),
    ],
)
def test_other_containers_pass_too(tmp_path: Path, name: str, codec: str, options: dict[str, str]) -> None:
    """WebM keeps no frame count in its header and rounds times to milliseconds; the figures are still right."""
    facts = check_clip(write(tmp_path / name, codec=codec, options=options), EXPECTED)
    assert facts.suffix == Path(name).suffix
    assert facts.frames == FRAMES
    assert facts.fps == pytest.approx(FPS, rel=0.01)
    assert facts.duration_s == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize(("suffix", "container"), [(".webp", "webp"), (".gif", "gif"), (".png", "apng")])
def test_animated_images_are_clips(tmp_path: Path, suffix: str, container: str) -> None:
    """FFmpeg does not read animated WebP; Pillow reads all three frame by frame."""
    pictures = [Image.fromarray(ball(number)) for number in range(12)]
    path = tmp_path / f"a{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=80)
    facts = check_clip(path, OutputSpec(width=WIDTH, height=HEIGHT, fps=12.5, frames=12))
    assert (facts.container, facts.suffix, facts.frames) == (container, suffix, 12)
    assert facts.duration_s == pytest.approx(0.96, abs=0.01)


def test_the_name_of_a_file_does_not_decide(tmp_path: Path) -> None:
    """A WebM called .mp4 is a WebM."""
    write(tmp_path / "a.webm", codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    assert inspect((tmp_path / "a.webm").rename(tmp_path / "b.mp4")).container == "webm"


def test_a_night_scene_with_a_moving_light_passes(tmp_path: Path) -> None:
    """Dark is not black and almost still is not frozen."""
    facts = check_clip(write(tmp_path / "a.mp4", night, options={"crf": "35"}), EXPECTED)
    assert facts.luma_mean < 10
    assert facts.motion > 60


@pytest.mark.parametrize("options", [{"crf": "18"}, {"crf": "40"}, {"crf": "28", "g": "6"}])
def test_a_still_picture_is_frozen(tmp_path: Path, options: dict[str, str]) -> None:
    """The encoder's own flicker between key frames does not pass for motion."""
    assert rejection(write(tmp_path / "a.mp4", still, options=options)).reason == "frozen"


def test_a_black_clip_is_rejected_even_with_noise(tmp_path: Path) -> None:
    """Sensor noise of 8 of 255 does not make a picture."""
    assert rejection(write(tmp_path / "a.mp4", black)).reason == "black"


def test_a_single_frame_is_frozen_unless_one_was_asked_for(tmp_path: Path) -> None:
    """A still image is a result only where one frame was promised."""
    Image.fromarray(ball(0)).save(tmp_path / "a.png")
    assert rejection(tmp_path / "a.png", lenient=True).reason == "frozen"
    one = OutputSpec(width=WIDTH, height=HEIGHT, fps=16, frames=1)
    assert check_clip(write(tmp_path / "a.mp4", frames=1), one).frames == 1


def test_motion_that_repeats_at_a_regular_distance_is_seen(tmp_path: Path) -> None:
    """A blink of one frame every 16 among 96 still ones is not missed by sampling."""
    write(tmp_path / "a.mp4", lambda number: ball(5 if number % 16 == 9 else 0), frames=96)
    check_clip(tmp_path / "a.mp4", EXPECTED.model_copy(update={"frames": 96}))


def test_another_size_is_rejected_with_both_sizes(tmp_path: Path) -> None:
    """The message lets the user compare."""
    error = rejection(write(tmp_path / "a.mp4"), EXPECTED.model_copy(update={"width": 640}))
    assert error.reason == "wrong_size"
    assert "320x180" in str(error)
    assert "640x180" in str(error)


def test_two_frames_or_five_percent_may_be_missing(tmp_path: Path) -> None:
    """22 of 24 pass, 21 do not; 95 of 100 pass, 94 do not."""
    assert check_clip(write(tmp_path / "a.mp4", frames=22), EXPECTED).frames == 22
    assert rejection(write(tmp_path / "b.mp4", frames=21)).reason == "too_few_frames"
    hundred = EXPECTED.model_copy(update={"frames": 100})
    assert check_clip(write(tmp_path / "c.mp4", frames=95), hundred).frames == 95
    assert rejection(write(tmp_path / "d.mp4", frames=94), hundred).reason == "too_few_frames"


def test_another_frame_rate_makes_another_length(tmp_path: Path) -> None:
    """All the frames at twice the rate last half as long; far too many frames last too long."""
    error = rejection(write(tmp_path / "a.mp4", fps=32))
    assert error.reason == "wrong_length"
    assert "0.75 s" in str(error)
    assert rejection(write(tmp_path / "b.mp4", frames=48)).reason == "wrong_length"


def test_lenient_takes_any_size_and_length_but_no_still(tmp_path: Path) -> None:
    """A workflow of the user's own may make what it likes, as long as it moves."""
    other = OutputSpec(width=64, height=64, fps=8, frames=200)
    assert check_clip(write(tmp_path / "a.mp4"), other, lenient=True).frames == FRAMES
    assert rejection(write(tmp_path / "b.mp4", still), other, lenient=True).reason == "frozen"


def test_a_file_cut_short_is_rejected(tmp_path: Path) -> None:
    """ComfyUI killed while it encodes leaves an MP4 without its index; a broken download loses frames at the end."""
    whole = write(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "noindex.mp4").write_bytes(whole[: len(whole) // 2])
    assert rejection(tmp_path / "noindex.mp4").reason == "undecodable"
    early = write(tmp_path / "b.mp4", container_options={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(early[: len(early) // 2])
    assert rejection(tmp_path / "cut.mp4").reason in {"undecodable", "too_few_frames"}


def test_damage_inside_is_rejected(tmp_path: Path) -> None:
    """FFmpeg paints over damaged blocks; such a clip is not delivered."""
    data = bytearray(write(tmp_path / "a.mp4", options={"crf": "20"}).read_bytes())
    middle = data.index(b"mdat") + 2000
    data[middle : middle + 600] = RNG.integers(0, 255, 600, dtype=np.uint8).tobytes()
    (tmp_path / "a.mp4").write_bytes(data)
    assert rejection(tmp_path / "a.mp4").reason == "undecodable"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><title>502</title>", "web page"),
        (b'\n {"error": "expired"}', "JSON"),
        (b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:1/a.ts\n", "begins with"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "begins with"),
    ],
)
def test_what_is_no_video_is_called_by_its_name(tmp_path: Path, content: bytes, text: str) -> None:
    """Error pages are recognised; playlists, which could make FFmpeg open other files, are not given to it."""
    (tmp_path / "a.mp4").write_bytes(content)
    error = rejection(tmp_path / "a.mp4")
    assert error.reason == "not_a_video"
    assert text in str(error)


def test_a_file_without_pictures_a_folder_and_nothing_are_rejected(tmp_path: Path) -> None:
    """Sound alone is no clip."""
    with av.open(str(tmp_path / "a.mp4"), "w") as target:
        stream = target.add_stream("aac", rate=44100)
        for frame in silence():
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    assert "no video stream" in str(rejection(tmp_path / "a.mp4"))
    (tmp_path / "folder").mkdir()
    assert "folder" in str(rejection(tmp_path / "folder"))
    assert "does not exist" in str(rejection(tmp_path / "nothing.mp4"))


def silence() -> Iterator[av.AudioFrame]:
    """A second of silence."""
    for number in range(43):
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate, frame.pts = 44100, number * 1024
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        yield frame


def test_a_rejection_survives_pickling(tmp_path: Path) -> None:
    """Prefect carries errors between processes."""
    error = rejection(write(tmp_path / "a.mp4", still))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert (str(copy), copy.reason, copy.facts) == (str(error), error.reason, error.facts)


def test_memory_stays_flat_over_a_long_clip(tmp_path: Path) -> None:
    """Frames are looked at one by one: the measure holds no list that grows with the clip."""
    import tracemalloc

    short, long = write(tmp_path / "a.mp4", frames=50), write(tmp_path / "b.mp4", frames=800)
    inspect(short)
    peaks = []
    for path in (short, long):
        tracemalloc.start()
        inspect(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
