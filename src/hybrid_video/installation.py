"""The identity of one installation: a random name kept under its home folder, made once and never changed."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

FILE = "installation"
_VALID = re.compile(r"[0-9a-f]{8}")


def installation_id(home: Path) -> str:
    """Eight hexadecimal digits; the same for every process that uses this home folder.

    Two installations on one machine, or two containers that happen to have one host name, have different ones.
    """
    path = home / FILE
    for _ in range(2):
        try:
            text = path.read_text(encoding="ascii").strip()
        except (FileNotFoundError, UnicodeDecodeError):
            text = ""
        if _VALID.fullmatch(text):
            return text
        _create(path, replace=bool(text))
    return path.read_text(encoding="ascii").strip()


def _create(path: Path, *, replace: bool) -> None:
    """Writes the file whole or not at all; of several processes that try at once, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".installation-", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(4) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if replace:
            draft.replace(path)
        else:
            _link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _link(draft: Path, path: Path) -> None:
    try:
        path.hardlink_to(draft)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links
        if not path.exists():
            draft.replace(path)
