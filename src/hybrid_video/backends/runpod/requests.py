"""Turns a job into the body of `/run`, and says before anything is paid for why that cannot be.

RunPod serverless offers no look at the worker's nodes and models, so what can be checked for free is the workflow's
own shape, its last node, and the size of the request.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from hybrid_video import workflows
from hybrid_video.backends.runpod import worker
from hybrid_video.backends.runpod.jobs import MAX_PAYLOAD_BYTES, encode
from hybrid_video.errors import FailureKind, InputError, TerminalError
from hybrid_video.models import Refusal, VideoJob, WorkOrder
from hybrid_video.settings import RunPodSettings
from hybrid_video.workflows import WorkflowPlan

_LONGEST_PREFIX = "hv/" + "x" * 140
"""As long as a file name prefix can become, for the size of a request that does not exist yet."""


def plan_for(job: VideoJob, workflow_path: Path | None) -> WorkflowPlan | Refusal:
    """The workflow of a job, or why a worker could not run it or would not give its clip back."""
    try:
        plan = workflows.plan(job, workflow_path=workflow_path)
        graph = _sample(plan, "image.png" if job.image else None)
    except InputError as error:
        return Refusal(code="capability", reason=error.message)
    node = worker.dropped_saver(graph)
    if node is not None:
        return Refusal(
            code="capability",
            reason=f"the workflow saves its clip with {node!r}, which worker-comfyui renders and then drops; use "
            "SaveVideo as the last node, or another backend",
        )
    return plan


async def refusal_of(job: VideoJob, workflow_path: Path | None, image_path: Path | None) -> Refusal | None:
    """Why a request for this job would be refused, if it would."""
    plan = plan_for(job, workflow_path)
    if isinstance(plan, Refusal):
        return plan
    try:
        images = await _images(image_path)
    except OSError as error:
        return Refusal(code="preflight", reason=_unreadable(image_path, error))
    graph = _sample(plan, images[0]["name"] if images else "image.png" if job.image else None)
    size = len(encode({"input": {"workflow": graph, "images": images}})) + 500
    return Refusal(code="limit", reason=_too_large(size)) if size > MAX_PAYLOAD_BYTES else None


async def body_for(order: WorkOrder, settings: RunPodSettings) -> bytes:
    """The body of `/run`.

    Raises:
        TerminalError: INVALID_REQUEST; nothing was sent.
    """
    workflow_path = Path(order.workflow_path) if order.workflow_path else None
    image_path = Path(order.image_path) if order.image_path else None
    try:
        plan = workflows.plan(order.job, workflow_path=workflow_path)
        images = await _images(image_path)
        graph = plan.bind(
            seed=order.seed,
            filename_prefix=order.filename_prefix,
            image_name=images[0]["name"] if images else None,
        )
    except InputError as error:
        raise _rejected(error.message) from error
    except OSError as error:
        raise _rejected(_unreadable(image_path, error)) from error
    request = worker.job_request(
        order, graph, images, execution_timeout_s=settings.execution_timeout_s, ttl_s=settings.job_ttl_s
    )
    body = encode(request)
    if len(body) > MAX_PAYLOAD_BYTES:
        raise _rejected(_too_large(len(body)))
    return body


def _sample(plan: WorkflowPlan, image_name: str | None) -> dict[str, Any]:
    return plan.bind(seed=2**53, filename_prefix=_LONGEST_PREFIX, image_name=image_name)


async def _images(path: Path | None) -> list[dict[str, str]]:
    return [await asyncio.to_thread(worker.image_entry, path)] if path else []


def _unreadable(path: Path | None, error: OSError) -> str:
    return f"the input image {str(path)!r} cannot be read ({error.strerror or error}); check the file"


def _too_large(size: int) -> str:
    return (
        f"the request would be {size / 1e6:.1f} MB, and RunPod serverless takes {MAX_PAYLOAD_BYTES / 1e6:g} MB with "
        "the image as base64; use an input image below 7 MB, for example a JPEG, or a pod"
    )


def _rejected(message: str) -> TerminalError:
    return TerminalError(message, kind=FailureKind.INVALID_REQUEST, backend="runpod-serverless", execution_s=0.0)
