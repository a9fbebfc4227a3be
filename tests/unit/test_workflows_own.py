"""The user's own workflows: binding by title and mapping file, and what is promised of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hybrid_video import workflows
from hybrid_video.emulators.comfyui.catalog import NodeCatalog
from hybrid_video.emulators.comfyui.validation import validate_prompt
from hybrid_video.errors import InputError
from hybrid_video.models import VideoJob
from hybrid_video.workflows import WorkflowPlan

PLASMA = Path(__file__).parents[2] / "examples/workflows/plasma.json"


def node(class_type: str, title: str = "", /, **inputs: Any) -> dict[str, Any]:
    """A node in API format."""
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": title or class_type}}


def drift() -> dict[str, Any]:
    """Comets over grain without any model: prompt, seed and size in many nodes."""
    sky = {"width": 640, "height": 384, "batch_size": 48}
    return {
        "prompt": node("PrimitiveStringMultiline", "PROMPT", value="a calm night sea"),
        "is_night": node("StringContains", string=["prompt", 0], substring="night", case_sensitive=False),
        "day": node("EmptyImage", "Size, Frames", **sky, color=8900331),
        "night": node("EmptyImage", "SIZE FRAMES", **sky, color=660541),
        "sky": node("ComfySwitchNode", switch=["is_night", 0], on_false=["day", 0], on_true=["night", 0]),
        "grain": node("ImageAddNoise", "SEED", image=["sky", 0], seed=1234, strength=0.12),
        "video": node("CreateVideo", "FPS", images=["grain", 0], fps=24.0),
        "save": node("SaveVideo", "OUTPUT", video=["video", 0], filename_prefix="x", format="mp4", codec="h264"),
    }


def wan(latent: str = "EmptyHunyuanLatentVideo", **titles: str) -> dict[str, Any]:
    """A small Wan workflow as ComfyUI exports it, with titles by node id."""
    graph = {
        "37": node("UNETLoader", unet_name="wan2.1_t2v_1.3B_fp16.safetensors", weight_dtype="default"),
        "38": node("CLIPLoader", clip_name="umt5_xxl_fp8_e4m3fn_scaled.safetensors", type="wan", device="default"),
        "39": node("VAELoader", vae_name="wan_2.1_vae.safetensors"),
        "6": node("CLIPTextEncode", "CLIP Text Encode (Positive Prompt)", clip=["38", 0], text="fox"),
        "7": node("CLIPTextEncode", "CLIP Text Encode (Negative Prompt)", clip=["38", 0], text="blur"),
        "40": node(latent, width=832, height=480, length=33, batch_size=1),
        "3": node(
            "KSampler", model=["37", 0], positive=["6", 0], negative=["7", 0], latent_image=["40", 0],
            seed=5, steps=30, cfg=6, sampler_name="uni_pc", scheduler="simple", denoise=1,
        ),
        "8": node("VAEDecode", samples=["3", 0], vae=["39", 0]),
        "49": node("CreateVideo", images=["8", 0], fps=16),
        "50": node("SaveVideo", video=["49", 0], filename_prefix="video/ComfyUI", format="auto", codec="auto"),
    }  # fmt: skip
    for id_, title in titles.items():
        graph[id_.removeprefix("n")]["_meta"]["title"] = title
    return graph


TITLED = {"n6": "PROMPT", "n7": "negative", "n3": "Seed", "n40": "Width/Height/Frames", "n49": "fps"}


def planned(folder: Path, graph: dict[str, Any], mapping: str | None = None, **fields: Any) -> WorkflowPlan:
    """The plan of a job on a workflow written to a file."""
    path = folder / "mine.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    if mapping is not None:
        (folder / "mine.map.yaml").write_text(mapping, encoding="utf-8")
    job = VideoJob(**{"id": "fox", "prompt": "a fox", "workflow": "mine.json", **fields})
    return workflows.plan(job, workflow_path=path)


def bound(plan: WorkflowPlan, image: str | None = None) -> dict[str, Any]:
    """The finished graph with seed 42."""
    return plan.bind(seed=42, filename_prefix="hv/b/fox-1", image_name=image)


def test_titles_bind_the_fields_of_the_job(tmp_path: Path) -> None:
    """Any case, several words in one title, and the numbers keep the kind they had."""
    plan = planned(tmp_path, wan(**TITLED), negative_prompt="rain", width=640, height=640, fps=8, duration_s=2)

    graph = bound(plan)
    assert graph["6"]["inputs"]["text"] == "a fox"
    assert graph["7"]["inputs"]["text"] == "rain"
    assert graph["3"]["inputs"]["seed"] == 42
    assert graph["49"]["inputs"]["fps"] == 8
    assert graph["50"]["inputs"]["filename_prefix"] == "hv/b/fox-1"
    assert validate_prompt(graph, NodeCatalog()).node_errors == {}
    assert plan.warnings == ()


def test_a_length_is_raised_until_the_latent_holds_it(tmp_path: Path) -> None:
    """16 frames asked of a Wan latent would become 13: the length is set to 17."""
    plan = planned(tmp_path, wan(**TITLED), fps=8, duration_s=2)

    assert plan.output.frames == bound(plan)["40"]["inputs"]["length"] == 17
    assert plan.exact


def test_a_size_is_raised_until_the_latent_holds_it(tmp_path: Path) -> None:
    """720 lines are no multiple of 32, so the 5B latent is asked for 736."""
    plan = planned(tmp_path, wan("Wan22ImageToVideoLatent", **TITLED), width=1280, height=720)

    assert (plan.output.width, plan.output.height) == (1280, 736)


def test_the_same_title_on_two_nodes_sets_both(tmp_path: Path) -> None:
    """Both branches of the switch get the size, so the promise is certain."""
    plan = planned(tmp_path, drift(), width=320, height=192, fps=12, duration_s=2)

    graph = bound(plan)
    assert [graph[id_]["inputs"]["batch_size"] for id_ in ("day", "night")] == [24, 24]
    assert plan.output.model_dump() == {"width": 320, "height": 192, "fps": 12.0, "frames": 24}
    assert plan.exact


def test_what_nothing_binds_stays_as_saved_and_is_promised_so(tmp_path: Path) -> None:
    """The job's default of 5 s at 832x480 is not promised of a workflow that makes something else."""
    plan = planned(tmp_path, wan(n6="PROMPT", n3="SEED"))

    assert plan.output.model_dump() == {"width": 832, "height": 480, "fps": 16.0, "frames": 33}
    assert plan.exact
    assert plan.warnings == (
        "the workflow makes 2.06 s, the job asks for 5 s; give the node that sets the length the title FRAMES",
    )


