"""Runs one prompt: simulated time, messages in the observed order, real files from the save nodes, faults.

Nodes are not evaluated. Time is shared out among them, most of it to samplers; rendering goes on meanwhile.
Timestamps are those of the plan: what this computer needs to draw the clip is not part of the simulated time.
"""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hybrid_video.emulators.comfyui.errors import NodeError
from hybrid_video.emulators.comfyui.graph import ClipPlan, execution_order, steps_of
from hybrid_video.emulators.comfyui.node_cache import signatures
from hybrid_video.emulators.comfyui.saving import Rendered, Shown, begin, finish, render, reserve

if TYPE_CHECKING:
    from hybrid_video.emulators.comfyui.machine import Machine

RESTART_S = 8.0
"""Simulated seconds from the end of the process until it listens again; 8 to 14 s observed on ComfyUI 0.8.0."""

_OOM_TEXT = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.12 GiB is free."
)
_OOM_TIP = (
    "This error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before you might have "
    "accidentally set the batch_size to a large number."
)
_HISTORY_LAG_S = 0.005  # real seconds between `execution_success` and the history entry
_FAULTS_BEFORE_THE_END = frozenset({"fail", "oom", "restart", "wedge", "hang"})


class _Interrupted(Exception):  # noqa: N818 - an event, not an error
    pass


