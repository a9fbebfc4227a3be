"""Recognises containers by their first bytes, whatever the file is called."""

from __future__ import annotations

HEAD_BYTES = 4096
IMAGES = frozenset({"webp", "gif", "apng"})
DEMUXERS = {"mp4": "mp4", "mov": "mov", "webm": "matroska", "mkv": "matroska", "avi": "avi"}
"""FFmpeg's name of the demuxer for each container we take."""


def container_of(head: bytes) -> str | None:
    """The container whose signature the bytes carry, or None."""
    if head[4:8] == b"ftyp":
        return "mov" if head[8:12] == b"qt  " else "mp4"
    if head[4:8] in {b"moov", b"mdat", b"wide", b"free"}:
        return "mov"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm" if b"webm" in head[:80] else "mkv"
    if head.startswith(b"RIFF") and head[8:12] in {b"AVI ", b"WEBP"}:
        return "avi" if head[8:12] == b"AVI " else "webp"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "gif"
    return "apng" if head.startswith(b"\x89PNG\r\n\x1a\n") else None


def looks_like(head: bytes) -> str:
    """What a file that is no video appears to be, as the end of a sentence."""
    start = head[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        return "is a web page or an XML message"
    if start.startswith((b"{", b"[")):
        return "is a JSON message"
    if start.startswith(b"\xff\xd8"):
        return "is a JPEG picture"
    return f"begins with the bytes {head[:8].hex(' ')}"
