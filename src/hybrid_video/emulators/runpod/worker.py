"""What runs inside a serverless worker: ComfyUI behind the `worker-comfyui` handler, version 5.8.5.

It takes `{"workflow", "images"?}`, checks and reads the graph with the same code as the ComfyUI emulator, renders the
files and returns them in the handler's forms: only outputs under the key `images`, as base64 or as S3 URLs. Error texts
are those of the handler (github.com/runpod-workers/worker-comfyui, read 2026-11-22).

Faults on the operation `execute`: `fail`, `oom`, `black`, `lose` (the result is 404 once finished), `restart` (the
worker is lost, the job goes back to the queue), `wedge` (runs until its execution time-out), `garbage` (success without
files), `truncate` (the upload of the last file fails), `refuse` and `drop` (ComfyUI does not answer, or its websocket
breaks), `status` (fails with `body` as the error text), `delay` (real seconds on top).
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from hybrid_video.emulators.comfyui.catalog import NodeCatalog
from hybrid_video.emulators.comfyui.errors import NodeError
from hybrid_video.emulators.comfyui.folders import Folders
from hybrid_video.emulators.comfyui.graph import ClipPlan, clip_plans, model_name
from hybrid_video.emulators.comfyui.saving import finish, render, reserve
from hybrid_video.emulators.comfyui.validation import Verdict, validate_prompt
from hybrid_video.emulators.faults import FaultPlan, FaultRule
from hybrid_video.emulators.runpod.bucket import Bucket
from hybrid_video.emulators.runpod.handler import Execution, Outcome
from hybrid_video.emulators.runpod.jobs import Job
from hybrid_video.models import OutputSpec, Tier
from hybrid_video.pricing.catalog import PriceEntry
from hybrid_video.pricing.timings import ServiceTimes

COMFY_HOST = "127.0.0.1:8188"
MAX_RESULT_BYTES = 10 * 1024 * 1024
OUT_OF_MEMORY = (
    "Allocation on device \nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)
_CHECK_S = 0.4  # simulated seconds a refused input keeps the worker
_FAILS_AT = 0.5  # of the work

Delivery = Literal["s3", "base64", "simulated"]
"""`simulated`: only the bucket's address is set, not its keys; the file stays in the worker, `data` is its path."""
OversizedResult = Literal["hang", "fail"]


class HandlerError(Exception):
    """The handler returns `{"error": …}`, perhaps with details."""

    def __init__(self, error: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(error)
        self.outcome = Outcome(error=error, output={"details": list(details)} if details else None)


@dataclass(frozen=True)
class _Task:
    """A checked input."""

    job: Job
    graph: dict[str, Any]
    outputs: list[str]
    plans: list[ClipPlan]


@dataclass
class ServiceTime:
    """How long a job works, in simulated seconds: a fixed figure, the price entry's, or the published timing."""

    price: PriceEntry
    gpu: str
    fixed_s: float | None
    jitter: float
    seed: int
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self, graph: dict[str, Any], output: OutputSpec | None) -> float:
        """Seconds for one run, spread log-normally around the expected ones."""
        spread = math.exp(self._random.gauss(-(self.jitter**2) / 2, self.jitter))
        return self._expected_s(graph, output) * spread

    def _expected_s(self, graph: dict[str, Any], output: OutputSpec | None) -> float:
        if self.fixed_s is not None:
            return self.fixed_s
        if self.price.seconds is not None:
            return self.price.seconds
        if output is None:
            return 1.0
        seconds, _ = ServiceTimes().expected_s(
            backend="runpod-serverless", tier=Tier.CLOUD, gpu=self.gpu, model=model_name(graph), output=output
        )
        return seconds


