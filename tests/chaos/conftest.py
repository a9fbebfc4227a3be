"""Fixtures of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos_rig import Studio

from benchmarks.chaos_farm import Vendors


@pytest.fixture(scope="module")
def vendors() -> Iterator[Vendors]:
    """The emulators, in a thread of their own."""
    with Vendors() as running:
        yield running


@pytest.fixture
def studio(vendors: Vendors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Studio]:
    """A home of its own, and vendors that have forgotten everything."""
    opened = Studio(vendors, tmp_path, monkeypatch)
    yield opened
    opened.close()
