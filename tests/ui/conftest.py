"""Fixtures of the dashboard's tests: the app in Streamlit's own test harness, and a ledger with known money."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import streamlit as st
from ui_rig import DASHBOARD, World, find_chromium

sys.path.insert(0, str(DASHBOARD))  # as `streamlit run dashboard/app.py` does


def pytest_configure(config: pytest.Config) -> None:
    """In CI the browser is installed where it is missing, so that no browser test is ever passed over there."""
    if os.environ.get("CI") != "true" or find_chromium() or not hasattr(os, "geteuid") or os.geteuid() != 0:
        return
    for command in (["apt-get", "update", "-qq"], ["apt-get", "install", "-y", "-qq", "chromium"]):
        subprocess.run(command, check=True, timeout=600, stdout=subprocess.DEVNULL)


@pytest.fixture(autouse=True)
def _fresh_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture
def world() -> Iterator[World]:
    """An installation with a ledger, empty as yet."""
    made = World.open()
    yield made
    made.close()


@pytest.fixture
def configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All three tiers set up; their addresses lead nowhere."""
    monkeypatch.setenv("HYBRID_VIDEO_COMFYUI_URLS", "http://127.0.0.1:9")
    monkeypatch.setenv("HYBRID_VIDEO_RUNPOD_JOBS_URL", "http://127.0.0.1:9/v2/emulated")
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_TESTTESTTEST")
    monkeypatch.setenv("GEMINI_API_KEY", "AIzaTESTTESTTEST")
    monkeypatch.setenv("HYBRID_VIDEO_GEMINI_URL", "http://127.0.0.1:9")
