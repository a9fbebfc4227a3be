"""Plans from the user's own API-format workflow.

What the workflow will make is read from the graph after the job's values are set, so that the promise is the graph's
own: sizes and lengths that nothing binds stay what the user saved, and figures nobody can know are marked as such.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid_video.errors import InputError
from hybrid_video.models import OutputSpec, VideoJob
from hybrid_video.workflows.binding import Bindings, Slot, Value, find_bindings, further_input, set_value
from hybrid_video.workflows.catalog import models_of
from hybrid_video.workflows.graph import Graph, ancestors, copied, is_link, load_graph, save_nodes, video_nodes
from hybrid_video.workflows.plans import WorkflowPlan, signature_of
from hybrid_video.workflows.reading import Measured, read_output
from hybrid_video.workflows.sizing import frames_for

_SEARCH = 64
"""How far above the wish a value is tried before the wish itself is used: the coarsest known step is 64."""

_TEXT_NODES = ("CLIPTextEncode", "PrimitiveString", "PrimitiveStringMultiline")


@dataclass
class _Draft:
    """A graph while its values are being set."""

    job: VideoJob
    name: str
    graph: Graph
    bindings: Bindings
    output_node: str
    warnings: list[str] = field(default_factory=list)

    def set(self, name: str, value: Value) -> None:
        for slot in self.bindings.slots(name):
            set_value(self.graph, slot, value, f"job {self.job.id!r}: {name}")

    def refuse(self, sentence: str) -> InputError:
        return InputError(f"job {self.job.id!r}, workflow {self.name!r}: {sentence}")


def plan_file(job: VideoJob, path: Path) -> WorkflowPlan:
    """Plans a job on the user's own workflow file.

    Args:
        job: The job.
        path: The workflow file, already checked to be one the user may name.

    Raises:
        InputError: the file is no usable workflow, or has no place for something the job asks for.
    """
    loaded = load_graph(path)
    bindings = find_bindings(loaded, path)
    output_node = bindings.output or video_nodes(loaded)[0]
    draft = _Draft(job, path.name, copied(loaded), bindings, output_node)
    images = _image_slots(draft)
    _check_prompt(draft)
    _set_inputs(draft)
    draft.set("prompt", job.prompt)
    if job.negative_prompt:
        draft.set("negative_prompt", job.negative_prompt)
        if not bindings.slots("negative_prompt"):
            draft.warnings.append("nothing in the workflow takes the negative prompt; title a text node NEGATIVE")
    measured = _fit(draft)
    _check_seed(draft)
    variable = [slot for slots in bindings.fields.values() for slot in slots]
    needed = ancestors(draft.graph, [output_node, *save_nodes(draft.graph)])
    return WorkflowPlan(
        name=path.name,
        source="file",
        output=_promise(draft, measured),
        exact=measured.exact,
        signature=signature_of(draft.graph, [*variable, *images]),
        output_node=output_node,
        models=models_of({id_: node for id_, node in draft.graph.items() if id_ in needed}),
        warnings=tuple(draft.warnings),
        graph=draft.graph,
        seed_slots=bindings.slots("seed"),
        image_slots=images if job.image else (),
    )


def _image_slots(draft: _Draft) -> tuple[Slot, ...]:
    """Where the image goes: as bound, or into the only LoadImage node there is."""
    slots = draft.bindings.slots("image")
    loaders = [id_ for id_, node in draft.graph.items() if node["class_type"] == "LoadImage"]
    if not slots and len(loaders) == 1:
        slots = (Slot(loaders[0], "image"),)
    if draft.job.image and not slots:
        raise draft.refuse(
            "the job has an image, but nothing takes it; give a LoadImage node the title IMAGE, or remove the image"
        )
    if not draft.job.image and draft.bindings.slots("image"):
        raise draft.refuse(
            "it needs an image (a node has the title IMAGE or is mapped), but the job has none; set image"
        )
    return slots


def _check_prompt(draft: _Draft) -> None:
    if draft.bindings.slots("prompt") or "prompt" in draft.bindings.silent:
        return
    texts = [id_ for id_, node in draft.graph.items() if node["class_type"] in _TEXT_NODES and _literal(node)]
    if texts:
        mapping = Path(draft.name).with_suffix(".map.yaml").name
        raise draft.refuse(
            f"nothing takes the prompt; give the text node that should ({', '.join(map(repr, texts[:8]))}) the title "
            f'PROMPT, or write `prompt: "{texts[0]}.{_literal(draft.graph[texts[0]])}"` into {mapping!r} '
            "(`prompt:` left empty if its text is fixed on purpose)"
        )
    draft.warnings.append("the workflow reads no text: the prompt has no effect")


def _literal(node: dict[str, Any]) -> str:
    """Name of the input that holds a text node's text; empty when it is linked."""
    return next((name for name in ("text", "value") if isinstance(node["inputs"].get(name), str)), "")


