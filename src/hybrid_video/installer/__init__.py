"""Installs ComfyUI on this machine and keeps it running: the one core behind the command, the scripts and the page."""

from hybrid_video.installer.installation import Installation, PlannedStep, ServiceStatus, SystemCheck
from hybrid_video.installer.journal import FileState, InstallEvent, InstallState, StepState
from hybrid_video.installer.options import Action, InstallOptions
from hybrid_video.installer.removing import Removal

__all__ = [
    "Action",
    "FileState",
    "InstallEvent",
    "InstallOptions",
    "InstallState",
    "Installation",
    "PlannedStep",
    "Removal",
    "ServiceStatus",
    "StepState",
    "SystemCheck",
]
