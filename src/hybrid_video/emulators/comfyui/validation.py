"""Checks a prompt as ComfyUI does before it queues it, with the same answers.

Shapes and texts observed on ComfyUI 0.3.64 and 0.8.0. Values are coerced in place, which `/queue` and the history show.
A graph that is not what the code expects raises here as it does there; the server answers that with a 500.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hybrid_video.emulators.comfyui.catalog import InputConfig, NodeCatalog, choices_of, upload_kind

Graph = dict[str, dict[str, Any]]
Reason = dict[str, Any]

_LONG_LIST = 20
_COERCIONS: dict[str, type[int] | type[float] | type[str] | type[bool]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
_ANY_TYPES = ("*", "COMFY_MATCHTYPE_V3", "COMFY_AUTOGROW_V3")


@dataclass(frozen=True)
class Verdict:
    """Outcome: the outputs that will run, or an error; `node_errors` may be filled in both cases."""

    outputs: list[str]
    error: dict[str, Any] | None = None
    node_errors: dict[str, Any] = field(default_factory=dict)


def validate_prompt(prompt: Any, catalog: NodeCatalog, targets: Any = None) -> Verdict:
    """Validates an API-format graph.

    Args:
        targets: `partial_execution_targets`: ids of the output nodes to run; None for all.

    Raises:
        TypeError, AttributeError: the graph has a shape that makes the real server answer 500.
    """
    outputs: list[str] = []
    for node_id in prompt:
        if "class_type" not in prompt[node_id]:
            return _refused("Cannot execute because a node is missing the class_type property.", node_id)
        class_type = prompt[node_id]["class_type"]
        if class_type not in catalog:
            return _refused(f"Cannot execute because node {class_type} does not exist.", node_id)
        if catalog.is_output(class_type) and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict([], _error("prompt_no_outputs", "Prompt has no outputs"))
    return _Validation(prompt, catalog).judge(outputs)


def _refused(message: str, node_id: Any) -> Verdict:
    return Verdict([], _error("invalid_prompt", message, f"Node ID '#{node_id}'"))


def _error(kind: str, message: str, details: str = "", **extra: Any) -> dict[str, Any]:
    return {"type": kind, "message": message, "details": details, "extra_info": extra}


class _Validation:
    """One walk over the graph; `validated` keeps what is known of each node."""

    def __init__(self, prompt: Graph, catalog: NodeCatalog) -> None:
        self.prompt = prompt
        self.catalog = catalog
        self.validated: dict[str, tuple[bool, list[Reason]]] = {}
        self.open: set[str] = set()

    def judge(self, outputs: list[str]) -> Verdict:
        good: list[str] = []
        details: list[str] = []
        node_errors: dict[str, Any] = {}
        for output in outputs:
            try:
                valid, reasons = self.check_node(output)
            except Exception as error:
                reasons = [_exception("exception_during_validation", "Exception when validating node", error)]
                valid = False
                self.validated[output] = (False, reasons)
            if valid:
                good.append(output)
                continue
            details += [f"{reason['message']}: {reason['details']}" for reason in reasons]
            self._collect(output, node_errors)
        if good:
            return Verdict(good, None, node_errors)
        message = "Prompt outputs failed validation"
        return Verdict([], _error("prompt_outputs_failed_validation", message, "\n".join(details)), node_errors)

    def _collect(self, output: str, node_errors: dict[str, Any]) -> None:
        """Adds what is wrong anywhere so far; the server blames every later failed output for it as well."""
        for node_id, (valid, reasons) in self.validated.items():
            if valid or not reasons:
                continue
            entry = node_errors.setdefault(
                node_id,
                {"errors": reasons, "dependent_outputs": [], "class_type": self.prompt[node_id]["class_type"]},
            )
            entry["dependent_outputs"].append(output)

    def check_node(self, node_id: str) -> tuple[bool, list[Reason]]:
        if node_id in self.validated:
            return self.validated[node_id]
        if node_id in self.open:  # a cycle: the real server runs out of stack and reports no reason
            return False, []
        self.open.add(node_id)
        reasons: list[Reason] = []
        valid = True
        class_type = self.prompt[node_id]["class_type"]
        inputs = self.prompt[node_id]["inputs"]
        for category in ("required", "optional"):
            for name, config in self.catalog.inputs(class_type, category).items():
                if name not in inputs and not any(key.startswith(f"{name}.") for key in inputs):
                    if category == "required":
                        reasons.append(
                            _error("required_input_missing", "Required input is missing", name, input_name=name)
                        )
                elif name in inputs and isinstance(inputs[name], list):
                    problem, sound = self.check_link(name, config, inputs[name])
                    reasons += problem
                    valid = valid and sound
                elif name in inputs:
                    reasons += check_value(inputs, name, config, self.catalog)
        self.open.discard(node_id)
        self.validated[node_id] = (valid and not reasons, reasons)
        return self.validated[node_id]

    def check_link(self, name: str, config: InputConfig, link: list[Any]) -> tuple[list[Reason], bool]:
        """The reasons against this input itself, and whether what it links to is sound."""
        kind, _ = config
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            return [_about(name, config, "bad_linked_input", message, name, received_value=link)], True
        source = link[0]
        received = self.catalog.outputs(self.prompt[source]["class_type"])[link[1]]
        if not _types_match(received, kind):
            details = f"{name}, received_type({received}) mismatch input_type({kind})"
            message = "Return type mismatch between linked nodes"
            reason = _about(
                name, config, "return_type_mismatch", message, details, received_type=received, linked_node=link
            )
            return [reason], True
        try:
            return [], self.check_node(source)[0]
        except Exception as error:
            reason = _exception("exception_during_inner_validation", "Exception when validating inner node", error)
            reason["extra_info"] |= {
                "input_name": name,
                "input_config": list(config),
                "exception_message": str(error),
                "linked_node": link,
            }
            self.validated[source] = (False, [reason])
            return [], False


def check_value(inputs: dict[str, Any], name: str, config: InputConfig, catalog: NodeCatalog) -> list[Reason]:
    """Coerces a literal in place and checks it against range and choices."""
    kind, options = config
    value = inputs[name]
    try:
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        if isinstance(kind, str) and kind in _COERCIONS:
            value = inputs[name] = _COERCIONS[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"Failed to convert an input value to a {kind} value"
        details = f"{name}, {value}, {error}"
        reason = _about(name, config, "invalid_input_type", message, details, received_value=value)
        reason["extra_info"]["exception_message"] = str(error)
        return [reason]
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        return [_about(name, config, "value_smaller_than_min", message, name, received_value=value)]
    if "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        return [_about(name, config, "value_bigger_than_max", message, name, received_value=value)]
    upload = upload_kind(options)
    if upload is None:
        return _check_choice(name, config, value)
    if catalog.has_file(str(value)):
        return []
    details = f"{name} - Invalid {upload} file: {value}"
    return [_error("custom_validation_failed", "Custom validation failed for node", details, input_name=name)]


def _check_choice(name: str, config: InputConfig, value: Any) -> list[Reason]:
    kind, options = config
    choices = choices_of(kind, options)
    if choices is None or value in choices:
        return []
    long = len(choices) > _LONG_LIST
    listed = f"(list of length {len(choices)})" if long else str(choices)
    details = f"{name}: '{value}' not in {listed}"
    reason = _about(name, config, "value_not_in_list", "Value not in list", details, received_value=value)
    if long:
        reason["extra_info"]["input_config"] = None
    return [reason]


def _about(name: str, config: InputConfig, kind: str, message: str, details: str, **extra: Any) -> Reason:
    return _error(kind, message, details, input_name=name, input_config=list(config), **extra)


def _exception(kind: str, message: str, error: Exception) -> Reason:
    trace = [f'  File "execution.py", line 788, in validate_inputs\n    {type(error).__name__}\n']
    return _error(kind, message, str(error), exception_type=type(error).__name__, traceback=trace)


def _types_match(received: Any, wanted: Any) -> bool:
    if received == wanted or received in _ANY_TYPES or wanted in _ANY_TYPES:
        return True
    if isinstance(received, list) or isinstance(wanted, list):
        # Links into a list of choices are accepted where the other side is a list or a COMBO as well.
        return isinstance(received, list) == isinstance(wanted, list) or "COMBO" in (received, wanted)
    return bool(set(received.replace(" ", "").split(",")) & set(wanted.replace(" ", "").split(",")))
