"""`hybrid-video up`: everything for one machine in one terminal, and one Ctrl-C to end it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from dotenv import dotenv_values
from filelock import FileLock, Timeout

from hybrid_video.cli.app import app
from hybrid_video.cli.demo import demo_environment
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.dashboard_server import QUIET, dashboard_command
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import ConfigurationError, HybridVideoError
from hybrid_video.prefect_deploy import create_pools, deploy
from hybrid_video.prefect_server import PrefectServer
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir
from hybrid_video.services import ChildService, Household, Service, answers, free_port, require_free
from hybrid_video.settings import EMULATOR_ENDPOINT, Settings
from hybrid_video.watcher.lease import watching

HOST = "127.0.0.1"
PREFECT_PORT = 4200
DEMO_TIME_SCALE = 8.0
LOCK_FILE, STATE_FILE = "up.lock", "up.json"


@dataclass(frozen=True)
class Ports:
    """Where the parts listen."""

    prefect: int
    api: int
    dashboard: int


@app.command()
def up(
    demo: Annotated[
        bool, typer.Option("--demo", help="With simulated backends, in a folder of its own: needs no GPU and no key.")
    ] = False,
    prefect_port: Annotated[int, typer.Option("--prefect-port", help="Port of Prefect. 0: any free one.")] = (
        PREFECT_PORT
    ),
    api_port: Annotated[
        int | None, typer.Option("--api-port", help="Port of the API; HYBRID_VIDEO_API_PORT or 8321. 0: any.")
    ] = None,
    dashboard_port: Annotated[
        int | None,
        typer.Option("--dashboard-port", help="Port of the dashboard; HYBRID_VIDEO_DASHBOARD_PORT or 8501. 0: any."),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Start Prefect (server, pools, deployments, worker), watcher, API and dashboard; Ctrl-C ends them all.

    A part that crashes is started again. With --json one line with all addresses is printed when everything answers.
    """
    _hand_down()
    settings = Settings.load()
    with _alone(settings.storage.home) as other:
        if other is not None:
            console.print(_says(other), soft_wrap=True, markup=False)
            if json_output:
                print_json({"already_running": True, **other})
            return 0
        ports = Ports(
            prefect_port,
            settings.api.port if api_port is None else api_port,
            settings.dashboard.port if dashboard_port is None else dashboard_port,
        )
        require_free(
            {
                "Prefect": (ports.prefect, "--prefect-port"),
                "the API": (ports.api, "--api-port"),
                "the dashboard": (ports.dashboard, "--dashboard-port"),
            }
        )
        ports = Ports(ports.prefect or free_port(), ports.api or free_port(), ports.dashboard or free_port())
        return _run(settings.storage.home, ports, demo=demo, json_output=json_output)


def _hand_down() -> None:
    """Makes the settings of this folder the children's: flow runs work in the project's folder, where its `.env` is not
    read and a relative path leads elsewhere.
    """
    for name, value in dotenv_values(".env").items():
        if value is not None:
            os.environ.setdefault(name, value)
    for name in ("HYBRID_VIDEO_HOME", "HYBRID_VIDEO_OUT"):
        if given := os.environ.get(name):
            os.environ[name] = str(Path(given).absolute())


def _run(home: Path, ports: Ports, *, demo: bool, json_output: bool) -> int:
    household = Household(_tell)
    with _ended_by_signals(household):
        try:
            began_s = time.monotonic()
            emulators = [_emulators(home / "demo")] if demo else []
            if demo:
                os.environ.update(_demo_settings(home / "demo"))
            settings = Settings.load()
            addresses = _start_all(household, settings, ports, emulators)
            if not household.ending:
                _ready(home, addresses, time.monotonic() - began_s, demo=demo, json_output=json_output)
                household.keep()
        finally:
            console.print("ending everything …")
            household.stop()
            (home / STATE_FILE).unlink(missing_ok=True)
    console.print("ended")
    return 0


def _start_all(household: Household, settings: Settings, ports: Ports, emulators: Sequence[Service]) -> dict[str, Any]:
    """Starts everything, each part as soon as what it needs is there; Prefect takes longest, so it goes first."""
    home, logs = settings.storage.home, settings.storage.home / "logs"
    server = PrefectServer(home / "prefect", ports.prefect)
    prefect_url, prefect_ui = f"http://{HOST}:{ports.prefect}/api", f"http://{HOST}:{ports.prefect}"
    os.environ["PREFECT_API_URL"] = prefect_url  # API and dashboard submit batches there
    console.print("starting (the first time takes about half a minute) …")
    api_url, dashboard_url = f"http://{HOST}:{ports.api}", f"http://{HOST}:{ports.dashboard}"
    parts = [
        Service("the watcher", _watcher(settings, logs)),
        Service(
            "the API",
            ChildService(
                "the API",
                ["hybrid_video", "api", "--host", HOST, "--port", str(ports.api)],
                log_file=logs / "api.log",
                ready=lambda: answers(f"{api_url}/health"),
            ),
            api_url,
        ),
        Service(
            "the dashboard",
            ChildService(
                "the dashboard",
                dashboard_command(settings.dashboard, host=HOST, port=ports.dashboard)[2:],
                log_file=logs / "dashboard.log",
                ready=lambda: answers(f"{dashboard_url}/_stcore/health"),
                environment=QUIET,
            ),
            dashboard_url,
        ),
    ]
    prefect = household.begin([Service("Prefect", server, prefect_ui)])
    household.start(emulators)
    others = household.begin(parts)
    household.ready(prefect)
    if not household.ending:
        create_pools(prefect_url)
        worker = PrefectWorker("local-gpu", prefect_url, Path.cwd(), home=home / "prefect")
        working = household.begin([Service("the Prefect worker of pool local-gpu", worker)])
        names = deploy(prefect_url, project_dir(), home=home / "prefect")
        _tell(f"deployed {', '.join(names)}")
        household.ready(working)
    household.ready(others)
    return {"prefect": prefect_ui, "api": api_url, "dashboard": dashboard_url}


