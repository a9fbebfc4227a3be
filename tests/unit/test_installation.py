"""The identity of an installation: made once, the same for everybody, different between homes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from hybrid_video.installation import FILE, installation_id

ROOT = Path(__file__).resolve().parents[2]


def test_it_is_made_once_and_stays(tmp_path: Path) -> None:
    """Eight hexadecimal digits, in one small file, with nothing left beside it."""
    home = tmp_path / "new" / "home"
    first = installation_id(home)
    assert installation_id(home) == first
    assert len(first) == 8
    assert int(first, 16) >= 0
    assert [file.name for file in home.iterdir()] == [FILE]


def test_two_homes_have_different_ones(tmp_path: Path) -> None:
    """Nothing of the machine goes into it, so containers of one image differ too."""
    assert installation_id(tmp_path / "a") != installation_id(tmp_path / "b")


def test_processes_that_start_together_agree(tmp_path: Path) -> None:
    """Whoever writes first decides; the others read that."""
    code = (
        "import sys; from pathlib import Path; from hybrid_video.installation import installation_id as i; "
        "sys.stdin.readline(); print(i(Path(sys.argv[1])))"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    assert len({child.communicate(timeout=30)[0] for child in children}) == 1


def test_a_damaged_file_is_replaced(tmp_path: Path) -> None:
    """A torn write of an earlier crash must not stop anything."""
    (tmp_path / FILE).write_text("")
    first = installation_id(tmp_path)
    assert installation_id(tmp_path) == first
    (tmp_path / FILE).write_text("no id at all\n")
    assert installation_id(tmp_path) != "no id at all"