class Run:
    """The execution of the prompt that `machine.queue` has just moved to running."""

    def __init__(self, machine: Machine) -> None:
        item = machine.queue.running
        if item is None:
            raise RuntimeError("nothing is running")
        self.machine = machine
        _, self.prompt_id, self.graph, self.extra_data, self.outputs = item
        self.client_id: str | None = self.extra_data.get("client_id")
        self.rule = machine.faults.take("comfyui", "execute", machine.label(self.graph, self.extra_data))
        self.order = execution_order(self.graph, self.outputs)
        self.signatures = signatures(self.graph, self.order, machine.folders)
        machine.cache.keep_only(set(self.signatures.values()))
        self.cached = [node for node in self.graph if self.signatures.get(node) in machine.cache]
        self.moment_s = machine.clock.now()
        self.messages: list[list[Any]] = []
        self.executed: list[str] = []
        self.shown: dict[str, Shown] = {}
        self.states: dict[str, dict[str, Any]] = {}
        self.node = ""

    async def go(self) -> None:
        """Runs it to its history entry."""
        machine = self.machine
        machine.interrupted = False
        machine.channel.client_id = self.client_id
        if self.rule is not None and self.rule.action == "delay":
            await asyncio.sleep(self.rule.delay_s)
        self._note("execution_start", {})
        self._note("execution_cached", {"nodes": self.cached})
        state = "failed"
        try:
            await self._run_nodes()
        except _Interrupted:
            state = "cancelled"
            details = {"node_id": self.node, "node_type": self._class(self.node), "executed": self.executed}
            self._note("execution_interrupted", details, everyone=True)
        except (NodeError, OSError, ValueError) as error:
            self._note("execution_error", self._error(error))
        else:
            state = "done"
            self._note("execution_success", {})
        await asyncio.sleep(_HISTORY_LAG_S)
        self._close(state)

    def _close(self, state: str) -> None:
        machine = self.machine
        meta = {
            node: {"node_id": node, "display_node": node, "parent_node": None, "real_node_id": node}
            for node in self.shown
        }
        succeeded = state == "done"
        status = {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": self.messages,
        }
        if self.rule is not None and self.rule.action == "lose":
            self._lose_files()
        machine.settle(self.prompt_id, state)
        machine.queue.done(self.shown, meta, status)
        machine.channel.node = None
        if self.client_id is not None:
            machine.channel.send("executing", {"node": None, "prompt_id": self.prompt_id}, self.client_id)

    async def _run_nodes(self) -> None:
        plans = {plan.node: plan for plan in self.machine.plans(self.graph, self.outputs)}
        to_run = [node for node in self.order if node not in self.cached]
        service_s = self.machine.service_s(self.graph, list(plans.values()))
        unit_s = service_s / max(1e-9, sum(self._weight(node) for node in self.order))
        doomed = self._doomed(to_run) if self.rule is not None else None
        with tempfile.TemporaryDirectory(prefix="hv-render-") as scratch:
            renders = {} if doomed else self._start_renders(plans, to_run, Path(scratch))
            try:
                for node in self.order:
                    if node in self.cached:
                        self._reuse(node)
                        continue
                    self._check_interrupt(node)
                    self._start(node)
                    share_s = self._weight(node) * unit_s
                    await self._spend(node, share_s, doomed == node)
                    await self._save(node, plans.get(node), renders.get(node))
                    self._complete(node)
            finally:
                for task in renders.values():
                    task.cancel()
                await asyncio.gather(*renders.values(), return_exceptions=True)

    def _weight(self, node: str) -> float:
        class_type = self._class(node)
        if steps_of(self.graph, node):
            return 100.0
        if class_type.startswith(("Save", "VHS_Video", "VAEDecode")):
            return 4.0
        return 1.0

    def _doomed(self, to_run: list[str]) -> str | None:
        """The node a fault strikes in: the last sampler, else the last node that saves nothing."""
        if self.rule is None or self.rule.action not in _FAULTS_BEFORE_THE_END or not to_run:
            return None
        samplers = [node for node in to_run if steps_of(self.graph, node)]
        others = [node for node in to_run if node not in self.outputs]
        return (samplers or others or to_run)[-1]

    def _start_renders(
        self, plans: dict[str, ClipPlan], to_run: list[str], scratch: Path
    ) -> dict[str, asyncio.Task[Rendered]]:
        black = self.rule is not None and self.rule.action == "black"
        info = self.extra_data.get("extra_pnginfo")
        return {
            node: asyncio.create_task(
                render(
                    plan,
                    scratch,
                    graph=self.graph,
                    extra_pnginfo=info if isinstance(info, dict) else None,
                    black=black,
                )
            )
            for node, plan in plans.items()
            if node in to_run
        }

    async def _spend(self, node: str, share_s: float, doomed: bool) -> None:
        """Lets the node's time pass, reporting steps where the real node does."""
        steps = steps_of(self.graph, node) or (2 if doomed else 1)
        for step in range(1, steps + 1):
            self.moment_s += share_s / steps
            await self.machine.clock.sleep(max(0.0, self.moment_s - self.machine.clock.now()))
            if steps_of(self.graph, node):
                self._check_interrupt(node)
                self._step(node, step, steps)
            if doomed and step >= steps / 2:
                await self._strike()

    async def _strike(self) -> None:
        action = self.rule.action if self.rule else ""
        if action == "fail":
            raise NodeError((self.rule and self.rule.body) or "simulated failure of a node", "ValueError")
        if action == "oom":
            raise NodeError(_OOM_TEXT, "torch.OutOfMemoryError")
        if action == "restart":
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
        self._show(node, shown)

    def _show(self, node: str, shown: Shown) -> None:
        self.shown[node] = shown
        self.machine.cache.shown[self.signatures[node]] = shown
        self._tell_executed(node, shown)

    def _reuse(self, node: str) -> None:
        """A cached node: its old output is shown again, but only to a client that gave an id."""
        shown = self.machine.cache.shown.get(self.signatures[node])
        if node in self.outputs and self.client_id is not None:
            self._tell_executed(node, shown)
            if shown is not None:
                self.shown[node] = shown
        self._progress(node, 1.0, 1.0, "finished")

    def _tell_executed(self, node: str, shown: Shown | None) -> None:
        data = {"node": node, "display_node": node, "output": shown, "prompt_id": self.prompt_id}
        self._tell("executed", data)

    def _start(self, node: str) -> None:
        self.node = node
        self._progress(node, 0.0, 1.0, "running")
        if self.client_id is not None:
            self.machine.channel.node = node
        self._tell("executing", {"node": node, "display_node": node, "prompt_id": self.prompt_id})

    def _step(self, node: str, step: int, steps: int) -> None:
        self._progress(node, float(step), float(steps), "running")
        data = {"value": step, "max": steps, "prompt_id": self.prompt_id, "node": node}
        self.machine.channel.send("progress", data, self.client_id)

    def _complete(self, node: str) -> None:
        self._progress(node, self.states[node]["max"], self.states[node]["max"], "finished")
        self.machine.cache.shown.setdefault(self.signatures[node], None)
        self.executed.append(node)

    def _progress(self, node: str, value: float, most: float, state: str) -> None:
        self.states[node] = {
            "value": value,
            "max": most,
            "state": state,
            "node_id": node,
            "prompt_id": self.prompt_id,
            "display_node_id": node,
            "parent_node_id": None,
            "real_node_id": node,
        }
        data = {"prompt_id": self.prompt_id, "nodes": dict(self.states)}
        self.machine.channel.send("progress_state", data, self.client_id)

    def _check_interrupt(self, node: str) -> None:
        if self.machine.interrupted:
            self.node = node
            raise _Interrupted

    def _note(self, kind: str, data: dict[str, Any], *, everyone: bool = False) -> None:
        """A message that also goes into the history."""
        data = {**data, "prompt_id": self.prompt_id, "timestamp": int(self.moment_s * 1000)}
        self.messages.append([kind, data])
        if everyone or self.client_id is not None:
            self.machine.channel.send(kind, data, self.client_id)

    def _tell(self, kind: str, data: dict[str, Any]) -> None:
        if self.client_id is not None:
            self.machine.channel.send(kind, data, self.client_id)

    def _error(self, error: Exception) -> dict[str, Any]:
        kind = error.kind if isinstance(error, NodeError) else type(error).__name__
        tip = _OOM_TIP if kind == "torch.OutOfMemoryError" else ""
        inputs = self.graph[self.node].get("inputs", {}) if self.node else {}
        return {
            "node_id": self.node,
            "node_type": self._class(self.node),
            "executed": self.executed,
            "exception_message": f"{error}\n{tip}",
            "exception_type": kind,
            "traceback": ['  File "/opt/ComfyUI/execution.py", line 496, in execute\n'],
            "current_inputs": {
                name: [str("tensor([[[[0.5216, 0.6902, 0.9216]]]])" if isinstance(value, list) else value)]
                for name, value in inputs.items()
            },
            "current_outputs": [*self.cached, *self.executed, self.node],
        }

    def _lose_files(self) -> None:
        for shown in self.shown.values():
            for entries in shown.values():
                for entry in entries:
                    folder = self.machine.folders.by_type(entry["type"]) if isinstance(entry, dict) else None
                    if folder is not None:
                        with suppress(FileNotFoundError):
                            (folder / entry["subfolder"] / entry["filename"]).unlink()

    def _class(self, node: str) -> str:
        return str(self.graph[node]["class_type"]) if node else ""
