"""Runs one prompt: simulated time, real files from the save nodes, faults.

Nodes are not evaluated. Time is shared out among them, most of it to samplers; rendering goes on meanwhile.
Timestamps are those of the plan: what this computer needs to draw the clip is not part of the simulated time.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hybrid_video.emulators.comfyui.errors import NodeError
from hybrid_video.emulators.comfyui.graph import ClipPlan, execution_order, steps_of
from hybrid_video.emulators.comfyui.node_cache import signatures
from hybrid_video.emulators.comfyui.reporting import Reporter, error_details
from hybrid_video.emulators.comfyui.saving import Rendered, Shown, begin, finish, render, reserve

if TYPE_CHECKING:
    from hybrid_video.emulators.comfyui.machine import Machine

RESTART_S = 8.0
"""Simulated seconds from the end of the process until it listens again; 8 to 14 s observed on ComfyUI 0.8.0."""

_OOM_TEXT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.12 GiB is free."
)
_HISTORY_LAG_S = 0.005  # real seconds between `execution_success` and the history entry
_FAULTS_BEFORE_THE_END = frozenset({"fail", "oom", "restart", "wedge", "hang"})


class _Interrupted(Exception):
    """Someone asked the running prompt to stop."""


class Run:
    """The execution of the prompt that `machine.queue` has just moved to running."""

    def __init__(self, machine: Machine) -> None:
        item = machine.queue.running
        if item is None:
            raise RuntimeError("nothing is running")
        self.machine = machine
        _, self.prompt_id, self.graph, self.extra_data, self.outputs = item
        self.client_id: str | None = self.extra_data.get("client_id")
        self.report = Reporter(machine.channel, self.prompt_id, self.client_id)
        self.rule = machine.faults.take("comfyui", "execute", machine.label_of(self.prompt_id))
        self.order = execution_order(self.graph, self.outputs)
        self.signatures = signatures(self.graph, self.order, machine.folders)
        machine.cache.keep_only(set(self.signatures.values()))
        self.cached = [node for node in self.graph if self._is_cached(node)]
        self.started_s = self.moment_s = machine.clock.now()
        self.executed: list[str] = []
        self.shown: dict[str, Shown] = {}
        self.node = self.order[0]

    async def go(self) -> None:
        """Runs it to its history entry."""
        self.machine.interrupted = False
        self.machine.channel.client_id = self.client_id
        if self.rule is not None and self.rule.action == "delay":
            await asyncio.sleep(self.rule.delay_s)
        self.report.note("execution_start", self.moment_s, {})
        self.report.note("execution_cached", self.moment_s, {"nodes": self.cached})
        state = "failed"
        try:
            await self._run_nodes()
        except _Interrupted:
            state = "cancelled"
            details = {"node_id": self.node, "node_type": self._class(self.node), "executed": self.executed}
            self.report.note("execution_interrupted", self.moment_s, details, everyone=True)
        except (NodeError, OSError, ValueError) as error:
            details = error_details(error, self.graph, self.node, self.executed, self.cached)
            self.report.note("execution_error", self.moment_s, details)
        else:
            state = "done"
            self.report.note("execution_success", self.moment_s, {})
        await asyncio.sleep(_HISTORY_LAG_S)
        self._close(state)

    def _close(self, state: str) -> None:
        meta = {
            node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            for node in self.shown
        }
        succeeded = state == "done"
        status = {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": self.report.messages,
        }
        if self.rule is not None and self.rule.action == "lose":
            self._lose_files()
        self.machine.settle(self.prompt_id, state, self._worked_s())
        self.machine.queue.done(self.shown, meta, status)
        self.report.ended()

    async def _run_nodes(self) -> None:
        plans = {plan.node: plan for plan in self.machine.plans(self.graph, self.outputs)}
        service_s = self.machine.service_s(self.graph, list(plans.values()))
        unit_s = service_s / sum(self._weight(node) for node in self.order)
        doomed = self._doomed()
        with self.machine.folders.scratch() as scratch:
            renders = {} if doomed else self._start_renders(plans, Path(scratch))
            try:
                for node in self.order:
                    self._check_interrupt(node)
                    if self._is_cached(node):  # also the twin of a node that ran just now
                        self._reuse(node)
                        continue
                    self.report.started(node)
                    await self._spend(node, self._weight(node) * unit_s, doomed == node)
                    await self._save(node, plans.get(node), renders.get(node))
                    self._complete(node)
            finally:
                for task in renders.values():
                    task.cancel()
                await asyncio.gather(*renders.values(), return_exceptions=True)

    def _is_cached(self, node: str) -> bool:
        return self.signatures.get(node) in self.machine.cache

    def _weight(self, node: str) -> float:
        if steps_of(self.graph, node):
            return 100.0
        return 4.0 if self._class(node).startswith(("Save", "VHS_Video", "VAEDecode")) else 1.0

    def _doomed(self) -> str | None:
        """The node a fault strikes in: the last sampler, else the last node that saves nothing."""
        to_run = [node for node in self.order if not self._is_cached(node)]
        if self.rule is None or self.rule.action not in _FAULTS_BEFORE_THE_END or not to_run:
            return None
        samplers = [node for node in to_run if steps_of(self.graph, node)]
        others = [node for node in to_run if node not in self.outputs]
        return (samplers or others or to_run)[-1]

    def _start_renders(self, plans: dict[str, ClipPlan], scratch: Path) -> dict[str, asyncio.Task[Rendered]]:
        black = self.rule is not None and self.rule.action == "black"
        info = self.extra_data.get("extra_pnginfo")
        info = info if isinstance(info, dict) else None
        once = {self.signatures[node]: node for node in reversed(plans) if not self._is_cached(node)}
        return {
            node: asyncio.create_task(render(plans[node], scratch, graph=self.graph, extra_pnginfo=info, black=black))
            for node in once.values()
        }

    async def _spend(self, node: str, share_s: float, doomed: bool) -> None:
        """Lets the node's time pass, reporting steps where the real node does."""
        reported = steps_of(self.graph, node)
        steps = reported or (2 if doomed else 1)
        for step in range(1, steps + 1):
            self.moment_s += share_s / steps
            await self.machine.clock.sleep(max(0.0, self.moment_s - self.machine.clock.now()))
            if reported:
                self._check_interrupt(node)
                self.report.step(node, step, steps)
            if doomed and step >= steps / 2:
                await self._strike()

    async def _strike(self) -> None:
        if self.rule is not None and self.rule.action == "fail":
            raise NodeError(self.rule.body or "simulated failure of a node", "ValueError")
        if self.rule is not None and self.rule.action == "oom":
            raise NodeError(_OOM_TEXT, "torch.OutOfMemoryError")
        if self.rule is not None and self.rule.action == "restart":
            self.machine.restart(RESTART_S)
        else:
            self.machine.wedged = True
        await asyncio.Event().wait()

    async def _save(self, node: str, plan: ClipPlan | None, task: asyncio.Task[Rendered] | None) -> None:
        if plan is None or task is None:
            return
        place = reserve(plan, self.machine.folders)
        rendered = await task
        begin(rendered, place)
        shown = await asyncio.to_thread(finish, rendered, place)
        self.shown[node] = self.machine.cache.shown[self.signatures[node]] = shown
        self.report.executed(node, shown)

    def _reuse(self, node: str) -> None:
        """A cached output is shown again, but only to a client that gave an id; other cached nodes stay silent."""
        if node not in self.outputs:
            return
        shown = self.machine.cache.shown.get(self.signatures[node])
        if self.client_id is not None:
            self.report.executed(node, shown)
            if shown is not None:
                self.shown[node] = shown
        self.report.finished(node)

    def _complete(self, node: str) -> None:
        self.report.finished(node)
        self.machine.cache.shown.setdefault(self.signatures[node], None)
        self.executed.append(node)

    def _worked_s(self) -> float:
        """Seconds between the timestamps of the first and the last message, which are whole milliseconds."""
        return (int(self.moment_s * 1000) - int(self.started_s * 1000)) / 1000

    def _check_interrupt(self, node: str) -> None:
        self.node = node
        if self.machine.interrupted:
            raise _Interrupted

    def _lose_files(self) -> None:
        for shown in self.shown.values():
            for entries in shown.values():
                for entry in entries:
                    folder = self.machine.folders.by_type(entry["type"]) if isinstance(entry, dict) else None
                    if folder is not None:
                        with suppress(FileNotFoundError):
                            (folder / entry["subfolder"] / entry["filename"]).unlink()

    def _class(self, node: str) -> str:
        return str(self.graph[node]["class_type"])
