"""Prefect's empty database, made beforehand: a server's first start in a folder takes less time.

Prefect makes it by a long chain of migrations, 2.3 of the 5.8 s of CPU until a server answers. Here lies what they come
to, as SQL; another version of Prefect than it was made with gets nothing and migrates as ever. After a change of pin
`python -m hybrid_video.prefect_database` writes it anew; a test compares it with what the migrations make.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from hybrid_video.prefect_api import QUIET

SHIPPED: Final = Path(__file__).with_name("prefect_database.sql")
FILE_NAME: Final = "prefect.db"
OWN_DATABASE: Final = ("PREFECT_API_DATABASE_", "PREFECT_SERVER_DATABASE_")
"""Somebody who sets any of these has a database of their own."""

MIGRATE_TIMEOUT_S = 120.0


def lay_out(home: Path) -> bool:
    """Puts the empty database into Prefect's folder if it has none; says whether it did.

    Never raises: where it cannot, Prefect makes its own, or says why not.

    Args:
        home: PREFECT_HOME, which exists.
    """
    file = home / FILE_NAME
    if file.exists() or any(name.startswith(OWN_DATABASE) for name in os.environ):
        return False
    draft = home / f"{FILE_NAME}.part"
    try:
        text = SHIPPED.read_text(encoding="utf-8")
        if text.partition("\n")[0] != _heading(version("prefect")):
            return False
        draft.unlink(missing_ok=True)
        with closing(sqlite3.connect(draft)) as connection:
            connection.executescript(text)
        draft.replace(file)
    except (OSError, sqlite3.Error, PackageNotFoundError):
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        return False
    return True


def migrated() -> str:
    """What the migrations of the installed Prefect make of nothing, as SQL.

    Raises:
        subprocess.SubprocessError: Prefect could not do it.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", *OWN_DATABASE))}
        subprocess.run(
            [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"],
            env={**kept, **QUIET, "PREFECT_HOME": folder},
            check=True,
            capture_output=True,
            timeout=MIGRATE_TIMEOUT_S,
        )
        with closing(sqlite3.connect(Path(folder, FILE_NAME))) as connection:
            statements = "\n".join(connection.iterdump())
    return f"{_heading(version('prefect'))}\n{statements}\n"


def _heading(prefect: str) -> str:
    return f"-- the empty database of Prefect {prefect}"


if __name__ == "__main__":
    SHIPPED.write_text(migrated(), encoding="utf-8")
