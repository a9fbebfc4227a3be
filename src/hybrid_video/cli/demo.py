"""`hybrid-video demo`: the whole product on simulated backends, without a GPU, a key or money."""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json, print_report
from hybrid_video.cli.run import JsonOption, run_as_flow
from hybrid_video.engine.report import money
from hybrid_video.errors import InputError
from hybrid_video.models import Batch, Preferences, VideoJob

if TYPE_CHECKING:
    from hybrid_video.emulators.farm import Farm, FarmOptions

MARKER = ".hybrid-video-demo"
TIME_SCALE = 8.0
MOST_JOBS = 500
IMAGE = "first-frame.png"

SHOTS = (
    "a lighthouse on a cliff at dusk, slow aerial orbit, waves far below",
    "rain on a neon street in Bangkok, reflections, handheld tracking shot",
    "a paper boat drifting down a forest stream, macro, shallow focus",
    "dawn over terraced rice fields, mist rising, drone push-in",
    "an old projector starting up in a dark room, dust in the beam",
    "a red kite above wheat fields, wind gusts, wide angle",
    "steam from a street kitchen at night, a cook tossing noodles",
    "a night train crossing a bridge under the moon, long lens",
    "ink blooming in clear water, black on white, extreme slow motion",
    "a fox stepping through fresh snow, breath visible, soft morning light",
    "city lights seen from a balcony, curtains moving in the wind",
    "a candle lit in a stone chapel, camera pulling slowly back",
)

FAULT_JOB = "shot-02"
"""Prefers the local GPU and runs out of memory there, so that the demo shows a failover."""

IMAGE_JOB = "shot-06"

PREFERENCES = {
    FAULT_JOB: Preferences(backend="local"),
    "shot-04": Preferences(backend="gemini", max_cost_usd=Decimal("0.50")),
}
"""One hero shot for Google, within a limit of its own."""


@app.command()
def demo(
    jobs: Annotated[int, typer.Option("--jobs", help="Number of clips.")] = 12,
    out: Annotated[Path, typer.Option("--out", help="Folder for the clips and the demo's own state.")] = Path(
        "demo-output"
    ),
    keep: Annotated[
        bool, typer.Option("--keep", help="Leave the Prefect UI running afterwards, until Ctrl-C.")
    ] = False,
    json_output: JsonOption = False,
) -> int:
    """Run an example batch on simulated backends through a real Prefect server. Everything is marked as simulated."""
    from hybrid_video.emulators.farm import FarmOptions  # noqa: PLC0415 - the renderer's libraries load slowly
    from hybrid_video.emulators.faults import FaultPlan, FaultRule  # noqa: PLC0415
    from hybrid_video.prefect_server import PrefectServer  # noqa: PLC0415

    if not 1 <= jobs <= MOST_JOBS:
        raise InputError(f"--jobs: {jobs} is not between 1 and {MOST_JOBS}")
    folder = _fresh_folder(out)
    _draw_first_frame(folder / IMAGE)
    batch = demo_batch(jobs)
    faults = FaultPlan((FaultRule(server="comfyui", operation="execute", action="oom", match=FAULT_JOB),))
    options = FarmOptions(time_scale=TIME_SCALE, faults=faults, cold_start_s=8.0)
    with running_farm(options) as farm:
        console.print("starting the simulated backends and a Prefect server (takes some 15 s the first time) …")
        with PrefectServer(folder / "prefect", lean=True) as server:
            console.print(f"[bold]Prefect UI: {server.ui_url}[/]")
            environment = {
                **farm.environment(),
                **demo_environment(folder),
                "PREFECT_API_URL": server.url,
                "PREFECT_HOME": str(folder / "prefect"),
            }
            report = run_as_flow(batch, folder, folder / "clips", environment=environment)
            print_report(report)
            billed = sum((Decimal(row["usd"]) for row in farm.charges()), Decimal(0))
            console.print(f"the simulated vendors billed ${money(billed)}, the ledger booked ${money(report.cost_usd)}")
            console.print(f"[bold]SIMULATED[/]: no money was spent. Clips: {folder / 'clips' / batch.name}")
            console.print(f"the Prefect UI was at {server.ui_url}; `hybrid-video demo --keep` leaves it open")
            if keep:
                console.print("the Prefect UI stays open; press Ctrl-C to end")
                _wait_for_interrupt()
    if json_output:
        print_json({**report.to_json(), "prefect_ui": server.ui_url, "billed_usd": money(billed)})
    return report.exit_code


