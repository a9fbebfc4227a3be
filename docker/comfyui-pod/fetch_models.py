"""Downloads the models of a list into a folder while the image is built, and fails it where a hash is another.

A list has one model a line: SHA-256, folder/name, https address. Standard library only.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_TARGET = re.compile(r"[a-z0-9_]+(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Model:
    """One line of the list."""

    sha256: str
    target: str
    url: str

    @classmethod
    def parse(cls, line: str, number: int) -> Model:
        """From a line.

        Raises:
            ValueError: naming the line and what is wrong with it.
        """
        parts = line.split()
        if len(parts) != 3:
            raise ValueError(f"line {number}: {line!r} is not 'sha256 folder/name url'")
        sha256, target, url = parts
        local = urlsplit(url).scheme == "http" and urlsplit(url).hostname in ("127.0.0.1", "localhost")
        if not re.fullmatch(r"[0-9a-f]{64}", sha256):
            raise ValueError(f"line {number}: {sha256!r} is not a SHA-256 in lower-case hexadecimal digits")
        if not _TARGET.fullmatch(target) or ".." in target:
            raise ValueError(
                f"line {number}: {target!r} is not a folder and a file name, such as vae/wan_2.1_vae.safetensors"
            )
        if urlsplit(url).scheme != "https" and not local:
            raise ValueError(f"line {number}: {url!r} is not an https address")
        return cls(sha256, target, url)


def read_list(text: str) -> list[Model]:
    """Every model of a list; empty lines and lines that begin with # are skipped."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    return [Model.parse(line, number) for number, line in lines if line and not line.startswith("#")]


def fetch(model: Model, folder: Path, token: str = "") -> Path:
    """Downloads and checks one model; it appears under its name only when it is right.

    Raises:
        ValueError: the content has another hash.
        OSError: it cannot be downloaded or written.
    """
    target = folder / model.target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    gated = token and (urlsplit(model.url).hostname or "").endswith("huggingface.co")
    headers = {"User-Agent": "hybrid-video-image"} | ({"Authorization": f"Bearer {token}"} if gated else {})
    digest = hashlib.sha256()
    request = urllib.request.Request(model.url, headers=headers)  # noqa: S310 - https only, see parse
    try:
        with urllib.request.urlopen(request, timeout=60) as answer, part.open("wb") as file:  # noqa: S310  # nosec B310
            while chunk := answer.read(_CHUNK):
                digest.update(chunk)
                file.write(chunk)
        if digest.hexdigest() != model.sha256:
            raise ValueError(f"{model.url!r} has the hash {digest.hexdigest()}, the list says {model.sha256}")
        os.replace(part, target)  # noqa: PTH105 - atomic
    finally:
        part.unlink(missing_ok=True)
    return target


def main(arguments: list[str]) -> int:
    """`fetch_models.py LIST FOLDER`; the token of gated models comes from HF_TOKEN."""
    if len(arguments) != 2:
        print("usage: fetch_models.py LIST FOLDER", file=sys.stderr)
        return 2
    try:
        for model in read_list(Path(arguments[0]).read_text(encoding="utf-8")):
            path = fetch(model, Path(arguments[1]), os.environ.get("HF_TOKEN", "").strip())
            print(f"{path}: {path.stat().st_size} bytes, hash as listed", flush=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
