"""comfy-cli as a separate program: GPL, so never imported, and with its telemetry switched off before anything else.

It clones ComfyUI and picks PyTorch's index for a GPU. Everything around it (which commit, which Python, models,
service) is done here, because its `install` is not resumable and knows no second copy to roll back to. Options as of
comfy-cli 1.23.0: it uses the environment named by VIRTUAL_ENV.
"""

from __future__ import annotations

import shutil

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Runner
from hybrid_video.installer.layout import Version
from hybrid_video.installer.options import COMFY_CLI, InstallOptions
from hybrid_video.installer.torch_choice import TorchChoice

NO_TRACKING = {"DO_NOT_TRACK": "1", "COMFY_CLI_TELEMETRY": "0", "POSTHOG_DISABLED": "1"}
CUDA = {"cu118": "11.8", "cu121": "12.1", "cu124": "12.4", "cu126": "12.6", "cu128": "12.8", "cu129": "12.9"}
CUDA |= {"cu130": "13.0"}


def choose_engine(options: InstallOptions, torch: TorchChoice, uv: str | None) -> str:
    """comfy-cli where it is asked for, else git; docs/decisions/0008-installer.md has the reasons.

    Raises:
        ConfigurationError: comfy-cli is asked for and cannot do it.
    """
    able = uv is not None and gpu_arguments(torch) is not None and not options.torch_index
    if options.engine == "comfy-cli" and not able:
        raise ConfigurationError(
            f"--engine comfy-cli cannot install the PyTorch build {torch.variant!r} here (it needs uv, and knows CUDA, "
            "ROCm, Apple and CPU); leave --engine out"
        )
    return "comfy-cli" if options.engine == "comfy-cli" else "git"


def gpu_arguments(torch: TorchChoice) -> list[str] | None:
    """How comfy-cli is told the GPU; None where it cannot be."""
    if torch.variant == "none":
        return None
    if torch.device == "cuda" and torch.variant in CUDA:
        return ["--nvidia", "--cuda-version", CUDA[torch.variant]]
    if torch.device == "rocm":
        return ["--amd", "--rocm-version", torch.variant.removeprefix("rocm")]
    if torch.device == "mps":
        return ["--m-series"]
    return ["--cpu"] if torch.device == "cpu" else None


def install(runner: Runner, uv: str | None, version: Version, source: str, commit: str, torch: TorchChoice) -> str:
    """Lets comfy-cli clone ComfyUI into the version's folder and fill its environment.

    Returns: "" when it worked, else why not: the caller goes on with git and uv, which take up what is there.
    """
    gpu = gpu_arguments(torch)
    if uv is None or gpu is None:
        return "it is not available here"
    comfy = [uv, "tool", "run", "--from", COMFY_CLI, "comfy", "--skip-prompt"]
    environment = {**NO_TRACKING, "VIRTUAL_ENV": str(version.venv)}
    quiet = runner.run([*comfy, "tracking", "disable"], environment=environment, timeout_s=600)
    if not quiet.ok:
        return f"its tracking could not be switched off: {_last(quiet.tail)}"
    pip = runner.run([uv, "pip", "install", "--python", str(version.python), "pip"], timeout_s=600)
    if not pip.ok:
        return f"pip could not be put into the environment: {_last(pip.tail)}"
    shutil.rmtree(version.code, ignore_errors=True)  # it refuses a folder that is half there
    command = [*comfy, "--workspace", str(version.code), "install", "--url", source]
    command += ["--skip-manager", "--version", "nightly", "--commit", commit, *gpu]  # only nightly takes a commit
    done = runner.run(command, environment=environment, timeout_s=4 * 3600)
    return "" if done.ok else f"exit code {done.code}: {_last(done.tail)}"


def _last(text: str) -> str:
    """The last line with words in it; comfy-cli draws frames around its messages."""
    lines = [line.strip(" │╭╮╰╯─") for line in text.splitlines()]
    return next((line for line in reversed(lines) if any(c.isalpha() for c in line)), "it said nothing")
