"""How the ComfyUI backend reads what a server answers: pure functions over recorded shapes."""

from __future__ import annotations

from typing import Any

import pytest

from hybrid_video.backends.comfyui.backend import lane_id
from hybrid_video.backends.comfyui.outputs import output_files, videos
from hybrid_video.backends.comfyui.preflight import Sources, problems
from hybrid_video.backends.comfyui.progress import PromptProgress
from hybrid_video.backends.comfyui.records import HistoryEntry, MalformedError, QueueState, normalise_gpu
from hybrid_video.backends.comfyui.rejections import rejection
from hybrid_video.backends.comfyui.transport import without_credentials
from hybrid_video.backends.comfyui.verdicts import judge
from hybrid_video.errors import FailureKind, TerminalError
from hybrid_video.workflows import ModelFile

LOADER = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "wan.safetensors"}}


def entry(outputs: dict[str, Any] | None = None, *messages: list[Any], **changes: Any) -> HistoryEntry:
    """A history entry as ComfyUI 0.8.0 writes it."""
    body = {
        "prompt": [0, "p", {"3": {"class_type": "SaveVideo", "inputs": {"filename_prefix": "x"}}}, {}, ["3"]],
        "outputs": outputs or {},
        "status": {"status_str": "success", "completed": True, "messages": list(messages)},
    }
    return HistoryEntry.parse("p", {**body, **changes})


def judged(history: HistoryEntry, output_node: str = "") -> Any:
    """Its verdict."""
    return judge(
        history,
        backend="comfyui",
        url="http://gpu:8188",
        view_url=lambda parameters: f"http://gpu:8188/view?filename={parameters['filename']}",
        gpu="",
        output_node=output_node,
    )


def saved(name: str, **more: Any) -> dict[str, Any]:
    """One output file."""
    return {"filename": name, "subfolder": "hv/b", "type": "output", **more}


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "NVIDIA GeForce RTX 4090"),
        ("cuda:1 AMD Radeon RX 7900 XTX : native", "AMD Radeon RX 7900 XTX"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("cpu", "cpu"),
        ("mps", "mps"),
        ("", ""),
    ],
)
def test_gpu_name_is_stripped_of_index_and_allocator(device: str, name: str) -> None:
    """/system_stats wraps the name in the device index and the allocator."""
    assert normalise_gpu(device) == name


def test_pending_prompts_are_put_into_execution_order() -> None:
    """queue_pending is a heap: order comes from `number`, then the id."""
    state = QueueState.parse({"queue_running": [], "queue_pending": [[2, "c"], [-1, "a"], [2, "b"]]})
    assert state.pending == ("a", "b", "c")


@pytest.mark.parametrize("body", [[], {}, {"queue_running": [1], "queue_pending": []}, "<html>"])
def test_an_answer_no_comfyui_gives_is_malformed(body: Any) -> None:
    """Whatever else listens on that port must not pass for an empty queue."""
    with pytest.raises(MalformedError):
        QueueState.parse(body)


def test_videos_are_found_under_any_key_and_ranked() -> None:
    """Core savers use `images`, VHS uses `gifs`; previews and pictures are no clips."""
    found = videos(
        entry(
            {
                "1": {"images": [saved("preview.mp4", type="temp"), saved("still.png")]},
                "2": {"images": [saved("loop.webp")], "animated": [True]},
                "4": {"gifs": [saved("a-audio.mp4", format="video/h264-mp4", fullpath="/srv/a-audio.mp4")]},
                "5": {"images": [saved("b.webm")], "animated": [True]},
            }
        )
    )
    assert [file.filename for file in found] == ["a-audio.mp4", "b.webm", "loop.webp"]


def test_a_still_webp_is_no_video() -> None:
    """SaveAnimatedWEBP of one frame leaves `animated` out."""
    assert videos(entry({"2": {"images": [saved("still.webp")]}})) == ()


def test_the_workflows_own_output_node_wins_over_the_container() -> None:
    """What the plan calls the clip is the clip, even when another node saved an mp4."""
    history = entry({"1": {"images": [saved("draft.mp4")]}, "2": {"images": [saved("final.webm")]}})
    assert [file.filename for file in videos(history, output_node="2")] == ["final.webm", "draft.mp4"]


def test_the_same_file_listed_twice_counts_once() -> None:
    """Two identical save nodes share one file."""
    assert len(output_files(entry({"1": {"images": [saved("a.mp4"), saved("a.mp4")]}}))) == 1


