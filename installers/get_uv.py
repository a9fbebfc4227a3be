"""Puts a pinned uv into a folder with nothing but Python's standard library.

`python3 get_uv.py FOLDER` first tries `venv` and `pip`; where Debian has split those off, it fetches the wheel from
PyPI, checks its SHA-256 against the index and unpacks the one binary. Run by the Makefile.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import subprocess
import sys
import sysconfig
import urllib.request
import venv
import zipfile
from pathlib import Path

VERSION = "0.13.9"
INDEX = f"https://pypi.org/pypi/uv/{VERSION}/json"


def main(folder: Path) -> int:
    """Leaves an executable at FOLDER/bin/uv (FOLDER/Scripts/uv.exe on Windows)."""
    if sys.version_info < (3, 11):
        print(f"Python 3.11 or newer is needed, this is {platform.python_version()}; set PYTHON=/path/to/python3.11")
        return 1
    if _with_pip(folder):
        return 0
    try:
        _from_index(folder)
    except OSError as error:
        print(f"uv could not be fetched: {error}. Check the network, or install uv yourself and put it on the PATH")
        return 1
    return 0


def _with_pip(folder: Path) -> bool:
    try:
        venv.create(folder, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, SystemExit, OSError):
        return False
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    pip = [str(folder / scripts / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*pip, f"uv=={VERSION}"], check=False).returncode == 0


def _from_index(folder: Path) -> None:
    with urllib.request.urlopen(INDEX, timeout=60) as answer:  # nosec B310
        files = json.load(answer)["urls"]
    wheel = next(file for file in files if _fits(file["filename"]))
    with urllib.request.urlopen(wheel["url"], timeout=300) as answer:  # noqa: S310  # nosec B310 - from the index
        data = answer.read()
    if hashlib.sha256(data).hexdigest() != wheel["digests"]["sha256"]:
        raise OSError("the download does not match its checksum")
    target = folder / "bin"
    target.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(("/scripts/uv", "/scripts/uv.exe")))
        binary = target / Path(name).name
        binary.write_bytes(archive.read(name))
        binary.chmod(0o755)


def _fits(filename: str) -> bool:
    tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    machine = tag.rsplit("_", 1)[-1] if not tag.endswith("x86_64") else "x86_64"
    system = "macosx" if sys.platform == "darwin" else "win" if sys.platform == "win32" else "manylinux"
    return filename.endswith(".whl") and system in filename and machine in filename


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
