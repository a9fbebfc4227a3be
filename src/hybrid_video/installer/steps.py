"""The steps of an installation. Each knows whether it is needed, so that a second run changes nothing, and each can be
broken off anywhere and run again."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from hybrid_video.errors import BackendError, ConfigurationError
from hybrid_video.installer import checks, code, comfy_cli
from hybrid_video.installer.downloading import Downloader, check_space
from hybrid_video.installer.environment import UNNAMED, TorchFound
from hybrid_video.installer.journal import FileState
from hybrid_video.installer.layout import Version
from hybrid_video.installer.manifest import ModelSource, files_of, nodes_of
from hybrid_video.installer.options import Token
from hybrid_video.installer.receipt import InstalledFile, InstalledNode, InstalledVersion
from hybrid_video.installer.rendering import render_check, wait_for_answer
from hybrid_video.installer.service import Service
from hybrid_video.installer.service.background import BackgroundService
from hybrid_video.installer.settings_file import add_url
from hybrid_video.installer.work import Work

CODE_GB = 0.6
START_TIMEOUT_S = 300.0
"""A first start imports PyTorch and compiles bytecode; a minute on a slow disk was seen."""


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        plan: what it will do, one sentence, without changing or asking anything outside this machine.
        needed: False where nothing is to be done.
        run: does it; returns what was done in a few words.
    """

    id: str
    title: str
    plan: Callable[[Work], str]
    needed: Callable[[Work], bool]
    run: Callable[[Work], str]


def _always(_work: Work) -> bool:
    return True


# --- check


def _check(work: Work) -> str:
    checks.check_folder(work.layout, work.receipt if work.layout.receipt.exists() else None)
    service = work.installed_service()
    runs = bool(service and service.running())
    if service and not runs:
        service.stop()  # a ComfyUI whose supervisor was killed would still hold the port
    checks.check_port(work.options.port, ours_runs=runs and work.receipt.url == work.options.url)
    code.need_git()
    missing = _downloader(work).missing_bytes(files_of(work.bundles))
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


# --- code


def _code_needed(work: Work) -> bool:
    return True  # resolving is cheap, and it decides which version the later steps work on


def _code(work: Work) -> str:
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


# --- python, torch, packages, verify


def _python_needed(work: Work) -> bool:
    return not work.version.python.exists() or "python" not in work.made() or _is_broken(work)


def _is_broken(work: Work) -> bool:
    return not work.environment.runs()


def _python(work: Work) -> str:
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


def _torch_needed(work: Work) -> bool:
    return work.made().get("torch") != _torch_mark(work) or work.action == "repair"


def _torch(work: Work) -> str:
    work.environment.install_torch(work.torch)
    work.mark(torch=_torch_mark(work))
    versions = work.environment.torch_versions()
    return f"PyTorch {versions['torch']}" if "torch" in versions else "left out as asked"


def _requirements_mark(work: Work) -> str:
    file = work.version.code / "requirements.txt"
    return hashlib.sha256((file.read_bytes() if file.exists() else b"") + repr(UNNAMED).encode()).hexdigest()


def _packages_needed(work: Work) -> bool:
    return work.made().get("packages") != _requirements_mark(work) or work.action == "repair"


def _packages(work: Work) -> str:
    file = work.version.code / "requirements.txt"
    if file.exists():
        work.environment.install_requirements(file, work.torch)
    work.mark(packages=_requirements_mark(work))
    return "all there"


def _verify_needed(work: Work) -> bool:
    return "verified" not in work.made() or work.action == "repair"


def _verify(work: Work) -> str:
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


# --- nodes and models


def _nodes_needed(work: Work) -> bool:
    have = {node.name for node in work.receipt.nodes if (work.layout.custom_nodes / node.name).is_dir()}
    return work.action in ("repair", "update") or any(node.name not in have for node in nodes_of(work.bundles))


def _nodes(work: Work) -> str:
    wanted = nodes_of(work.bundles)
    for node in wanted:
        commit, _ = code.resolve(work.runner, node.url, node.ref)
        target = work.layout.custom_nodes / node.name
        target.parent.mkdir(parents=True, exist_ok=True)
        code.checkout(work.runner, node.url, commit, target)
        if (target / "requirements.txt").exists():
            work.environment.install_requirements(target / "requirements.txt", work.torch)
        work.keep(nodes=work.receipt.with_node(InstalledNode(name=node.name, url=node.url, commit=commit)).nodes)
    return ", ".join(node.name for node in wanted) or "none needed"