class ComfyWorker:
    """The handler of an endpoint."""

    def __init__(
        self,
        *,
        faults: FaultPlan,
        service: ServiceTime,
        bucket: Bucket,
        delivery: Delivery,
        oversized: OversizedResult,
        missing_models: frozenset[str],
        missing_nodes: frozenset[str],
    ) -> None:
        self._faults, self._service, self._bucket = faults, service, bucket
        self._delivery, self._oversized = delivery, oversized
        self._catalog = partial(NodeCatalog, missing_models=missing_models, missing_nodes=missing_nodes)

    def begin(self, job: Job) -> Execution:
        """Checks the input as handler and ComfyUI do, and plans the run."""
        folders = Folders()
        try:
            task = self._check(job, folders)
        except HandlerError as error:
            return Execution(_CHECK_S, partial(_instantly, error.outcome))
        finally:
            folders.close()  # the plans hold all that rendering needs
        seconds = self._service.draw(task.graph, task.plans[0].output if task.plans else None)
        prompt = task.plans[0].prompt if task.plans else ""
        rule = self._faults.take("runpod", "execute", f"{job.label}\n{prompt}")
        return self._planned(task, seconds, rule)

    def _planned(self, task: _Task, seconds: float, rule: FaultRule | None) -> Execution:
        """What a fault makes of the run."""
        run = partial(self._run, task, rule)
        if rule is None:
            return Execution(seconds, run)
        if (failure := _failure(rule, task)) is not None:
            return Execution(seconds * _FAILS_AT, partial(_instantly, failure))
        if rule.action in ("wedge", "hang"):
            return Execution(math.inf, partial(_instantly, Outcome()))
        lost_after_s = seconds * _FAILS_AT if rule.action == "restart" else None
        return Execution(seconds, run, lost_worker_after_s=lost_after_s, lost_result=rule.action == "lose")

    def _check(self, job: Job, folders: Folders) -> _Task:
        job_input = _parsed(job.input)
        _upload_images(job_input.get("images"), folders)
        graph = job_input["workflow"]
        try:
            verdict = validate_prompt(graph, self._catalog(folders=folders))
            if verdict.error is not None:
                raise HandlerError(_validation_text(verdict))
            plans = clip_plans(graph, verdict.outputs, _image_size(folders))
        except (TypeError, AttributeError, KeyError, ValueError):
            text = f"500 Server Error: Internal Server Error for url: http://{COMFY_HOST}/prompt"
            raise HandlerError(f"Error queuing workflow: {text}") from None
        return _Task(job, graph, verdict.outputs, plans)

    async def _run(self, task: _Task, rule: FaultRule | None) -> Outcome:
        """Renders what the save nodes write and returns it as the handler does."""
        if rule is not None and rule.action == "delay":
            await asyncio.sleep(rule.delay_s)
        folders = Folders()
        try:
            outputs = await _execute(task, folders, black=rule is not None and rule.action == "black")
            if rule is not None and rule.action == "garbage":
                return Outcome(output={"status": "success_no_images", "images": []})
            return self._result(task, outputs, broken_upload=rule is not None and rule.action == "truncate")
        except (NodeError, OSError, ValueError) as error:
            return _execution_error(task, str(error))
        finally:
            folders.close()

    def _result(self, task: _Task, outputs: dict[str, dict[str, list[Path]]], *, broken_upload: bool) -> Outcome:
        errors = [] if outputs else [f"No outputs found in history for prompt {task.job.id}."]
        files = [file for kinds in outputs.values() for file in kinds.get("images", [])]
        if broken_upload and files:
            lost = files.pop()
            errors.append(
                f"Error uploading {lost.name} to S3: Connection was closed before we received a valid response"
            )
        images = [self._delivered(task, file) for file in files]
        if not images:
            if errors:
                return HandlerError("Job processing failed", tuple(errors)).outcome
            return Outcome(output={"status": "success_no_images", "images": []})
        output = {"images": images, **({"errors": errors} if errors else {})}
        if self._delivery == "base64" and len(json.dumps(output)) > MAX_RESULT_BYTES:
            if self._oversized == "hang":
                return Outcome(undeliverable=True)
            return Outcome(error="Failed to return job results. | 400, message='Bad Request'")
        return Outcome(output=output)

    def _delivered(self, task: _Task, file: Path) -> dict[str, str]:
        """One file; its subfolder is dropped."""
        if self._delivery == "s3":
            url = self._bucket.store(task.job.id, file, base_url=task.job.base_url, label=task.job.label)
            return {"filename": file.name, "type": "s3_url", "data": url}
        if self._delivery == "simulated":
            return {"filename": file.name, "type": "s3_url", "data": f"simulated_uploaded/{file.name}"}
        return {"filename": file.name, "type": "base64", "data": base64.b64encode(file.read_bytes()).decode()}


async def _instantly(outcome: Outcome) -> Outcome:
    return outcome


