"""ComfyUI's own Python environment: uv where there is one, else Python's venv and pip. Nothing is put anywhere else."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Runner, ask, find_program
from hybrid_video.installer.hardware import PYTHON_MAXIMUM, PYTHON_MINIMUM, own_python_fits
from hybrid_video.installer.layout import Version
from hybrid_video.installer.torch_choice import PACKAGES, TorchChoice
from hybrid_video.models import Model
from hybrid_video.redaction import redact

FETCHED_PYTHON = "3.12"
UNNAMED = ("requests",)
"""What ComfyUI imports without naming it: 0.3.64 got requests from transformers, whose version 5 no longer brings it
(its start then fails, seen on 2026-11-22)."""
NETWORK = "check the network and the package index (a proxy: set https_proxy), then run this again: it goes on"
QUIET = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}

_LOOK = """
import json, sys
found = {"python": sys.version.split()[0]}
try:
    import torch
    found["torch"] = torch.__version__
    cuda = getattr(torch, "cuda", None)
    found["gpu"] = bool(cuda and cuda.is_available())
    if found["gpu"]:
        found["name"] = cuda.get_device_name(0)
        found["capability"] = "sm_%d%d" % cuda.get_device_capability(0)
        found["kernels"] = cuda.get_arch_list()
    mps = getattr(getattr(torch, "backends", None), "mps", None)
    found["mps"] = bool(mps and mps.is_available())
except ImportError as error:
    found["trouble"] = str(error)
except Exception as error:
    found["trouble"] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(found))
