"""Local paths in batch files: relative, inside the batch file's folder even after symbolic links, regular files."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

from hybrid_video.errors import InputError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_DRIVE = re.compile(r"[A-Za-z]:")


def contained_file(field: str, value: str, folder: Path, max_bytes: int) -> Path:
    """The resolved path of a file that a job names. Backslashes count as slashes, so Windows paths work anywhere.

    Args:
        field: the job's field, for the message.
        folder: folder of the batch file.

    Raises:
        InputError: naming the field, the value and the remedy.
    """
    shown = f"{field}: {value!r}"
    move = f"put the file into {str(folder)!r} or a folder below it and give the path from there"
    written = value.replace("\\", "/")
    if _DRIVE.match(written) or written.startswith(("/", "~")):
        raise InputError(f"{shown} is not a path inside the batch file's folder; {move}")
    if _SCHEME.match(written):
        raise InputError(f"{shown} is an address, and only pictures at https addresses are fetched; {move}")
    try:
        root = folder.resolve()
        path = (root / written).resolve()
        if not path.is_relative_to(root):
            raise InputError(f"{shown} leads outside the batch file's folder; {move}")
        _check_file(shown, path, max_bytes)
        with path.open("rb") as file:
            file.read(1)
    except PermissionError:
        raise InputError(f"{shown} may not be read; give yourself permission to read it") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{shown} cannot be opened ({error}); correct the path") from None
    return path


def _check_file(shown: str, path: Path, max_bytes: int) -> None:
    if path.is_dir():
        raise InputError(f"{shown} is a folder; name the file inside it")
    if not path.exists():
        raise InputError(f"{shown} does not exist{_similar(path)}")
    if not path.is_file():
        raise InputError(f"{shown} is not a regular file; copy its content to one")
    size = path.stat().st_size
    if size == 0:
        raise InputError(f"{shown} is empty; save the file again")
    if size > max_bytes:
        raise InputError(f"{shown} has {size / 1e6:.1f} MB, more than {max_bytes // 1_000_000}; make it smaller")


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return f", nor does its folder {path.parent.name!r}; correct the path"
    names = [entry.name for entry in path.parent.iterdir() if entry.is_file()]
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {close[0]!r}?" if close else "; correct the path"
