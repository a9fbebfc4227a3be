"""A workflow made ready for one job: `WorkflowPlan`, and what shipped and own workflows have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from hybrid_video.errors import InputError
from hybrid_video.models import OutputSpec
from hybrid_video.workflows.binding import Slot
from hybrid_video.workflows.catalog import CustomNodes, ModelFile
from hybrid_video.workflows.graph import Graph, copied, save_nodes


@dataclass(frozen=True)
class WorkflowPlan:
    """A graph with everything set but seed, image name and file prefix.

    Attributes:
        name: Template name, or file name of the user's own workflow.
        output: The clip it will make.
        exact: Whether every figure of `output` is certain; if not, the check of the clip must be lenient.
        signature: Changes when the graph's structure, models or settings change, not with prompt, seed, size or length.
        output_node: Id of the node whose file is the clip.
        warnings: Sentences for the user about what is probably not meant.
    """

    name: str
    source: Literal["template", "file"]
    output: OutputSpec
    exact: bool
    signature: str
    output_node: str
    models: tuple[ModelFile, ...]
    custom_nodes: tuple[CustomNodes, ...] = ()
    min_vram_gb: float | None = None
    warnings: tuple[str, ...] = ()
    graph: Graph = field(repr=False, default_factory=dict)
    seed_slots: tuple[Slot, ...] = field(repr=False, default=())
    image_slots: tuple[Slot, ...] = field(repr=False, default=())

    @property
    def needs_image(self) -> bool:
        """Whether `bind` must be given the name of an uploaded image."""
        return bool(self.image_slots)

    @property
    def node_classes(self) -> frozenset[str]:
        """Classes of all nodes: what the server must have."""
        return frozenset(node["class_type"] for node in self.graph.values())

    @property
    def output_class(self) -> str:
        """Class of the node that writes the clip, e.g. `SaveVideo`."""
        return str(self.graph[self.output_node]["class_type"])

    def bind(self, *, seed: int, filename_prefix: str, image_name: str | None) -> dict[str, Any]:
        """The finished graph in API format, a copy of its own.

        Args:
            seed: Goes to every seed input.
            filename_prefix: Prefix of the clip; further save nodes get it with `-2`, `-3` ... appended.
            image_name: Name of the uploaded input image on the server.

        Raises:
            InputError: an image is needed and none was given.
        """
        if self.needs_image and not image_name:
            raise InputError(f"workflow {self.name!r} needs an input image, and the job has none; set its `image`")
        graph = copied(self.graph)
        for slot in self.seed_slots:
            graph[slot.node]["inputs"][slot.input] = seed
        for slot in self.image_slots:
            graph[slot.node]["inputs"][slot.input] = image_name
        others = [id_ for id_ in save_nodes(graph) if id_ != self.output_node]
        for number, id_ in enumerate((self.output_node, *others), start=1):
            if "filename_prefix" in graph[id_]["inputs"]:
                suffix = "" if number == 1 else f"-{number}"
                graph[id_]["inputs"]["filename_prefix"] = filename_prefix + suffix
        return graph


def signature_of(graph: Graph, variable: Iterable[Slot]) -> str:
    """A stable hash of a graph without its titles, file prefixes and the inputs that vary from job to job."""
    skipped = {(slot.node, slot.input) for slot in variable}
    bare = {
        id_: [
            node["class_type"],
            {
                name: value
                for name, value in node["inputs"].items()
                if name != "filename_prefix" and (id_, name) not in skipped
            },
        ]
        for id_, node in graph.items()
    }
    text = json.dumps(bare, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
