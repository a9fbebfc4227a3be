"""`hybrid-video install-comfyui`."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.errors import ConfigurationError
from hybrid_video.installer import Action, Installation, InstallEvent, InstallState, PlannedStep, SystemCheck
from hybrid_video.installer.options import COMFYUI_REF, DEFAULT_PORT

Verb = Literal[
    "install", "update", "repair", "rollback", "uninstall", "resume", "cancel",
    "start", "stop", "restart", "status", "logs", "check", "models",
]  # fmt: skip
MARKS = {
    "done": "[green]done[/]",
    "skipped": "[dim]there[/]",
    "failed": "[red]failed[/]",
    "cancelled": "[yellow]stopped[/]",
}
RUNS = {"yes": "[green]yes[/]", "tight": "[yellow]tight[/]", "no": "[red]no[/]"}


@app.command("install-comfyui")
def install_comfyui(
    verb: Annotated[
        Verb,
        typer.Argument(
            help="install; update (to the newest release), repair (checks every file), rollback (the version before), "
            "uninstall; resume, cancel; start, stop, restart, status, logs; check (what this machine can run), models."
        ),
    ] = "install",
    folder: Annotated[
        Path | None, typer.Option("--dir", help="Folder of the installation; <home>/comfyui when not given.")
    ] = None,
    bundle: Annotated[
        list[str] | None, typer.Option("--bundle", help="Models to fetch; repeat for more. See the verb models.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--source", help="Git repository of ComfyUI: address or folder.")
    ] = None,
    ref: Annotated[
        str | None, typer.Option("--ref", help=f"Tag, branch or commit; {COMFYUI_REF}. latest: the newest release.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="auto, comfy-cli, or git (with uv); who fetches ComfyUI.")
    ] = None,
    torch: Annotated[
        str | None, typer.Option("--torch", help="PyTorch build: auto, cpu, cu126, cu128, cu130, rocm7.2, xpu, none.")
    ] = None,
    torch_index: Annotated[str | None, typer.Option("--torch-index", help="Package index for PyTorch.")] = None,
    python: Annotated[str | None, typer.Option("--python", help="Python for ComfyUI: a path or a version.")] = None,
    port: Annotated[int | None, typer.Option("--port", help=f"Port on 127.0.0.1; {DEFAULT_PORT}.")] = None,
    service: Annotated[
        str | None,
        typer.Option("--service", help="auto, background, none, or system (asks for sudo, shows each command)."),
    ] = None,
    manifest: Annotated[Path | None, typer.Option("--manifest", help="TOML file with further bundles.")] = None,
    mirror: Annotated[
        list[str] | None, typer.Option("--mirror", help="Address or folder asked for models first; repeat for more.")
    ] = None,
    comfyui_arg: Annotated[
        list[str] | None,
        typer.Option("--comfyui-arg", help="Further argument for ComfyUI, as --comfyui-arg=--lowvram."),
    ] = None,
    min_free_gb: Annotated[
        float | None, typer.Option("--min-free-gb", help="Disk space that must be left over; 2.")
    ] = None,
    delete_models: Annotated[
        bool | None,
        typer.Option("--delete-models/--keep-models", help="For uninstall: what becomes of the models; asked for."),
    ] = None,
    delete_outputs: Annotated[
        bool | None,
        typer.Option("--delete-outputs/--keep-outputs", help="For uninstall: ComfyUI's outputs, inputs, workflows."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; uninstall keeps models and outputs.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Install ComfyUI with the right PyTorch and models, keep it running on 127.0.0.1, and prove that it renders."""
    given: dict[str, Any] = {
        "folder": folder,
        "bundles": bundle,
        "source": source,
        "ref": ref,
        "engine": engine,
        "torch": torch,
        "torch_index": torch_index,
        "python": python,
        "port": port,
        "service": service,
        "manifest": manifest,
        "mirrors": mirror,
        "extra_args": comfyui_arg,
        "min_free_gb": min_free_gb,
    }
    installation = Installation(given, confirm=lambda purpose, commands: _agreed(purpose, commands, yes))
    if verb in ("install", "update", "repair", "rollback", "resume"):
        return _install(installation, verb, bundle, dry_run=dry_run, yes=yes, as_json=json_output)
    if verb == "uninstall":
        return _uninstall(installation, delete_models, delete_outputs, dry_run=dry_run, yes=yes, as_json=json_output)
    return _look(installation, verb, as_json=json_output)