def test_success_carries_files_and_the_servers_own_times() -> None:
    """queue and execution seconds come from create_time and the messages' timestamps."""
    history = entry(
        {"3": {"images": [saved("a.mp4")], "animated": [True]}},
        ["execution_start", {"prompt_id": "p", "timestamp": 12_000}],
        ["execution_success", {"prompt_id": "p", "timestamp": 15_500}],
        prompt=[0, "p", {}, {"create_time": 10_000}, ["3"]],
    )
    status = judged(history)
    assert (status.queue_s, status.execution_s) == (2.0, 3.5)
    assert status.files[0].media_type == "video/mp4"
    assert status.files[0].details == {"filename": "a.mp4", "subfolder": "hv/b", "type": "output"}


def test_out_of_memory_is_told_apart_from_other_exceptions() -> None:
    """torch.OutOfMemoryError means: a larger GPU, never the same."""
    error = {
        "node_id": "3",
        "node_type": "KSampler",
        "exception_type": "torch.OutOfMemoryError",
        "exception_message": "Allocation on device 0 would exceed allowed memory.",
        "timestamp": 9_000,
    }
    history = entry(
        {},
        ["execution_start", {"timestamp": 2_000}],
        status={
            "status_str": "error",
            "completed": False,
            "messages": [["execution_start", {"timestamp": 2_000}], ["execution_error", error]],
        },
    )
    with pytest.raises(TerminalError, match="ran out of memory") as caught:
        judged(history)
    assert caught.value.kind is FailureKind.OUT_OF_MEMORY
    assert caught.value.execution_s == 7.0


def test_a_failed_node_is_named_and_its_inputs_stay_secret() -> None:
    """current_inputs prints prompts, tensors and paths: they must not reach a message."""
    error = {
        "node_id": "8",
        "node_type": "VAEDecode",
        "exception_type": "ValueError",
        "exception_message": "boom\n",
        "current_inputs": {"text": ["a very private prompt"]},
        "traceback": ["/home/someone/ComfyUI/nodes.py"],
    }
    status = {"status_str": "error", "completed": False, "messages": [["execution_error", error]]}
    with pytest.raises(TerminalError) as caught:
        judged(entry(status=status))
    assert caught.value.kind is FailureKind.EXECUTION_FAILED
    assert "node 8 (VAEDecode) failed with ValueError 'boom'" in caught.value.message
    assert "private" not in repr(caught.value.__dict__)
    assert "someone" not in repr(caught.value.__dict__)


def test_an_interrupted_prompt_is_cancelled_although_files_exist() -> None:
    """Outputs of nodes that finished before the interrupt are no success."""
    messages = [["execution_interrupted", {"prompt_id": "p", "node_id": "3"}]]
    history = entry(
        {"3": {"images": [saved("half.mp4")]}},
        status={"status_str": "error", "completed": False, "messages": messages},
    )
    with pytest.raises(TerminalError) as caught:
        judged(history)
    assert caught.value.kind is FailureKind.CANCELLED


def test_a_prompt_whose_saver_was_dropped_is_no_success() -> None:
    """A 200 with node_errors runs without the bad outputs; history then lists fewer outputs than the graph has."""
    graph = {
        "3": {"class_type": "SaveVideo", "inputs": {"filename_prefix": "x"}},
        "4": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}},
    }
    history = entry({"4": {"images": [saved("x.png")]}}, prompt=[0, "p", graph, {}, ["4"]])
    with pytest.raises(TerminalError, match=r"node 3 \(SaveVideo\) failed validation") as caught:
        judged(history)
    assert caught.value.kind is FailureKind.INVALID_WORKFLOW


@pytest.mark.parametrize(
    "spec",
    [
        [["sd15.safetensors"], {"tooltip": "V1"}],
        ["COMBO", {"options": ["sd15.safetensors"]}],
    ],
    ids=["V1", "V3"],
)
def test_missing_model_is_found_in_both_list_styles(spec: list[Any]) -> None:
    """The sentence names node, input, value, folder and source."""
    info = {"CheckpointLoaderSimple": {"input": {"required": {"ckpt_name": spec}}}}
    sources = Sources([ModelFile(folder="checkpoints", file="wan.safetensors", url="https://example.org/wan")])
    (problem,) = problems({"4": LOADER}, info, sources=sources)
    assert problem.kind is FailureKind.MISSING_MODEL
    assert problem.sentence == (
        "node 4 (CheckpointLoaderSimple) needs the model file 'wan.safetensors' as 'ckpt_name': download it to "
        "models/checkpoints there, from https://example.org/wan"
    )


def test_missing_node_is_named_once_however_often_it_occurs() -> None:
    """Ten uses of one custom node are one thing to install."""
    graph = {str(number): {"class_type": "VHS_VideoCombine", "inputs": {}} for number in range(10)}
    (problem,) = problems(graph, {})
    assert problem.kind is FailureKind.MISSING_NODE
    assert "'VHS_VideoCombine'" in problem.sentence


