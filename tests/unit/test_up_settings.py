"""What `hybrid-video up` hands down to the programs it starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from hybrid_video.cli.up import _hand_down


def test_the_env_file_of_the_folder_reaches_programs_that_work_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Flow runs work in the project's folder: they get every setting, and paths that lead where they led here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", {"HYBRID_VIDEO_BACKEND": "local", "HYBRID_VIDEO_OUT": "clips"})
    (tmp_path / ".env").write_text(
        "HYBRID_VIDEO_HOME=state\nGEMINI_API_KEY=k # mine\nHYBRID_VIDEO_BACKEND=gemini\nHYBRID\n"
    )
    _hand_down()
    assert os.environ == {
        "HYBRID_VIDEO_BACKEND": "local",  # the environment goes before the file
        "HYBRID_VIDEO_OUT": str(tmp_path / "clips"),
        "HYBRID_VIDEO_HOME": str(tmp_path / "state"),
        "GEMINI_API_KEY": "k",
    }
