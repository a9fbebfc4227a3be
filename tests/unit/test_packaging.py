"""The wheel: what it puts on a machine, and that it works from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hybrid_video import __version__

ROOT = Path(__file__).resolve().parents[2]

BUILD = """
import os, sys
from hatchling.build import build_wheel
print(build_wheel(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by its own backend without any network."""
    folder = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-c", BUILD, str(folder)], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    return folder / built.stdout.split()[-1]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as an installation would."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command from the unpacked wheel, with nothing of the repository in reach."""
    code = (
        "import sys; import hybrid_video; "
        "assert hybrid_video.__file__.startswith(sys.argv[1]), hybrid_video.__file__; "
        "del sys.argv[1]; from hybrid_video.cli import main; sys.exit(main())"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "HYBRID_VIDEO_HOME": str(cwd / "home")}
    return subprocess.run(
        [sys.executable, "-c", code, str(installed), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_wheel_holds_one_package_and_nothing_beside_it(wheel: Path) -> None:
    """A top-level `flows` or `tasks` would overwrite another distribution's."""
    with zipfile.ZipFile(wheel) as archive:
        top = {name.partition("/")[0] for name in archive.namelist()}
    assert top == {"hybrid_video", f"hybrid_video-{__version__}.dist-info"}
    assert wheel.name == f"hybrid_video-{__version__}-py3-none-any.whl"


@pytest.mark.parametrize(
    "pattern",
    [
        "py.typed",
        "prefect_database.sql",
        "pricing/data/seed.toml",
        "pricing/data/runpod.toml",
        "pricing/data/google.toml",
        "pricing/data/timings/priors.toml",
        "emulators/data/object_info.json",
        "workflows/**/*.json",
        "_project/prefect.yaml",
        "_project/flows/generate_batch.py",
        "_project/flows/reconcile.py",
        "_project/flows/watch_backends.py",
        "_project/tasks/steps.py",
        "_project/dashboard/app.py",
        "_project/dashboard/.streamlit/config.toml",
        "wording/en.toml",
        "wording/th.toml",
        "work_pools/cloud-gpu.json",
        "installer/data/models.toml",
    ],
)
def test_data_and_the_prefect_project_travel_inside(installed: Path, pattern: str) -> None:
    """Prices, templates, recorded nodes and flows are found next to the code."""
    assert list((installed / "hybrid_video").glob(pattern))


def test_every_flow_task_and_page_of_the_checkout_travels(installed: Path) -> None:
    """A new one is not forgotten."""
    for folder in ("flows", "tasks", "dashboard"):
        here = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        there = installed / "hybrid_video" / "_project"
        assert here == {path.relative_to(there) for path in (there / folder).rglob("*.py")}


def test_the_version_stands_in_one_place() -> None:
    """Everything else reads it there."""
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    code = [path for folder in ("src", "flows", "tasks", "dashboard") for path in (ROOT / folder).rglob("*.py")]
    named = [path.name for path in code if f'"{__version__}"' in path.read_text(encoding="utf-8")]
    assert named == ["__init__.py"]


def test_every_source_file_is_inside_and_nothing_private(installed: Path) -> None:
    """The package is whole; caches, tests and secrets stay at home."""
    source = ROOT / "src" / "hybrid_video"
    expected = {path.relative_to(source) for path in source.rglob("*.py")}
    found = {path.relative_to(installed / "hybrid_video") for path in (installed / "hybrid_video").rglob("*.py")}
    assert expected <= found
    names = {path.name for path in installed.rglob("*")}
    assert not names & {"__pycache__", ".env", ".git", "conftest.py"}


def test_metadata_names_command_python_and_licence(installed: Path) -> None:
    """What an installer and a reader of the package index see."""
    info = next(installed.glob("*.dist-info"))
    metadata = (info / "METADATA").read_text(encoding="utf-8")
    assert "Requires-Python: >=3.11" in metadata
    assert f"Version: {__version__}" in metadata
    assert "hybrid-video = hybrid_video.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")
    assert list(info.glob("licenses/LICENSE*"))


def test_the_command_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Version and plan, from a folder that has nothing to do with the project."""
    version = run(installed, tmp_path, "--version")
    assert version.returncode == 0, version.stderr
    assert __version__ in version.stdout
    plan = run(installed, tmp_path, "plan", "--jobs", "3", "--json")
    assert plan.returncode == 0, plan.stderr
    answer = json.loads(plan.stdout.splitlines()[-1])
    assert sum(answer["split"].values()) == 3
    assert isinstance(answer["cost_usd"], str)
