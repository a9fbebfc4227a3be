"""What a failed or useless serverless job means: the worker's and the SDK's texts become one of our failure kinds.

`error` of a FAILED job is a plain string when the handler returned it (worker-comfyui 5.8.5), or a JSON string with
`error_type`, `error_message` and `error_traceback` when the handler raised (runpod 1.12, serverless/modules/rp_job).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from hybrid_video.backends.runpod.jobs import RemoteJob
from hybrid_video.backends.runpod.worker import errors_of
from hybrid_video.errors import BackendError, FailureKind, TerminalError, TransientError
from hybrid_video.redaction import redact

_MODEL_SUFFIX = r"(?:safetensors|sft|ckpt|pth?|gguf|bin|onnx)"
_MODEL_NAME = re.compile(rf"'([^']+\.{_MODEL_SUFFIX})'\s+not in|No such file or directory: '([^']+\.{_MODEL_SUFFIX})'")
_NODE_NAME = re.compile(r"node (?:type )?'?([^\s'\"]+)'? (?:does not exist|not found)", re.IGNORECASE)

_TRANSIENT = frozenset(
    {FailureKind.RESTARTED, FailureKind.VENDOR_ERROR, FailureKind.TIMED_OUT, FailureKind.DOWNLOAD_FAILED}
)


@dataclass(frozen=True)
class _Rule:
    kind: FailureKind
    pattern: re.Pattern[str]
    message: str


def _rule(kind: FailureKind, pattern: str, message: str) -> _Rule:
    return _Rule(kind, re.compile(pattern, re.IGNORECASE), message)


_RULES = (
    _rule(
        FailureKind.OUT_OF_MEMORY,
        r"out of memory|OutOfMemoryError|Allocation on device|CUDNN_STATUS_ALLOC_FAILED|not enough (?:GPU )?memory",
        "the worker's GPU ran out of memory; use an endpoint with a larger GPU, or a smaller or shorter clip",
    ),
    _rule(
        FailureKind.MISSING_NODE,
        r"node \S+ (?:does not exist|not found)|missing_node_type|custom node may not be installed",
        "the worker lacks the custom node {node!r}; add it to the worker image, or use another workflow",
    ),
    _rule(
        FailureKind.MISSING_MODEL,
        _MODEL_NAME.pattern,
        "the worker lacks the model file {model!r}; put it on the endpoint's network volume or into its image",
    ),
    _rule(
        FailureKind.INVALID_REQUEST,
        r"Invalid image file|Failed to upload one or more input images|Missing 'workflow' parameter|"
        r"Invalid JSON format in input|'images' must be a list|Please provide input",
        "the worker refuses the job's input; check the input image and the workflow",
    ),
    _rule(
        FailureKind.INVALID_WORKFLOW,
        r"Workflow validation failed|Prompt has no outputs|Cannot execute because|value_not_in_list|"
        r"validation failed \(could not parse",
        "ComfyUI on the worker refuses the workflow; correct it, or use a worker image that fits it",
    ),
    _rule(
        FailureKind.DOWNLOAD_FAILED,
        r"Error uploading .+ to S3|Failed to fetch image data|Error encoding .+ to base64",
        "the worker rendered the clip but could not deliver it; check the endpoint's BUCKET_* settings",
    ),
    _rule(
        FailureKind.EXECUTION_FAILED,
        r"Workflow execution error",
        "a node of the workflow failed on the worker; open the workflow in ComfyUI",
    ),
    _rule(
        FailureKind.RESTARTED,
        r"ComfyUI server \(.*\) not reachable|WebSocket communication error|HTTP communication error|"
        r"not found in history|exited without confirmation|Error queuing workflow",
        "ComfyUI on the worker stopped or never started; the job is made again",
    ),
    _rule(
        FailureKind.TIMED_OUT,
        r"execution ?time ?-?out|timed? ?-?out exceeded|job timed out",
        "RunPod ended the job for running too long; raise HYBRID_VIDEO_RUNPOD_EXECUTION_TIMEOUT_S or shorten the clip",
    ),
    _rule(
        FailureKind.BAD_CLIP,
        r"No outputs found in history",
        "the workflow ran on the worker but saved nothing; end it in a SaveVideo node",
    ),
)


def failed(job: RemoteJob, backend: str) -> BackendError:
    """The error of a FAILED job, classified by the worker's own words."""
    return from_text("\n".join((spoken(job.error), *errors_of(job.output))), backend, job.execution_s)


def from_text(text: str, backend: str, execution_s: float | None) -> BackendError:
    """The error that a worker's text means."""
    text = text.strip()
    rule = next((rule for rule in _RULES if rule.pattern.search(text)), None)
    if rule is None:
        kind, message = (
            FailureKind.VENDOR_ERROR,
            "the serverless job failed; see the worker's log in the RunPod console",
        )
    else:
        kind = rule.kind
        message = rule.message.format(node=_first(_NODE_NAME, text), model=_first(_MODEL_NAME, text))
    error_type = TransientError if kind in _TRANSIENT else TerminalError
    detail = redact(text, 1000)
    said = redact(" ".join(text.split()), 240)
    return error_type(
        f"{message}: {said!r}" if said else message,
        kind=kind,
        backend=backend,
        detail=detail,
        execution_s=execution_s,
    )


def spoken(error: object) -> str:
    """The human part of `error`: of a JSON-string exception its type and message and the end of its traceback."""
    if error is None:
        return ""
    if isinstance(error, str) and error.lstrip().startswith("{"):
        try:
            error = json.loads(error)
        except ValueError:
            return str(error)
    if isinstance(error, dict) and "error_message" in error:
        kind = re.sub(r"^<class '(.*)'>$", r"\1", str(error.get("error_type") or "error"))
        traceback = str(error.get("error_traceback") or "")
        return f"{kind}: {error['error_message']}\n{traceback[-400:]}"
    return error if isinstance(error, str) else json.dumps(error)


def _first(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    if match is None:
        return "unknown"
    return redact(next((group for group in match.groups() if group), "unknown"), 120)
