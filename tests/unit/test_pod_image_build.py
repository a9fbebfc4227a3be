"""What can be checked about the two images without a container engine: lint, sources, pins, options, model lists."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from hybrid_video.emulators.server import start_server

sys.path.insert(0, str(Path(__file__).parents[2] / "docker" / "comfyui-pod"))

import fetch_models
import lease_keeper
import pod_gate

ROOT = Path(__file__).parents[2]
IMAGE = ROOT / "docker" / "comfyui-pod"
TOOLS = Path(sys.executable).parent
DOCKERFILES = [ROOT / "Dockerfile", IMAGE / "Dockerfile"]


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(instruction, rest) with continued lines joined and comments left out."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_the_images_pass_the_linter(dockerfile: Path) -> None:
    """hadolint finds nothing, and would: a file that it must complain about shows that it runs."""
    done = subprocess.run([TOOLS / "hadolint", str(dockerfile)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    bad = subprocess.run(
        [TOOLS / "hadolint", "-"], input="FROM debian\nRUN cd /x\n", capture_output=True, text=True, check=False
    )
    assert bad.returncode != 0
    assert "DL3006" in bad.stdout


def test_the_shell_scripts_pass_the_linter() -> None:
    """shellcheck finds nothing, and the script can be executed."""
    script = IMAGE / "entrypoint.sh"
    done = subprocess.run([TOOLS / "shellcheck", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_everything_that_is_copied_exists_and_reaches_the_builder(dockerfile: Path) -> None:
    """Each source of a COPY from the context is there, and .dockerignore lets it through."""
    context = dockerfile.parent
    ignored = (context / ".dockerignore").read_text().splitlines()
    assert ignored[0] == "*"  # nothing is sent that is not named
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    copied = [
        source
        for word, rest in instructions(dockerfile)
        if word == "COPY" and "--from=" not in rest
        for source in [part for part in rest.split() if not part.startswith("--")][:-1]
    ]
    assert copied
    for source in copied:
        assert (context / source).exists(), source
        assert source.split("/")[0] in allowed, source


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda path: path.parent.name)
def test_nothing_floats_and_nothing_secret_is_built_in(dockerfile: Path) -> None:
    """Base images carry a version, and no instruction sets a variable that sounds like a secret."""
    stages = {rest.split()[-1] for word, rest in instructions(dockerfile) if word == "FROM" and " AS " in rest}
    bases = [rest.split()[0] for word, rest in instructions(dockerfile) if word == "FROM"]
    bases += [match for _, rest in instructions(dockerfile) for match in re.findall(r"--from=(\S+)", rest)]
    for base in bases:
        assert base in stages or re.search(r":\d[\w.-]*$", base), base
        assert ":latest" not in base
    for word, rest in instructions(dockerfile):
        if word in ("ENV", "ARG"):
            assert not re.search(r"(TOKEN|KEY|SECRET|PASSWORD)", rest), rest


def test_the_runner_image_has_all_that_its_wheel_is_made_of() -> None:
    """What pyproject.toml puts into the wheel is copied before it is built, and it is not installed editable."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        wheel = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["wheel"]
    steps = instructions(ROOT / "Dockerfile")
    built = max(place for place, (word, rest) in enumerate(steps) if word == "RUN" and "uv sync" in rest)
    assert "--no-editable" in steps[built][1]
    copied = {rest.split()[0] for word, rest in steps[:built] if word == "COPY"}
    assert set(wheel["force-include"]) | {"src"} <= copied
    assert ("USER", "1000:1000") in steps  # by number, so that Kubernetes' runAsNonRoot can check it


