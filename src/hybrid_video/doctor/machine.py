"""Looks at the machine and the software on it: Python, versions against the pins, GPU, ports, the installed ComfyUI."""

from __future__ import annotations

import importlib.metadata
import platform
import sys

import psutil
from packaging.requirements import InvalidRequirement, Requirement

from hybrid_video.doctor.findings import Finding
from hybrid_video.errors import HybridVideoError
from hybrid_video.installer import Installation, InstallState, ServiceStatus
from hybrid_video.installer.checks import port_is_free
from hybrid_video.installer.hardware import detect, port_owner
from hybrid_video.installer.torch_choice import choose_torch
from hybrid_video.settings import Settings

DISTRIBUTION = "hybrid-video"
INSTALLATION = "comfyui installation"
OLDEST_PYTHON = (3, 11)
PREFECT_PORT = 4200
OURS = ("hybrid", "prefect", "streamlit", "uvicorn")


def look_at_python() -> Finding:
    """Which Python runs this."""
    detail = f"{platform.python_version()} at {sys.executable!r}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        remedy = "use Python 3.11 or newer: `make setup` or installers/install-comfyui.sh bring one"
        return Finding(subject="python", level="error", detail=detail, remedy=remedy)
    return Finding(subject="python", level="ok", detail=detail)


def look_at_versions() -> Finding:
    """Whether the installed packages are those that work together; docs/platform.md has the reasons."""
    try:
        wanted = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        remedy = "install it with `make setup`, or from its wheel"
        detail = "hybrid-video runs without being installed, so its pins cannot be compared"
        return Finding(subject="versions", level="warning", detail=detail, remedy=remedy)
    wrong, count = [], 0
    for text in wanted:
        trouble = _mismatch(text)
        count += trouble is not None
        if trouble:
            wrong.append(trouble)
    if wrong:
        remedy = (
            "run `make setup` (or reinstall hybrid-video): it brings exactly the versions that were tested together"
        )
        return Finding(subject="versions", level="error", detail="; ".join(wrong), remedy=remedy)
    own = importlib.metadata.version(DISTRIBUTION)
    return Finding(subject="versions", level="ok", detail=f"hybrid-video {own}, {count} packages as pinned")


def _mismatch(text: str) -> str | None:
    """What is wrong with one requirement; "" when nothing, None when it does not count here."""
    try:
        requirement = Requirement(text)
    except InvalidRequirement:
        return None
    if requirement.marker is not None and not requirement.marker.evaluate():
        return None
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is missing"
    if requirement.specifier.contains(found, prereleases=True):
        return ""
    return f"{requirement.name} is {found}, but {requirement.specifier} is needed"


def look_at_gpu(settings: Settings) -> Finding:
    """The card of this machine, and whether its driver is new enough."""
    machine = detect(settings.storage.home)
    gpu = machine.gpu
    try:
        torch = choose_torch(machine)
    except HybridVideoError as error:
        return Finding(subject="gpu", level="error", detail=error.message, remedy="update the card's driver")
    if gpu is None:
        level = "warning" if torch.warning else "off"
        detail = torch.warning or "none that can compute"
        remedy = "rent GPUs or buy clips instead: see `hybrid-video plan`; or run ComfyUI on another machine"
        return Finding(subject="gpu", level=level, detail=detail, remedy=remedy)
    memory = f", {gpu.vram_gb:g} GB" if gpu.vram_gb else ""
    driver = f", driver {gpu.driver}" if gpu.driver else ""
    return Finding(subject="gpu", level="ok", detail=f"{gpu.name}{memory}{driver}; PyTorch build {torch.variant}")


def look_at_ports(settings: Settings) -> Finding:
    """The ports that `hybrid-video up` listens on."""
    wanted = {"Prefect": PREFECT_PORT, "dashboard": settings.dashboard.port, "API": settings.api.port}
    foreign: list[str] = []
    ours: list[str] = []
    for name, port in wanted.items():
        if port == 0 or port_is_free(port):
            continue
        owner = port_owner(port)
        (ours if _is_ours(owner, port) else foreign).append(
            f"{port} ({name}) by {owner or 'a process of another user'}"
        )
    if foreign:
        remedy = "stop it, or choose other ports: HYBRID_VIDEO_DASHBOARD_PORT, HYBRID_VIDEO_API_PORT, PREFECT_API_URL"
        return Finding(subject="ports", level="warning", detail=f"taken: {', '.join(foreign)}", remedy=remedy)
    numbers = ", ".join(f"{port} ({name})" for name, port in wanted.items() if port)
    detail = f"in use by this product: {', '.join(ours)}" if ours else f"free: {numbers}"
    return Finding(subject="ports", level="ok", detail=detail)


def _is_ours(owner: str, port: int) -> bool:
    if not owner:
        return False
    for connection in psutil.net_connections("tcp"):
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
            try:
                line = " ".join(psutil.Process(connection.pid or 0).cmdline()).lower()
            except psutil.Error:
                return False
            return any(word in line for word in OURS)
    return False


def look_at_installation() -> Finding:
    """The ComfyUI that `install-comfyui` put here."""
    try:
        installation = Installation()
        status, state = installation.status(), installation.state()
    except HybridVideoError as error:
        remedy = "correct what it names; `hybrid-video install-comfyui --help` lists the options"
        return Finding(subject=INSTALLATION, level="error", detail=error.message, remedy=remedy)
    if state.status == "running":
        return Finding(subject=INSTALLATION, level="ok", detail=f"being worked on: {state.share_done:.0%} done")
    if not status.installed:
        return _not_installed(state)
    trouble, remedy = _trouble(status)
    what = f"ComfyUI {status.version} at {status.url}, {status.kind}"
    if trouble:
        return Finding(subject=INSTALLATION, level="error", detail=f"{what} {trouble}", remedy=remedy)
    models = f"; models: {', '.join(status.bundles) or 'none'}"
    return Finding(subject=INSTALLATION, level="ok", detail=f"{what}{models}")


def _not_installed(state: InstallState) -> Finding:
    if state.status in ("failed", "interrupted", "cancelled"):
        why = state.message.splitlines()[0] if state.message else "it was broken off"
        remedy = "run `hybrid-video install-comfyui resume`: it goes on where it stopped"
        return Finding(subject=INSTALLATION, level="warning", detail=f"{state.status}: {why}", remedy=remedy)
    remedy = "run `hybrid-video install-comfyui` to have one here"
    return Finding(subject=INSTALLATION, level="off", detail="none made by this product", remedy=remedy)


def _trouble(status: ServiceStatus) -> tuple[str, str]:
    """What is wrong with the service, and the remedy; empty when nothing is."""
    if status.kind == "none":
        return "", ""
    if not status.running:
        return "does not run", "run `hybrid-video install-comfyui start`"
    if not status.answers:
        remedy = "see `hybrid-video install-comfyui logs`, then `hybrid-video install-comfyui repair`"
        return "runs but does not answer", remedy
    return "", ""
