"""The wheel on a machine that has no checkout: installed into an environment of its own, and used from another folder.

The environment sees the locked dependencies of this one through a path file; nothing of the repository is in reach.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import httpx
import psutil
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pipeline_rig import SMALL, until

from hybrid_video import __version__
from hybrid_video.prefect_api import call

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("studio"), pytest.mark.timeout(300)]

ROOT = Path(__file__).resolve().parents[2]
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
PRIVATE = re.compile(
    r"(^|/)(tests?|__pycache__|\.venv|\.git|\.env|benchmarks|test-output)(/|$)|\.(pyc|sqlite3|duckdb|log|pem|key)$"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheel and sdist, made by the build backend without any network."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(folder)], cwd=ROOT, check=True, capture_output=True
    )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The wheel."""
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`hybrid-video` as pip installs it from the wheel."""
    folder = tmp_path_factory.mktemp("machine") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--disable-pip-version-check", "--ignore-installed", str(wheel)], check=True, timeout=120)
    return folder / "bin" / "hybrid-video"


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that has nothing to do with the project, and an environment that does not point to it either."""
    for name in ("PYTHONPATH", "PREFECT_API_URL", "PREFECT_HOME", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HYBRID_VIDEO_HOME", str(tmp_path / "home"))
    folder = tmp_path / "films"
    folder.mkdir()
    return folder


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The installed command."""
    return subprocess.run(
        [str(program), *arguments], cwd=folder, capture_output=True, text=True, timeout=180, check=False
    )


def test_the_installed_package_is_the_wheels_and_not_the_checkout(program: Path, away: Path) -> None:
    """Otherwise every test here would test the sources."""
    code = (
        "import hybrid_video as h, importlib.util as u; print(h.__file__, u.find_spec('tasks'), u.find_spec('flows'))"
    )
    done = subprocess.run(
        [str(program.with_name("python")), "-c", code], cwd=away, capture_output=True, text=True, check=True
    )
    where, tasks, flows = done.stdout.split()
    assert Path(where).is_relative_to(program.parents[1])
    assert (tasks, flows) == ("None", "None")


def test_version_plan_doctor_and_ledger_work_from_another_folder(program: Path, away: Path) -> None:
    """What a newcomer types first; doctor names what is missing instead of failing."""
    assert run(program, away, "--version").stdout.strip() == __version__
    planned = run(program, away, "plan", "--jobs", "3", "--json")
    assert planned.returncode == 0, planned.stderr
    assert sum(json.loads(planned.stdout)["split"].values()) == 3
    looked = run(program, away, "doctor", "--json")
    assert looked.returncode in (0, 1, 2), looked.stderr
    assert json.loads(looked.stdout)
    assert "Traceback" not in looked.stderr
    verified = run(program, away, "ledger", "verify", "--json")
    assert (verified.returncode, json.loads(verified.stdout)["ok"]) == (0, True), verified.stderr


def test_the_demo_makes_playable_clips_from_the_wheel(program: Path, away: Path) -> None:
    """Prefect server, flow, tasks, templates and emulators all come out of the wheel."""
    done = run(program, away, "demo", "--jobs", "3", "--out", "demo", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["completed"] == 3
    assert all(Path(clip["path"]).stat().st_size > 1000 for clip in report["clips"])


def test_up_deploys_and_serves_everything_from_the_wheel(program: Path, away: Path) -> None:
    """Pools, deployments, worker, watcher, API and dashboard; a batch given to Prefect is made by the wheel's flow."""
    errors = away / "up.err"
    with errors.open("w", encoding="utf-8") as writing:
        ports = ("--prefect-port", "0", "--api-port", "0", "--dashboard-port", "0")
        up = subprocess.Popen(
            [str(program), "up", "--demo", "--json", *ports],
            cwd=away,
            stdout=subprocess.PIPE,
            stderr=writing,
            text=True,
        )
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        assert line, errors.read_text(encoding="utf-8")
        found = json.loads(line)
        assert "api" in found, f"{found}\n{errors.read_text(encoding='utf-8')}"
        assert httpx.get(f"{found['api']}/openapi.json").json()["info"]["version"] == __version__
        assert "streamlit" in httpx.get(found["dashboard"]).text.lower()
        api = f"{found['prefect']}/api"
        deployment = call(api, "GET", "/deployments/name/generate-batch/local-gpu")
        assert str(ROOT) not in json.dumps(deployment), "a deployment names a folder of the checkout"
        assert deployment["pull_steps"] == [{"hybrid_video.project.enter": {}}]
        batch = {"name": "from-the-wheel", "jobs": [{"id": "a", "prompt": "a kite", **SMALL}]}
        body = {"parameters": {"batch": batch, "out_dir": str(away / "clips")}}
        made = call(api, "POST", f"/deployments/{deployment['id']}/create_flow_run", body)["id"]
        until("the batch ends", lambda: state(api, made) in {"COMPLETED", "FAILED", "CRASHED"}, 90, 0.25)
        assert state(api, made) == "COMPLETED"
        assert len(list((away / "clips").rglob("*.mp4"))) == 1
        up.send_signal(signal.SIGINT)
        assert up.wait(60) == 0
    finally:
        if up.poll() is None:
            for child in psutil.Process(up.pid).children(recursive=True):
                child.kill()
            up.kill()
            up.wait()


def state(api: str, run_id: str) -> str:
    """The state of a flow run."""
    return str(call(api, "GET", f"/flow_runs/{run_id}")["state"]["type"])


def test_every_dependency_of_the_wheel_is_locked_at_a_version_it_allows(wheel: Path) -> None:
    """What users get and what was tested are the same; the extras too."""
    locked: dict[str, set[str]] = {}
    for entry in LOCK["package"]:
        locked.setdefault(canonicalize_name(entry["name"]), set()).add(entry.get("version", ""))
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"hybrid_video-{__version__}.dist-info/METADATA").decode()
    required = [
        Requirement(line.partition(": ")[2]) for line in metadata.splitlines() if line.startswith("Requires-Dist")
    ]
    assert len(required) > 25
    for requirement in required:
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version, prereleases=True) for version in versions), requirement
        if requirement.marker is None:
            assert distribution(requirement.name).version in versions, "the environment differs from the lock"