def _watcher(settings: Settings, logs: Path) -> ChildService:
    def watched() -> bool:
        ledger = open_ledger(settings)
        try:
            holder = watching(ledger)
            return holder is not None and holder.believed
        except HybridVideoError:
            return False
        finally:
            ledger.close()

    command = ["hybrid_video", "watch", "--stand-by", "--verbose"]
    return ChildService("the watcher", command, log_file=logs / "watcher.log", ready=watched)


def _emulators(folder: Path) -> Service:
    """Simulated vendors at fixed ports, so that a restart finds the same addresses."""
    ports = {name: free_port() for name in ("comfyui", "runpod", "gemini")}
    url = {name: f"http://{HOST}:{port}" for name, port in ports.items()}
    os.environ.update(
        {
            "HYBRID_VIDEO_COMFYUI_URLS": url["comfyui"],
            "HYBRID_VIDEO_RUNPOD_JOBS_URL": f"{url['runpod']}/v2/{EMULATOR_ENDPOINT}",
            "HYBRID_VIDEO_RUNPOD_PODS_URL": f"{url['runpod']}/v2",
            "RUNPOD_API_KEY": "emulator-accepts-any-key",
            "HYBRID_VIDEO_GEMINI_URL": url["gemini"],
            "GEMINI_API_KEY": "emulator-accepts-any-key",
        }
    )
    options = [part for name, port in ports.items() for part in (f"--{name}", str(port))]
    options += ["--time-scale", str(DEMO_TIME_SCALE), "--cold-start", "8"]
    child = ChildService(
        "the simulated backends",
        ["hybrid_video", "emulate", *options],
        log_file=folder / "logs" / "emulators.log",
        ready=lambda: all(answers(f"{address}/_emulator/charges") for address in url.values()),
    )
    return Service("the simulated backends", child)


def _demo_settings(folder: Path) -> dict[str, str]:
    """As in `hybrid-video demo`, and with pods that may be opened."""
    return {
        **demo_environment(folder),
        "HYBRID_VIDEO_TIME_SCALE": str(DEMO_TIME_SCALE),
        "HYBRID_VIDEO_PODS_IMAGE": "emulated/comfyui-pod",
    }


def _ready(home: Path, addresses: dict[str, Any], took_s: float, *, demo: bool, json_output: bool) -> None:
    state = {"pid": os.getpid(), **addresses}
    draft = home / f"{STATE_FILE}.part"
    draft.write_text(json.dumps(state), encoding="utf-8")
    draft.replace(home / STATE_FILE)
    console.print(f"[bold]everything is up[/] after {took_s:.0f} s")
    console.print(f"  dashboard  [bold]{addresses['dashboard']}[/]")
    console.print(f"  API        {addresses['api']}/docs")
    console.print(f"  Prefect    {addresses['prefect']}")
    if demo:
        console.print("[bold]SIMULATED[/]: no GPU, no key and no money is used")
    console.print("Ctrl-C ends everything")
    if json_output:
        print_json({"already_running": False, **state})


@contextmanager
def _alone(home: Path) -> Iterator[dict[str, Any] | None]:
    """Holds the place of the one `up` of this home; gives what is known of the other if it is taken.

    Raises:
        ConfigurationError: the home folder cannot be used.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = FileLock(home / LOCK_FILE)
        lock.acquire(timeout=0)
    except Timeout:
        other: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            other = json.loads((home / STATE_FILE).read_text(encoding="utf-8"))
        yield other
        return
    except OSError as error:
        raise ConfigurationError(
            f"the folder {str(home)!r} cannot be used: {error.strerror}; set HYBRID_VIDEO_HOME to another"
        ) from None
    try:
        yield None
    finally:
        lock.release()


def _says(other: dict[str, Any]) -> str:
    if not other:
        return "`hybrid-video up` runs already and is still starting; its terminal says more"
    return (
        f"`hybrid-video up` runs already (process {other.get('pid')}): dashboard {other.get('dashboard')}, API "
        f"{other.get('api')}, Prefect {other.get('prefect')}; Ctrl-C in its terminal ends it"
    )


@contextmanager
def _ended_by_signals(household: Household) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends everything cleanly; a second one ends this process, and its children follow."""
    numbers = (signal.SIGINT, signal.SIGTERM)

    def once(_number: int, _frame: object) -> None:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
        household.end()

    previous = {number: signal.signal(number, once) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _tell(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