def test_what_nobody_can_know_is_marked_as_not_exact(tmp_path: Path) -> None:
    """Behind an unknown node the job's own figures stand in, and the check of the clip must be lenient."""
    graph = drift()
    graph["grain"] = node("SomeCustomNode", "SEED", image=["sky", 0], seed=1)

    plan = planned(tmp_path, graph, width=320, height=192)

    assert not plan.exact
    assert (plan.output.width, plan.output.height, plan.output.frames, plan.output.fps) == (320, 192, 80, 16.0)


def test_exact_refuses_what_the_workflow_makes_otherwise(tmp_path: Path) -> None:
    """Bound or not, the sentence names the field and what is made instead."""
    graph = drift()
    for sky in ("day", "night"):
        graph[sky] = node("EmptyImage", width=480, height=480, batch_size=48, color=0)
    with pytest.raises(InputError, match="width should be exactly 832, but nothing binds this, so it makes 480"):
        planned(tmp_path, graph, fit="exact")
    with pytest.raises(InputError, match="frames should be exactly 16, but as bound it makes 17"):
        planned(tmp_path, wan(**TITLED), fit="exact", fps=8, duration_s=2)


def test_a_mapping_file_binds_without_any_title(tmp_path: Path) -> None:
    """One field may go to several inputs; its own names become inputs of the workflow."""
    mapping = 'prompt: "6.text"\nseed: ["3.seed"]\nsize_factor: "3.cfg"\nframes: "40.length"\n'

    plan = planned(tmp_path, wan(), mapping, inputs={"size_factor": 7.5}, duration_s=4)

    graph = bound(plan)
    assert graph["6"]["inputs"]["text"] == "a fox"
    assert graph["3"]["inputs"]["seed"] == 42
    assert graph["3"]["inputs"]["cfg"] == 7.5
    assert graph["40"]["inputs"]["length"] == 65