def _downloader(work: Work) -> Downloader:
    return Downloader(
        work.layout.models,
        mirrors=work.options.mirrors,
        known=work.receipt.known_hashes,
        token=Token.from_environment(),
        cancelled=lambda: work.journal.cancel_requested,
        on_notice=work.notice,
    )


def _models_needed(work: Work) -> bool:
    known = work.receipt.known_hashes
    loader = _downloader(work)

    def right(file: ModelSource) -> bool:
        place = loader.place_of(file)
        return file.path in known and place.is_file() and place.stat().st_size == file.bytes

    return work.action == "repair" or not all(right(file) for file in files_of(work.bundles))


def _models(work: Work) -> str:
    wanted = files_of(work.bundles)
    loader = _downloader(work)
    work.journal.files(tuple(FileState(file=f.name, folder=f.folder, bytes_total=f.bytes) for f in wanted))
    check_space(work.layout.folder, loader.missing_bytes(wanted), work.options.min_free_gb)
    for file in wanted:
        digest = loader.fetch(file, work.journal.file, check=work.action == "repair")
        if not file.sha256 and file.path not in work.receipt.known_hashes:
            work.notice(f"{file.name} has no known hash; {digest[:16]}… is trusted from now on, as it came first")
        entry = InstalledFile(
            path=file.path,
            bytes=file.bytes,
            sha256=digest,
            source=file.url,
            licence=file.licence,
            trusted_on_first_use=not file.sha256,
        )
        work.keep(files=work.receipt.with_file(entry).files)
    return f"{len(wanted)} files, {sum(file.bytes for file in wanted) / 1e9:.1f} GB, verified"


# --- service, proof, settings


def _service_needed(work: Work) -> bool:
    service = work.service()
    if work.receipt.current != work.target or work.receipt.url != work.options.url or work.action == "repair":
        return True
    if service is None:
        return work.receipt.service not in ("", "none")
    if service.kind != work.receipt.service or work.receipt.current is None:
        return True
    return not service.running() or tuple(work.launch().command) != work.receipt.current.arguments


def _service(work: Work) -> str:
    for folder in work.layout.data_folders():
        folder.mkdir(parents=True, exist_ok=True)
    before, service = work.installed_service(), work.service()
    if before is not None:
        before.stop()
        if service is None or before.kind != service.kind:
            before.uninstall()
    previous = work.receipt.previous
    if work.receipt.current and work.target and work.receipt.current.id != work.target.id:
        previous = work.receipt.current
    work.retarget(comfyui_version=code.comfyui_version(work.version.code), arguments=work.launch().command)
    work.keep(current=work.target, previous=previous, url=work.options.url, options=work.stored_options())
    if service is None:
        work.keep(service="none", service_files=())
        return "none wanted; start it with " + " ".join(work.launch().command)
    checks.check_port(work.options.port, ours_runs=False)
    work.keep(service=service.kind)  # before it is registered: an uninstall must know of it whatever happens next
    files = service.install(work.launch())
    work.keep(service_files=tuple(str(file) for file in files))
    service.start()
    work.restarted = True
    try:
        version = asyncio.run(
            wait_for_answer(work.options.url, timeout_s=START_TIMEOUT_S, alive=lambda: _lives(work, service))
        )
    except BackendError as error:
        work.runner.check_cancelled()
        raise ConfigurationError(
            f"ComfyUI was started but does not answer: {error.message}. The end of its log:\n{log_tail(work)}"
        ) from None
    work.notice(service.sentence)
    return f"ComfyUI {version} answers at {work.options.url}"


def _lives(work: Work, service: Service) -> bool:
    """Whether to wait on: a ComfyUI that died twice while starting will die again."""
    if work.journal.cancel_requested:
        return False
    return service.running() and (not isinstance(service, BackgroundService) or service.deaths() < 2)


