"""The files of the emulator: rendering, the marks Google puts into them, and their checksum.

The file recorded from the real service was h264 + AAC, 24 fps, with a C2PA manifest in a `uuid` box before `moov`.
"""

from __future__ import annotations

import asyncio
import base64
import struct
from functools import cache
from pathlib import Path

from hybrid_video.emulators.google.models import FPS, SIZES
from hybrid_video.emulators.google.requests import Wanted
from hybrid_video.emulators.render import render_clip_async

_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")


async def render(wanted: Wanted, path: Path, *, seed: int, black: bool) -> None:
    """Writes the clip that was asked for, with sound and the `uuid` box."""
    width, height = SIZES[wanted.resolution]
    if wanted.aspect == "9:16":
        width, height = height, width
    await render_clip_async(
        path,
        prompt=wanted.prompt,
        seed=seed,
        width=width,
        height=height,
        fps=FPS,
        frames=wanted.seconds * FPS,
        kind="Google",
        audio=wanted.audio,
        black=black,
    )
    await asyncio.to_thread(_insert_manifest, path)


def _insert_manifest(path: Path) -> None:
    """Puts a `uuid` box right after `ftyp` and moves the chunk offsets by its length where they follow it."""
    data = path.read_bytes()
    (ftyp,) = struct.unpack_from(">I", data, 0)
    payload = _C2PA_UUID + b"\0\0\0\0manifest\0" + b"simulated by hybrid-video; no C2PA signature"
    box = struct.pack(">I4s", 8 + len(payload), b"uuid") + payload
    path.write_bytes(data[:ftyp] + box + _shift_offsets(data[ftyp:], len(box)))


def _shift_offsets(data: bytes, by: int) -> bytes:
    """Adds `by` to every chunk offset (`stco`, `co64`) found inside `moov`."""
    result = bytearray(data)
    start = 0
    while start + 8 <= len(result):
        size, kind = struct.unpack_from(">I4s", result, start)
        if size == 1:
            (size,) = struct.unpack_from(">Q", result, start + 8)
        if kind == b"moov":
            moov = result[start : start + size]
            _shift_tables(moov, b"stco", ">I", by)
            _shift_tables(moov, b"co64", ">Q", by)
            result[start : start + size] = moov
        if size < 8:
            break
        start += size
    return bytes(result)


def _shift_tables(moov: bytearray, name: bytes, code: str, by: int) -> None:
    width = struct.calcsize(code)
    found = moov.find(name)
    while found != -1:
        (count,) = struct.unpack_from(">I", moov, found + 8)
        for at in range(found + 12, found + 12 + count * width, width):
            (value,) = struct.unpack_from(code, moov, at)
            struct.pack_into(code, moov, at, value + by)
        found = moov.find(name, found + 12 + count * width)


@cache
def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


def crc32c(data: bytes) -> str:
    """The checksum Google sends in `X-Goog-Hash`: CRC-32C, big-endian, base64."""
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    return base64.b64encode(struct.pack(">I", value ^ 0xFFFFFFFF)).decode()