def demo_batch(count: int) -> Batch:
    """The example: mostly text-to-video, one image-to-video, one hero shot that prefers Google."""
    jobs = []
    for number in range(count):
        id_ = f"shot-{number + 1:02d}"
        preferences = PREFERENCES.get(id_)
        jobs.append(
            VideoJob(
                id=id_,
                prompt=SHOTS[number % len(SHOTS)],
                image=IMAGE if id_ == IMAGE_JOB else None,
                duration_s=3,
                width=480,
                height=272,
                fps=24,
                priority=90 if preferences else 50,
                preferences=preferences,
            )
        )
    return Batch(name="demo", jobs=tuple(jobs))


@contextmanager
def running_farm(options: FarmOptions) -> Iterator[Farm]:
    """The emulators in a thread with an event loop of its own."""
    from hybrid_video.emulators.farm import Farm  # noqa: PLC0415

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="emulators", daemon=True)
    thread.start()
    try:
        farm = asyncio.run_coroutine_threadsafe(Farm.start(options), loop).result(60)
        try:
            yield farm
        finally:
            asyncio.run_coroutine_threadsafe(farm.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def demo_environment(folder: Path) -> dict[str, str]:
    """Settings beside simulated backends that run faster than real time."""
    return {
        "HYBRID_VIDEO_HOME": str(folder / "state"),
        "HYBRID_VIDEO_SIMULATED": "true",
        "HYBRID_VIDEO_TIME_SCALE": str(TIME_SCALE),
        "HYBRID_VIDEO_COMFYUI_POLL_INTERVAL_S": "0.2",
        "HYBRID_VIDEO_RUNPOD_POLL_INTERVAL_S": "0.3",
        "HYBRID_VIDEO_GEMINI_POLL_INTERVAL_S": "0.3",
        "HYBRID_VIDEO_GEMINI_RESOLUTION": "360p",
        "HYBRID_VIDEO_RETRY_BASE_S": "0.5",
        "HYBRID_VIDEO_VALUE_OF_TIME_USD_PER_H": "60",
        "HYBRID_VIDEO_MIN_FREE_DISK_MB": "100",
    }


def _fresh_folder(out: Path) -> Path:
    """The demo's folder, emptied of an earlier demo. A folder with anything else in it is refused."""
    folder = out.absolute()
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise InputError(f"--out: {str(out)!r} is not empty and no earlier demo; give another folder")
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).write_text("written by `hybrid-video demo`; deleted by the next one\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out: {str(out)!r} cannot be used: {error.strerror}; give another folder") from None
    return folder


def _draw_first_frame(path: Path) -> None:
    from PIL import Image, ImageDraw  # noqa: PLC0415

    image = Image.new("RGB", (480, 272), (24, 34, 64))
    draw = ImageDraw.Draw(image)
    for row in range(272):
        draw.line([(0, row), (480, row)], fill=(24 + row // 3, 34 + row // 5, 64 + row // 8))
    draw.polygon([(240, 40), (300, 120), (240, 200), (180, 120)], fill=(214, 60, 48))
    draw.line([(240, 200), (210, 268)], fill=(240, 240, 220), width=2)
    image.save(path)


def _wait_for_interrupt() -> None:
    try:
        while True:  # in slices: on Windows an endless wait cannot be interrupted
            time.sleep(0.5)
    except KeyboardInterrupt:
        console.print("ending")