"""


class TorchFound(Model):
    """What PyTorch in the environment says of itself."""

    python: str
    torch: str = ""
    gpu: bool = False
    name: str = ""
    capability: str = ""
    kernels: tuple[str, ...] = ()
    mps: bool = False
    trouble: str = ""


@dataclass(frozen=True)
class Environment:
    """The environment of one version."""

    version: Version
    runner: Runner
    uv: str | None

    def create(self, python: str) -> str:
        """Makes the environment; returns its Python's version.

        Args:
            python: a path or a version; empty: this Python where it fits, else one that uv fetches.

        Raises:
            ConfigurationError: no fitting Python can be had.
        """
        wanted = python or (sys.executable if own_python_fits() else FETCHED_PYTHON)
        self._check(wanted)
        if self.uv:
            command = [self.uv, "venv", "--quiet", "--allow-existing", "--python", wanted, str(self.version.venv)]
            self.runner.must(command, f"{NETWORK}. Or name a Python with --python", environment=QUIET)
        else:
            command = [self._path_of(wanted), "-m", "venv", str(self.version.venv)]
            advice = "install the venv module (Debian and Ubuntu: sudo apt install python3-venv), or install uv"
            self.runner.must(command, advice, environment=QUIET)
        found = self.look()
        _must_fit(found.python, str(self.version.python))
        return found.python

    def install(self, arguments: list[str]) -> None:
        """Installs packages.

        Raises:
            ConfigurationError: with the last lines of what uv or pip said.
        """
        if self.uv:
            command = [self.uv, "pip", "install", "--python", str(self.version.python), *arguments]
        else:
            command = [str(self.version.python), "-m", "pip", "install", *arguments]
        self.runner.must(command, NETWORK, environment=QUIET, timeout_s=4 * 3600)

    def install_torch(self, choice: TorchChoice) -> None:
        """Installs PyTorch in the build that was chosen."""
        if choice.variant == "none":
            return
        # uv looks into an extra index first and takes a package from the first index that has it; pip mixes them and
        # would take a newer PyTorch of another build from PyPI.
        option = "--extra-index-url" if self.uv else "--index-url"
        self.install([*PACKAGES, *([option, choice.index] if choice.index else [])])

    def install_requirements(self, file: Path, choice: TorchChoice) -> None:
        """Installs what a requirements file names, without changing the PyTorch that is there."""
        pins = self.version.folder / "torch-pins.txt"
        have = self.torch_versions()
        pins.write_text("".join(f"{name}=={version}\n" for name, version in have.items()))
        # PyTorch's index also holds old versions of common packages: it is asked only for what is missing of PyTorch,
        # and then the best of all indexes counts.
        missing = choice.index and set(PACKAGES) - set(have)
        index = ["--extra-index-url", choice.index] if missing else []
        index += ["--index-strategy", "unsafe-best-match"] if missing and self.uv else []
        self.install([*UNNAMED, "--requirement", str(file), "--constraint", str(pins), *index])

    def torch_versions(self) -> dict[str, str]:
        """Installed versions of PyTorch's packages."""
        code = (
            "import json, importlib.metadata as m\n"
            f"names = {PACKAGES!r}\n"
            "have = {d.metadata['Name'].lower(): d.version for d in m.distributions() if d.metadata['Name']}\n"
            "print(json.dumps({n: have[n] for n in names if n in have}))"
        )
        answer = ask((str(self.version.python), "-c", code), timeout_s=120)
        lines = answer.out.strip().splitlines() if answer and answer.ok else []
        found = json.loads(lines[-1]) if lines else {}
        return {str(name): str(version) for name, version in found.items()}

    def look(self) -> TorchFound:
        """Imports PyTorch and asks what it can do.

        Raises:
            ConfigurationError: the environment's Python does not run.
        """
        answer = ask((str(self.version.python), "-c", _LOOK), timeout_s=300)
        lines = answer.out.strip().splitlines() if answer else []
        try:
            return TorchFound.model_validate_json(lines[-1])
        except (IndexError, ValueError):
            said = f" ({redact(lines[-1], 200)})" if lines else ""
            raise ConfigurationError(
                f"{str(self.version.python)!r} does not run{said}; run `hybrid-video install-comfyui repair`"
            ) from None

    def runs(self) -> bool:
        """Whether the environment's Python starts at all."""
        answer = ask((str(self.version.python), "-c", "print(1)"))
        return bool(answer and answer.ok)

    def _check(self, wanted: str) -> None:
        """Refuses a Python that is too old before anything is made with it."""
        if re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
            _must_fit(wanted, f"--python {wanted}")
            return
        answer = ask((wanted, "-c", "import platform; print(platform.python_version())"))
        if answer is None or not answer.ok:
            raise ConfigurationError(f"--python {wanted!r} does not run; give a path to Python 3.10 to 3.13, or 3.12")
        _must_fit(answer.out.strip(), wanted)

    def _path_of(self, wanted: str) -> str:
        if not re.fullmatch(r"\d+\.\d+(\.\d+)?", wanted):
            return wanted
        found = find_program(f"python{'.'.join(wanted.split('.')[:2])}")
        if found is None:
            raise ConfigurationError(
                f"Python {wanted} is not there and without uv it cannot be fetched; install uv (docs.astral.sh/uv) or "
                "give --python PATH"
            )
        return found


def find_uv() -> str | None:
    """Path of uv: HYBRID_VIDEO_UV, the uv that started this, PATH, its usual places."""
    for named in (os.environ.get("HYBRID_VIDEO_UV"), os.environ.get("UV")):
        if named and Path(named).is_file():
            return named
    suffix = ".exe" if os.name == "nt" else ""
    home = Path.home()
    beside = Path(sys.executable).with_name(f"uv{suffix}")
    return find_program("uv", beside, home / f".local/bin/uv{suffix}", home / f".cargo/bin/uv{suffix}")


def _must_fit(version: str, what: str) -> None:
    match = re.match(r"(\d+)\.(\d+)", version)
    found = (int(match[1]), int(match[2])) if match else (0, 0)
    if not PYTHON_MINIMUM <= found <= PYTHON_MAXIMUM:
        low, high = (".".join(map(str, bound)) for bound in (PYTHON_MINIMUM, PYTHON_MAXIMUM))
        raise ConfigurationError(
            f"{what} is Python {version}, but ComfyUI and PyTorch need {low} to {high}; leave --python out (uv fetches "
            "a fitting one), or name another"
        )