@pytest.mark.parametrize("value", ["a.png", "hv-new.png", "sub/other.png", "other.png [output]", ["4", 0]], ids=str)
def test_input_files_that_will_be_there_are_no_problem(value: Any) -> None:
    """Listed, about to be uploaded, in a subfolder, annotated, or linked."""
    info = {"LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}}}
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": value}}}
    assert problems(graph, info, uploaded=frozenset({"hv-new.png"})) == ()


def test_lists_that_only_the_server_knows_are_left_to_it() -> None:
    """Remote and multi-select lists cannot be judged from /object_info."""
    info = {
        "X": {
            "input": {
                "required": {"a": [[], {"multiselect": True}], "b": ["COMBO", {"remote": {"route": "/x"}}]},
                "optional": {"c": ["INT", {}], "d": "odd", "e": []},
            }
        }
    }
    assert problems({"1": {"class_type": "X", "inputs": {"a": "q", "b": "q", "c": 1, "d": 2, "e": 3}}}, info) == ()


def test_rejected_model_names_the_file_and_the_folder() -> None:
    """`value_not_in_list` of a model file is MISSING_MODEL, whatever the outer error says."""
    body = (
        '{"error": {"type": "prompt_outputs_failed_validation", "message": "m", "details": "", "extra_info": {}},'
        '"node_errors": {"4": {"class_type": "UNETLoader", "dependent_outputs": ["9"], "errors": [{"type":'
        '"value_not_in_list", "message": "Value not in list", "details": "unet_name: \'wan2.2.safetensors\' not in []",'
        '"extra_info": {"input_name": "unet_name", "received_value": "wan2.2.safetensors"}}]}}}'
    )
    error = rejection(body, backend="comfyui", url="http://gpu:8188")
    assert error.kind is FailureKind.MISSING_MODEL
    assert "'wan2.2.safetensors' as 'unet_name'; put it into models/diffusion_models" in error.message


def test_rejected_node_class_is_named() -> None:
    """`invalid_prompt … does not exist` is the only sign of a missing custom node."""
    body = (
        '{"error": {"type": "invalid_prompt", "message": "Cannot execute because node VHS_VideoCombine '
        'does not exist.",'
        '"details": "Node ID \'#2\'", "extra_info": {}}, "node_errors": {}}'
    )
    error = rejection(body, backend="comfyui", url="http://gpu:8188")
    assert (error.kind, "'VHS_VideoCombine'" in error.message) == (FailureKind.MISSING_NODE, True)


@pytest.mark.parametrize("body", ["", "<html>", "[]", "{}", '{"error": "text"}', '{"error": {"type": "cycle"}}'])
def test_any_other_rejection_is_an_invalid_workflow(body: str) -> None:
    """A cycle comes with empty details, a proxy with HTML: both still end in one error."""
    assert rejection(body, backend="comfyui", url="http://gpu").kind is FailureKind.INVALID_WORKFLOW


def test_progress_weighs_the_sampler_and_never_falls() -> None:
    """Loading three models is not three quarters of the work."""
    graph = {
        "1": {"class_type": "UNETLoader"},
        "2": {"class_type": "VAELoader"},
        "3": {"class_type": "KSampler"},
        "4": {"class_type": "SaveVideo"},
    }
    progress = PromptProgress(graph)
    seen = []
    for kind, data in [
        ("execution_cached", {"nodes": ["1"]}),
        ("executing", {"node": "2"}),
        ("executing", {"node": "3"}),
        ("progress", {"node": "3", "value": 10, "max": 20}),
        ("progress_state", {"nodes": {"3": {"value": 5, "max": 20, "state": "running"}}}),
        ("progress", {"node": "3", "value": 20, "max": 20}),
        ("executed", {"node": "4"}),
        ("executing", {"node": None}),
    ]:
        progress.feed(kind, data)
        seen.append(progress.share)
    assert seen == sorted(seen)
    assert seen[2] < 0.1 < seen[3] < 0.6 < seen[5] < 1.0
    assert (seen[-1], progress.ended) == (1.0, True)


@pytest.mark.parametrize(
    ("url", "shown", "lane"),
    [
        ("http://me:secret@gpu:8188/", "http://gpu:8188", "comfyui/gpu:8188"),
        ("https://proxy/_proxy/a-8188", "https://proxy/_proxy/a-8188", "comfyui/proxy/_proxy/a-8188"),
        ("http://[::1]:8188", "http://[::1]:8188", "comfyui/[::1]:8188"),
    ],
)
def test_addresses_are_shown_and_stored_without_credentials(url: str, shown: str, lane: str) -> None:
    """Lane ids and messages are written down; passwords are not."""
    assert (without_credentials(url), lane_id(url)) == (shown, lane)
