"""The picture inside a rendered clip: colours, motion and caption, from the prompt and the seed alone.

Computed on a small grid and scaled up, because an emulator must be faster than what it imitates.
"""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Picture = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.uint16]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_GRID = 160  # longest side of the computed picture; more only costs time
_TWOS_PIXELS = 500_000  # larger pictures are shown twice, as drawn animation does: scaling them is what costs time
_DISCS = 6
_MARK_COLOUR = (255, 214, 64)
_TEXT_COLOUR = (255, 255, 255)
_SHADE = 110  # how dark the strip behind the caption is, of 255

# Hue offset, saturation and value: two of the sky, two of the bands, three of the discs, opposite in hue.
_COLOURS = (
    (0.0, 0.75, 0.32),
    (0.09, 0.6, 0.78),
    (0.04, 0.7, 0.5),
    (0.14, 0.65, 0.62),
    (0.5, 0.75, 0.98),
    (0.58, 0.55, 1.0),
    (0.42, 0.35, 1.0),
)


@dataclass(frozen=True)
class Scene:
    """What one clip shows.

    Args:
        kind: whose output it stands for; drawn beside the mark.
        black: every frame all black, without any mark: what a broken render looks like.
    """

    prompt: str
    seed: int
    width: int
    height: int
    kind: str
    black: bool = False

    @property
    def tone_hz(self) -> float:
        """Pitch of its sound."""
        return float(self._random("tone").uniform(180, 520))

    def pictures(self, frames: int) -> Iterator[Picture]:
        """The finished frames: height x width x 3, RGB."""
        if self.black:
            dark = np.zeros((self.height, self.width, 3), dtype=np.uint8)
            for _ in range(frames):
                yield dark
            return
        ink, cover = _caption(self)
        top = self.height - ink.shape[0]
        step = 2 if self.width * self.height > _TWOS_PIXELS else 1
        shown = 0
        for small in self._draw(frames, step):
            image = Image.fromarray(small.astype(np.uint8))
            picture = np.array(image.resize((self.width, self.height), Image.Resampling.BILINEAR))
            strip = picture[top:]
            strip[:] = (strip * (256 - cover) + ink * cover) >> 8
            yield from (picture for _ in range(min(step, frames - shown)))
            shown += step

    def _random(self, part: str) -> np.random.Generator:
        digest = hashlib.sha256(f"{part}|{self.prompt}|{self.seed}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "big"))

    def _draw(self, frames: int, step: int) -> Iterator[Floats]:
        """A slowly turning gradient, rolling bands and circling discs on the small grid; values 0 to 255.

        Every `step`th frame, beginning with the first.
        """
        random = self._random("scene")
        sky_dark, sky_light, *bands_and_discs = _palette(random)
        bands, discs = bands_and_discs[:2], bands_and_discs[2:]
        xs, ys, aspect = _grid(self.width, self.height)
        turn, bend = random.uniform(0, 2 * np.pi), random.uniform(4, 9)
        phase, speed = random.uniform(0, 2 * np.pi, (_DISCS, 2)), random.uniform(0.4, 1.3, (_DISCS, 2))
        radius, reach = random.uniform(0.06, 0.19, _DISCS), random.uniform(0.3, 0.48, (_DISCS, 2))
        for index in range(0, frames, step):
            moment = index / 24
            across, down = np.cos(turn + 0.35 * moment), np.sin(turn + 0.35 * moment)
            ramp = (xs - aspect / 2) * np.float32(across) + (ys - 0.5) * np.float32(down) + np.float32(0.5)
            picture: Floats = sky_dark + (sky_light - sky_dark) * np.clip(ramp, 0, 1)[..., None]
            for band in range(3):
                wave = np.sin(bend * xs[0] + moment * (1.1 + 0.5 * band) + turn + band)
                line = (0.55 + 0.16 * band + 0.05 * wave).astype(np.float32)
                edge = np.clip((ys - line[None, :]) * 40, 0, 1) * np.float32(0.55)
                picture += (bands[band % 2] * np.float32(1 - 0.2 * band) - picture) * edge[..., None]
            for disc in range(_DISCS):
                centre = 0.5 + reach[disc] * np.sin(phase[disc] + 2.2 * speed[disc] * moment)
                away = np.hypot(xs - np.float32(centre[0] * aspect), ys - np.float32(centre[1]))
                cover = np.clip((np.float32(radius[disc]) - away) * 60, 0, 1) * np.float32(0.9)
                picture += (discs[disc % len(discs)] - picture) * cover[..., None]
            yield picture


def _grid(width: int, height: int) -> tuple[Floats, Floats, float]:
    shrink = min(1.0, _GRID / max(width, height))
    columns, rows = max(2, round(width * shrink)), max(2, round(height * shrink))
    ys, xs = np.mgrid[0:rows, 0:columns].astype(np.float32)
    aspect = width / height
    return xs * np.float32(aspect / columns), ys / np.float32(rows), aspect


def _palette(random: np.random.Generator) -> list[Floats]:
    hue = random.uniform(0, 1)
    jitter = random.uniform(-0.05, 0.05, len(_COLOURS))
    return [
        np.asarray(colorsys.hsv_to_rgb((hue + step + float(shift)) % 1, saturation, value), dtype=np.float32)
        * np.float32(255)
        for (step, saturation, value), shift in zip(_COLOURS, jitter, strict=True)
    ]


def _caption(scene: Scene) -> tuple[Wide, Wide]:
    """The strip over the bottom of every frame: its colours and its cover (of 256)."""
    mark = max(9.0, min(scene.height / 11, scene.width / 14))
    small = max(8.0, mark * 0.72)
    margin = max(2, round(mark * 0.35))
    font = ImageFont.load_default(size=small)
    rows = [(f"SIMULATED · {scene.kind}", ImageFont.load_default(size=mark), mark, _MARK_COLOUR)]
    rows += [(text, font, small, _TEXT_COLOUR) for text in _wrap(scene.prompt, font, scene.width - 2 * margin)]
    height = min(scene.height, margin + sum(round(size * 1.3) for _, _, size, _ in rows))
    ink = Image.new("RGB", (scene.width, height), (0, 0, 0))
    letters = Image.new("L", ink.size, _SHADE)
    top = margin // 2
    for text, face, size, colour in rows:
        ImageDraw.Draw(ink).text((margin, top), text, fill=colour, font=face)
        ImageDraw.Draw(letters).text((margin, top), text, fill=255, font=face)
        top += round(size * 1.3)
    cover = np.asarray(letters, dtype=np.uint16)[..., None] + np.uint16(1)
    return np.asarray(ink, dtype=np.uint16), cover


def _wrap(prompt: str, font: Font, width: int) -> list[str]:
    """The first words of the prompt on at most two lines that fit the width."""
    lines: list[str] = []
    line = ""
    for word in prompt[:200].split():
        longer = f"{line} {word}".strip()
        if font.getlength(longer) <= width or not line:
            line = longer
            continue
        lines.append(line)
        line = word
    return [text for text in (*lines, line) if text][:2]
