"""The scripts are thin, say the same on every system, and are correct as far as can be known without Windows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import tree_sitter
import tree_sitter_powershell
import typer.main

from hybrid_video.cli import app
from hybrid_video.cli.install import Verb
from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import InstallOptions

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "installers"
BASH = SCRIPTS / "install-comfyui.sh"
POWERSHELL = SCRIPTS / "install-comfyui.ps1"
SHELLCHECK = Path(sys.executable).with_name("shellcheck")
BOTH = ("PATH", "HOME")


def nodes(file: Path) -> Iterator[tuple[tree_sitter.Node, str]]:
    """Every node of a PowerShell script with its text."""
    source = file.read_bytes()
    stack = [tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language())).parse(source).root_node]
    while stack:
        node = stack.pop()
        stack.extend(reversed(node.children))
        yield node, source[node.start_byte : node.end_byte].decode()


def kebab(name: str) -> str:
    """PowerShell's and Python's names in one spelling."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name.replace("_", "-")).lower()


def command_options() -> set[str]:
    """Options of `hybrid-video install-comfyui`."""
    command = typer.main.get_command(app).commands["install-comfyui"]  # type: ignore[attr-defined]
    return {name for p in command.params if p.param_type_name == "option" for name in (*p.opts, *p.secondary_opts)} | {
        "--help"
    }


def powershell_parameters() -> set[str]:
    """Names in the script's own param block."""
    block = next(text for node, text in nodes(POWERSHELL) if node.type == "param_block")
    return set(re.findall(r"^\s+\[(?:string|switch|string\[\])\]\$(\w+)", block, re.MULTILINE))


def test_shellcheck_finds_nothing() -> None:
    """In any shell script of the folder."""
    scripts = sorted(str(file) for file in SCRIPTS.glob("*.sh"))
    assert len(scripts) >= 2
    done = subprocess.run([SHELLCHECK, *scripts], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ["install-comfyui.ps1", "verify-setup.ps1"])
def test_the_powershell_scripts_are_powershell(name: str) -> None:
    """By PowerShell's grammar: no error and nothing missing. A broken script would be seen."""
    assert [text for node, text in nodes(SCRIPTS / name) if node.type == "ERROR" or node.is_missing] == []
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))
    assert parser.parse(b"if ($x { 1 }").root_node.has_error


def test_both_scripts_and_the_command_have_the_same_options() -> None:
    """An option that one lacks would surprise on another system."""
    wanted = command_options() - {"-y", "-h"}
    usage = BASH.read_text(encoding="utf-8").split("<<'TEXT'")[1].split("\nTEXT")[0]
    assert set(re.findall(r"^  (--[a-z-]+)", usage, re.MULTILINE)) == wanted
    assert {f"--{kebab(name)}" for name in powershell_parameters() - {"Verb"}} == wanted