def test_neither_wheel_nor_sdist_holds_anything_private(built: Path, wheel: Path) -> None:
    """No tests, caches, keys, databases or logs."""
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        source = [name.partition("/")[2] for name in archive.getnames()]
    assert not [name for name in inside if PRIVATE.search(name)]
    assert not [name for name in source if PRIVATE.search(name)]
    for wanted in ("uv.lock", "compose.yaml", "Dockerfile", "deploy/nginx/hybrid-video.conf.template", "CHANGELOG.md"):
        assert wanted in source


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    """Whoever builds from the source archive gets what we ship."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        archive.extractall(tmp_path, filter="data")
    [source] = tmp_path.iterdir()
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "again")],
        cwd=source,
        check=True,
        capture_output=True,
    )
    assert record(next((tmp_path / "again").glob("*.whl"))) == record(wheel)


def record(wheel: Path) -> set[str]:
    """Names and digests of a wheel's files."""
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.read(f"hybrid_video-{__version__}.dist-info/RECORD").decode().splitlines())


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of its own with what a release is made of."""
    folder = tmp_path_factory.mktemp("checkout") / "hybrid-video"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("src", "flows", "tasks", "dashboard", "deploy", "docs", "examples", "installers", "docker"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and path.name != ".env":
            shutil.copy2(path, folder / path.name)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "start")
    return folder


def git(folder: Path, *arguments: str) -> str:
    """git with a name of its own."""
    who = ("-c", "user.name=tester", "-c", "user.email=tester@localhost", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout


def commit(folder: Path, message: str) -> None:
    """Everything as it lies there."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "-m", message)


