"""Turns validation errors into sentences: the value, what is wrong with it, and what to write instead."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

from pydantic_core import ErrorDetails

from hybrid_video.batchfile.documents import Location, kind_of, shown
from hybrid_video.models import BackendChoice, Batch, Model, Preferences, ScoreWeights, VideoJob

Level = Literal["batch", "defaults", "job", "preferences", "weights"]

_MODELS: dict[Level, type[Model]] = {
    "batch": Batch,
    "defaults": VideoJob,
    "job": VideoJob,
    "preferences": Preferences,
    "weights": ScoreWeights,
}
_OWNERS: dict[Level, str] = {
    "batch": "a batch",
    "defaults": "`defaults`",
    "job": "a job",
    "preferences": "`preferences`",
    "weights": "`weights`",
}
_PLACES: dict[Level, str] = {
    "batch": "it belongs to the batch, beside `jobs`",
    "job": "it belongs to a job, or under `defaults` for all of them",
    "preferences": "it belongs under `preferences`",
    "weights": "it belongs under `preferences`, in `weights`",
}
_MEANT = {
    "duration": "duration_s",
    "length": "duration_s",
    "length_s": "duration_s",
    "seconds": "duration_s",
    "frames": "duration_s (frames divided by fps)",
    "num_frames": "duration_s (frames divided by fps)",
    "size": "width and height",
    "resolution": "width and height",
    "aspect_ratio": "width and height",
    "text": "prompt",
    "description": "prompt",
    "negative": "negative_prompt",
    "image_url": "image",
    "image_path": "image",
    "first_frame": "image",
    "shots": "jobs",
    "budget": "budget_usd",
    "deadline": "deadline_s",
    "max_cost": "max_cost_usd",
}
_NOUNS = {
    "duration_s": "a length in seconds",
    "deadline_s": "a time in seconds",
    "width": "an even number of pixels",
    "height": "an even number of pixels",
    "fps": "a whole number of frames per second",
    "seed": "a whole number",
    "priority": "a whole number",
    "max_cost_usd": "an amount in US dollars",
    "budget_usd": "an amount in US dollars",
    "cost": "a weight",
    "speed": "a weight",
    "queue": "a weight",
}
_SMALLEST = {"duration_s": "0.1", "deadline_s": "1"}
_REMEDIES = {
    "id": "use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    "name": "use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit",
    "prompt": "describe the shot in 1 to 8000 characters",
    "negative_prompt": "say what to avoid in at most 8000 characters",
    "image": "give a path inside the batch file's folder or an https URL",
    "workflow": "give `auto`, the name of a template or the path of a workflow ending in .json",
    "fit": "give nearest or exact",
    "backend": "give " + ", ".join(get_args(BackendChoice)[:-1]) + f" or {get_args(BackendChoice)[-1]}",
    "preferences": "give fields such as `max_cost_usd: 0.50`",
    "weights": "give priority, cost, speed and queue, each from 0 to 1000",
    "inputs": "give at most 64 names with text, a number, true or false",
    "jobs": "give a list with one entry per shot, each with a `prompt`",
    "defaults": "give job fields such as `fps: 24`",
}


def unknown_field(name: str, level: Level) -> str:
    """A sentence about a field that is not there, with the one that was probably meant."""
    text = f"{shown(name)} is not a field of {_OWNERS[level]}"
    known = known_fields(level)
    meant = _MEANT.get(name.lower())
    if meant and meant.split()[0] in known:
        return f"{text}; use {meant}"
    folded = {field.casefold(): field for field in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.7)
    if close:
        return f"{text}; did you mean {folded[close[0]]!r}?"
    for other in ("job", "preferences", "batch", "weights"):
        if (name in known_fields(other) or (meant or "").split(" ")[0] in known_fields(other)) and other != level:
            return f"{text}; {_PLACES[other]}" + (f" as {meant}" if meant else "")
    loose = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    if loose:
        return f"{text}; did you mean {folded[loose[0]]!r}? It has {', '.join(known)}"
    return f"{text}; remove it. It has {', '.join(known)}"


def known_fields(level: Level) -> list[str]:
    """Names a user may write on a level."""
    names = list(_MODELS[level].model_fields)
    if level == "batch":
        names.append("defaults")
    if level == "defaults":
        names.remove("id")
    return names


def explain(error: ErrorDetails, level: Level) -> tuple[Location, str]:
    """Where, seen from the object that was validated, and a sentence about one validation error."""
    where: Location = tuple(error["loc"])
    model = _MODELS[level]
    inner = level
    if where and where[0] == "preferences" and len(where) > 1:
        inner, model = "preferences", Preferences
        if where[1] == "weights" and len(where) > 2:
            inner, model = "weights", ScoreWeights
    if where and where[0] == "inputs" and len(where) > 1:
        return where[:2], f"{shown(error['input'])} is {kind_of(error['input'])}; give text, a number, true or false"
    name = str(where[-1]) if where else ""
    if error["type"] == "extra_forbidden":
        return where, unknown_field(name, inner)
    if error["type"] == "missing":
        return where, f"is missing; {remedy(name, model)}"
    quotes = error["type"] == "string_type" and isinstance(error["input"], int | float)
    return where, f"{shown(error['input'])} {_fault(error)}; {'put it in quotes' if quotes else remedy(name, model)}"


def _fault(error: ErrorDetails) -> str:
    phrase = _FAULTS.get(error["type"])
    if phrase is None:
        return _wrong_type(error["type"], error["input"])
    return phrase(error["input"], error.get("ctx", {})) if error["type"] != "value_error" else _own_words(error)


def _own_words(error: ErrorDetails) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


def _not_a_choice(value: Any, limits: Mapping[str, Any]) -> str:
    choices = re.findall(r"'([^']*)'", str(limits["expected"]))
    close = difflib.get_close_matches(str(value).casefold(), choices, n=1)
    return f"is not one of {', '.join(choices)}" + (f" (did you mean {close[0]}?)" if close else "")


_FAULTS: dict[str, Callable[[Any, Mapping[str, Any]], str]] = {
    "greater_than": lambda _, limits: f"is not above {_number(limits['gt'])}",
    "greater_than_equal": lambda _, limits: f"is below {_number(limits['ge'])}",
    "less_than": lambda _, limits: f"is not below {_number(limits['lt'])}",
    "less_than_equal": lambda _, limits: f"is above {_number(limits['le'])}",
    "multiple_of": lambda _, limits: (
        "is odd" if limits["multiple_of"] == 2 else f"is not a multiple of {limits['multiple_of']}"
    ),
    "string_too_short": lambda _, __: "is empty",
    "string_too_long": lambda value, limits: f"has {len(value)} characters, more than {limits['max_length']}",
    "string_pattern_mismatch": lambda _, __: "cannot be a file name",
    "string_type": lambda value, _: f"is {kind_of(value)}, not text",
    "string_unicode": lambda _, __: "holds half a character (a lone surrogate)",
    "literal_error": _not_a_choice,
    "finite_number": lambda _, __: "is not a finite number",
    "too_long": lambda _, limits: f"has {limits['actual_length']} entries, more than {limits['max_length']}",
    "value_error": lambda _, __: "",
}
_FAMILIES = {
    "int": "is not a whole number",
    "float": "is not a number",
    "decimal": "is not a number",
    "bool": "is not true or false",
    "model": "is {kind} where a group of fields is needed",
    "dict": "is {kind} where a group of fields is needed",
}


def _wrong_type(kind: str, value: Any) -> str:
    family = kind.partition("_")[0]
    if family in {"int", "float", "decimal"}:
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d+\s*", value):
            return "is not a number (decimals are written with a point)"
        if not isinstance(value, str | int | float):
            return f"is {kind_of(value)}, not a number"
        if kind == "int_parsing_size":
            return "is a number of too many digits"
    return _FAMILIES.get(family, "cannot be used here").format(kind=kind_of(value))


def remedy(name: str, model: type[Model]) -> str:
    """What to write into a field, with its limits as the model has them."""
    info = model.model_fields.get(name)
    limits: Mapping[str, Any] = {}
    if info is not None:
        limits = {key: value for mark in info.metadata for key, value in _limits(mark).items()}
    if not limits or (name in _REMEDIES and name not in _NOUNS):
        fallback = (
            "give true or false" if info is not None and "bool" in str(info.annotation) else "correct or remove it"
        )
        return _REMEDIES.get(name, fallback)
    noun = "a weight" if model is ScoreWeights else _NOUNS.get(name, "a number")
    low = _SMALLEST.get(name, "0") if "gt" in limits else _number(limits.get("ge", 0))
    return f"give {noun} between {low} and {_number(limits['le'])}"


def _limits(mark: Any) -> dict[str, Any]:
    return {key: getattr(mark, key) for key in ("gt", "ge", "le") if hasattr(mark, key)}


def _number(value: Any) -> str:
    return f"{value:,}".replace(",", "") if isinstance(value, int) else f"{value:g}"