async def _execute(task: _Task, folders: Folders, *, black: bool) -> dict[str, dict[str, list[Path]]]:
    """Writes the files; by node and output key, without those of type temp, as the handler skips them."""
    outputs: dict[str, dict[str, list[Path]]] = {}
    for plan in task.plans:
        # The worker's ComfyUI runs with --disable-metadata: no graph in the files.
        rendered = await render(plan, folders.temp, graph={}, kind="RunPod", black=black)
        shown = finish(rendered, reserve(plan, folders))
        for key in ("images", "gifs"):
            entries = [entry for entry in shown.get(key, []) if entry["type"] != "temp"]
            if key in shown:
                files = [folders.output / entry["subfolder"] / entry["filename"] for entry in entries]
                outputs.setdefault(plan.node, {})[key] = files
    return outputs


def _failure(rule: FaultRule, task: _Task) -> Outcome | None:
    if rule.action == "fail":
        return _execution_error(task, rule.body or "simulated failure")
    if rule.action == "oom":
        return _execution_error(task, OUT_OF_MEMORY)
    if rule.action == "refuse":
        return Outcome(error=f"ComfyUI server ({COMFY_HOST}) not reachable after multiple retries.")
    if rule.action == "drop":
        text = "Connection closed and failed to reconnect. Last error: [Errno 111] Connection refused"
        return Outcome(error=f"WebSocket communication error: {text}")
    if rule.action == "status":
        return Outcome(error=rule.body or "An unexpected error occurred: simulated")
    return None


def _execution_error(task: _Task, message: str) -> Outcome:
    """A node raised: the handler names its type, id and message, but not the exception's type."""
    node = next((n for n, entry in task.graph.items() if "Sampler" in entry["class_type"]), task.outputs[0])
    where = f"Node Type: {task.graph[node]['class_type']}, Node ID: {node}, Message: {message}"
    return HandlerError("Job processing failed", (f"Workflow execution error: {where}",)).outcome


def _parsed(job_input: Any) -> dict[str, Any]:
    if isinstance(job_input, str):
        try:
            job_input = json.loads(job_input)
        except json.JSONDecodeError:
            raise HandlerError("Invalid JSON format in input") from None
    if not isinstance(job_input, dict) or job_input.get("workflow") is None:
        raise HandlerError("Missing 'workflow' parameter")
    images = job_input.get("images")
    if images is not None and not (
        isinstance(images, list) and all(isinstance(i, dict) and "name" in i and "image" in i for i in images)
    ):
        raise HandlerError("'images' must be a list of objects with 'name' and 'image' keys")
    return job_input


def _upload_images(images: list[dict[str, Any]] | None, folders: Folders) -> None:
    """Decodes the images (base64 or data URI) into ComfyUI's input folder."""
    problems: list[str] = []
    for image in images or []:
        name = Path(str(image["name"])).name
        try:
            data = base64.b64decode(str(image["image"]).split(",", 1)[-1])
        except ValueError as error:
            problems.append(f"Error decoding base64 for {name}: {error}")
            continue
        (folders.input / name).write_bytes(data)
    if problems:
        raise HandlerError("Failed to upload one or more input images", tuple(problems))


def _image_size(folders: Folders) -> Callable[[str], tuple[int, int]]:
    def size(name: str) -> tuple[int, int]:
        with Image.open(folders.input_path(name)) as image:
            return image.size

    return size


def _validation_text(verdict: Verdict) -> str:
    """ComfyUI's refusal in the handler's words: a bullet for each key of each node's errors, as Python prints them."""
    error = verdict.error or {}
    refused = error.get("type") == "prompt_outputs_failed_validation"
    message = "Workflow validation failed" if refused else str(error.get("message"))
    bullets = [
        f"• Node {node} ({key}): {value}" for node, entry in verdict.node_errors.items() for key, value in entry.items()
    ]
    if not bullets:
        raw = json.dumps({"error": error, "node_errors": verdict.node_errors})
        return f"{message}. Raw response: {raw}"
    text = f"{message}:\n" + "\n".join(bullets)
    if any("not in list" in bullet and "ckpt_name" in bullet for bullet in bullets):
        return f"{text}\n\nNo checkpoint models appear to be available. Please check your model installation."
    return text
