"""What the worker's and the SDK's error texts are taken for."""

from __future__ import annotations

import json

import pytest

from hybrid_video.backends.runpod.jobs import RemoteJob
from hybrid_video.backends.runpod.worker_failures import failed, spoken
from hybrid_video.errors import FailureKind, TerminalError, TransientError

EXECUTION = "Workflow execution error: Node Type: KSampler, Node ID: 3, Message: "

VALIDATION_MODEL = (
    "Workflow validation failed:\n• Node 4 (errors): [{'type': 'value_not_in_list', 'message': 'Value not in list', "
    "'details': \"ckpt_name: 'wan2.2.safetensors' not in []\", 'extra_info': {'input_name': 'ckpt_name'}}]\n"
    "• Node 4 (class_type): CheckpointLoaderSimple"
)
VALIDATION_VALUE = (
    "Workflow validation failed:\n• Node 3 (errors): [{'type': 'value_not_in_list', "
    "'details': \"sampler_name: 'eulr' not in ['euler', 'heun']\"}]"
)
NODE = (
    "Cannot execute because node VHS_VideoCombine does not exist.. Raw response: "
    '{"error": {"type": "invalid_prompt", "details": "Node ID \'#9\'"}, "node_errors": {}}'
)


@pytest.mark.parametrize(
    ("error", "details", "kind"),
    [
        ("Job processing failed", [EXECUTION + "Allocation on device \nThis error means"], FailureKind.OUT_OF_MEMORY),
        ("Job processing failed", [EXECUTION + "CUDA out of memory. Tried to allocate"], FailureKind.OUT_OF_MEMORY),
        ("Job processing failed", [EXECUTION + "mat1 and mat2 shapes"], FailureKind.EXECUTION_FAILED),
        (NODE, None, FailureKind.MISSING_NODE),
        (VALIDATION_MODEL, None, FailureKind.MISSING_MODEL),
        (VALIDATION_VALUE, None, FailureKind.INVALID_WORKFLOW),
        ("Prompt has no outputs. Raw response: {}", None, FailureKind.INVALID_WORKFLOW),
        ("Missing 'workflow' parameter", None, FailureKind.INVALID_REQUEST),
        ("Failed to upload one or more input images", ["Timeout uploading a"], FailureKind.INVALID_REQUEST),
        ("Job processing failed", ["Error uploading a.mp4 to S3: denied"], FailureKind.DOWNLOAD_FAILED),
        ("Job processing failed", ["No outputs found in history for prompt 1."], FailureKind.BAD_CLIP),
        ("ComfyUI server (127.0.0.1:8188) not reachable after multiple retries.", None, FailureKind.RESTARTED),
        ("WebSocket communication error: closed", None, FailureKind.RESTARTED),
        ("Prompt ID 1 not found in history after execution.", None, FailureKind.RESTARTED),
        ("job exceeded its execution timeout of 600000 ms", None, FailureKind.TIMED_OUT),
        ("", None, FailureKind.VENDOR_ERROR),
        ("the moon was full", None, FailureKind.VENDOR_ERROR),
    ],
)
def test_each_worker_text_has_its_kind(error: str, details: list[str] | None, kind: FailureKind) -> None:
    """The error string and the details in the output decide together; the seconds it ran are kept."""
    job = RemoteJob(
        id="1", state="FAILED", error=error, output={"details": details} if details else None, execution_ms=2500
    )
    result = failed(job, "runpod-serverless")
    assert result.kind is kind
    assert result.execution_s == 2.5


def test_names_reach_the_message() -> None:
    """The user reads which node or model is missing."""
    node = failed(RemoteJob(id="1", state="FAILED", error=NODE), "runpod-serverless")
    model = failed(RemoteJob(id="1", state="FAILED", error=VALIDATION_MODEL), "runpod-serverless")
    assert "'VHS_VideoCombine'" in node.message
    assert "'wan2.2.safetensors'" in model.message


def test_deterministic_failures_are_terminal_and_the_others_transient() -> None:
    """A missing model stays missing; a ComfyUI that died may live again."""
    assert isinstance(failed(RemoteJob(id="1", state="FAILED", error=VALIDATION_MODEL), "b"), TerminalError)
    gone = RemoteJob(id="1", state="FAILED", error="WebSocket communication error: x")
    assert isinstance(failed(gone, "b"), TransientError)


def test_an_exception_of_the_sdk_is_read_from_its_json() -> None:
    """runpod 1.12 sends an uncaught exception as a JSON string; type and message are what counts."""
    error = json.dumps(
        {
            "error_type": "<class 'torch.cuda.OutOfMemoryError'>",
            "error_message": "tried to allocate 20 GiB",
            "error_traceback": "Traceback …",
            "hostname": "w-1",
            "worker_id": "w1",
            "runpod_version": "1.12.0",
        }
    )
    assert spoken(error).startswith("torch.cuda.OutOfMemoryError: tried to allocate 20 GiB")
    assert failed(RemoteJob(id="1", state="FAILED", error=error), "b").kind is FailureKind.OUT_OF_MEMORY


@pytest.mark.parametrize("error", [None, "{broken", '{"other": 1}', {"a": 1}, ["x"], 7])
def test_no_shape_of_error_breaks_the_reading(error: object) -> None:
    """Bodies are not documented, so any JSON value may stand there."""
    assert failed(RemoteJob(id="1", state="FAILED", error=error), "b").kind is FailureKind.VENDOR_ERROR


def test_vendor_words_are_redacted() -> None:
    """A key that a worker prints does not travel on."""
    text = "boom Authorization: Bearer rpa_supersecretvalue and https://x/y?X-Amz-Signature=abcdef123456"
    result = failed(RemoteJob(id="1", state="FAILED", error=text), "b")
    assert "supersecret" not in result.message + result.detail
    assert "abcdef123456" not in result.message + result.detail