@pytest.mark.parametrize(
    ("option", "value", "field", "seen"),
    [
        ("dir", "/srv/comfy", "folder", Path("/srv/comfy")),
        ("bundle", "minimal,svd", "bundles", ("minimal", "svd")),
        ("source", "/srv/copy.git", "source", "/srv/copy.git"),
        ("ref", "latest", "ref", "latest"),
        ("engine", "git", "engine", "git"),
        ("torch", "cu128", "torch", "cu128"),
        ("torch-index", "https://x/simple", "torch_index", "https://x/simple"),
        ("python", "3.12", "python", "3.12"),
        ("port", "9000", "port", 9000),
        ("service", "none", "service", "none"),
        ("manifest", "/srv/m.toml", "manifest", Path("/srv/m.toml")),
        ("mirror", "/usb,https://x", "mirrors", ("/usb", "https://x")),
        ("comfyui-arg", "--lowvram", "extra_args", ("--lowvram",)),
        ("min-free-gb", "7", "min_free_gb", 7.0),
    ],
)
def test_every_option_is_also_a_variable(
    option: str, value: str, field: str, seen: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On every system alike, because only the command reads them; an option goes before its variable."""
    assert f"--{option}" in command_options()
    default = getattr(InstallOptions(), field)
    monkeypatch.setenv(f"HYBRID_VIDEO_INSTALL_{option.replace('-', '_').upper()}", value)
    assert getattr(InstallOptions.of({}), field) == seen
    assert field in InstallOptions.of({}).model_fields_set
    if default:
        assert getattr(InstallOptions.of({field: default}), field) == default


def test_mirrors_have_a_variable_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """HYBRID_VIDEO_MODEL_MIRRORS, which the messages name; the option's own goes before it."""
    monkeypatch.setenv("HYBRID_VIDEO_MODEL_MIRRORS", "https://hf-mirror.com")
    assert InstallOptions.of({}).mirrors == ("https://hf-mirror.com",)
    monkeypatch.setenv("HYBRID_VIDEO_INSTALL_MIRROR", "/usb")
    assert InstallOptions.of({}).mirrors == ("/usb",)


def test_a_password_in_an_address_is_refused_because_options_are_stored() -> None:
    """And it is not repeated in the message."""
    for field in ("source", "torch_index", "mirrors"):
        with pytest.raises(ConfigurationError, match="holds a password") as caught:
            InstallOptions.of({field: "https://me:hunter22@example.org/x"})
        assert "hunter22" not in caught.value.message


def test_both_scripts_and_the_command_have_the_same_verbs() -> None:
    """In the same order."""
    verbs = list(get_args(Verb))
    usage = BASH.read_text(encoding="utf-8").split("verbs:")[1].split("\n\n")[0]
    assert re.findall(r"[a-z]+", usage.replace("(when none is given)", "")) == verbs
    block = next(text for node, text in nodes(POWERSHELL) if node.type == "param_block")
    assert re.findall(r'"(\w+)"', block.split("ValidateSet(")[1].split(")]")[0]) == verbs


def test_both_scripts_take_the_same_steps_in_the_same_order() -> None:
    """The functions, PowerShell's verbs apart (Get-Uv is fetch_uv, Invoke-HandOver is hand_over)."""
    bash = re.findall(r"^(\w+)\(\) \{", BASH.read_text(encoding="utf-8"), re.MULTILINE)
    powershell = [
        re.match(r"function ([\w-]+)", text)[1]  # type: ignore[index]
        for node, text in nodes(POWERSHELL)
        if node.type == "function_statement"
    ]
    own = {"say": "Write-Message", "stop": "Stop-Script", "fetch_uv": "Get-Uv", "main": "Invoke-Main"}
    own |= {"hand_over": "Invoke-HandOver", "find_hybrid_video": "Find-HybridVideo", "find_uv": "Find-Uv"}
    only_bash, only_powershell = {"usage", "no_network"}, {"ConvertTo-Option"}
    assert [own[name] for name in bash if name not in only_bash] == [n for n in powershell if n not in only_powershell]


def test_both_scripts_read_the_same_variables_and_pin_the_same_uv() -> None:
    """And get_uv.py the same version as well."""
    texts = {file: file.read_text(encoding="utf-8") for file in (BASH, POWERSHELL)}
    named = {file: set(re.findall(r"\b(?:HYBRID_VIDEO_[A-Z_]*[A-Z]|HF_TOKEN)\b", text)) for file, text in texts.items()}
    assert named[BASH] == named[POWERSHELL]
    versions = set(re.findall(r"(?:VERSION|Version) ?= ?\"([\d.]+)\"", "".join(texts.values()))) | set(
        re.findall(r'^VERSION = "([\d.]+)"', (SCRIPTS / "get_uv.py").read_text(encoding="utf-8"), re.MULTILINE)
    )
    assert len(versions) == 1


def test_every_error_of_one_script_is_in_the_other() -> None:
    """But for those that can happen on one system only."""
    own = ("this script is for Linux", "neither Python 3.11 nor curl")
    bash = re.findall(r'stop "([^"$]+)"', BASH.read_text(encoding="utf-8"))
    powershell = POWERSHELL.read_text(encoding="utf-8")
    assert len(bash) >= 4
    assert [said for said in bash if not said.startswith(own) and said not in powershell] == []


def run(script: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a script with hardly any environment."""
    kept = {name: os.environ[name] for name in BOTH}
    return subprocess.run(
        ["/bin/bash", str(script), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**kept, **environment},
    )


def test_the_script_hands_over_to_the_command_beside_it(tmp_path: Path) -> None:
    """Options go through as they are."""
    done = run(BASH, "--dry-run", "--json", "--port=8999", HYBRID_VIDEO_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert "port 8999" in json.loads(done.stdout)["plan"][0]["detail"]


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The scripts in a repository where nothing is prepared, and a PATH with only what every system has."""
    (tmp_path / "repo/installers").mkdir(parents=True)
    (tmp_path / "bin").mkdir()
    for file in SCRIPTS.iterdir():
        if file.is_file():
            (tmp_path / "repo/installers" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "repo/pyproject.toml").touch()
    for name in ("dirname", "uname", "cat", "mkdir", "rm", "sh", "chmod"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}")
    return tmp_path


FAKE_UV = """#!/bin/sh
echo "uv $*" >> {log}
mkdir -p {repo}/.venv/bin
printf '#!/bin/sh\\necho "hybrid-video $*" >> {log}\\n' > {repo}/.venv/bin/hybrid-video
chmod +x {repo}/.venv/bin/hybrid-video
"""


def fake(bare: Path, name: str, text: str) -> None:
    """A program on the bare PATH."""
    file = bare / "bin" / name
    file.write_text(text, encoding="utf-8")
    file.chmod(0o755)


def start(bare: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the bare repository's script."""
    script = bare / "repo/installers/install-comfyui.sh"
    return run(script, *arguments, PATH=str(bare / "bin"), HOME=str(bare), **environment)


def log(bare: Path) -> list[str]:
    """What the fakes were called with."""
    return (bare / "log").read_text(encoding="utf-8").splitlines()


def test_with_uv_it_prepares_the_product_and_hands_over(bare: Path) -> None:
    """From the lock file, without development tools; then with all options."""
    fake(bare, "uv", FAKE_UV.format(log=bare / "log", repo=bare / "repo"))
    done = start(bare, "install", "--bundle", "two words")
    assert done.returncode == 0, done.stderr
    prepared, handed = log(bare)
    assert prepared == f"uv sync --project {bare / 'repo'} --frozen --no-dev --inexact --quiet"
    assert handed == "hybrid-video install-comfyui install --bundle two words"


def test_a_package_can_be_named_instead_of_the_repository(bare: Path) -> None:
    """Never a name from a public registry, which somebody else could own."""
    fake(bare, "uv", FAKE_UV.format(log=bare / "log", repo=bare / "repo"))
    assert start(bare, "check", HYBRID_VIDEO_PACKAGE="dist/hybrid_video.whl").returncode == 0
    assert log(bare)[0] == "uv tool run --from dist/hybrid_video.whl hybrid-video install-comfyui check"


def test_with_an_old_python_uv_is_fetched_by_its_own_installer(bare: Path) -> None:
    """Of the pinned version, over https, into the repository's own folder."""
    fake(bare, "python3", "#!/bin/sh\nexit 1\n")
    uv = FAKE_UV.format(log=bare / "log", repo=bare / "repo")
    installer = f"cat > $UV_INSTALL_DIR/uv <<'X'\n{uv}X\nchmod +x $UV_INSTALL_DIR/uv\n"
    (bare / "bin/curl.answer").write_text(installer, encoding="utf-8")
    into = 'for last; do :; done\ncat "$0.answer" > "$last"\n'
    fake(bare, "curl", f'#!/bin/sh\necho "curl $*" >> {bare}/log\n{into}')
    done = start(bare, "status")
    assert done.returncode == 0, done.stderr
    calls = log(bare)
    assert re.search(r"https://astral\.sh/uv/[\d.]+/install\.sh", calls[0])
    assert "--proto =https" in calls[0]
    assert calls[-1] == "hybrid-video install-comfyui status"
    assert (bare / "repo/.tools/bin/uv").exists()


def test_the_script_shows_its_help_without_anything_installed(bare: Path) -> None:
    """Also where there is no Python and no uv."""
    done = start(bare, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage:")


def test_without_python_curl_and_wget_it_says_what_to_install(bare: Path) -> None:
    """And leaves nothing behind that counts."""
    done = start(bare)
    assert done.returncode == 2
    assert "apt install curl" in done.stderr


def test_without_network_it_says_so(bare: Path) -> None:
    """With the way around."""
    fake(bare, "curl", "#!/bin/sh\nexit 6\n")
    done = start(bare)
    assert done.returncode == 2
    assert "Check the network" in done.stderr
    assert "HYBRID_VIDEO_UV" in done.stderr


def test_verify_setup_is_the_doctor(tmp_path: Path) -> None:
    """With its options and its exit code."""
    done = run(SCRIPTS / "verify-setup.sh", "--json", "--no-render", HYBRID_VIDEO_HOME=str(tmp_path / "home"))
    findings = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == (0 if findings["ok"] else 1)
    assert {"python", "disk", "comfyui installation"} <= {finding["subject"] for finding in findings["findings"]}