def log_tail(work: Work, lines: int = 12) -> str:
    """The end of ComfyUI's log."""
    try:
        text = work.layout.log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "(it has written none)"
    return "\n".join(text.strip().splitlines()[-lines:])


def _render_needed(work: Work) -> bool:
    return work.options.service != "none" and (work.restarted or "rendered" not in work.made())


def _render(work: Work) -> str:
    found = asyncio.run(render_check(work.options.url, output=work.layout.data / "output"))
    if not found.ok:
        raise ConfigurationError(f"{found.detail}. The end of ComfyUI's log:\n{log_tail(work)}")
    work.mark(rendered="yes")
    return found.detail


def _settings_needed(work: Work) -> bool:
    file = work.settings_file
    return work.options.service != "none" and (not file.exists() or work.options.url not in file.read_text("utf-8"))


def _settings(work: Work) -> str:
    add_url(work.settings_file, work.options.url)
    work.keep(settings_file=str(work.settings_file))
    return f"{work.options.url} is in {str(work.settings_file)!r}"


# --- the end


def _finish_needed(work: Work) -> bool:
    return not work.receipt.complete or _old_versions(work) != []


def _old_versions(work: Work) -> list[str]:
    if not work.layout.versions.is_dir():
        return []
    keep = {version.id for version in (work.receipt.current, work.receipt.previous) if version}
    return [entry.name for entry in work.layout.versions.iterdir() if entry.name not in keep]


def _finish(work: Work) -> str:
    for name in _old_versions(work):
        shutil.rmtree(work.layout.versions / name, ignore_errors=True)
    work.keep(complete=True, installed_at=work.receipt.installed_at or datetime.now(UTC))
    return str(work.layout.receipt)


# --- all together


def _plan_models(work: Work) -> str:
    if not work.bundles:
        return "no models; add some later with --bundle"
    names = ", ".join(bundle.id for bundle in work.bundles)
    left = _downloader(work).missing_bytes(files_of(work.bundles)) / 1e9
    total = sum(file.bytes for file in files_of(work.bundles)) / 1e9
    licences = ", ".join(dict.fromkeys(name for bundle in work.bundles for name in bundle.licences))
    return f"{names}: {total:.1f} GB, {left:.1f} GB still to come (licences: {licences})"


def _plan_service(work: Work) -> str:
    service = work.service()
    return service.sentence if service else "none: nothing is started"


INSTALL: Sequence[Step] = (
    Step("check", "Check the system", lambda w: f"folder {w.layout.folder}, port {w.options.port}", _always, _check),
    Step("code", "Fetch ComfyUI", lambda w: f"{w.options.ref} from {w.options.source}", _code_needed, _code),
    Step("python", "Make its Python", lambda w: w.options.python or "found or fetched by uv", _python_needed, _python),
    Step("torch", "Install PyTorch", lambda w: f"build {w.torch.variant}: {w.torch.reason}", _torch_needed, _torch),
    Step("packages", "Install its packages", lambda _: "ComfyUI's requirements.txt", _packages_needed, _packages),
    Step("verify", "Try PyTorch", lambda _: "import it and look for the card", _verify_needed, _verify),
    Step(
        "nodes",
        "Fetch custom nodes",
        lambda w: ", ".join(node.name for node in nodes_of(w.bundles)) or "none needed",
        _nodes_needed,
        _nodes,
    ),
    Step("models", "Fetch models", _plan_models, _models_needed, _models),
    Step("service", "Start the service", _plan_service, _service_needed, _service),
    Step("render", "Render a test clip", lambda _: "four frames, without a model", _render_needed, _render),
    Step(
        "settings",
        "Tell hybrid-video",
        lambda w: f"{w.options.url} into {w.settings_file}",
        _settings_needed,
        _settings,
    ),
    Step("finish", "Write the receipt", lambda w: str(w.layout.receipt), _finish_needed, _finish),
)


def _back_needed(work: Work) -> bool:
    return work.receipt.current != work.target


ROLLBACK: Sequence[Step] = tuple(
    Step(step.id, step.title, step.plan, _back_needed if step.id == "service" else step.needed, step.run)
    for step in INSTALL
    if step.id in ("service", "render", "settings", "finish")
)
