"""`hybrid-video emulate`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption
from hybrid_video.engine.session import stop_on_signal
from hybrid_video.errors import InputError
from hybrid_video.models import Tier

if TYPE_CHECKING:
    from hybrid_video.emulators.farm import FarmOptions


@app.command()
def emulate(
    comfyui: Annotated[
        list[int] | None, typer.Option("--comfyui", help="Port of a ComfyUI; repeat for more GPUs. 0: any free one.")
    ] = None,
    runpod: Annotated[int | None, typer.Option("--runpod", help="Port of RunPod (jobs, pods, proxy).")] = None,
    gemini: Annotated[int | None, typer.Option("--gemini", help="Port of Google's services.")] = None,
    time_scale: Annotated[
        float, typer.Option("--time-scale", help="How much faster than real time: 20 makes a 60 s render take 3 s.")
    ] = 1.0,
    faults: Annotated[Path | None, typer.Option("--faults", help="YAML or JSON file of faults to inject.")] = None,
    prices: Annotated[str, typer.Option("--prices", help="Price profile to bill by: current or seed.")] = "current",
    service: Annotated[
        str, typer.Option("--service", help="Simulated seconds per clip, for example local=10,cloud=20,gemini=5.")
    ] = "",
    cold_start: Annotated[
        float, typer.Option("--cold-start", help="Simulated seconds a serverless worker takes to wake.")
    ] = 30.0,
    api_key: Annotated[
        str | None,
        typer.Option("--api-key", help="The only key accepted; else any that does not start with 'invalid'."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the random service times.")] = 0,
    pods: Annotated[bool, typer.Option("--pods", help="Let hybrid-video open pods there when they pay.")] = False,
    json_output: JsonOption = False,
) -> int:
    """Start local servers that behave like ComfyUI, RunPod and Google, until Ctrl-C. No port named: all three."""
    from hybrid_video.emulators.farm import FarmOptions  # noqa: PLC0415 - the renderer's libraries load slowly
    from hybrid_video.emulators.faults import FaultPlan  # noqa: PLC0415

    if time_scale <= 0:
        raise InputError(f"--time-scale: {time_scale!r} is not above 0; 20 means twenty times faster than real time")
    everything = comfyui is None and runpod is None and gemini is None
    options = FarmOptions(
        comfyui_ports=(0,) if everything else tuple(comfyui or ()),
        runpod_port=0 if everything else runpod,
        gemini_port=0 if everything else gemini,
        time_scale=time_scale,
        prices=_profile(prices),
        faults=FaultPlan.from_file(faults) if faults else FaultPlan(),
        service_s=_seconds(service),
        api_key=api_key,
        cold_start_s=cold_start,
        seed=seed,
        pods=pods,
    )
    asyncio.run(_serve(options, json_output))
    return 0


async def _serve(options: FarmOptions, json_output: bool) -> None:
    from hybrid_video.emulators.farm import Farm  # noqa: PLC0415

    farm = await Farm.start(options)
    stopped = asyncio.Event()
    try:
        environment = farm.environment()
        beside = {"HYBRID_VIDEO_SIMULATED": "true", "HYBRID_VIDEO_TIME_SCALE": f"{options.time_scale:g}"}
        if json_output:
            print_json({"environment": environment})
        console.print("[bold]emulators are running (simulated, nothing is charged)[/]; Ctrl-C stops them")
        for name, value in {**environment, **beside}.items():
            console.print(f"export {name}={value}", soft_wrap=True)
        with stop_on_signal(stopped.set):
            await stopped.wait()
    finally:
        await farm.close()


def _profile(text: str) -> Literal["current", "seed"]:
    if text == "seed":
        return "seed"
    if text == "current":
        return "current"
    raise InputError(f"--prices: {text!r} is not a price profile; use current or seed")


def _seconds(text: str) -> dict[Tier, float]:
    seconds: dict[Tier, float] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, number = part.partition("=")
        try:
            seconds[Tier(name.strip())] = float(number)
        except ValueError:
            raise InputError(f"--service: {part!r} is not understood; write for example local=10,cloud=20") from None
    return seconds
