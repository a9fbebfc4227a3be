"""The steps that put software on disk: the check before, ComfyUI's code, its Python, PyTorch and packages."""

from __future__ import annotations

import hashlib
import shutil

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import checks, code, comfy_cli
from hybrid_video.installer.downloading import check_space
from hybrid_video.installer.environment import UNNAMED, TorchFound
from hybrid_video.installer.layout import Version
from hybrid_video.installer.manifest import files_of
from hybrid_video.installer.receipt import InstalledVersion
from hybrid_video.installer.steps_models import downloader_of
from hybrid_video.installer.work import Work

CODE_GB = 0.6


def check_system(work: Work) -> str:
    """Refuses what stands in the way, before anything is changed."""
    checks.check_folder(work.layout, work.receipt if work.layout.receipt.exists() else None)
    service = work.installed_service()
    runs = bool(service and service.running())
    if service and not runs:
        service.stop()  # a ComfyUI whose supervisor was killed would still hold the port
    checks.check_port(work.options.port, ours_runs=runs and work.receipt.url == work.options.url)
    code.need_git()
    missing = downloader_of(work).missing_bytes(files_of(work.bundles))
    software_gb = 0.0 if _is_made(work) else CODE_GB + _torch_gb(work)
    check_space(work.layout.folder, missing + int(software_gb * 2**30), work.options.min_free_gb)
    for foreign in checks.find_foreign(work.layout):
        advice = f"; its models can be shared with --mirror {foreign.models}" if foreign.models else ""
        work.notice(f"there is another ComfyUI at {foreign.place}, which is left alone{advice}")
    if work.torch.warning:
        work.notice(work.torch.warning)
    work.keep(options=work.stored_options())
    return f"{work.machine.free_disk_gb:g} GB free, port {work.options.port}, {work.torch.reason}"


def _is_made(work: Work) -> bool:
    """Whether no further Python environment is to come; an update makes a second one."""
    return work.action != "update" and work.target is not None and "packages" in work.made()


def _torch_gb(work: Work) -> float:
    return 0.2 if work.torch.variant == "none" else work.torch.download_gb


def fetch_code(work: Work) -> str:
    """Brings exactly the commit that is wanted."""
    options, current = work.options, work.receipt.current
    engine = comfy_cli.choose_engine(options, work.torch, work.uv)
    stored = work.receipt.options
    same = current and stored.get("source") == options.source and current.ref == options.ref
    if current and same and work.action != "update" and current.torch == work.torch.variant:
        commit, ref = current.commit, current.ref
    else:
        commit, ref = code.resolve(work.runner, options.source, options.ref)
    id_ = f"{commit[:12]}-{work.torch.variant}"
    if current is None or current.id != id_:
        work.target = InstalledVersion(id=id_, ref=ref, commit=commit, torch=work.torch.variant, engine=engine)
    work.version.folder.mkdir(parents=True, exist_ok=True)
    if code.head(work.runner, work.version.code) == commit:
        return f"ComfyUI {code.comfyui_version(work.version.code)} at {commit[:12]} is there"
    if engine == "comfy-cli":
        work.mark(python=work.environment.create(options.python))
        trouble = comfy_cli.install(work.runner, work.uv, work.version, options.source, commit, work.torch)
        if trouble:
            work.notice(f"comfy-cli could not do it ({trouble}); going on with git and uv")
            work.retarget(engine="git")
        else:
            work.mark(torch=_torch_mark(work))
    code.checkout(work.runner, options.source, commit, work.version.code)
    _must_be_comfyui(work.version)
    return f"ComfyUI {code.comfyui_version(work.version.code)} at {commit[:12]}"


def _must_be_comfyui(version: Version) -> None:
    if not (version.code / "main.py").is_file():
        shutil.rmtree(version.folder, ignore_errors=True)
        raise ConfigurationError(
            "the repository of --source has no main.py, so it is no ComfyUI; check --source and --ref"
        )


def python_needed(work: Work) -> bool:
    """Whether the version has no working Python yet."""
    return not work.version.python.exists() or "python" not in work.made() or _is_broken(work)


def _is_broken(work: Work) -> bool:
    return not work.environment.runs()


def make_python(work: Work) -> str:
    """Makes the version's Python anew."""
    if work.version.venv.exists() and ("python" not in work.made() or _is_broken(work)):
        shutil.rmtree(work.version.venv)
    if work.version.made.exists():
        work.version.made.unlink()
    found = work.environment.create(work.options.python)
    work.mark(python=found)
    work.retarget(python=found)
    return f"Python {found}"


def _torch_mark(work: Work) -> str:
    return f"{work.torch.variant} {work.torch.index}".strip()


def torch_needed(work: Work) -> bool:
    """Whether another build is wanted than is there."""
    return work.made().get("torch") != _torch_mark(work) or work.action == "repair"


def put_torch(work: Work) -> str:
    """Installs PyTorch."""
    work.environment.install_torch(work.torch)
    work.mark(torch=_torch_mark(work))
    versions = work.environment.torch_versions()
    return f"PyTorch {versions['torch']}" if "torch" in versions else "left out as asked"


def _requirements_mark(work: Work) -> str:
    file = work.version.code / "requirements.txt"
    return hashlib.sha256((file.read_bytes() if file.exists() else b"") + repr(UNNAMED).encode()).hexdigest()


def packages_needed(work: Work) -> bool:
    """Whether the requirements differ from those installed."""
    return work.made().get("packages") != _requirements_mark(work) or work.action == "repair"


def put_packages(work: Work) -> str:
    """Installs what ComfyUI needs."""
    file = work.version.code / "requirements.txt"
    if file.exists():
        work.environment.install_requirements(file, work.torch)
    work.mark(packages=_requirements_mark(work))
    return "all there"


def verify_needed(work: Work) -> bool:
    """Whether PyTorch was not tried yet."""
    return "verified" not in work.made() or work.action == "repair"


def try_torch(work: Work) -> str:
    """Imports PyTorch and looks for the card."""
    found = work.environment.look()
    if work.torch.variant != "none":
        _must_see_the_card(work, found)
    work.mark(verified=found.torch or "without PyTorch")
    return f"PyTorch {found.torch or 'left out'}{', ' + found.name if found.name else ''}"


def _must_see_the_card(work: Work, found: TorchFound) -> None:
    if found.trouble or not found.torch:
        raise ConfigurationError(
            f"PyTorch does not import: {found.trouble}; run `hybrid-video install-comfyui repair`, or choose another "
            "build with --torch"
        )
    if work.torch.device in ("cuda", "rocm") and not found.gpu:
        raise ConfigurationError(
            f"PyTorch {found.torch} does not see the card; update its driver and restart, or choose another build with "
            "--torch (--torch cpu works without the card)"
        )
    # Kernels of the same major number run on later minor ones (CUDA's binary compatibility).
    family = found.capability[:-1]
    if found.gpu and found.kernels and not any(name.startswith(family) for name in found.kernels):
        raise ConfigurationError(
            f"PyTorch {found.torch} has no kernels for {found.name} ({found.capability}; it has "
            f"{', '.join(found.kernels)}); choose another build with --torch cu128 or --torch cu126"
        )
