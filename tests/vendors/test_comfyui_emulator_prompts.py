"""Submitting prompts to the ComfyUI emulator: one wire fact of ComfyUI 0.8.0 per test."""

from __future__ import annotations

from typing import Any

import pytest

from tests.vendors.comfyui_rig import comfyui, graph, sampled

SERVER_ERROR = "500 Internal Server Error\n\nServer got itself in trouble"


async def test_an_accepted_prompt_is_answered_with_id_number_and_no_errors() -> None:
    """The number is a counter from 0."""
    async with comfyui() as rig:
        first = (await rig.post(graph(), prompt_id="mine")).json()
        second = (await rig.post(graph())).json()
    assert first == {"prompt_id": "mine", "number": 0, "node_errors": {}}
    assert second["number"] == 1
    assert len(second["prompt_id"]) == 36


@pytest.mark.parametrize(("sent", "kept"), [(17, "17"), (None, "None"), ("", ""), ("a/b ü", "a/b ü")])
async def test_any_prompt_id_is_turned_into_text(sent: Any, kept: str) -> None:
    """No format check."""
    async with comfyui() as rig:
        assert (await rig.post(graph(), prompt_id=sent)).json()["prompt_id"] == kept


async def test_a_rejected_prompt_advances_the_counter() -> None:
    """So numbers have gaps."""
    async with comfyui() as rig:
        assert (await rig.post({})).status_code == 400
        assert (await rig.post(graph())).json()["number"] == 1


@pytest.mark.parametrize(("number", "answer"), [("7", 7.0), (-3, -3.0)])
async def test_a_number_is_taken_as_a_float(number: Any, answer: float) -> None:
    """Text is fine, and so is a negative one."""
    async with comfyui() as rig:
        assert (await rig.post(graph(), number=number)).json()["number"] == answer


async def test_front_is_the_negative_counter() -> None:
    """With counter 0 it has no effect."""
    async with comfyui() as rig:
        assert (await rig.post(graph(), front=True)).json()["number"] == 0
        assert (await rig.post(graph(), front=True)).json()["number"] == -1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"5",
        b'{"prompt": null}',
        b'{"prompt": "abc"}',
        b'{"prompt": {"last_node_id": 3, "nodes": [], "links": []}}',
        b'{"prompt": {}, "number": null}',
    ],
)
async def test_a_malformed_request_is_a_500_in_plain_text(body: bytes) -> None:
    """There is no JSON for malformed requests, and the connection is closed."""
    async with comfyui() as rig:
        response = await rig.http.post("/prompt", content=body)
    assert (response.status_code, response.text) == (500, SERVER_ERROR)
    assert response.headers["content-type"].startswith("text/plain")
    assert response.headers["connection"] == "close"