def test_comfyui_is_pinned_by_a_whole_commit_and_everything_below_it_by_version() -> None:
    """A commit of 40 digits that the build compares; every package of the constraints as name==version."""
    text = (IMAGE / "Dockerfile").read_text()
    assert re.search(r"^ARG COMFYUI_COMMIT=[0-9a-f]{40}$", text, re.MULTILINE)
    assert 'test "$(git rev-parse HEAD)" = "$COMFYUI_COMMIT"' in text
    lines = [line for line in (IMAGE / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][\w.+]*", line) for line in lines)
    named = {line.partition("==")[0] for line in lines}
    wanted = [re.split(r"[<>=~]", line)[0] for line in (IMAGE / "requirements.in").read_text().splitlines()]
    assert {name for name in wanted if name and not name.startswith("#")} <= named


def test_the_scripts_of_the_pod_are_of_its_python_and_need_only_what_it_has() -> None:
    """Python 3.12's grammar; the keeper and the lease import the standard library alone, the gate aiohttp besides."""
    version = re.search(r"FROM python:3\.(\d+)", (IMAGE / "Dockerfile").read_text())
    assert version
    allowed = {
        "lease_keeper": {"lease", "child"},
        "child": set(),
        "lease": set(),
        "gate_rules": set(),
        "fetch_models": set(),
    }
    allowed["pod_gate"] = {"aiohttp", "yarl", "gate_rules"}
    for name, more in allowed.items():
        tree = ast.parse((IMAGE / f"{name}.py").read_text(), feature_version=(3, int(version[1])))
        imported = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert imported - set(sys.stdlib_module_names) <= more, name


def test_the_entrypoint_starts_comfyui_closed(tmp_path: Path) -> None:
    """Run for real with stand-ins: loopback, no metadata, no custom or paid nodes, and no secret in any argument."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, code in {"python3": 'printf "%s\\n" "$@"', "chown": "true", "id": "echo 0"}.items():
        (tools / name).write_text(f"#!/bin/sh\n{code}\n")
        (tools / name).chmod(0o755)
    environment = {
        "PATH": f"{tools}:/usr/bin:/bin",
        "COMFYUI_DATA": str(tmp_path / "data"),
        "HYBRID_VIDEO_POD_TOKEN": "a-token-that-must-not-be-seen",
    }
    done = subprocess.run([IMAGE / "entrypoint.sh"], env=environment, capture_output=True, text=True, check=True)
    arguments = done.stdout.splitlines()
    keeper, comfyui = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    users = ["--comfyui-user", "comfyui", "--gate-user", "gate"]
    assert keeper[1:] == [*users, "--data-dir", str(tmp_path / "data")]
    assert comfyui[comfyui.index("--listen") + 1] == "127.0.0.1"
    assert {"--disable-metadata", "--disable-all-custom-nodes", "--disable-api-nodes"} <= set(comfyui)
    assert "--enable-cors-header" not in comfyui
    assert comfyui[comfyui.index("--port") + 1] == "8189"
    assert "must-not-be-seen" not in done.stdout
    for folder in ("input", "output", "temp", "user"):
        assert (tmp_path / "data" / folder).is_dir()


def test_what_is_copied_into_the_image_runs_without_the_rest(tmp_path: Path) -> None:
    """The very files of the last COPY, in a folder of their own: keeper and gate start from there."""
    files = [rest.split()[:-1] for word, rest in instructions(IMAGE / "Dockerfile") if word == "COPY"][-1]
    for name in files:
        shutil.copy(IMAGE / name, tmp_path)
    for program, option in {"lease_keeper.py": "--data-dir", "pod_gate.py": "--upstream"}.items():
        command = [sys.executable, str(tmp_path / program), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert option in done.stdout


def test_only_clips_that_were_fetched_long_ago_are_swept(tmp_path: Path) -> None:
    """Old files go, in sub-folders too; new ones, folders and what a link points to stay."""
    old, new, kept = tmp_path / "output" / "hv" / "old.mp4", tmp_path / "output" / "new.mp4", tmp_path / "model"
    old.parent.mkdir(parents=True)
    for file in (old, new, kept):
        file.write_bytes(b"x")
        os.utime(file, (0, 0) if file is not new else None)
    link = tmp_path / "output" / "link"
    link.symlink_to(kept)
    os.utime(link, (0, 0), follow_symlinks=False)
    assert lease_keeper.sweep(tmp_path / "output", lease_keeper.KEEP_S) == 2
    assert [old.exists(), link.is_symlink(), new.exists(), kept.exists(), old.parent.is_dir()] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_the_keeper_the_entrypoint_and_the_image_agree_on_ports_and_users(capsys: pytest.CaptureFixture[str]) -> None:
    """The keeper's defaults are what ComfyUI is started with, what is exposed, and what the pool asks for."""
    with pytest.raises(SystemExit):
        lease_keeper.main(["--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    script = (IMAGE / "entrypoint.sh").read_text()
    assert set(re.findall(r"set -- (.*) \"\$@\"", script)[0].split()[::2]) <= options
    dockerfile = (IMAGE / "Dockerfile").read_text()
    assert "EXPOSE 8188\n" in dockerfile
    for user in ("gate", "comfyui"):
        assert f"--user-group --no-create-home --shell /usr/sbin/nologin {user}" in dockerfile or (
            f"--user-group --create-home --shell /usr/sbin/nologin {user}" in dockerfile
        )
    health = next(rest for word, rest in instructions(IMAGE / "Dockerfile") if word == "HEALTHCHECK")
    assert "--health" in health
    assert shlex.split(script)  # no unbalanced quote
    assert pod_gate.ANSWER_WITHIN_S < 100


def test_models_are_looked_for_where_they_are_baked_and_on_the_volume() -> None:
    """Both sections name the folders that the shipped workflows need."""
    sections = yaml.safe_load((IMAGE / "extra_model_paths.yaml").read_text())
    assert {section["base_path"] for section in sections.values()} == {"/opt/hybrid-video/models", "/workspace/models"}
    for section in sections.values():
        assert {"diffusion_models", "text_encoders", "vae", "checkpoints", "clip_vision"} <= set(section)
    assert "/opt/hybrid-video/models" in (IMAGE / "Dockerfile").read_text()
    assert fetch_models.read_list((IMAGE / "models" / "none.txt").read_text()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("vae/x.safetensors https://a/b", "sha256 folder/name url"),
        ("abc vae/x.safetensors https://a/b", "not a SHA-256"),
        (f"{'0' * 64} ../x https://a/b", "not a folder and a file name"),
        (f"{'0' * 64} vae/../../x https://a/b", "not a folder and a file name"),
        (f"{'0' * 64} /etc/x https://a/b", "not a folder and a file name"),
        (f"{'0' * 64} vae/x http://example.com/b", "not an https address"),
        (f"{'0' * 64} vae/x file:///etc/passwd", "not an https address"),
    ],
)
def test_a_wrong_line_of_a_model_list_is_named(line: str, words: str) -> None:
    """Number, value and what is expected."""
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        fetch_models.read_list(f"# a list\n\n{line}\n")
    assert str(caught.value).startswith("line 3: ")


async def test_a_baked_model_is_what_its_hash_says_or_the_build_fails(tmp_path: Path) -> None:
    """The right content arrives under its name; another hash, or a missing file, leaves nothing and exits 1."""
    content = os.urandom(3_000_000)
    seen: list[str | None] = []

    async def serve(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=content) if request.path == "/good" else web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{name}", serve)
    server = await start_server(app)
    folder, digest = tmp_path / "models", hashlib.sha256(content).hexdigest()

    async def build(line: str) -> int:
        (tmp_path / "list.txt").write_text(line)
        command = [sys.executable, str(IMAGE / "fetch_models.py"), str(tmp_path / "list.txt"), str(folder)]
        process = await asyncio.create_subprocess_exec(*command, env={**os.environ, "HF_TOKEN": "hf_secret_token"})
        return await process.wait()

    try:
        assert await build(f"{digest} vae/good.safetensors {server.url}/good\n") == 0
        assert await build(f"{'0' * 64} vae/wrong.safetensors {server.url}/good\n") == 1
        assert await build(f"{digest} vae/gone.safetensors {server.url}/missing\n") == 1
    finally:
        await server.close()
    assert [path.name for path in (folder / "vae").iterdir()] == ["good.safetensors"]
    assert (folder / "vae" / "good.safetensors").read_bytes() == content
    assert seen[:2] == [None, None]  # a token for Hugging Face is for Hugging Face only
