"""The shipped templates: what they promise, what they bind, and that a recorded ComfyUI accepts them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_video import workflows
from hybrid_video.emulators.comfyui.catalog import NodeCatalog
from hybrid_video.emulators.comfyui.validation import validate_prompt
from hybrid_video.errors import InputError
from hybrid_video.models import VideoJob
from hybrid_video.workflows.graph import links_of, video_nodes
from hybrid_video.workflows.reading import read_output

NAMES = workflows.template_names()
SHORT_S = {"svd-xt": 1.5}


def job(name: str = "auto", **fields: Any) -> VideoJob:
    """A job the named template can make, of its first kind."""
    defaults: dict[str, Any] = {"id": "fox", "prompt": "a fox in snow", "workflow": name, "seed": 7}
    if name in NAMES:
        defaults["duration_s"] = SHORT_S.get(name, 5.0)
        if "text-to-video" not in workflows.template_info(name).kinds:
            defaults["image"] = "fox.png"
    return VideoJob(**{**defaults, **fields})


def variants() -> list[tuple[str, dict[str, Any]]]:
    """Every template with every kind and every switch position."""
    found: list[tuple[str, dict[str, Any]]] = []
    for info in workflows.describe():
        for kind in info.kinds:
            image = {"image": "fox.png" if kind == "image-to-video" else None}
            found.append((info.name, image))
            found += [(info.name, {**image, "inputs": {switch: False}}) for switch in info.switches]
    return found


@pytest.mark.parametrize(("name", "fields"), variants())
def test_every_template_passes_the_validation_of_a_recorded_comfyui(name: str, fields: dict[str, Any]) -> None:
    """Nodes, inputs, ranges, model files and link types all exist there."""
    graph = workflows.plan(job(name, **fields)).bind(seed=2**63 - 1, filename_prefix="hv/b/fox", image_name="x.png")
    for node in graph.values():
        if node["class_type"] == "LoadImage":  # the upload itself is not part of the recording
            node["class_type"], node["inputs"] = "EmptyImage", {"width": 64, "height": 64, "batch_size": 1, "color": 0}

    verdict = validate_prompt(graph, NodeCatalog())

    assert verdict.error is None, verdict
    assert verdict.node_errors == {}


@pytest.mark.parametrize("name", NAMES)
def test_a_manifest_lists_exactly_the_models_its_graph_loads(name: str) -> None:
    """So that the doctor and the installer fetch what is needed and nothing else."""
    listed = {(model.folder, model.file) for model in workflows.template_info(name).models}

    assert {(model.folder, model.file) for model in workflows.plan(job(name)).models} == listed
    assert all(model.url.endswith(model.file) for model in workflows.template_info(name).models)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    width=st.integers(32, 480).map(lambda n: 2 * n),
    height=st.integers(32, 480).map(lambda n: 2 * n),
    fps=st.integers(4, 30),
    frames=st.integers(1, 50),
)
def test_the_promise_is_what_the_graph_will_make(name: str, width: int, height: int, fps: int, frames: int) -> None:
    """Nearest never makes a clip smaller or shorter, and what is promised is what the nodes compute."""
    wish = job(name, width=width, height=height, fps=fps, duration_s=frames / fps)

    plan = workflows.plan(wish)

    measured = read_output(plan.bind(seed=1, filename_prefix="p", image_name="x.png"), plan.output_node)
    assert (measured.width, measured.height) == (plan.output.width, plan.output.height)
    assert (measured.frames, measured.fps) == (plan.output.frames, plan.output.fps)
    assert plan.exact
    assert plan.output.width >= width
    assert plan.output.height >= height
    assert plan.output.duration_s >= wish.duration_s - 1e-6
    assert plan.output.fps == fps


@pytest.mark.parametrize("name", NAMES)
def test_prompt_seed_image_and_prefix_arrive_in_the_graph(name: str) -> None:
    """Each bound field is found where the manifest says, and nowhere is a link left dangling."""
    info, wish = workflows.template_info(name), job(name, negative_prompt="blur")

    graph = workflows.plan(wish).bind(seed=42, filename_prefix="hv/b/fox-1", image_name="up.png")

    expected = {"prompt": wish.prompt, "negative_prompt": "blur", "seed": 42, "fps": float(wish.fps)}
    if wish.image:
        expected["image"] = "up.png"
    for field, value in expected.items():
        for slot in info.bind.get(field, ()):
            node, _, name_of_input = slot.partition(".")
            assert graph[node]["inputs"][name_of_input] == value
    (save,) = video_nodes(graph)
    assert graph[save]["inputs"]["filename_prefix"] == "hv/b/fox-1"
    assert all(source in graph for node in graph.values() for _, source, _ in links_of(node))


@pytest.mark.parametrize("image", [None, "fox.png"])
def test_auto_means_the_one_model_that_makes_both_kinds(image: str | None) -> None:
    """With an image it is loaded; without one no LoadImage node is left."""
    plan = workflows.plan(job(image=image))

    assert plan.name == "wan2.2-ti2v-5b"
    assert plan.needs_image is (image is not None)
    assert ("LoadImage" in plan.node_classes) is (image is not None)


def test_five_seconds_at_sixteen_frames_become_81_frames_on_wan() -> None:
    """Wan holds 4n+1 frames; 80 are rounded up, never down."""
    assert workflows.plan(job("wan2.1-t2v-1.3b")).output.frames == 81


def test_without_the_switch_the_loras_are_neither_loaded_nor_needed() -> None:
    """`lightning: false` runs the full schedule on the bare experts."""
    plan = workflows.plan(job("wan2.2-t2v-14b", inputs={"lightning": False}))

    assert "LoraLoaderModelOnly" not in plan.node_classes
    assert not [model for model in plan.models if model.folder == "loras"]
    graph = plan.bind(seed=1, filename_prefix="p", image_name=None)
    assert graph["high_sampler"]["inputs"]["steps"] == 20
    assert graph["high_sampler"]["inputs"]["end_at_step"] == graph["low_sampler"]["inputs"]["start_at_step"] == 10


def test_an_empty_negative_prompt_keeps_the_one_of_the_template() -> None:
    """Wan was trained with a long default negative prompt; leaving it out costs quality."""
    graph = workflows.plan(job("wan2.1-t2v-1.3b")).bind(seed=1, filename_prefix="p", image_name=None)

    assert "静态" in graph["negative"]["inputs"]["text"]


def test_the_signature_ignores_what_varies_between_jobs() -> None:
    """Timings and breakers are kept by signature: prompt, size and length do not change it, steps do."""
    first = workflows.plan(job("wan2.1-t2v-1.3b"))
    other = workflows.plan(
        job("wan2.1-t2v-1.3b", prompt="a cat", width=640, height=640, duration_s=2, fps=8, negative_prompt="x")
    )
    slower = workflows.plan(job("wan2.1-t2v-1.3b", inputs={"steps": 50}))

    assert first.signature == other.signature
    assert first.signature != slower.signature


def test_binding_twice_gives_two_independent_graphs() -> None:
    """A graph changed by its receiver does not spoil the next one."""
    plan = workflows.plan(job())
    plan.bind(seed=1, filename_prefix="p", image_name=None)["sampler"]["inputs"].clear()

    assert plan.bind(seed=2, filename_prefix="p", image_name=None)["sampler"]["inputs"]["seed"] == 2
    assert workflows.plan(job()).bind(seed=3, filename_prefix="p", image_name=None)["sampler"]["inputs"]["seed"] == 3


@pytest.mark.parametrize(
    ("name", "fields", "expected"),
    [
        ("svd-xt", {"image": None}, "'svd-xt' makes image-to-video, but the job has no image; set image or choose"),
        ("wan2.1-t2v-1.3b", {"image": "a.png"}, "the job has an image; remove the image or choose one of .*ti2v-5b"),
        (
            "svd-xt",
            {"duration_s": 30},
            r"30 s at 4 fps are 120 frames, but 'svd-xt' makes at most 50 \(12\.5 s at 4 fps\)",
        ),
        ("svd-xt", {"duration_s": 5, "fit": "exact", "height": 512}, "80 frames, but 'svd-xt' makes at most 50"),
        ("wan2.1-t2v-1.3b", {"width": 4096, "height": 4096}, "4096x4096 is too large for 'wan2.1-t2v-1.3b'"),
        (
            "auto",
            {"fit": "exact"},
            r"5\.0 at 16 fps is 80 frames.*ask for 4\.8125 s \(77 frames\) or 5\.0625 s \(81 frames\)",
        ),
        (
            "auto",
            {"fit": "exact", "width": 840},
            "width is 840, but 'wan2.2-ti2v-5b' makes multiples of 32; ask for 832 or 864",
        ),
        (
            "auto",
            {"inputs": {"stpes": 4}},
            "input 'stpes' is unknown to 'wan2.2-ti2v-5b'; known are: steps, cfg, shift",
        ),
        ("auto", {"inputs": {"steps": "many"}}, "'many', but must be a number"),
        ("wan2.2-t2v-14b", {"inputs": {"lightning": "no"}}, "'no', but must be true or false"),
        ("svdxt", {}, "workflow 'svdxt' is unknown; use auto, .* or one of wan2.2-ti2v-5b"),
        ("my/flow.json", {}, "'my/flow.json' was not found; give the path of an API-format workflow"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_remedy(name: str, fields: dict[str, Any], expected: str) -> None:
    """The sentence names the job, the value and what to do."""
    with pytest.raises(InputError, match=expected) as caught:
        workflows.plan(job(name, **fields))

    assert "job 'fox'" in str(caught.value)


def test_exactly_possible_is_not_refused() -> None:
    """81 frames at 16 fps and a size of multiples of 32 are what the model makes."""
    plan = workflows.plan(job(fit="exact", duration_s=5.0625))

    assert (plan.output.frames, plan.output.width, plan.output.height) == (81, 832, 480)


def test_a_clip_of_too_many_frames_gets_a_lower_rate_instead_of_a_refusal() -> None:
    """Nearest may change the rate, never the length: 5 s on a model of 50 frames run at 10 fps."""
    plan = workflows.plan(job("svd-xt", duration_s=5))

    assert (plan.output.frames, plan.output.fps) == (50, 10.0)
    assert plan.warnings[0] == "5 s at 16 fps are more frames than 'svd-xt' makes; the clip runs at 10 fps instead"
    assert plan.bind(seed=1, filename_prefix="p", image_name="x.png")["video"]["inputs"]["fps"] == 10.0


def test_an_image_workflow_without_an_uploaded_image_is_refused() -> None:
    """A graph with the placeholder image would animate the wrong picture."""
    plan = workflows.plan(job("svd-xt"))

    with pytest.raises(InputError, match="needs an input image"):
        plan.bind(seed=1, filename_prefix="p", image_name=None)


def test_the_user_is_warned_of_what_is_probably_not_meant() -> None:
    """A prompt that is not read, a clip beyond the training length, and slow motion."""
    svd = workflows.plan(job("svd-xt", negative_prompt="x", duration_s=3, fps=4))
    long = workflows.plan(job("wan2.1-t2v-1.3b", duration_s=8))

    assert ["does not read the prompt" in svd.warnings[0], "negative prompt" in svd.warnings[1]] == [True, True]
    assert "slow motion" in svd.warnings[2]
    assert "129 frames are more than the 81" in long.warnings[0]