def release(folder: Path, version: str) -> subprocess.CompletedProcess[str]:
    """What `make release VERSION=…` runs."""
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    return subprocess.run(
        [sys.executable, "deploy/release.py", version],
        cwd=folder,
        env={**os.environ, "UV": uv},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_a_release_is_refused_with_every_reason_at_once(checkout: Path) -> None:
    """Another version in the source, no entry in the changelog, changes that are not committed."""
    assert "is not understood" in release(checkout, "one").stderr
    (checkout / "left-behind.txt").write_text("not committed")
    refused = release(checkout, "9.9.9")
    (checkout / "left-behind.txt").unlink()
    assert refused.returncode == 2
    for reason in (repr(__version__), "not clean", "left-behind.txt", "`## [9.9.9] - YYYY-MM-DD`"):
        assert reason in refused.stderr, refused.stderr
    assert not (checkout / "dist").exists()


def test_a_release_holds_wheel_source_bill_notes_and_digests(checkout: Path) -> None:
    """Made twice from one commit it is the same to the byte; a version that is tagged elsewhere is not made again."""
    init = checkout / "src" / "hybrid_video" / "__init__.py"
    init.write_text(init.read_text().replace(__version__, "9.9.9"))
    changelog = checkout / "CHANGELOG.md"
    changelog.write_text(
        changelog.read_text().replace("## [Unreleased]", "## [Unreleased]\n\n## [9.9.9] - 2026-12-01", 1)
    )
    commit(checkout, "Release 9.9.9")
    git(checkout, "tag", "tested-by-the-test")
    made = release(checkout, "9.9.9")
    assert made.returncode == 0, made.stderr
    folder = checkout / "dist" / "9.9.9"
    names = {path.name for path in folder.iterdir()}
    wheel, source = "hybrid_video-9.9.9-py3-none-any.whl", "hybrid_video-9.9.9.tar.gz"
    assert names >= {wheel, source, "sbom.json", "RELEASE_NOTES.md", "SHA256SUMS"}
    sums = dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines())
    assert sums.keys() == names - {"SHA256SUMS"}
    assert all(hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert "### Added" in (folder / "RELEASE_NOTES.md").read_text()
    assert "git push" in made.stderr
    assert git(checkout, "tag", "--list", "v*") == "", "the script tags nothing by itself"
    again = release(checkout, "9.9.9")
    assert again.returncode == 0, again.stderr
    assert dict(reversed(line.split("  ")) for line in (folder / "SHA256SUMS").read_text().splitlines()) == sums
    git(checkout, "tag", "v9.9.9", "HEAD~1")
    refused = release(checkout, "9.9.9")
    assert (refused.returncode, "stands on another commit" in refused.stderr) == (2, True)


def test_the_bill_of_materials_names_every_locked_dependency(checkout: Path) -> None:
    """Every package that a user may get, with the version that was tested; and none of the tools for developing."""
    uv = shutil.which("uv") or str(ROOT / ".tools" / "bin" / "uv")
    export = [uv, "export", "--frozen", "--no-dev", "--all-extras", "--quiet"]
    bill = subprocess.run([*export, "--format", "cyclonedx1.5"], cwd=ROOT, check=True, capture_output=True, text=True)
    listed = {(part["name"], part["version"]) for part in json.loads(bill.stdout)["components"]}
    packages = {canonicalize_name(entry["name"]): entry for entry in LOCK["package"]}
    ours = packages["hybrid-video"]
    wanted = [entry["name"] for entry in ours["dependencies"]]
    wanted += [entry["name"] for extra in ours["optional-dependencies"].values() for entry in extra]
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += [entry["name"] for entry in packages[name].get("dependencies", ())]
    names = {name for name, _ in listed}
    assert len(seen) > 100
    assert seen <= names, seen - names
    assert {(e["name"], e["version"]) for e in LOCK["package"] if "version" in e} >= listed - {
        ("hybrid-video", __version__)
    }
    assert not names & {"pytest", "mypy", "ruff", "bandit"}
