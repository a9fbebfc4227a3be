"""All emulators together, as `hybrid-video emulate` and the demo start them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hybrid_video.emulators.comfyui import ComfyUIEmulator
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.google import GoogleEmulator
from hybrid_video.emulators.runpod import BootTimes, RunPodEmulator
from hybrid_video.emulators.server import RunningServer, ScaledClock, start_server
from hybrid_video.errors import ConfigurationError
from hybrid_video.models import Tier
from hybrid_video.pricing.catalog import PriceBook, Profile
from hybrid_video.settings import EMULATOR_ENDPOINT

RESULT_KEPT_S = 1800.0
SHORTEST_RETENTION_S = 60.0
"""RunPod forgets results after 30 minutes; on a fast clock they stay at least a real minute."""

EMULATOR_KEY = "emulator-accepts-any-key"
POD_IMAGE = "emulated/comfyui-pod"


@dataclass(frozen=True)
class FarmOptions:
    """What to start. Ports: 0 picks a free one; an empty tuple or None starts none.

    `service_s` are simulated seconds per clip; a tier left out takes the seed's figure in the profile `seed` and the
    published timings in the profile `current`. With `pods` the product may open pods there as well; `pod_boot` is how
    long they take to answer.
    """

    comfyui_ports: tuple[int, ...] = (0,)
    runpod_port: int | None = 0
    gemini_port: int | None = 0
    time_scale: float = 1.0
    prices: Profile = "current"
    faults: FaultPlan = field(default_factory=FaultPlan)
    service_s: Mapping[Tier, float] = field(default_factory=dict)
    api_key: str | None = None
    cold_start_s: float = 30.0
    max_workers: int = 3
    seed: int = 0
    output_dir: Path | None = None
    pods: bool = False
    pod_boot: BootTimes | None = None
    billing_lag_s: float = 300.0

    def seconds(self, tier: Tier) -> float | None:
        """Simulated seconds a clip takes on a tier; None leaves it to the published timings."""
        if tier in self.service_s:
            return self.service_s[tier]
        if self.prices == "seed":
            return next(entry.seconds for entry in PriceBook.load("seed").entries if entry.tier is tier)
        return None


class Farm:
    """Running emulators."""

    def __init__(self) -> None:
        self.comfyui: list[tuple[ComfyUIEmulator, RunningServer]] = []
        self.runpod: tuple[RunPodEmulator, RunningServer] | None = None
        self.gemini: tuple[GoogleEmulator, RunningServer] | None = None
        self._pods, self._time_scale = False, 1.0

    @classmethod
    async def start(cls, options: FarmOptions) -> Farm:
        """Starts the servers on loopback.

        Raises:
            ConfigurationError: a port is taken.
        """
        farm = cls()
        try:
            await farm._start(options)
        except OSError as error:
            await farm.close()
            raise ConfigurationError(
                f"an emulator could not start: {error.strerror or error}; give another port, or 0 for a free one"
            ) from None
        return farm

    async def close(self) -> None:
        """Stops every server."""
        for server in self._servers():
            await server.close()

    def environment(self) -> dict[str, str]:
        """The variables that point the product at these servers."""
        values: dict[str, str] = {}
        if self.comfyui:
            values["HYBRID_VIDEO_COMFYUI_URLS"] = ",".join(server.url for _, server in self.comfyui)
        if self.runpod:
            url = self.runpod[1].url
            values["HYBRID_VIDEO_RUNPOD_JOBS_URL"] = f"{url}/v2/{EMULATOR_ENDPOINT}"
            values["HYBRID_VIDEO_RUNPOD_PODS_URL"] = f"{url}/v2"
            values["RUNPOD_API_KEY"] = EMULATOR_KEY
            if self._pods:
                values["HYBRID_VIDEO_PODS_IMAGE"] = POD_IMAGE
                values["HYBRID_VIDEO_TIME_SCALE"] = f"{self._time_scale:g}"
        if self.gemini:
            values["HYBRID_VIDEO_GEMINI_URL"] = self.gemini[1].url
            values["GEMINI_API_KEY"] = EMULATOR_KEY
        return values

    def charges(self) -> list[dict[str, str]]:
        """Every submission any of them ever accepted."""
        emulators: Sequence[ComfyUIEmulator | RunPodEmulator | GoogleEmulator] = [
            *(emulator for emulator, _ in self.comfyui),
            *([self.runpod[0]] if self.runpod else []),
            *([self.gemini[0]] if self.gemini else []),
        ]
        return [row for emulator in emulators for row in emulator.charges.as_json()]

    def _servers(self) -> list[RunningServer]:
        pairs = [*self.comfyui, *([self.runpod] if self.runpod else []), *([self.gemini] if self.gemini else [])]
        return [server for _, server in pairs]

    async def _start(self, options: FarmOptions) -> None:
        prices, clock = PriceBook.load(options.prices), ScaledClock(options.time_scale)
        self._pods, self._time_scale = options.pods, options.time_scale
        for index, port in enumerate(options.comfyui_ports):
            local = ComfyUIEmulator(
                clock=clock,
                faults=options.faults,
                service_s=options.seconds(Tier.LOCAL),
                seed=options.seed + index,
                output_dir=options.output_dir / f"comfyui-{index}" if options.output_dir else None,
            )
            self.comfyui.append((local, await start_server(local.app(), port)))
        if options.runpod_port is not None:
            cloud = RunPodEmulator(
                clock=clock,
                faults=options.faults,
                prices=prices,
                api_key=options.api_key,
                service_s=options.seconds(Tier.CLOUD),
                cold_start_s=options.cold_start_s,
                max_workers=options.max_workers,
                boot=options.pod_boot,
                billing_lag_s=options.billing_lag_s,
                result_kept_s=max(RESULT_KEPT_S, options.time_scale * SHORTEST_RETENTION_S),
                seed=options.seed,
            )
            self.runpod = (cloud, await start_server(cloud.app(), options.runpod_port))
        if options.gemini_port is not None:
            google = GoogleEmulator(
                clock=clock,
                faults=options.faults,
                prices=prices,
                api_key=options.api_key,
                service_s=options.seconds(Tier.GEMINI),
                seed=options.seed,
            )
            self.gemini = (google, await start_server(google.app(), options.gemini_port))
