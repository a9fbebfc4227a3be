"""Plans from the shipped templates."""

from __future__ import annotations

from functools import lru_cache

from hybrid_video.errors import InputError
from hybrid_video.models import OutputSpec, VideoJob
from hybrid_video.workflows.binding import Slot, Value, resolve_slot, set_value
from hybrid_video.workflows.catalog import JOB_FIELDS, TemplateInfo, describe, models_of, template_graph, template_info
from hybrid_video.workflows.graph import Graph, ancestors, copied, is_link, video_nodes
from hybrid_video.workflows.plans import WorkflowPlan, signature_of
from hybrid_video.workflows.sizing import fit_job

_SLOW_MOTION = 0.6


class _Same:
    """A job by identity: it holds a dictionary, so it has no hash of its own."""

    __slots__ = ("job",)

    def __init__(self, job: VideoJob) -> None:
        self.job = job

    def __hash__(self) -> int:
        return id(self.job)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.job is self.job


def plan_template(job: VideoJob, name: str) -> WorkflowPlan:
    """Plans a job on a shipped template. Every backend asks for it twice, so the last plans are kept.

    Args:
        job: The job.
        name: One of `template_names()`.

    Raises:
        InputError: the template cannot make this kind, size or length, or does not know one of `job.inputs`.
    """
    return _planned(_Same(job), name)


@lru_cache(maxsize=64)
def _planned(same: _Same, name: str) -> WorkflowPlan:
    job = same.job
    info = template_info(name)
    _check_kind(job, info)
    output = fit_job(job, name, info.frames, info.size)
    graph = copied(template_graph(name))
    if info.without_image and not job.image:
        _remove(graph, info.without_image.remove)
    bound = {
        field: tuple(resolve_slot(graph, text, field) for text in texts)
        for field, texts in info.bind.items()
        if all(text.split(".")[0] in graph for text in texts)
    }
    _set_inputs(job, info, graph, bound)
    values: dict[str, Value] = {
        "prompt": job.prompt,
        "width": output.width,
        "height": output.height,
        "frames": output.frames,
        "fps": output.fps,
    }
    if job.negative_prompt:
        values["negative_prompt"] = job.negative_prompt
    for field, value in values.items():
        for slot in bound.get(field, ()):
            set_value(graph, slot, value, f"job {job.id!r}: {field}")
    (save,) = video_nodes(graph)
    needed = ancestors(graph, [save])
    graph = {id_: node for id_, node in graph.items() if id_ in needed}
    variable = [slot for field in JOB_FIELDS for slot in bound.get(field, ()) if slot.node in graph]
    return WorkflowPlan(
        name=name,
        source="template",
        output=output,
        exact=True,
        signature=signature_of(graph, variable),
        output_node=save,
        models=models_of(graph),
        custom_nodes=info.custom_nodes,
        min_vram_gb=info.min_vram_gb,
        warnings=tuple(_warnings(job, info, output)),
        graph=graph,
        seed_slots=bound["seed"],
        image_slots=bound.get("image", ()),
    )


def _check_kind(job: VideoJob, info: TemplateInfo) -> None:
    if job.kind in info.kinds:
        return
    others = [other.name for other in describe() if job.kind in other.kinds]
    has = "has an image" if job.image else "has no image"
    raise InputError(
        f"job {job.id!r}: workflow {info.name!r} makes {' and '.join(info.kinds)}, but the job {has}; "
        f"{'remove the image' if job.image else 'set image'} or choose one of {', '.join(others)}"
    )


def _remove(graph: Graph, nodes: tuple[str, ...]) -> None:
    for id_ in nodes:
        del graph[id_]
    for node in graph.values():
        node["inputs"] = {
            name: value for name, value in node["inputs"].items() if not (is_link(value) and value[0] in nodes)
        }


def _set_inputs(job: VideoJob, info: TemplateInfo, graph: Graph, bound: dict[str, tuple[Slot, ...]]) -> None:
    for name in job.inputs:
        if name not in info.further_inputs:
            known = ", ".join(info.further_inputs) or "none"
            raise InputError(f"job {job.id!r}: input {name!r} is unknown to {info.name!r}; known are: {known}")
    for name, switch in info.switches.items():
        wanted = job.inputs.get(name, switch.default)
        if not isinstance(wanted, bool):
            raise InputError(f"job {job.id!r}: input {name!r} is {wanted!r}, but must be true or false")
        if not wanted:
            for text, value in switch.off.items():
                slot = resolve_slot(graph, text, name)
                graph[slot.node]["inputs"][slot.input] = value
    for name, value in job.inputs.items():
        for slot in bound.get(name, ()):
            set_value(graph, slot, value, f"job {job.id!r}: input {name!r}")


def _warnings(job: VideoJob, info: TemplateInfo, output: OutputSpec) -> list[str]:
    found = []
    if output.fps != job.fps:
        found.append(
            f"{job.duration_s:g} s at {job.fps} fps are more frames than {info.name!r} makes; "
            f"the clip runs at {output.fps:g} fps instead"
        )
    if "prompt" not in info.bind:
        found.append(f"{info.name!r} does not read the prompt; it only animates the image")
    if job.negative_prompt and "negative_prompt" not in info.bind:
        found.append(f"{info.name!r} does not read a negative prompt")
    if output.frames > info.frames.trained:
        found.append(
            f"{output.frames} frames are more than the {info.frames.trained} {info.name!r} was trained on; "
            "the clip may drift or repeat"
        )
    if output.fps < info.size.native_fps * _SLOW_MOTION:
        found.append(
            f"{info.name!r} moves at {info.size.native_fps} fps; at {output.fps:g} fps it looks like slow motion"
        )
    return found
