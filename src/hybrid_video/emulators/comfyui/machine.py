"""The simulated ComfyUI process without its HTTP side: queue, worker, cache, folders, and what it does on a restart."""

from __future__ import annotations

import asyncio
import math
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

from PIL import Image

from hybrid_video.emulators.comfyui.catalog import NodeCatalog
from hybrid_video.emulators.comfyui.channel import Channel
from hybrid_video.emulators.comfyui.execution import Run
from hybrid_video.emulators.comfyui.folders import Folders
from hybrid_video.emulators.comfyui.graph import ClipPlan, Graph, clip_plans, job_label, model_name
from hybrid_video.emulators.comfyui.node_cache import NodeCache
from hybrid_video.emulators.comfyui.prompt_queue import Item, PromptQueue
from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import Charge, ChargeList, ScaledClock
from hybrid_video.models import Tier
from hybrid_video.pricing.timings import ServiceTimes

_IDLE_SERVICE_S = 0.1  # a prompt that renders nothing
_PROBE_SERVICE_S = 1.0
PROBE_LABEL = "hv-probe"
"""Labels that begin so are probes of a few empty frames, without a model: they take a second whatever clips take."""

Tariff = Callable[[str, float], Decimal]
"""US dollars for a prompt by its final state and its seconds of execution."""


class Machine:
    """State and worker of one simulated server. Times are simulated seconds of `clock`."""

    def __init__(
        self,
        *,
        clock: ScaledClock,
        faults: FaultPlan,
        service_s: float | None,
        jitter: float,
        seed: int,
        missing_models: frozenset[str],
        missing_nodes: frozenset[str],
        output_dir: Path | None,
        gpu: str,
        charges: ChargeList | None = None,
        tariff: Tariff | None = None,
    ) -> None:
        self.clock = clock
        self.faults = faults
        self.gpu = gpu
        self.charges = ChargeList() if charges is None else charges
        self.folders = Folders(output_dir)
        self.catalog = NodeCatalog(missing_models=missing_models, missing_nodes=missing_nodes, folders=self.folders)
        self.channel = Channel(self.queue_info)
        self.cache = NodeCache()
        self.queue = PromptQueue(self._changed, self._deleted)
        self.interrupted = False
        self.free_requested = False
        self.wedged = False
        self._service_s = service_s
        self._tariff = tariff
        self._jitter = jitter
        self._random = random.Random(seed)
        self._times = ServiceTimes()
        self._down_until = 0.0
        self._labels: dict[str, str] = {}
        self._open_charges: dict[str, list[Charge]] = defaultdict(list)
        self._tasks: list[asyncio.Task[None]] = []

    def queue_info(self) -> dict[str, Any]:
        """The answer of `GET /prompt` and the body of a `status` message."""
        return {"exec_info": {"queue_remaining": self.queue.remaining}}

    @property
    def is_down(self) -> bool:
        """Whether the process is still starting after a restart."""
        return self.clock.now() < self._down_until

    def submit(self, item: Item) -> None:
        """Takes a validated prompt.

        Raises:
            TypeError: see `PromptQueue.put`.
        """
        self._labels[item[1]] = self.label(item[2], item[3])
        self._open_charges[item[1]].append(self.charges.open(item[1], job_label(item[2], item[3])))
        self.queue.put(item)

    def settle(self, prompt_id: str, state: str, seconds: float = 0.0) -> None:
        """Ends the charge of a prompt: done, failed or cancelled after so many seconds. Free without a tariff."""
        waiting = self._open_charges[prompt_id]
        if waiting:
            charge = waiting.pop(0)
            charge.usd = self._tariff(state, seconds) if self._tariff else Decimal(0)
            charge.state = state

    def label(self, graph: Graph, extra_data: dict[str, Any]) -> str:
        """What fault rules match against: the job's label and the prompt text."""
        plans = self.plans(graph, [node for node in graph if self.catalog.is_output(graph[node]["class_type"])])
        return "\n".join([job_label(graph, extra_data), *(plan.prompt for plan in plans[:1])])

    def label_of(self, prompt_id: str) -> str:
        """The label of a prompt by its id, as it was when it was submitted; empty if unknown."""
        return self._labels.get(prompt_id, "")

    def plans(self, graph: Graph, outputs: list[str]) -> list[ClipPlan]:
        """What these output nodes would write."""
        return clip_plans(graph, outputs, self._image_size)

    def service_s(self, graph: Graph, plans: list[ClipPlan]) -> float:
        """Simulated seconds the whole graph takes this time, jitter included."""
        if job_label(graph).startswith(PROBE_LABEL):
            return _PROBE_SERVICE_S
        spread = math.exp(self._random.gauss(0, self._jitter)) if self._jitter else 1.0
        if self._service_s is not None:
            return self._service_s * spread
        expected = [
            self._times.expected_s(
                backend="comfyui", tier=Tier.LOCAL, gpu=self.gpu, model=model_name(graph), output=plan.output
            )[0]
            for plan in plans
        ]
        return max(expected, default=_IDLE_SERVICE_S) * spread

    def interrupt(self, prompt_id: Any = None) -> None:
        """Interrupts what runs, or only if it is this prompt."""
        running = self.queue.running
        if not prompt_id or (running is not None and running[1] == prompt_id):
            self.interrupted = True

    def wedge(self) -> None:
        """Stops the worker for good, as a node raising `SystemExit` does; HTTP stays healthy."""
        self.wedged = True
        for task in self._tasks[1:]:
            task.cancel()

    def free(self, *, unload_models: bool, free_memory: bool) -> None:
        """`POST /free`: takes effect after the running prompt."""
        self.free_requested = self.free_requested or free_memory
        if free_memory and self.queue.running is None:
            self._free_now()
        del unload_models  # models take no room here

    def restart(self, down_s: float = 0.0) -> None:
        """Forgets queue, history and counter, cuts every websocket and wipes temp; output and input stay.

        Args:
            down_s: simulated seconds during which connections are cut.
        """
        for waiting in self._open_charges.values():
            for charge in waiting:
                charge.state = "failed"
        self._open_charges.clear()
        self._labels.clear()
        self.channel.drop_all()
        self.cache.clear()
        self.folders.wipe_temp()
        self.queue = PromptQueue(self._changed, self._deleted)
        self.interrupted = self.free_requested = self.wedged = False
        self._down_until = self.clock.now() + down_s
        if self._tasks:
            self._tasks[1].cancel()
            self._tasks[1] = asyncio.create_task(self._work())

    async def start(self) -> None:
        """Starts publisher and worker."""
        self._tasks = [asyncio.create_task(self.channel.publish()), asyncio.create_task(self._work())]

    async def stop(self) -> None:
        """Stops both and cuts every websocket."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        self.channel.drop_all()

    async def _work(self) -> None:
        while True:
            try:
                await self.queue.get()
            except TypeError:  # two items that cannot be ordered: the real worker thread dies here
                self.wedged = True
                return
            await Run(self).go()
            if self.free_requested:
                self._free_now()

    def _free_now(self) -> None:
        self.cache.clear()
        self.free_requested = False

    def _changed(self) -> None:
        self.channel.send("status", {"status": self.queue_info()})

    def _deleted(self, item: Item) -> None:
        self.settle(item[1], "cancelled")

    def _image_size(self, name: str) -> tuple[int, int]:
        try:
            with Image.open(self.folders.input_path(name)) as image:
                return image.size
        except OSError:
            return 512, 512
