"""What the three readers hand over: plain data, where each value stood in the file, and the problems found so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid_video.errors import InputError
from hybrid_video.redaction import redact

Location = tuple[str | int, ...]
"""Way to a value: `("jobs", 2, "duration_s")`."""

MAX_SHOWN = 20
MAX_DEPTH = 16
MAX_VALUES = 2_000_000
"""Values a document may hold once its aliases are written out; 10,000 full jobs hold about 400,000."""


class UnreadableError(Exception):
    """The text is not in its format; nothing can be said about its contents."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.line = line


@dataclass
class Marks:
    """Line of a mapping or list, and the lines of its keys or items. Lines count from 1."""

    line: int
    children: dict[str | int, int] = field(default_factory=dict)


@dataclass
class Problems:
    """Collects sentences about one source and raises them together."""

    source: str
    _rows: list[tuple[int, str]] = field(default_factory=list)

    def add(self, text: str, *, line: int | None = None, where: Location = ()) -> None:
        """Adds one problem; `text` starts with the value and ends with the remedy."""
        place = f"{self.source}:{line}" if line else self.source
        path = format_location(where)
        self._rows.append((line or 0, f"{place}: {path}: {text}" if path else f"{place}: {text}"))

    def __len__(self) -> int:
        return len(self._rows)

    def raise_if_any(self) -> None:
        """Raises what was collected, in the order of the lines.

        Raises:
            InputError: with the first twenty problems and the number of the others.
        """
        if not self._rows:
            return
        rows = sorted(self._rows, key=lambda row: row[0])
        shown = tuple(redact(text) for _, text in rows[:MAX_SHOWN])
        if len(rows) > MAX_SHOWN:
            shown += (f"{self.source}: and {len(rows) - MAX_SHOWN} more problems; correct these first",)
        raise InputError("\n".join(shown), shown)


@dataclass
class Document:
    """A parsed file.

    `marks` are keyed by the identity of the containers in `data`, so that a value shared by aliases keeps its line.
    """

    data: Any
    marks: dict[int, Marks] = field(default_factory=dict)

    def line(self, where: Location) -> int | None:
        """Line of a value, or of the nearest thing around it that is in the file."""
        value, line = self.data, None
        for step in where:
            marks = self.marks.get(id(value))
            if marks is None:
                break
            line = marks.children.get(step, marks.line)
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                break
        return line


def format_location(where: Location) -> str:
    """`("jobs", 2, "fps")` as `jobs[2].fps`."""
    path = ""
    for step in where:
        if isinstance(step, int):
            path += f"[{step}]"
        else:
            path += f".{step}" if path else step
    return path


def shown(value: Any, limit: int = 80) -> str:
    """The value as it appears in a message: `repr`, shortened in the middle of nowhere rather than at full length."""
    if isinstance(value, str) and len(value) > limit:
        return repr(value[:limit])[:-1] + "…'"
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def kind_of(value: Any) -> str:
    """What a user would call the type of a value."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, Mapping):
        return "a group of fields"
    return "a list" if isinstance(value, Sequence) else type(value).__name__
