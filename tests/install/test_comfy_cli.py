"""comfy-cli runs as a program of its own, with its telemetry off before anything else, and is never needed."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from install_rig import Rig, git, hollow_wheel, sha256

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.comfy_cli import gpu_arguments
from hybrid_video.installer.environment import find_uv
from hybrid_video.installer.torch_choice import TorchChoice

pytestmark = pytest.mark.xdist_group("installation")

FAKE = """#!{python}
import json, os, pathlib, subprocess, sys
words = sys.argv[1:]
if words[:2] != ["tool", "run"]:
    os.execv({uv!r}, [{uv!r}, *words])
seen = {{"words": words[3:], "tracking": os.environ.get("DO_NOT_TRACK"), "venv": os.environ.get("VIRTUAL_ENV")}}
with open({log!r}, "a") as log: log.write(json.dumps(seen) + "\\n")
if "install" in words:
    if {fails!r}: sys.exit("no such thing as a free lunch")
    place = words[words.index("--workspace") + 1]
    subprocess.run(["git", "clone", "--quiet", words[words.index("--url") + 1], place], check=True)
    subprocess.run(["git", "checkout", "--quiet", words[words.index("--commit") + 1]], cwd=place, check=True)
"""


def fake_uv(rig: Rig, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> Path:
    """A uv that plays comfy-cli itself and leaves the rest to the real one; returns what it was asked for."""
    log, tool = rig.root / "comfy.log", rig.root / "uv"
    text = FAKE.format(python=sys.executable, uv=find_uv(), log=str(log), fails=fails)
    tool.write_text(text, encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("HYBRID_VIDEO_UV", str(tool))
    return log


def calls(log: Path) -> list[dict[str, object]]:
    """What comfy-cli was called with."""
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("fails", [False, True])
def test_it_installs_where_asked_to_and_git_and_uv_go_on_where_it_fails(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """Either way the exact commit is there; how is in the receipt."""
    log = fake_uv(rig, monkeypatch, fails=fails)
    wheel = hollow_wheel("pip", "99.0")
    page = f'<a href="/wheels/pip-99.0-py3-none-any.whl#sha256={sha256(wheel)}">pip-99.0-py3-none-any.whl</a>'
    rig.server.add("/simple/pip/", page.encode())
    rig.server.add("/wheels/pip-99.0-py3-none-any.whl", wheel)
    installation = rig.installation(engine="comfy-cli", torch="default", torch_index="", service="none")
    assert installation.run(rig.events.append).status == "done"
    first, second = calls(log)
    assert str(first["words"]).endswith("'--skip-prompt', 'tracking', 'disable']")
    assert first["tracking"] == "1"
    words = list(second["words"])  # type: ignore[call-overload]
    assert words[0].startswith("comfy-cli==")
    assert words[words.index("--commit") + 1] == git(rig.repository, "rev-parse", "v1.0.0")
    assert words[-1] == "--cpu"
    assert "--skip-manager" in words
    receipt = installation.receipt
    assert receipt is not None
    assert receipt.current is not None
    assert receipt.current.engine == ("git" if fails else "comfy-cli")
    assert second["venv"] == str(rig.folder / "versions" / receipt.current.id / "venv")
    assert ("going on with git and uv" in rig.said()) is fails


def test_without_uv_pythons_own_venv_and_pip_do(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slower, but whole: from the same index, the build that was chosen."""
    tools = rig.root / "tools"
    tools.mkdir()
    (tools / "git").symlink_to(str(shutil.which("git")))
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("UV", raising=False)
    if find_uv() is not None:
        pytest.skip("a uv beside Python cannot be hidden")
    monkeypatch.setenv("PIP_INDEX_URL", f"{rig.server.url}/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    installation = rig.installation(service="none")
    assert installation.run(rig.events.append).status == "done"
    receipt = installation.receipt
    assert receipt is not None
    assert receipt.current is not None
    python = installation.layout.version(receipt.current.id).python
    look = subprocess.run([python, "-m", "pip", "list"], capture_output=True, text=True, timeout=60, check=True)
    assert "9.9.0+cpu" in look.stdout
    with pytest.raises(ConfigurationError, match="without uv it cannot be fetched"):
        rig.installation(service="none", python="3.13", folder=rig.root / "other").run()


def test_it_is_refused_where_it_cannot_do_it(rig: Rig) -> None:
    """With the way out."""
    with pytest.raises(ConfigurationError, match="leave --engine out"):
        rig.installation(engine="comfy-cli").run()


@pytest.mark.parametrize(
    ("variant", "device", "arguments"),
    [
        ("cu128", "cuda", ["--nvidia", "--cuda-version", "12.8"]),
        ("rocm7.2", "rocm", ["--amd", "--rocm-version", "7.2"]),
        ("default", "mps", ["--m-series"]),
        ("cpu", "cpu", ["--cpu"]),
        ("xpu", "xpu", None),
        ("none", "cpu", None),
    ],
)
def test_it_is_told_the_gpu_in_its_own_words(variant: str, device: str, arguments: list[str] | None) -> None:
    """As `comfy install --help` of 1.23.0 has them."""
    choice = TorchChoice(variant=variant, device=device, reason="")  # type: ignore[arg-type]
    assert gpu_arguments(choice) == arguments


def test_nothing_imports_it() -> None:
    """It is under the GPL; calling it as a program is all we do."""
    root = Path(__file__).resolve().parents[2] / "src"
    for file in root.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        if "comfy_cli" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "comfy_cli"], file
