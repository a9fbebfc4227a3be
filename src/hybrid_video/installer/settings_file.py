"""`<home>/settings.env`: what an installation tells the product, read below `.env` and the environment.

Only whole lines `NAME=value` are touched; what a user added stays.
"""

from __future__ import annotations

from pathlib import Path

from hybrid_video.installer.journal import write_atomically

URLS = "HYBRID_VIDEO_COMFYUI_URLS"
HEADER = "# Written by `hybrid-video install-comfyui`; the environment and .env go before it.\n"


def add_url(file: Path, url: str) -> bool:
    """Adds an address to the list; False where it was there already."""
    lines = _lines(file)
    urls = _urls(lines)
    if url in urls:
        return False
    _write(file, lines, [*urls, url])
    return True


def remove_url(file: Path, url: str) -> bool:
    """Takes an address out of the list, and the file away where nothing of ours is left in it."""
    lines = _lines(file)
    urls = _urls(lines)
    if url not in urls:
        return False
    _write(file, lines, [known for known in urls if known != url])
    return True


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _urls(lines: list[str]) -> list[str]:
    value = next((line.partition("=")[2] for line in lines if line.startswith(f"{URLS}=")), "")
    return [url.strip() for url in value.strip().strip("\"'").split(",") if url.strip()]


def _write(file: Path, lines: list[str], urls: list[str]) -> None:
    kept = [line for line in lines if not line.startswith(f"{URLS}=")]
    if urls:
        kept = [*(kept or [HEADER.rstrip()]), f"{URLS}={','.join(urls)}"]
    if any(line.strip() and line != HEADER.rstrip() for line in kept):
        write_atomically(file, "\n".join(kept) + "\n")
    else:
        file.unlink(missing_ok=True)
