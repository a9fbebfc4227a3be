"""Compares the locked dependencies with public advisories, and looks for risky code.

    make audit

First a version with known holes is asked about. Where nothing is said of it, the advisories cannot be read (no way to
pypi.org, or a mirror that has none), and "no holes found" would mean nothing: that ends with an error of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KNOWN_HOLES = "urllib3==1.24.1"
"""Has several since 2019 (CVE-2019-11324 and later); whoever does not know them knows nothing."""

UNREAD = """the advisories could not be read: nothing was compared, and nothing is known about the dependencies.
  {reason}
Run `make audit` where https://pypi.org/pypi/urllib3/1.24.1/json can be opened and lists vulnerabilities; a mirror of
the package index usually has none.
"""
RISKY = ["bandit", "-q", "-ll", "-r", "src", "tasks", "flows", "dashboard", "installers", "deploy", "docker"]


def audited(requirements: Path, *options: str) -> tuple[int, str, str]:
    """What pip-audit says of a list of requirements."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off", "--timeout", "15"]
    done = subprocess.run([*command, "-r", str(requirements), *options], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


def advisories_unread(folder: Path) -> str:
    """Why the advisories cannot be trusted to be there; empty where they can."""
    control = folder / "control.txt"
    control.write_text(f"{KNOWN_HOLES}\n", encoding="utf-8")
    _, out, errors = audited(control, "--no-deps", "--format", "json")
    try:
        holes = [hole["id"] for part in json.loads(out)["dependencies"] for hole in part.get("vulns", ())]
    except (ValueError, KeyError):
        holes = []
    if holes:
        return ""
    last = errors.strip().splitlines()[-1:] or ["it answered, and knows no hole of " + KNOWN_HOLES]
    return last[0][-300:]


def main() -> int:
    """0: compared, and clean. 1: something was found. 2: nothing could be compared."""
    say = sys.stderr.write
    with tempfile.TemporaryDirectory(prefix="hybrid-video-audit-") as name:
        folder = Path(name)
        if reason := advisories_unread(folder):
            say(UNREAD.format(reason=reason))
            code = 2
        else:
            wanted = folder / "requirements.txt"
            export = [
                "export",
                "--frozen",
                "--no-dev",
                "--all-extras",
                "--no-emit-project",
                "--quiet",
                "-o",
                str(wanted),
            ]
            subprocess.run([os.environ.get("UV", "uv"), *export], cwd=ROOT, check=True)
            found, out, errors = audited(wanted, "--strict", "--require-hashes")
            say(f"{out}{errors}")
            code = 1 if found else 0
    risky = subprocess.run([sys.executable, "-m", *RISKY], cwd=ROOT, capture_output=True, text=True, check=False)
    if risky.returncode != 0:
        say(risky.stdout or risky.stderr)
        return max(code, 1)
    say("bandit found nothing of medium or high severity\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
