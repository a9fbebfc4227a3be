"""One installation of ComfyUI as a whole: what it would do, doing it, following it from another process, undoing it.

installation = Installation({"bundles": ["minimal"]})
for step in installation.plan(): print(step.title, step.detail)
installation.run(on_event=print)          # in this process; raises ConfigurationError with the next step to take
installation.start()                      # in a process of its own, for a page
installation.state(), installation.events(after)   # from anywhere, while it runs and after
installation.cancel(); installation.resume()
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import journal as journals
from hybrid_video.installer.checks import ForeignComfyUI, comfyui_at, find_foreign, port_is_free
from hybrid_video.installer.commands import Cancelled
from hybrid_video.installer.hardware import Machine, detect
from hybrid_video.installer.journal import InstallEvent, InstallState, Journal, OnEvent, StepState
from hybrid_video.installer.layout import Layout
from hybrid_video.installer.manifest import NO_MODELS, Manifest, load_manifest
from hybrid_video.installer.options import Action, InstallOptions, default_folder
from hybrid_video.installer.receipt import Receipt, read_receipt
from hybrid_video.installer.removing import Removal, remove
from hybrid_video.installer.service import Service, service_name, service_of
from hybrid_video.installer.service.choosing import nobody_agrees
from hybrid_video.installer.service.systemd import Confirm
from hybrid_video.installer.steps import INSTALL, ROLLBACK, Step
from hybrid_video.installer.torch_choice import TorchChoice, choose_torch
from hybrid_video.installer.verdict import Verdict, judge
from hybrid_video.installer.work import Work
from hybrid_video.models import Model
from hybrid_video.settings import settings_file

START_S = 20.0


class PlannedStep(Model):
    """One step as it would be done."""

    id: str
    title: str
    detail: str


class SystemCheck(Model):
    """This machine, and what would run on it."""

    machine: Machine
    torch: TorchChoice | None
    verdicts: tuple[Verdict, ...]
    recommended: str
    """The bundle to start with; `none` on a machine without a usable GPU."""
    foreign: tuple[ForeignComfyUI, ...]
    port_free: bool
    problems: tuple[str, ...]
    """What stands in the way, one sentence each, with what to do."""


class ServiceStatus(Model):
    """The installed ComfyUI now."""

    installed: bool
    running: bool = False
    answers: bool = False
    url: str = ""
    kind: str = ""
    version: str = ""
    commit: str = ""
    sentence: str = ""
    bundles: tuple[str, ...] = ()
    models_gb: float = 0.0
    previous: str = ""
    """Version that `rollback` returns to; empty when there is none."""


class Installation:
    """One folder.

    Args:
        given: options by name (fields of `InstallOptions`); what is not given comes from the environment, then from the
            receipt of an earlier run, then from the defaults.
        confirm: asked before a command with sudo; nobody agrees unless this is given.

    Raises:
        ConfigurationError: an option is wrong, or the receipt cannot be read.
    """

    def __init__(self, given: Mapping[str, Any] | None = None, *, confirm: Confirm = nobody_agrees) -> None:
        asked = InstallOptions.of(given or {})
        self.layout = Layout(asked.folder)
        self._receipt = read_receipt(self.layout)
        self._asked = asked
        self._confirm = confirm
        self.options = self._merged(asked, dict(self._receipt.options) if self._receipt else {})

    @staticmethod
    def _merged(asked: InstallOptions, stored: dict[str, Any]) -> InstallOptions:
        """What was asked for now over what was asked for before; bundles add up."""
        now = {name: getattr(asked, name) for name in asked.model_fields_set}
        if "bundles" in now and NO_MODELS not in now["bundles"]:
            earlier = [name for name in stored.get("bundles", ()) if name != NO_MODELS]
            now["bundles"] = tuple(dict.fromkeys([*earlier, *now["bundles"]]))
        return InstallOptions.of({**stored, **now, "folder": asked.folder})

    def with_bundles(self, names: Sequence[str]) -> Installation:
        """The same with these model bundles.

        Raises:
            InputError: a name is not known.
        """
        self.manifest.choose(names)
        given = {name: getattr(self._asked, name) for name in self._asked.model_fields_set}
        return Installation({**given, "bundles": tuple(names)}, confirm=self._confirm)

    @property
    def receipt(self) -> Receipt | None:
        """What is installed; None before the first run."""
        return read_receipt(self.layout)

    @property
    def manifest(self) -> Manifest:
        """Every bundle there is."""
        return load_manifest(self.options.manifest)

    def check(self) -> SystemCheck:
        """Looks at the machine; changes nothing."""
        machine, problems = detect(self.layout.folder), []
        torch: TorchChoice | None = None
        try:
            torch = choose_torch(machine, self.options.torch, self.options.torch_index)
        except ConfigurationError as error:
            problems.append(error.message)
        if torch and torch.warning:
            problems.append(torch.warning)
        if shutil.which("git") is None:
            problems.append("git is not there; install it (git-scm.com/downloads)")
        ours = self.status().running
        free = ours or port_is_free(self.options.port)
        if not free:
            problems.append(f"port {self.options.port} is taken; choose another with --port")
        gpu = machine.gpu
        return SystemCheck(
            machine=machine,
            torch=torch,
            verdicts=judge(machine, self.manifest),
            recommended=self.manifest.recommended(gpu.vram_gb if gpu else None),
            foreign=find_foreign(self.layout),
            port_free=free,
            problems=tuple(problems),
        )

    def plan(self, action: Action = "install") -> tuple[PlannedStep, ...]:
        """What `run` would do; asks nothing outside this machine and changes nothing.

        Raises:
            ConfigurationError, InputError: it cannot be done as asked.
        """
        work = self._work(action, Journal(self.layout.progress))
        return tuple(
            PlannedStep(id=step.id, title=step.title, detail=step.plan(work)) for step in self._steps(action, work)
        )

    def run(self, on_event: OnEvent | None = None, *, action: Action = "install") -> InstallState:
        """Does it, in this process.

        Args:
            on_event: told of everything as it happens, from this thread or the one that reads a program's output.

        Raises:
            ConfigurationError: what went wrong and what to do next; running it again goes on where it stopped.
        """
        log = Journal(self.layout.progress, on_event)
        work = self._work(action, log)
        steps = self._steps(action, work)
        states = tuple(StepState(id=step.id, title=step.title) for step in steps)
        with log.session(action, states, self.options.stored()):
            try:
                did = self._do(steps, work)
            except Cancelled:
                log.cancelled()
            except BaseException as error:
                self._failed(log, error)
                raise
            else:
                log.done(did)
        return log.state

    def start(self, action: Action = "install") -> int:
        """Does it in a process of its own, which outlives this one; returns its process id. Follow it by `state`.

        Raises:
            ConfigurationError: another one is at work, or it did not start.
        """
        self.plan(action)  # what is wrong with the options is said here, not in a log
        if journals.is_at_work(self.layout.progress):
            raise ConfigurationError(f"an installation of {str(self.layout.folder)!r} is going on already")
        self.layout.progress.mkdir(parents=True, exist_ok=True)
        before = journals.read_state(self.layout.progress).started_at
        text = "import sys; from hybrid_video.cli import main; sys.argv[0] = 'hybrid-video'; main()"
        command = [sys.executable, "-c", text, "install-comfyui", action, "--yes", *self._arguments()]
        with (self.layout.progress / "process.log").open("ab") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
        deadline = time.monotonic() + START_S
        while journals.read_state(self.layout.progress).started_at == before:
            if process.poll() is not None or time.monotonic() > deadline:
                said = (self.layout.progress / "process.log").read_text(encoding="utf-8", errors="replace").strip()
                raise ConfigurationError(
                    f"the installer did not start: {said.splitlines()[-1] if said else 'no reason'}"
                )
            time.sleep(0.05)
        return process.pid

    def resume(self, on_event: OnEvent | None = None) -> InstallState:
        """Goes on with what was broken off, with its options."""
        state = self.state()
        stored = {name: value for name, value in state.options.items() if name not in self._asked.model_fields_set}
        if state.status in ("interrupted", "failed", "cancelled") and stored:
            self.options = self._merged(self._asked, {**stored, "folder": str(self.layout.folder)})
        return self.run(on_event, action=state.action or "install")

    def cancel(self) -> bool:
        """Asks whoever is at work to stop; False when nobody is. What has been downloaded is kept."""
        return self.state().status == "running" and journals.request_cancel(self.layout.progress)

    def state(self) -> InstallState:
        """How far it is, whichever process does it."""
        return journals.read_state(self.layout.progress)

    def events(self, after: int = 0) -> tuple[list[InstallEvent], int]:
        """Events since a position, and the position to ask from next time."""
        return journals.read_events(self.layout.progress, after)

    def status(self) -> ServiceStatus:
        """The installed ComfyUI: running, answering, which version."""
        receipt = self.receipt
        if receipt is None or receipt.current is None:
            return ServiceStatus(installed=False)
        service = self._service(receipt)
        return ServiceStatus(
            installed=receipt.complete,
            running=bool(service and service.running()),
            answers=bool(receipt.url and comfyui_at(receipt.url)),
            url=receipt.url,
            kind=receipt.service,
            version=receipt.current.comfyui_version,
            commit=receipt.current.commit,
            sentence=service.sentence if service else "",
            bundles=tuple(receipt.options.get("bundles", ())),
            models_gb=round(sum(file.bytes for file in receipt.files) / 1e9, 1),
            previous=receipt.previous.comfyui_version or receipt.previous.id if receipt.previous else "",
        )

    def start_service(self) -> None:
        """Starts the installed ComfyUI."""
        self._must_have_service().start()

    def stop_service(self) -> None:
        """Stops the installed ComfyUI."""
        self._must_have_service().stop()

    def log_lines(self, count: int = 50) -> list[str]:
        """The end of ComfyUI's log."""
        try:
            text = self.layout.log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return text.splitlines()[-count:]

    def uninstall(self, *, delete_models: bool, delete_outputs: bool, on_event: OnEvent | None = None) -> Removal:
        """Takes the installation away: service, settings line, code, Python.

        Args:
            delete_models: also the models it fetched and any other in its folder.
            delete_outputs: also ComfyUI's output, input and user folders.

        Raises:
            ConfigurationError: nothing is installed here, or the service cannot be stopped.
        """
        receipt = self.receipt
        if receipt is None:
            raise ConfigurationError(
                f"nothing is installed at {str(self.layout.folder)!r}; name another folder with --dir"
            )
        log = Journal(self.layout.progress, on_event)
        with log.session("uninstall", (), self.options.stored()):
            removal = remove(
                self.layout,
                receipt,
                self._service(receipt),
                delete_models=delete_models,
                delete_outputs=delete_outputs,
                say=lambda text: log.notice("uninstall", text),
            )
        removal.finish(self.layout)
        return removal

    def _do(self, steps: Sequence[Step], work: Work) -> str:
        did = 0
        for step in steps:
            work.step = step.id
            work.runner.check_cancelled()
            if not step.needed(work):
                work.journal.step(step.id, "skipped", "nothing to do")
                continue
            work.journal.step(step.id, "running")
            try:
                detail = step.run(work)
            except ConfigurationError as error:
                if step.id in ("service", "render") and self._put_back(work):
                    raise ConfigurationError(
                        f"{error.message}\nThe version before is running again; nothing else was changed"
                    ) from None
                raise
            did += step.id not in ("check", "code")
            work.journal.step(step.id, "done", detail)
        where = f"ComfyUI is ready at {work.options.url}" if work.options.service != "none" else "ComfyUI is installed"
        return where if did else f"{where}; nothing had to be changed"

    def _put_back(self, work: Work) -> bool:
        """After a failed update: the version before again."""
        previous = work.receipt.previous
        if work.action != "update" or previous is None or previous == work.target:
            return False
        work.notice("the new version does not work; going back to the one before")
        failed, work.target = work.target, previous
        next(step for step in ROLLBACK if step.id == "service").run(work)
        work.keep(previous=work.before.previous, options=work.before.options)
        if failed is not None:
            shutil.rmtree(self.layout.version(failed.id).folder, ignore_errors=True)
        return True

    @staticmethod
    def _failed(log: Journal, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            log.cancelled()
            return
        log.failed(str(error) if isinstance(error, ConfigurationError) else f"{type(error).__name__}: {error}")

    def _steps(self, action: Action, work: Work) -> Sequence[Step]:
        if action != "rollback":
            return INSTALL
        previous = work.receipt.previous
        if previous is None or not self.layout.version(previous.id).python.exists():
            raise ConfigurationError(
                "there is no version to go back to; `hybrid-video install-comfyui --ref TAG` installs any other"
            )
        current = work.receipt.current
        work.target = previous
        work.receipt = work.receipt.model_copy(update={"previous": current})
        return ROLLBACK

    def _work(self, action: Action, log: Journal) -> Work:
        receipt, options = self.receipt, self.options
        if action in ("update", "rollback", "repair") and (receipt is None or receipt.current is None):
            raise ConfigurationError(
                f"nothing is installed at {str(self.layout.folder)!r} yet; run `hybrid-video install-comfyui` first"
            )
        if action == "update" and "ref" not in self._asked.model_fields_set:
            options = InstallOptions.of({**options.stored(), "ref": "latest"})
        if action == "rollback" and receipt and receipt.previous:
            options = InstallOptions.of({**options.stored(), "ref": receipt.previous.ref})
        self.options = options
        machine = detect(self.layout.folder)
        return Work(
            action=action,
            options=options,
            layout=self.layout,
            journal=log,
            receipt=receipt or Receipt(),
            machine=machine,
            torch=choose_torch(machine, options.torch, options.torch_index),
            bundles=self.manifest.choose(options.bundles),
            default_folder=default_folder(),
            settings_file=settings_file(),
            confirm=self._confirm,
        )

    def _service(self, receipt: Receipt) -> Service | None:
        name = service_name(self.layout.folder, default_folder())
        return service_of(receipt.service, self.layout, name, self._confirm)

    def _must_have_service(self) -> Service:
        receipt = self.receipt
        service = self._service(receipt) if receipt else None
        if service is None:
            raise ConfigurationError(
                f"no service is installed at {str(self.layout.folder)!r}; run `hybrid-video install-comfyui`"
            )
        return service

    def _arguments(self) -> list[str]:
        """The options as command-line arguments, for a process of its own."""
        arguments: list[str] = ["--dir", str(self.layout.folder)]
        for name in sorted(self._asked.model_fields_set - {"folder"}):
            value = getattr(self._asked, name)
            option = {"bundles": "--bundle", "mirrors": "--mirror", "extra_args": "--comfyui-arg"}.get(
                name, f"--{name.replace('_', '-')}"
            )
            values = value if isinstance(value, tuple) else (value,)
            for one in values:
                arguments += [f"{option}={one}"]
        return arguments

    @classmethod
    def at(cls, folder: Path) -> Self:
        """The installation in a folder."""
        return cls({"folder": folder})
