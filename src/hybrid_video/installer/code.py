"""Gets ComfyUI and node packages: exact commits, by git, in a folder that is moved into place only when it is whole."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Runner, find_program

_SHA = re.compile(r"[0-9a-f]{40}")
_RELEASE = re.compile(r"refs/tags/(v(\d+)\.(\d+)\.(\d+))$")
GIT = {"GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "", "GIT_OPTIONAL_LOCKS": "0"}
NETWORK = (
    "check the network and the address; behind a proxy set https_proxy, or name another copy with --source. Then run "
    "this again: it goes on where it stopped"
)


def need_git() -> str:
    """Path of git.

    Raises:
        ConfigurationError: there is none; says how to get it on each system.
    """
    found = find_program("git")
    if found is None:
        raise ConfigurationError(
            "git is not there, and ComfyUI comes by git. Install it (Debian and Ubuntu: sudo apt install git; Fedora: "
            "sudo dnf install git; macOS: xcode-select --install; Windows: winget install Git.Git), then run this again"
        )
    return found


def resolve(runner: Runner, source: str, ref: str) -> tuple[str, str]:
    """Commit and name of a reference; `latest` is the newest release tag.

    Raises:
        ConfigurationError: the repository does not answer, or has no such reference.
    """
    if _SHA.fullmatch(ref):
        return ref, ref
    git = need_git()
    listing = runner.must([git, "ls-remote", source], NETWORK, environment=GIT, timeout_s=120).out
    pairs = (line.split("\t", 1) for line in listing.splitlines() if "\t" in line)
    refs = {name: commit for commit, name in pairs}
    if ref == "latest":
        releases = [(tuple(int(n) for n in m.groups()[1:]), m[1]) for name in refs if (m := _RELEASE.search(name))]
        if not releases:
            raise ConfigurationError(f"{source!r} has no release tags; name a branch or a commit with --ref")
        ref = max(releases)[1]
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}", ref):
        if name in refs:
            return refs[name], ref
    raise ConfigurationError(
        f"{source!r} has no tag or branch {ref!r}; `git ls-remote {source}` lists them, or give a whole commit"
    )


def checkout(runner: Runner, source: str, commit: str, target: Path) -> None:
    """Leaves exactly this commit at `target`; does nothing where it is already.

    Raises:
        ConfigurationError: it cannot be fetched.
    """
    git = need_git()
    if head(runner, target) == commit:
        return
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    runner.must([git, "init", "--quiet"], NETWORK, cwd=partial)
    runner.must([git, "remote", "add", "origin", source], NETWORK, cwd=partial)
    shallow = runner.run([git, "fetch", "--progress", "--depth", "1", "origin", commit], cwd=partial, environment=GIT)
    if not shallow.ok:  # not every server hands out any commit; then everything is fetched
        runner.must([git, "fetch", "--progress", "--tags", "origin"], NETWORK, cwd=partial, environment=GIT)
    runner.must([git, "-c", "advice.detachedHead=false", "checkout", "--quiet", commit], NETWORK, cwd=partial)
    if target.exists():
        aside = target.with_name(f"{target.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
        shutil.rmtree(aside, ignore_errors=True)
    partial.replace(target)


def head(runner: Runner, folder: Path) -> str:
    """Commit of an untouched checkout; empty where there is none or a tracked file was changed."""
    if not (folder / ".git").exists():
        return ""
    git = need_git()
    at = runner.run([git, "rev-parse", "HEAD"], cwd=folder)
    changed = runner.run([git, "status", "--porcelain", "--untracked-files=no"], cwd=folder, environment=GIT)
    return at.out.strip() if at.ok and changed.ok and not changed.out.strip() else ""


def comfyui_version(code: Path) -> str:
    """The version a checkout says it is."""
    try:
        text = (code / "comfyui_version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    match = re.search(r"__version__\s*=\s*[\"']([^\"']+)", text)
    return match[1] if match else ""
