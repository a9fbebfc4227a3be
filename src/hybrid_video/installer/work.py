"""What the steps of one run share: the options, the receipt as it grows, the version that is being made."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer.commands import Runner
from hybrid_video.installer.environment import Environment, find_uv
from hybrid_video.installer.hardware import Machine
from hybrid_video.installer.journal import Journal, write_atomically
from hybrid_video.installer.layout import Layout, Version
from hybrid_video.installer.manifest import Bundle
from hybrid_video.installer.options import Action, InstallOptions
from hybrid_video.installer.receipt import InstalledVersion, Receipt, write_receipt
from hybrid_video.installer.service import Launch, Service, choose_service, service_name, service_of
from hybrid_video.installer.service.systemd import Confirm
from hybrid_video.installer.torch_choice import TorchChoice


class Work:
    """One run of the installer."""

    def __init__(
        self,
        *,
        action: Action,
        options: InstallOptions,
        layout: Layout,
        journal: Journal,
        receipt: Receipt,
        machine: Machine,
        torch: TorchChoice,
        bundles: tuple[Bundle, ...],
        default_folder: Path,
        settings_file: Path,
        confirm: Confirm,
    ) -> None:
        self.action = action
        self.options = options
        self.layout = layout
        self.journal = journal
        self.receipt = receipt
        self.before = receipt
        self.machine = machine
        self.torch = torch
        self.bundles = bundles
        self.settings_file = settings_file
        self.name = service_name(layout.folder, default_folder)
        self.step = ""
        self.runner = Runner(lambda line: journal.output(self.step, line), lambda: journal.cancel_requested)
        self.uv = find_uv()
        self.target: InstalledVersion | None = receipt.current
        self.restarted = False
        self._confirm = confirm

    @property
    def version(self) -> Version:
        """The version that is being made or is there."""
        if self.target is None:
            raise ConfigurationError("no version of ComfyUI is installed; run `hybrid-video install-comfyui`")
        return self.layout.version(self.target.id)

    @property
    def environment(self) -> Environment:
        """Its Python environment."""
        return Environment(self.version, self.runner, self.uv)

    def stored_options(self) -> dict[str, Any]:
        """The options for the receipt; `latest` as what it was, so that a later run does not update by itself."""
        stored = self.options.stored()
        return {**stored, "ref": self.target.ref} if self.options.ref == "latest" and self.target else stored

    def notice(self, text: str) -> None:
        """Tells the user something that stops nothing."""
        self.journal.notice(self.step, text)

    def keep(self, **changes: Any) -> None:
        """Changes the receipt on disk, where it differs."""
        updated = self.receipt.model_copy(update=changes)
        if updated != self.receipt or not self.layout.receipt.exists():
            self.receipt = updated.model_copy(update={"changed_at": datetime.now(UTC)})
            write_receipt(self.layout, self.receipt)

    def retarget(self, **changes: Any) -> None:
        """Completes what is known of the version being made."""
        if self.target is not None:
            self.target = self.target.model_copy(update=changes)

    def made(self) -> dict[str, str]:
        """Which steps of the version are finished, and with what."""
        try:
            data = json.loads(self.version.made.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}
        return {str(key): str(value) for key, value in data.items()} if isinstance(data, dict) else {}

    def mark(self, **what: str) -> None:
        """Notes finished steps of the version."""
        now = {**self.made(), **what}
        if now != self.made():
            write_atomically(self.version.made, json.dumps(now, indent=1))

    def service(self) -> Service | None:
        """The service the options ask for; one of another kind that is there is taken away first by its step."""
        return choose_service(self.options.service, self.layout, self.name, self._confirm)

    def installed_service(self) -> Service | None:
        """The service the receipt names."""
        return service_of(self.receipt.service, self.layout, self.name, self._confirm)

    def launch(self) -> Launch:
        """How the version is started."""
        arguments = (*self.torch.comfyui_arguments, *self.options.extra_args)
        return Launch.of(self.layout, self.version, port=self.options.port, name=self.name, arguments=arguments)