def _install(
    installation: Installation, verb: str, bundle: list[str] | None, *, dry_run: bool, yes: bool, as_json: bool
) -> int:
    if verb == "resume":
        with _Display() as display:
            return _ended(installation.resume(display), installation, as_json)
    action: Action = verb  # type: ignore[assignment]
    found = installation.check()
    if action == "install" and installation.receipt is None and not (bundle or installation.options.bundles):
        installation = _with_bundle(installation, found, yes=yes or dry_run)
    plan = installation.plan(action)
    _show_plan(found, plan)
    if dry_run:
        if as_json:
            print_json(
                {"dry_run": True, "action": action, "plan": [s.model_dump() for s in plan], **_check_json(found)}
            )
        return 0
    if not yes and not _ask("Do this?"):
        console.print("nothing was done")
        return 0
    with _Display() as display:
        return _ended(installation.run(display, action=action), installation, as_json)


def _with_bundle(installation: Installation, found: SystemCheck, *, yes: bool) -> Installation:
    """Asks for the models where none were named; takes what is recommended where nobody can be asked."""
    choice = found.recommended
    if not yes and sys.stdin.isatty():
        _show_verdicts(found)
        choice = typer.prompt("Which models? (none: no models)", default=choice, err=True)
    return installation.with_bundles([name.strip() for name in choice.split(",") if name.strip()])


def _ended(state: InstallState, installation: Installation, as_json: bool) -> int:
    status = installation.status()
    if as_json:
        print_json({**state.model_dump(mode="json"), "service": status.model_dump(mode="json")})
    style = "green" if state.status == "done" else "yellow"
    console.print(f"[{style}]{state.message}[/]", soft_wrap=True)
    if state.status == "done" and status.url:
        console.print(
            "try it: `hybrid-video doctor`, then `hybrid-video run examples/…`", soft_wrap=True, highlight=False
        )
    return 0 if state.status == "done" else 130


def _uninstall(
    installation: Installation, models: bool | None, outputs: bool | None, *, dry_run: bool, yes: bool, as_json: bool
) -> int:
    status = installation.status()
    where = str(installation.layout.folder)
    if dry_run:
        console.print(f"would take away the service, {where}, and its line in the settings", soft_wrap=True)
        return 0
    if models is None:
        models = not yes and _ask(f"Delete the models ({status.models_gb:g} GB) as well?")
    if outputs is None:
        outputs = not yes and _ask("Delete ComfyUI's outputs, inputs and saved workflows as well?")
    if not yes and not _ask(f"Uninstall ComfyUI from {where}?"):
        console.print("nothing was done")
        return 0
    removal = installation.uninstall(delete_models=models, delete_outputs=outputs)
    for name in removal.removed:
        console.print(f"gone: {name}", soft_wrap=True)
    for name in removal.kept:
        console.print(f"kept: {name}", soft_wrap=True)
    if as_json:
        print_json(removal.model_dump(mode="json"))
    return 0


def _look(installation: Installation, verb: str, *, as_json: bool) -> int:
    if verb == "cancel":
        asked = installation.cancel()
        console.print("asked it to stop; what has been downloaded is kept" if asked else "no installation is going on")
        if as_json:
            print_json({"cancelled": asked})
        return 0
    if verb in ("check", "models"):
        found = installation.check()
        _show_machine(found)
        _show_verdicts(found)
        if as_json:
            print_json(_check_json(found))
        return 0
    if verb == "logs":
        lines = installation.log_lines()
        console.print("\n".join(lines) or "no log yet", markup=False, soft_wrap=True)
        if as_json:
            print_json({"lines": lines})
        return 0
    if verb in ("stop", "restart"):
        installation.stop_service()
    if verb in ("start", "restart"):
        installation.start_service()
        _wait(installation)
    return _show_status(installation, as_json)