def test_a_mapping_wins_over_a_title(tmp_path: Path) -> None:
    """The title stays where the user left it, the mapping says what is meant."""
    graph = bound(planned(tmp_path, wan(n7="PROMPT"), 'prompt: "6.text"'))

    assert (graph["6"]["inputs"]["text"], graph["7"]["inputs"]["text"]) == ("a fox", "blur")


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("prompt: [", "not valid YAML"),
        ("- prompt", "must hold lines like"),
        ("prompt: 6", "'prompt' in mapping 'mine.map.yaml' is 6; it must be \"node_id.input\" in quotes"),
        ('prompt: "6"', "names no node; write"),
        ('prompt: "99.text"', "'99.text', which names no node; write \"node_id.input\" with one of: 37, 38"),
        ('prompt: "6.txet"', r"node '6' \(CLIPTextEncode\) has no input 'txet'; it has: clip, text"),
        ('prompt: "6.text"\noutput: "99"', "'output' in mapping 'mine.map.yaml' is '99', which is no node"),
    ],
)
def test_a_wrong_mapping_is_refused_by_its_reason(tmp_path: Path, mapping: str, expected: str) -> None:
    """With the name as written and what exists."""
    with pytest.raises(InputError, match=expected):
        planned(tmp_path, wan(), mapping)


def test_a_prompt_with_no_place_is_refused_with_both_remedies(tmp_path: Path) -> None:
    """Or a hundred different prompts would make a hundred equal clips, paid for each."""
    with pytest.raises(
        InputError, match=r"give the text node that should \('6', '7'\) the title PROMPT, or write"
    ) as caught:
        planned(tmp_path, wan())

    assert 'prompt: "6.text"' in str(caught.value)


def test_a_fixed_prompt_can_be_declared(tmp_path: Path) -> None:
    """`prompt:` left empty in the mapping says that the text is fixed on purpose."""
    assert bound(planned(tmp_path, wan(), "prompt:\n"))["6"]["inputs"]["text"] == "fox"


def test_a_workflow_without_text_runs_with_a_warning(tmp_path: Path) -> None:
    """There is no text node the user could have forgotten to title."""
    graph = {id_: body for id_, body in drift().items() if id_ not in ("prompt", "is_night", "sky", "night")}
    graph["grain"]["inputs"]["image"] = ["day", 0]
    graph["grain"]["_meta"]["title"] = "Grain"

    assert planned(tmp_path, graph).warnings == (
        "the workflow reads no text: the prompt has no effect",
        "the seed is fixed in the workflow; give the node with the seed the title SEED to vary it",
    )


def test_further_inputs_are_found_by_title(tmp_path: Path) -> None:
    """By the title alone where one value is meant, else by title and input."""
    graph = drift() | {"loose": node("PrimitiveFloat", "Wind", value=0.5)}

    made = bound(planned(tmp_path, graph, inputs={"wind": 2, "StringContains.substring": "storm"}))

    assert made["loose"]["inputs"]["value"] == 2.0
    assert made["is_night"]["inputs"]["substring"] == "storm"


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"Sun": 1}, "input 'Sun' is unknown to this workflow; known are: PROMPT, StringContains"),
        ({"StringContains": "x"}, "names a node with 2 values; write one of: 'StringContains.substring'"),
        ({"SEED.strength": "much"}, "'much', but must be a number"),
        ({"StringContains.case_sensitive": 1}, "1, but must be true or false"),
        ({"StringContains.substring": 1}, "1, but must be a text"),
        ({"SEED.seed": 1}, "is where the job's own 'seed' goes; set that field instead"),
    ],
)
def test_a_wrong_further_input_is_refused_by_its_reason(tmp_path: Path, inputs: dict[str, Any], expected: str) -> None:
    """Nothing is silently ignored."""
    with pytest.raises(InputError, match=expected):
        planned(tmp_path, drift(), inputs=inputs)


def test_a_title_on_a_node_that_cannot_take_it_is_refused(tmp_path: Path) -> None:
    """Otherwise the field would silently go nowhere."""
    with pytest.raises(InputError, match=r"node '8' \(VAEDecode\) has the title 'SEED' but none of the inputs seed"):
        planned(tmp_path, wan(n6="PROMPT", n8="SEED"))


def test_an_image_goes_where_it_is_titled_or_into_the_only_loader(tmp_path: Path) -> None:
    """And its placeholder never stays in the graph."""
    graph = drift() | {"first": node("LoadImage", "IMAGE", image="a.png"), "second": node("LoadImage", image="b.png")}

    made = bound(planned(tmp_path, graph, image="fox.png"), "up.png")
    assert (made["first"]["inputs"]["image"], made["second"]["inputs"]["image"]) == ("up.png", "b.png")

    alone = drift() | {"second": node("LoadImage", "Some picture", image="b.png")}
    assert bound(planned(tmp_path, alone, image="fox.png"), "up.png")["second"]["inputs"]["image"] == "up.png"
    assert bound(planned(tmp_path, alone))["second"]["inputs"]["image"] == "b.png"