@pytest.mark.parametrize("body", [b"[]", b"{}", b'"x"', b'{"3": {"class_type": "EmptyImage"}}'])
async def test_a_body_without_prompt_is_refused_as_no_prompt(body: bytes) -> None:
    """Also a list, and a graph posted without its envelope."""
    async with comfyui() as rig:
        response = await rig.http.post("/prompt", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "no_prompt"


async def test_the_content_type_of_a_request_is_ignored() -> None:
    """JSON as text/plain is accepted."""
    async with comfyui() as rig:
        sent = {"content-type": "text/plain"}
        response = await rig.http.post("/prompt", content=b'{"prompt": {}}', headers=sent)
    assert response.json()["error"]["type"] == "prompt_no_outputs"


@pytest.mark.parametrize(
    ("prompt", "message", "node"),
    [
        ({"a": {"class_type": "Nope", "inputs": {}}}, "Cannot execute because node Nope does not exist.", "#a"),
        ({"a": {"inputs": {}}}, "Cannot execute because a node is missing the class_type property.", "#a"),
        (
            {"id": "x", "nodes": [], "links": []},
            "Cannot execute because a node is missing the class_type property.",
            "#id",
        ),
        ({"prompt": {}}, "Cannot execute because a node is missing the class_type property.", "#prompt"),
    ],
)
async def test_an_impossible_node_is_named_and_rejects_everything(prompt: Any, message: str, node: str) -> None:
    """UI-format files and double wrapping end here too; `node_errors` is empty."""
    async with comfyui() as rig:
        body = (await rig.post(prompt | graph() if "a" in prompt else prompt)).json()
    assert body["error"] == {
        "type": "invalid_prompt",
        "message": message,
        "details": f"Node ID '{node}'",
        "extra_info": {},
    }
    assert body["node_errors"] == {}


@pytest.mark.parametrize("targets", [[], ["nope"]])
async def test_no_output_to_run_is_refused(targets: list[str]) -> None:
    """`partial_execution_targets` that match nothing leave no output."""
    async with comfyui() as rig:
        body = (await rig.post(graph(), partial_execution_targets=targets)).json()
    assert body["error"]["type"] == "prompt_no_outputs"


@pytest.mark.parametrize(
    ("node", "name", "value", "kind", "details"),
    [
        ("img", "width", 0, "value_smaller_than_min", "width"),
        ("img", "color", 2**30, "value_bigger_than_max", "color"),
        ("img", "width", "x", "invalid_input_type", "width, x, invalid literal for int() with base 10: 'x'"),
        ("save", "video", [1, 2, 3], "bad_linked_input", "video"),
        ("save", "video", ["img", 0], "return_type_mismatch", "video, received_type(IMAGE) mismatch input_type(VIDEO)"),
        ("save", "video", ["nope", 0], "exception_during_validation", "'nope'"),
        ("save", "video", ["video", 7], "exception_during_validation", "list index out of range"),
        ("video", "images", [2, 0], "exception_during_inner_validation", "2"),
    ],
)
async def test_each_mistake_has_its_type_and_details(node: str, name: str, value: Any, kind: str, details: str) -> None:
    """The reasons are in `node_errors`, under the node that has the mistake."""
    prompt = graph()
    prompt[node]["inputs"][name] = value
    async with comfyui() as rig:
        response = await rig.post(prompt)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "prompt_outputs_failed_validation"
    entry = response.json()["node_errors"][node]
    assert entry["dependent_outputs"] == ["save"]
    assert (entry["errors"][0]["type"], entry["errors"][0]["details"]) == (kind, details)


async def test_a_missing_input_is_named() -> None:
    """`required_input_missing`."""
    prompt = graph()
    del prompt["img"]["inputs"]["height"]
    async with comfyui() as rig:
        errors = (await rig.post(prompt)).json()["node_errors"]["img"]["errors"]
    assert [(error["type"], error["details"]) for error in errors] == [("required_input_missing", "height")]


async def test_a_cycle_is_refused_without_a_reason() -> None:
    """Empty details and empty `node_errors`."""
    blur = {"blur_radius": 1, "sigma": 1.0}
    prompt = graph() | {
        "a": {"class_type": "ImageBlur", "inputs": {"image": ["b", 0], **blur}},
        "b": {"class_type": "ImageBlur", "inputs": {"image": ["a", 0], **blur}},
    }
    prompt["video"]["inputs"]["images"] = ["a", 0]
    async with comfyui() as rig:
        body = (await rig.post(prompt)).json()
    assert (body["error"]["type"], body["error"]["details"]) == ("prompt_outputs_failed_validation", "")
    assert body["node_errors"] == {}


async def test_a_missing_model_file_is_not_in_the_list() -> None:
    """It disappears from `/object_info` and `/models` as well."""
    name = "wan_2.1_vae.safetensors"
    async with comfyui(missing_models=frozenset({name})) as rig:
        errors = (await rig.post(sampled())).json()["node_errors"]["vae"]["errors"]
        info = (await rig.http.get("/object_info/VAELoader")).json()["VAELoader"]
        files = (await rig.http.get("/models/vae")).json()
    assert errors[0]["type"] == "value_not_in_list"
    assert errors[0]["details"].startswith(f"vae_name: '{name}' not in ['")
    assert name not in info["input"]["required"]["vae_name"][0]
    assert name not in files


async def test_a_missing_node_class_does_not_exist() -> None:
    """As without its custom node; `/object_info/{node}` is `{}` with 200."""
    async with comfyui(missing_nodes=frozenset({"SaveVideo"})) as rig:
        body = (await rig.post(graph())).json()
        info = await rig.http.get("/object_info/SaveVideo")
    assert body["error"]["message"] == "Cannot execute because node SaveVideo does not exist."
    assert (info.status_code, info.json()) == (200, {})


async def test_a_missing_input_image_fails_its_custom_validation() -> None:
    """LoadImage checks the file itself."""
    prompt = graph() | {"load": {"class_type": "LoadImage", "inputs": {"image": "nope.png"}}}
    prompt["video"]["inputs"]["images"] = ["load", 0]
    async with comfyui() as rig:
        error = (await rig.post(prompt)).json()["node_errors"]["load"]["errors"][0]
    assert (error["type"], error["details"]) == ("custom_validation_failed", "image - Invalid image file: nope.png")


async def test_one_good_and_one_bad_output_is_a_200_with_node_errors() -> None:
    """Only the good output runs; the bad one is dropped silently."""
    bad = {"video": ["img", 0], "filename_prefix": "t/bad", "format": "mp4", "codec": "h264"}
    async with comfyui() as rig:
        response = await rig.post(graph() | {"bad": {"class_type": "SaveVideo", "inputs": bad}}, prompt_id="half")
        entry = await rig.entry("half")
    assert response.status_code == 200
    assert set(response.json()["node_errors"]) == {"bad"}
    assert entry["prompt"][4] == ["save"]
    assert set(entry["outputs"]) == {"save"}


async def test_values_are_coerced_and_shown_coerced() -> None:
    """`"64"` and 64.7 become 64 for INT; unknown inputs are kept."""
    prompt = graph()
    prompt["img"]["inputs"] |= {"width": "64", "height": 48.7, "zzz": 1}
    async with comfyui() as rig:
        inputs = (await rig.run(prompt))["prompt"][2]["img"]["inputs"]
    assert (inputs["width"], inputs["height"], inputs["zzz"]) == (64, 48, 1)


async def test_keys_of_the_vendors_paid_nodes_never_show() -> None:
    """`api_key_comfy_org` is stripped; `create_time` is the server's."""
    extra = {"api_key_comfy_org": "k", "auth_token_comfy_org": "t", "create_time": 1, "mine": 2}
    async with comfyui() as rig:
        kept = (await rig.run(graph(), extra_data=extra, client_id="c"))["prompt"][3]
    assert set(kept) == {"create_time", "mine", "client_id"}
    assert kept["create_time"] > 1_000_000_000_000


async def test_every_accepted_prompt_is_one_charge_row_at_no_cost() -> None:
    """Labelled by the job in `extra_data`, else by the file name prefix."""
    async with comfyui() as rig:
        await rig.run(graph(), prompt_id="a", extra_data={"hybrid_video": {"job": "batch/shot-1"}})
        await rig.run(graph("hv/batch/shot-2-0123abcd"), prompt_id="b")
        await rig.post({})
        rows = (await rig.http.get("/_emulator/charges")).json()
    assert rows == [
        {"id": "a", "job": "batch/shot-1", "usd": "0", "state": "done"},
        {"id": "b", "job": "batch/shot-2", "usd": "0", "state": "done"},
    ]
