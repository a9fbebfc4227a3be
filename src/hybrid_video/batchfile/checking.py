"""From parsed data to a `Batch`: defaults merged, ids and name filled in, every field checked.

All problems are collected; the first one found never hides the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, TypeVar

from pydantic import ValidationError

from hybrid_video.batchfile.documents import Document, Location, Problems, kind_of, shown
from hybrid_video.batchfile.wording import Level, explain, remedy
from hybrid_video.models import MAX_JOBS, Batch, Model, VideoJob

_PLACEHOLDER = VideoJob(id="placeholder", prompt="placeholder")
_M = TypeVar("_M", bound=Model)


def check(document: Document, problems: Problems, *, default_name: str | None) -> Batch:
    """Builds the batch.

    Args:
        default_name: used where the data gives no name; None makes the name required.

    Raises:
        InputError: with every problem found, those the reader already collected included.
    """
    if not isinstance(document.data, Mapping):
        problems.add(_not_a_batch(document.data))
        problems.raise_if_any()
    batch = _Checker(document, problems).batch(_without_nulls(document.data), default_name)
    problems.raise_if_any()
    if batch is None:
        raise AssertionError("a batch that is not there must have left a problem")
    return batch


def _not_a_batch(data: object) -> str:
    if data is None:
        return "is empty; write at least `jobs:` with one entry that has a `prompt`"
    if isinstance(data, list | tuple):
        return "is a list; put it under `jobs:`"
    return f"holds {shown(data)}, {kind_of(data)}, where a batch is needed; write `jobs:` with a list of shots"


class _Checker:
    """Checks one document and adds what is wrong to `problems`."""

    def __init__(self, document: Document, problems: Problems) -> None:
        self._document = document
        self._problems = problems
        self._ids: dict[str, tuple[int, bool]] = {}

    def batch(self, header: dict[str, Any], default_name: str | None) -> Batch | None:
        header.pop("$schema", None)  # for editors
        given = header.pop("jobs", None)
        defaults = self._defaults(header.pop("defaults", {}))
        if default_name is not None:
            header.setdefault("name", default_name)
        jobs = tuple(
            job
            for index, raw in enumerate(self._job_list(given))
            if (job := self._job(raw, index, defaults)) is not None
        )
        sound = jobs and not len(self._problems)
        batch, _ = self._validate(Batch, {**header, "jobs": jobs if sound else (_PLACEHOLDER,)}, "batch", ())
        return batch

    def _add(self, text: str, where: Location) -> None:
        self._problems.add(text, line=self._document.line(where), where=where)

    def _job_list(self, given: object) -> list[object]:
        where: Location = ("jobs",)
        if given is None or given in ([], ()):
            self._add(f"there is no job; {remedy('jobs', Batch)}", where)
        elif not isinstance(given, list | tuple):
            self._add(f"{shown(given)} is {kind_of(given)}; {remedy('jobs', Batch)}", where)
        elif len(given) > MAX_JOBS:
            self._add(f"{len(given):,} jobs are more than {MAX_JOBS:,}; split the file into several batches", where)
        else:
            return list(given)
        return []

    def _defaults(self, given: object) -> dict[str, Any]:
        """The usable defaults: checked once here, so that a wrong one is not reported again for every job."""
        where: Location = ("defaults",)
        if not isinstance(given, Mapping):
            self._add(f"{shown(given)} is {kind_of(given)}; {remedy('defaults', Batch)}", where)
            return {}
        usable = _without_nulls(given)
        if "id" in usable:
            text = f"{shown(usable.pop('id'))} would be the id of every job; give each job its own or none"
            self._add(text, (*where, "id"))
        probe = {"prompt": "placeholder", **usable, "id": "placeholder"}
        _, wrong = self._validate(VideoJob, probe, "defaults", where)
        return {name: value for name, value in usable.items() if name not in wrong}

    def _job(self, raw: object, index: int, defaults: dict[str, Any]) -> VideoJob | None:
        where: Location = ("jobs", index)
        if not isinstance(raw, Mapping):
            text = f"{shown(raw)} is {kind_of(raw)} where a job is needed; write `prompt: ...` and its other fields"
            self._add(text, where)
            return None
        data = _without_nulls(_merged(defaults, raw) if defaults else raw)
        generated = "id" not in data
        if generated:
            data["id"] = f"shot-{index + 1:03d}"
        self._register(data["id"], index, generated)
        job, _ = self._validate(VideoJob, data, "job", where)
        return job

    def _register(self, identifier: object, index: int, generated: bool) -> None:
        """Refuses an id that another job has; ids become file names, and some file systems fold their case."""
        if not isinstance(identifier, str):
            return
        first, first_generated = self._ids.setdefault(identifier.casefold(), (index, generated))
        if first == index:
            return
        named = first if generated else index
        other = index if generated else first
        line = self._document.line(("jobs", other, "id"))
        place = f"jobs[{other}]" + (f" on line {line}" if line else "")
        if generated or first_generated:
            text = f"{identifier!r} is also the name that {place} gets, having no id; give both jobs ids of their own"
        else:
            text = (
                f"{identifier!r} is already the id of {place}; ids become file names, so give each job its own "
                "(upper and lower case count as the same)"
            )
        self._add(text, ("jobs", named, "id"))

    def _validate(
        self, model: type[_M], data: dict[str, Any], level: Level, base: Location
    ) -> tuple[_M | None, set[str]]:
        """The validated model, or None and the names of the fields that were wrong."""
        wrong: set[str] = set()
        try:
            value = model.model_validate(data)
        except ValidationError as error:
            value = None
            for details in error.errors(include_url=False):
                where, text = explain(details, level)
                if where[:1] and str(where[0]) in wrong and where[0] == "inputs":
                    continue  # one union, one problem, however many members it has
                wrong.add(str(where[0]) if where else "")
                self._add(text, (*base, *where))
        for name, number in _infinite_inputs(data.get("inputs")):
            self._add(f"{number!r} is not a finite number; correct or remove it", (*base, "inputs", name))
            wrong.add("inputs")
        return value, wrong


def _infinite_inputs(inputs: object) -> list[tuple[str, float]]:
    if not isinstance(inputs, Mapping):
        return []
    return [(str(name), value) for name, value in inputs.items() if isinstance(value, float) and not isfinite(value)]


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The job's own fields over the defaults; groups are merged field by field."""
    result = dict(defaults)
    for name, value in own.items():
        below = result.get(name)
        result[name] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def _without_nulls(data: Mapping[str, Any]) -> dict[str, Any]:
    """A field that is null or empty counts as not given, on every level; `inputs` is left for the model to judge."""
    return {
        name: _without_nulls(value) if name in {"preferences", "weights"} and isinstance(value, Mapping) else value
        for name, value in data.items()
        if value is not None
    }
