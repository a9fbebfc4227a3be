"""Opens batch files: finds the format, decodes the bytes, refuses what is no batch file before parsing it."""

from __future__ import annotations

import codecs
import difflib
import re
import stat
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hybrid_video.batchfile.checking import check
from hybrid_video.batchfile.csv_reader import read_csv
from hybrid_video.batchfile.documents import Document, Problems, UnreadableError
from hybrid_video.batchfile.json_reader import read_json
from hybrid_video.batchfile.yaml_reader import read_yaml
from hybrid_video.models import Batch

MAX_BYTES = 50_000_000

_READERS: dict[str, Callable[[str, Problems], Document]] = {
    ".yaml": read_yaml,
    ".yml": read_yaml,
    ".json": read_json,
    ".csv": read_csv,
}
SUFFIXES = tuple(_READERS)
_WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def load_batch(path: Path) -> Batch:
    """Reads a batch file (.yaml, .yml, .json or .csv); without a name of its own, the batch is named after the file.

    Raises:
        InputError: `problems` names the file, line, field, value and remedy of each thing that is wrong.
    """
    path = Path(path)
    problems = Problems(str(path))
    try:
        document = _read(path, problems)
    except UnreadableError as error:
        problems.add(error.text, line=error.line)
        problems.raise_if_any()
        raise
    return check(document, problems, default_name=slug(path.stem))


def parse_batch(data: Mapping[str, Any], source: str = "batch") -> Batch:
    """Checks data that is already parsed (an API request, flow parameters) by the same rules.

    Args:
        source: what the messages call it.

    Raises:
        InputError: as `load_batch`, without lines.
    """
    return check(Document(data), Problems(source), default_name=None)


def slug(text: str) -> str:
    """A batch name made of any text: `Café scène (2)` becomes `Cafe-scene-2`."""
    ascii_text = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", ascii_text).strip("-._")[:64].rstrip("-._") or "batch"


def _read(path: Path, problems: Problems) -> Document:
    reader = _READERS.get(path.suffix.lower())
    raw = _bytes(path)
    if reader is None:
        raise UnreadableError(f"{path.suffix!r} is not a format of batch files; use {', '.join(SUFFIXES)}")
    text = _decode(raw)
    if not text.strip():
        raise UnreadableError("is empty; write at least one job with a `prompt`")
    return reader(text, problems)


def _bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableError("is a folder; name the batch file inside it")
        if not stat.S_ISREG(status.st_mode):
            raise UnreadableError("is not a regular file; save the batch to one first")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(
                f"has {status.st_size / 1e6:.0f} MB, more than {MAX_BYTES // 1_000_000}; split it into several batches"
            )
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise UnreadableError(f"does not exist{_similar(path)}") from None
    except PermissionError:
        raise UnreadableError("may not be read; give yourself permission to read it") from None
    except (OSError, ValueError) as error:
        raise UnreadableError(f"cannot be read ({error}); check the path") from None


def _similar(path: Path) -> str:
    try:
        names = [entry.name for entry in path.parent.iterdir() if entry.suffix.lower() in _READERS]
    except OSError:
        return f"; nor does its folder {str(path.parent)!r}; check the path"
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {str(path.with_name(close[0]))!r}?" if close else "; check the path"


def _decode(raw: bytes) -> str:
    for mark, name in _WIDE.items():
        if raw.startswith(mark):
            raise UnreadableError(_not_utf8(f"is {name}"))
    if raw[:1] == b"\0" or raw[1:2] == b"\0":
        raise UnreadableError(_not_utf8("looks like UTF-16"))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise UnreadableError(_not_utf8(f"holds the byte 0x{raw[error.start]:02x}"), line) from None


def _not_utf8(finding: str) -> str:
    return f"{finding}, but batch files are UTF-8; save it as UTF-8 (in Excel: 'CSV UTF-8')"
