"""Fixtures of the installer's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from install_rig import FileServer, Rig


@pytest.fixture
def server() -> Iterator[FileServer]:
    """A server of files, empty."""
    server = FileServer()
    yield server
    server.close()


@pytest.fixture
def rig(tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A machine on which nothing is installed."""
    rig = Rig(tmp_path / "machine", server) if (tmp_path / "machine").mkdir() is None else None
    assert rig is not None
    rig.enter(monkeypatch)
    yield rig
    rig.close()
