"""The steps that make it run: service, proof, settings, receipt."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime

from hybrid_video.errors import BackendError, ConfigurationError
from hybrid_video.installer import checks, code
from hybrid_video.installer.rendering import render_check, wait_for_answer
from hybrid_video.installer.service import Service
from hybrid_video.installer.service.background import BackgroundService
from hybrid_video.installer.settings_file import add_url
from hybrid_video.installer.work import Work

START_TIMEOUT_S = 300.0
"""A first start imports PyTorch and compiles bytecode; a minute on a slow disk was seen."""


def service_needed(work: Work) -> bool:
    """Whether it does not run as it should."""
    service = work.service()
    if work.receipt.current != work.target or work.receipt.url != work.options.url or work.action == "repair":
        return True
    if service is None:
        return work.receipt.service not in ("", "none")
    if service.kind != work.receipt.service or work.receipt.current is None:
        return True
    return not service.running() or tuple(work.launch().command) != work.receipt.current.arguments


def start_service(work: Work) -> str:
    """Registers and starts the service, and waits until ComfyUI answers."""
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
    version = _wait(work, service)
    work.notice(service.sentence)
    return f"ComfyUI {version} answers at {work.options.url}"


def _wait(work: Work, service: Service) -> str:
    """Waits until ComfyUI answers; returns its version."""
    try:
        return asyncio.run(
            wait_for_answer(work.options.url, timeout_s=START_TIMEOUT_S, alive=lambda: _lives(work, service))
        )
    except BackendError as error:
        work.runner.check_cancelled()
        raise ConfigurationError(
            f"ComfyUI was started but does not answer: {error.message}. The end of its log:\n{log_tail(work)}"
        ) from None


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


def render_needed(work: Work) -> bool:
    """Whether nothing was rendered since it started."""
    return work.options.service != "none" and (work.restarted or "rendered" not in work.made())


def render_clip(work: Work) -> str:
    """Renders a tiny clip on it; one that a killed installation started may still be on its way."""
    if service := work.service():
        _wait(work, service)
    found = asyncio.run(render_check(work.options.url, output=work.layout.data / "output"))
    if not found.ok:
        raise ConfigurationError(f"{found.detail}. The end of ComfyUI's log:\n{log_tail(work)}")
    work.mark(rendered="yes")
    return found.detail


def settings_needed(work: Work) -> bool:
    """Whether the product does not know it yet."""
    file = work.settings_file
    return work.options.service != "none" and (not file.exists() or work.options.url not in file.read_text("utf-8"))


def tell_product(work: Work) -> str:
    """Writes its address into the settings."""
    add_url(work.settings_file, work.options.url)
    work.keep(settings_file=str(work.settings_file))
    return f"{work.options.url} is in {str(work.settings_file)!r}"


def finish_needed(work: Work) -> bool:
    """Whether the receipt is not whole or an old version is left."""
    return not work.receipt.complete or _old_versions(work) != []


def _old_versions(work: Work) -> list[str]:
    if not work.layout.versions.is_dir():
        return []
    keep = {version.id for version in (work.receipt.current, work.receipt.previous) if version}
    return [entry.name for entry in work.layout.versions.iterdir() if entry.name not in keep]


def write_the_end(work: Work) -> str:
    """Takes old versions away and closes the receipt."""
    for name in _old_versions(work):
        shutil.rmtree(work.layout.versions / name, ignore_errors=True)
    work.keep(complete=True, installed_at=work.receipt.installed_at or datetime.now(UTC))
    return str(work.layout.receipt)
