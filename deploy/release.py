"""Makes what a release consists of, after checking that it may be made. Never tags, pushes or uploads.

    make release VERSION=1.2.3

The version stands in one place, `src/hybrid_video/__init__.py`. The folder `dist/1.2.3` gets the wheel, the source
archive, the bill of materials, the release notes out of the changelog, and a list of digests. Built twice from the
same commit, all of it is the same to the byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "hybrid_video" / "__init__.py"
FORM = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
NEXT = """next, by hand:
  git tag -a v{version} -m "hybrid-video {version}" && git push origin v{version}
  upload what lies in dist/{version}; its digests: dist/{version}/SHA256SUMS
then write an empty [Unreleased] section into CHANGELOG.md and set the next version in src/hybrid_video/__init__.py
"""


class RefusedError(Exception):
    """Why nothing was built, in sentences."""


def git(*arguments: str) -> str:
    """What git says."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RefusedError(f"`git {' '.join(arguments)}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def problems(version: str) -> list[str]:
    """Everything that stands against it, all at once."""
    if not FORM.fullmatch(version):
        return [f"VERSION={version!r} is not understood; write three numbers like 1.2.3, or 1.2.3rc1 before it"]
    found = []
    known = re.search(r'__version__ = "([^"]+)"', SOURCE.read_text(encoding="utf-8"))
    if known is None or known[1] != version:
        found.append(
            f"src/hybrid_video/__init__.py says {known[1] if known else 'nothing'!r}; set it to {version!r} and commit"
        )
    if changed := git("status", "--porcelain"):
        found.append(f"the working folder is not clean; commit or remove first:\n{changed}")
    if not notes(version):
        found.append(
            f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD` with entries; rename [Unreleased] to it, with "
            "today's date, and commit"
        )
    tagged = git("tag", "--list", f"v{version}")
    if tagged and git("rev-list", "-n", "1", f"v{version}") != git("rev-parse", "HEAD"):
        found.append(f"the tag v{version} stands on another commit; a version is released once: take the next number")
    return found


def notes(version: str) -> str:
    """The entries of a version in the changelog."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    form = rf"^## \[{re.escape(version)}\] - \d{{4}}-\d{{2}}-\d{{2}}$\n(.*?)(?=^## \[|\Z)"
    section = re.search(form, text, re.MULTILINE | re.DOTALL)
    entries = section[1].strip() if section else ""
    return entries if re.search(r"^- ", entries, re.MULTILINE) else ""


def tested() -> bool:
    """Whether somebody has marked this commit as tested."""
    return any(tag.startswith("tested-") for tag in git("tag", "--points-at", "HEAD").splitlines())


def test() -> None:
    """Runs every check and test, and marks the commit, here only."""
    for target in ("check", "test"):
        if subprocess.run(["make", target], cwd=ROOT, check=False).returncode != 0:
            raise RefusedError(f"`make {target}` failed; nothing was built")
    git("tag", f"tested-{git('rev-parse', '--short=12', 'HEAD')}")


def build(version: str) -> Path:
    """The folder with everything."""
    folder = ROOT / "dist" / version
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": git("log", "-1", "--format=%ct")}
    run([sys.executable, "-m", "hatchling", "build", "-d", str(folder)], environment)
    bill = ["export", "--frozen", "--no-dev", "--all-extras", "--format", "cyclonedx1.5", "--quiet"]
    run([os.environ.get("UV", "uv"), *bill, "-o", str(folder / "sbom.json")], environment)
    settle(folder / "sbom.json", version)
    (folder / "RELEASE_NOTES.md").write_text(f"{notes(version)}\n", encoding="utf-8")
    digests = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"
        for path in sorted(folder.iterdir())
        if path.name != "SHA256SUMS"
    ]
    (folder / "SHA256SUMS").write_text("".join(digests), encoding="utf-8")
    return folder


def settle(bill: Path, version: str) -> None:
    """Replaces what uv makes up anew each time (number and time), and adds the version that it cannot know."""
    document = json.loads(bill.read_text(encoding="utf-8"))
    document["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'hybrid-video/{version}')}"
    document["metadata"]["timestamp"] = git("log", "-1", "--format=%cI")
    document["metadata"].setdefault("component", {"type": "library", "name": "hybrid-video"})["version"] = version
    bill.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def run(command: list[str], environment: dict[str, str]) -> None:
    """A step that must succeed."""
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RefusedError(f"`{' '.join(command[:4])} …` failed:\n{done.stdout}{done.stderr}")


def main() -> int:
    """Checks, tests and builds; every refusal is a sentence."""
    version = sys.argv[1] if len(sys.argv) > 1 else ""
    say = sys.stderr.write
    try:
        if found := problems(version):
            raise RefusedError("\n".join(found))
        if not tested():
            say("this commit is not marked as tested; running the checks and the tests (make check test)\n")
            test()
        folder = build(version)
    except RefusedError as error:
        say(f"no release: {error}\n")
        return 2
    for path in sorted(folder.iterdir()):
        say(f"  {path.stat().st_size:>9} {path.relative_to(ROOT)}\n")
    say(NEXT.format(version=version))
    return 0


if __name__ == "__main__":
    sys.exit(main())