def _set_inputs(draft: _Draft) -> None:
    for name, value in draft.job.inputs.items():
        try:
            slots = further_input(draft.graph, draft.bindings, name)
        except InputError as error:
            raise draft.refuse(str(error)) from error
        for slot in slots:
            field = next((field for field, taken in draft.bindings.fields.items() if slot in taken), None)
            if field:
                raise draft.refuse(f"input {name!r} is where the job's own {field!r} goes; set that field instead")
            set_value(draft.graph, slot, value, f"job {draft.job.id!r}: input {name!r}")


def _check_seed(draft: _Draft) -> None:
    if draft.bindings.slots("seed"):
        return
    fixed = any(
        name in node["inputs"] and not is_link(node["inputs"][name])
        for node in draft.graph.values()
        for name in ("seed", "noise_seed")
    )
    if fixed:
        draft.warnings.append(
            "the seed is fixed in the workflow; give the node with the seed the title SEED to vary it"
        )


def _fit(draft: _Draft) -> Measured:
    """Sets rate, size and length, and returns what the graph will make of them."""
    job = draft.job
    draft.set("fps", job.fps)
    for name, wanted in (("width", job.width), ("height", job.height)):
        _reach(draft, name, wanted)
    fps = read_output(draft.graph, draft.output_node).fps
    wanted = job.frames if fps is None or job.fit == "exact" else max(frames_for(job.duration_s, fps), 1)
    _reach(draft, "frames", wanted)
    measured = read_output(draft.graph, draft.output_node)
    wishes = {"width": job.width, "height": job.height, "frames": job.frames, "fps": job.fps}
    for name, wish in wishes.items():
        made = getattr(measured, name)
        if made is None or made == wish:
            continue
        if job.fit == "exact":
            bound = "as bound it" if draft.bindings.slots(name) else "nothing binds this, so it"
            raise draft.refuse(
                f"{name} should be exactly {wish!r}, but {bound} makes {made:g}; ask for {made:g} or use fit: nearest"
            )
    _warn_shorter(draft, measured)
    return measured


def _reach(draft: _Draft, name: str, wanted: int) -> None:
    """Sets the smallest value from `wanted` upwards with which the graph makes at least `wanted`."""
    if not draft.bindings.slots(name):
        return
    for value in range(wanted, wanted + _SEARCH):
        draft.set(name, value)
        made = getattr(read_output(draft.graph, draft.output_node), name)
        if made is None or made >= wanted:
            return
    draft.set(name, wanted)


def _warn_shorter(draft: _Draft, measured: Measured) -> None:
    if measured.frames and measured.fps and measured.frames / measured.fps < draft.job.duration_s - 0.5 / measured.fps:
        draft.warnings.append(
            f"the workflow makes {measured.frames / measured.fps:.3g} s, the job asks for {draft.job.duration_s:g} s; "
            "give the node that sets the length the title FRAMES"
        )


def _promise(draft: _Draft, measured: Measured) -> OutputSpec:
    """The measured figures, and the job's where the graph does not tell."""
    job = draft.job
    fps = measured.fps or float(job.fps)
    frames = measured.frames or max(1, round(job.duration_s * fps))
    width, height = measured.width or job.width, measured.height or job.height
    if not (16 <= width <= 8192 and 16 <= height <= 8192 and 0 < fps <= 240):
        raise draft.refuse(
            f"it makes {width}x{height} at {fps:g} fps; sizes must lie between 16 and 8192, rates between 0 and 240: "
            "change them in ComfyUI and export again"
        )
    return OutputSpec(width=width, height=height, fps=fps, frames=frames)