def _wait(installation: Installation, timeout_s: float = 120.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not installation.status().answers:
        if time.monotonic() > deadline or not installation.status().running:
            raise ConfigurationError(
                "ComfyUI does not answer; see `hybrid-video install-comfyui logs`, or run "
                "`hybrid-video install-comfyui repair`"
            )
        time.sleep(0.5)


def _show_status(installation: Installation, as_json: bool) -> int:
    status, state = installation.status(), installation.state()
    if not status.installed:
        console.print(f"no complete installation at {str(installation.layout.folder)!r}; the last run: {state.status}")
    else:
        answers = "answers" if status.answers else "does not answer"
        console.print(f"ComfyUI {status.version} ({status.commit[:12]}) {answers} at {status.url}")
        console.print(status.sentence, soft_wrap=True)
        console.print(f"models: {', '.join(status.bundles) or 'none'} ({status.models_gb:g} GB)")
        if status.previous:
            console.print(f"`hybrid-video install-comfyui rollback` returns to {status.previous}")
    if as_json:
        print_json({**status.model_dump(mode="json"), "last_run": state.model_dump(mode="json")})
    return 0


def _check_json(found: SystemCheck) -> dict[str, Any]:
    data: dict[str, Any] = found.model_dump(mode="json")
    return data


def _show_machine(found: SystemCheck) -> None:
    machine, gpu = found.machine, found.machine.gpu
    console.print(
        f"{machine.system} {machine.architecture}, Python {machine.python}, {machine.memory_gb:g} GB memory, "
        f"{machine.free_disk_gb:g} GB free at {machine.disk_path}",
        soft_wrap=True,
    )
    memory = f", {gpu.vram_gb:g} GB" if gpu and gpu.vram_gb else ""
    console.print(f"GPU: {gpu.name + memory if gpu else 'none that can be used'}", soft_wrap=True)
    if found.torch:
        console.print(f"PyTorch: {found.torch.variant} ({found.torch.reason})", soft_wrap=True)
    for problem in found.problems:
        console.print(f"[yellow]attention:[/] {problem}", soft_wrap=True)


def _show_verdicts(found: SystemCheck) -> None:
    table = Table(title="What runs here", title_justify="left")
    for name in ("bundle", "runs", "download", "a clip takes", "why", "licence"):
        table.add_column(name, justify="right" if name == "download" else "left", overflow="fold")
    for verdict in found.verdicts:
        takes = f"about {verdict.seconds_per_clip:.0f} s ({verdict.clip})" if verdict.seconds_per_clip else ""
        table.add_row(
            f"[bold]{verdict.bundle}[/]" if verdict.bundle == found.recommended else verdict.bundle,
            RUNS[verdict.runs],
            f"{verdict.download_gb:.1f} GB",
            takes,
            verdict.reason,
            ", ".join(verdict.licences),
        )
    console.print(table)
    console.print("times are expectations from published ones, not measurements", style="dim")


def _show_plan(found: SystemCheck, plan: Sequence[PlannedStep]) -> None:
    _show_machine(found)
    for number, step in enumerate(plan, 1):
        console.print(f"{number:>3}. [bold]{step.title}[/]: {step.detail}", soft_wrap=True)


def _ask(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ConfigurationError(
            f"{question} Nobody is there to answer; give --yes (and for uninstall --delete-models …)"
        )
    return typer.confirm(question, err=True)


def _agreed(purpose: str, commands: Sequence[Sequence[str]], yes: bool) -> bool:
    """Commands with sudo are shown and asked for each time; --yes does not answer for them where somebody can."""
    console.print(f"[bold]As administrator[/], this {purpose}:", soft_wrap=True)
    for command in commands:
        console.print("    " + " ".join(command), markup=False, soft_wrap=True)
    return yes if not sys.stdin.isatty() else typer.confirm("Run these commands?", err=True)


class _Display:
    """Shows events: on a terminal bars for downloads and the last line of what runs, elsewhere lines. SIGTERM stops."""

    def __init__(self) -> None:
        self._talk = Progress(SpinnerColumn(), TextColumn("{task.description}"))
        self._files = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=30),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        whole = Group(self._talk, self._files)
        self._live = Live(whole, console=console, transient=True) if console.is_terminal else None
        self._said = self._talk.add_task("", visible=False)
        self._bars: dict[str, TaskID] = {}
        self._previous: Any = None

    def __enter__(self) -> _Display:
        self._previous = signal.signal(signal.SIGTERM, _interrupt)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGTERM, self._previous)
        if self._live:
            self._live.stop()

    def __call__(self, event: InstallEvent) -> None:
        if event.kind == "file":
            self._file(event)
        elif event.kind == "output":
            self._say(f"{event.step}: {event.message[:110]}")
        elif event.kind == "step":
            self._step(event)
        elif event.kind == "notice":
            console.print(f"        {_plain(event.message)}", soft_wrap=True)

    def _step(self, event: InstallEvent) -> None:
        if event.status == "running":
            self._say(event.step)
            if self._live is None:
                console.print(f"{'…':>6}  {event.step}")
            return
        self._talk.update(self._said, visible=False)
        mark = MARKS.get(event.status or "", "")
        console.print(f"{mark:>18}  [bold]{event.step}[/]: {_plain(event.message)}", soft_wrap=True)

    def _say(self, text: str) -> None:
        self._talk.update(self._said, description=_plain(text), visible=True)

    def _file(self, event: InstallEvent) -> None:
        if self._live is None:
            if event.status in ("done", "failed"):
                console.print(f"        {event.file}: {event.status}", soft_wrap=True)
            return
        if event.file not in self._bars:
            self._bars[event.file] = self._files.add_task(event.file, total=event.bytes_total)
        self._files.update(self._bars[event.file], completed=event.bytes_done or 0)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
