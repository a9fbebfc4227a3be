"""Where a job's fields go in a user's own workflow: by node title, or by a mapping file beside the workflow.

A title consists of one or more of the words PROMPT, NEGATIVE, SEED, IMAGE, WIDTH, HEIGHT, SIZE, FRAMES, FPS and OUTPUT
(any case): a latent node titled `SIZE FRAMES` takes width, height and frames. The mapping file `<name>.map.yaml` says
`field: "node_id.input"` (or a list of them) and wins over titles; its other names are further inputs of the workflow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from hybrid_video.errors import InputError
from hybrid_video.workflows.graph import VIDEO_SAVERS, Graph, is_link, title_of

Value = str | int | float | bool

OUTPUT = "output"

FIELD_INPUTS: dict[str, tuple[str, ...]] = {
    "prompt": ("text", "value", "string", "prompt"),
    "negative_prompt": ("text", "value", "string", "negative_prompt", "prompt"),
    "seed": ("seed", "noise_seed", "value"),
    "image": ("image", "value"),
    "width": ("width", "value"),
    "height": ("height", "value"),
    "frames": ("length", "num_frames", "video_frames", "frames", "batch_size", "amount", "value"),
    "fps": ("fps", "frame_rate", "value"),
}
"""Job fields, and the names their input has on the nodes that usually take them, the likeliest first."""

_TITLE_WORDS: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt",),
    "positive": ("prompt",),
    "negative": ("negative_prompt",),
    "seed": ("seed",),
    "image": ("image",),
    "width": ("width",),
    "height": ("height",),
    "size": ("width", "height"),
    "frames": ("frames",),
    "length": ("frames",),
    "fps": ("fps",),
    "output": (OUTPUT,),
}


@dataclass(frozen=True)
class Slot:
    """One input of one node."""

    node: str
    input: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input}"


@dataclass(frozen=True)
class Bindings:
    """Job fields and further names, and where they go.

    `silent` names fields the mapping file sets to nothing on purpose (`prompt:` left empty).
    """

    fields: Mapping[str, tuple[Slot, ...]]
    extra: Mapping[str, tuple[Slot, ...]]
    output: str | None = None
    silent: frozenset[str] = frozenset()

    def slots(self, field: str) -> tuple[Slot, ...]:
        """Where a job field goes; empty when it is not bound."""
        return self.fields.get(field, ())


def find_bindings(graph: Graph, workflow: Path) -> Bindings:
    """Bindings of a workflow file: its titles, then its mapping file if there is one.

    Raises:
        InputError: a title stands on a node that has no such input, or the mapping file is wrong.
    """
    fields, output = _by_title(graph, workflow.name)
    mapping = workflow.with_suffix(".map.yaml")
    if not mapping.is_file():
        return Bindings(fields, {}, output)
    extra: dict[str, tuple[Slot, ...]] = {}
    silent = set()
    for name, value in _read_mapping(mapping).items():
        if value is None and name in FIELD_INPUTS:
            fields.pop(name, None)
            silent.add(name)
        elif name == OUTPUT:
            output = _node_id(graph, value, mapping.name)
        else:
            slots = tuple(
                resolve_slot(graph, text, f"{name!r} in {mapping.name!r}") for text in _texts(value, name, mapping)
            )
            (fields if name in FIELD_INPUTS else extra)[name] = slots
    return Bindings(fields, extra, output, frozenset(silent))


def _by_title(graph: Graph, source: str) -> tuple[dict[str, tuple[Slot, ...]], str | None]:
    fields: dict[str, tuple[Slot, ...]] = {}
    outputs: list[str] = []
    misplaced: dict[str, str] = {}
    for id_, node in graph.items():
        for field in _fields_in(title_of(node)):
            if field == OUTPUT:
                outputs.append(id_)
            elif name := _input_for(node["inputs"], FIELD_INPUTS[field]):
                fields[field] = (*fields.get(field, ()), Slot(id_, name))
            else:
                misplaced[field] = id_
    for field, id_ in misplaced.items():
        if field not in fields:
            node, mapping = graph[id_], Path(source).with_suffix(".map.yaml").name
            raise InputError(
                f"workflow {source!r}: node {id_!r} ({node['class_type']}) has the title {title_of(node)!r} but "
                f"none of the inputs {', '.join(FIELD_INPUTS[field])}; put the title on the node that takes the value, "
                f"or name the input in {mapping!r}"
            )
    savers = [id_ for id_ in outputs if graph[id_]["class_type"] in VIDEO_SAVERS]
    return fields, next(iter(savers or outputs), None)


def _fields_in(title: str) -> list[str]:
    words = [word for word in re.split(r"[\s,;+&|/_-]+", title.casefold()) if word]
    if words in (["negative", "prompt"], ["positive", "prompt"]):
        words = words[:1]
    if not words or any(word not in _TITLE_WORDS for word in words):
        return []
    return list(dict.fromkeys(field for word in words for field in _TITLE_WORDS[word]))


def _input_for(inputs: Mapping[str, object], names: Iterable[str]) -> str | None:
    """The first name the node has, preferring one with a literal over one that is linked."""
    present = [name for name in names if name in inputs]
    literal = [name for name in present if not is_link(inputs[name])]
    return next(iter(literal or present), None)


def _read_mapping(path: Path) -> dict[str, object]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise InputError(
            f'mapping {path.name!r} is not valid YAML: {error}. Write lines like `prompt: "6.text"`'
        ) from error
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(name, str) for name in data):
        raise InputError(f'mapping {path.name!r} must hold lines like `prompt: "6.text"`, not {data!r:.60}')
    return data


def _texts(value: object, name: str, path: Path) -> list[str]:
    given = value if isinstance(value, list) else [value]
    texts = [text for text in given if isinstance(text, str)]
    if not texts or len(texts) != len(given):
        raise InputError(
            f'{name!r} in mapping {path.name!r} is {value!r}; it must be "node_id.input" in quotes, or a list of them'
        )
    return texts


def _node_id(graph: Graph, value: object, source: str) -> str:
    if str(value) not in graph:
        raise InputError(f"'output' in mapping {source!r} is {value!r}, which is no node; known ids: {_some(graph)}")
    return str(value)


def resolve_slot(graph: Graph, text: str, where: str) -> Slot:
    """The input that `node_id.input` names. Node ids and input names may themselves contain dots.

    Raises:
        InputError: there is no such node or input.
    """
    parts = text.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        node, name = ".".join(parts[:cut]), ".".join(parts[cut:])
        if node in graph:
            if name in graph[node]["inputs"]:
                return Slot(node, name)
            raise InputError(
                f"{where} is {text!r}, but node {node!r} ({graph[node]['class_type']}) has no input {name!r}; "
                f"it has: {_some(graph[node]['inputs'])}"
            )
    raise InputError(f'{where} is {text!r}, which names no node; write "node_id.input" with one of: {_some(graph)}')


def _some(names: Iterable[str], limit: int = 20) -> str:
    listed = list(names)
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def further_input(graph: Graph, bindings: Bindings, name: str) -> tuple[Slot, ...]:
    """Where one of `job.inputs` goes: a mapping name, a node title, or `title.input`.

    Raises:
        InputError: the name is unknown, or the titled node has several inputs it could mean.
    """
    if name in bindings.extra:
        return bindings.extra[name]
    wanted = name.casefold().strip()
    for id_, node in graph.items():
        title = title_of(node).casefold()
        if not title:
            continue
        literals = [key for key, value in node["inputs"].items() if not is_link(value)]
        if wanted == title:
            if "value" in literals or len(literals) == 1:
                return (Slot(id_, "value" if "value" in literals else literals[0]),)
            choices = ", ".join(repr(f"{title_of(node)}.{key}") for key in literals)
            raise InputError(
                f"input {name!r} names a node with {len(literals)} values; "
                f"write one of: {choices or 'none, all are linked'}"
            )
        for key in node["inputs"]:
            if wanted == f"{title}.{key}".casefold():
                return (Slot(id_, key),)
    known = [*bindings.extra, *dict.fromkeys(title_of(node) for node in graph.values() if title_of(node))]
    raise InputError(f"input {name!r} is unknown to this workflow; known are: {_some(known) or 'none'}")


def set_value(graph: Graph, slot: Slot, value: Value, where: str) -> None:
    """Writes a value into one input, as the kind of value it held before.

    Raises:
        InputError: the value is of another kind.
    """
    inputs = graph[slot.node]["inputs"]
    inputs[slot.input] = _like(inputs.get(slot.input), value, f"{where} (input {slot.input!r} of node {slot.node!r})")


def _like(current: object, value: Value, where: str) -> Value:
    if isinstance(current, bool):
        if isinstance(value, bool):
            return value
        raise InputError(f"{where} is {value!r}, but must be true or false")
    if isinstance(current, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where} is {value!r}, but must be a number")
        if isinstance(current, float):
            return float(value)
        if isinstance(value, float) and not value.is_integer():
            # An exported 8.0 arrives as the integer 8, so a fraction may be meant: the server decides.
            return value
        return int(value)
    if isinstance(current, str) and not isinstance(value, str):
        raise InputError(f"{where} is {value!r}, but must be a text; put it in quotes")
    return value