def test_an_image_and_its_place_must_meet(tmp_path: Path) -> None:
    """An image nobody reads, and a place nobody fills, are both refused."""
    with pytest.raises(InputError, match="has an image, but nothing takes it"):
        planned(tmp_path, drift(), image="fox.png")
    with pytest.raises(InputError, match=r"it needs an image .* but the job has none"):
        planned(tmp_path, drift() | {"first": node("LoadImage", "IMAGE", image="a.png")})


def test_every_save_node_gets_its_own_prefix(tmp_path: Path) -> None:
    """Two identical save nodes would otherwise share one file, and the clip could be mistaken."""
    graph = drift()
    loop = {
        "images": ["grain", 0],
        "filename_prefix": "y",
        "fps": 24.0,
        "lossless": False,
        "quality": 80,
        "method": "default",
    }
    graph = {
        "loop": node("SaveAnimatedWEBP", **loop),
        "still": node("SaveImage", images=["grain", 0], filename_prefix="z"),
        **graph,
    }

    plan = planned(tmp_path, graph)

    made = bound(plan)
    assert plan.output_node == "save"
    assert plan.output_class == "SaveVideo"
    assert made["save"]["inputs"]["filename_prefix"] == "hv/b/fox-1"
    assert [made[id_]["inputs"]["filename_prefix"] for id_ in ("loop", "still")] == ["hv/b/fox-1-2", "hv/b/fox-1-3"]


def test_the_output_title_chooses_among_several_videos(tmp_path: Path) -> None:
    """Without it the MP4 counts before the WEBP; with it the user's choice does."""
    graph = drift()
    graph["save"]["_meta"]["title"] = "Preview"
    loop = {
        "images": ["grain", 0],
        "filename_prefix": "y",
        "fps": 24.0,
        "lossless": False,
        "quality": 80,
        "method": "default",
    }
    graph["loop"] = node("SaveAnimatedWEBP", "OUTPUT", **loop)

    plan = planned(tmp_path, graph)

    assert plan.output_node == "loop"
    assert not plan.exact  # a WEBP frame lasts whole milliseconds


def test_the_models_of_an_own_workflow_are_listed_with_their_source(tmp_path: Path) -> None:
    """The doctor can say where to get them where a template knows it."""
    models = planned(tmp_path, wan(n6="PROMPT")).models

    assert [model.folder for model in models] == ["diffusion_models", "text_encoders", "vae"]
    assert models[0].url.endswith("wan2.1_t2v_1.3B_fp16.safetensors")


def test_the_signature_follows_structure_and_settings_only(tmp_path: Path) -> None:
    """Titles and job fields do not change it, a sampler setting does."""
    first = planned(tmp_path, wan(**TITLED))
    renamed = wan(**TITLED)
    renamed["8"]["_meta"]["title"] = "decode"
    slower = wan(**TITLED)
    slower["3"]["inputs"]["steps"] = 50

    assert planned(tmp_path, renamed, prompt="a cat", width=640, duration_s=1).signature == first.signature
    assert planned(tmp_path, slower).signature != first.signature


def test_the_example_runs_without_weights_and_makes_exactly_what_is_asked(tmp_path: Path) -> None:
    """`examples/workflows/plasma.json` lets a user try a ComfyUI that has no models."""
    job = VideoJob(
        id="fox", prompt="x", workflow="plasma.json", width=320, height=192, fps=10, duration_s=2, fit="exact"
    )

    plan = workflows.plan(job, workflow_path=PLASMA)

    assert plan.output.model_dump() == {"width": 320, "height": 192, "fps": 10.0, "frames": 20}
    assert plan.exact
    assert plan.models == ()
    verdict = validate_prompt(bound(plan), NodeCatalog())
    assert (verdict.error, verdict.node_errors) == (None, {})


def test_nested_switches_do_not_take_exponential_time(tmp_path: Path) -> None:
    """Sixty switches in a row have 2^60 paths."""
    graph = drift()
    for n in range(60):
        before = f"s{n - 1}" if n else "sky"
        graph[f"s{n}"] = node("ComfySwitchNode", switch=["is_night", 0], on_false=[before, 0], on_true=[before, 0])
    graph["grain"]["inputs"]["image"] = ["s59", 0]

    assert planned(tmp_path, graph).exact
