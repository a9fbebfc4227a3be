"""Reads YAML into plain data with the line of every value.

Works on libyaml's events, not on PyYAML's constructors: nothing in a file can create an object, keys given twice are
seen, words are resolved by our own rules, and 10,000 jobs take a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.reader import ReaderError

from hybrid_video.batchfile.documents import (
    MAX_DEPTH,
    MAX_VALUES,
    Document,
    Marks,
    Problems,
    UnreadableError,
    shown,
)
from hybrid_video.batchfile.scalars import NULLS, TEXT_FIELDS, resolve_plain

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_MERGE = "<<"
_TAG = "tag:yaml.org,2002:"
_TAGS = {None, "!", *(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))}


@dataclass
class _Frame:
    """A mapping or list that is being filled; `free` where field names mean nothing to us, below `inputs`."""

    container: dict[str, Any] | list[Any]
    marks: Marks
    free: bool
    anchor: str | None
    started_at: int
    key: str | None = None
    key_line: int = 0
    merges: list[tuple[Any, int]] = field(default_factory=list)


def read_yaml(text: str, problems: Problems) -> Document:
    """Parses the text.

    Raises:
        UnreadableError: it is not YAML, holds several documents or custom tags, or expands without bound.
    """
    builder = _Builder(problems)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnreadableError(_syntax(error, text), mark.line + 1 if mark else None) from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        reason = (
            f"the character U+{error.character:04X} is not allowed in YAML"
            if isinstance(error.character, int)
            else error.reason
        )
        raise UnreadableError(f"{reason}; remove it", line) from None
    return Document(builder.root, builder.marks)


def _line(event: yaml.Event) -> int:
    return event.start_mark.line + 1 if event.start_mark else 1


def _syntax(error: yaml.MarkedYAMLError, text: str) -> str:
    reason = ", ".join(part for part in (error.context, error.problem) if part)
    mark = error.problem_mark
    if mark is not None and text[mark.index : mark.index + 1] == "\t":
        return f"not readable as YAML ({reason}); indent with spaces, not tabs"
    return f"not readable as YAML ({reason}); check the indentation, colons and quotes around there"


class _Builder:
    """Turns events into data. `_values` counts every value, those behind aliases included."""

    def __init__(self, problems: Problems) -> None:
        self.root: Any = None
        self.marks: dict[int, Marks] = {}
        self._problems = problems
        self._frames: list[_Frame] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._values = 0
        self._documents = 0

    def take(self, event: yaml.Event) -> None:
        """One event of the parser."""
        if isinstance(event, yaml.ScalarEvent):
            self._scalar(event)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event)
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if self._documents > 1:
                line = _line(event)
                raise UnreadableError("holds a second document after `---`; keep one batch per file", line)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        line = _line(event)
        self._check_tag(event.tag, line)
        frame = self._frames[-1] if self._frames else None
        if frame is not None and frame.key is None and isinstance(frame.container, dict):
            frame.key, frame.key_line = event.value, line
            return
        value: Any = event.value
        plain = not event.style and event.tag is None and not self._is_text(frame, event.value)
        if plain or event.tag not in {None, "!", _TAG + "str"}:
            value = resolve_plain(event.value)
        if event.anchor:
            self._anchors[event.anchor] = (value, 1)
        self._place(value, line, 1)

    @staticmethod
    def _is_text(frame: _Frame | None, value: str) -> bool:
        if frame is None or frame.free or frame.key not in TEXT_FIELDS:
            return False
        return value not in NULLS

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        line = _line(event)
        self._check_tag(event.tag, line)
        if len(self._frames) >= MAX_DEPTH:
            raise UnreadableError(f"nested more than {MAX_DEPTH} levels deep; a batch needs five", line)
        parent = self._frames[-1] if self._frames else None
        if parent is not None and parent.key is None and isinstance(parent.container, dict):
            raise UnreadableError("a list or group stands where a field name belongs; write `name: value`", line)
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        free = parent is not None and (parent.free or parent.key == "inputs")
        frame = _Frame(container, Marks(line), free, event.anchor, self._values)
        self.marks[id(container)] = frame.marks
        self._frames.append(frame)

    def _close(self) -> None:
        frame = self._frames.pop()
        if frame.merges and isinstance(frame.container, dict):
            self._merge(frame, frame.container)
        size = self._values - frame.started_at + 1
        if frame.anchor:
            self._anchors[frame.anchor] = (frame.container, size)
        self._place(frame.container, frame.marks.line, 1)

    def _alias(self, event: yaml.AliasEvent) -> None:
        line = _line(event)
        if event.anchor not in self._anchors:
            raise UnreadableError(
                f"`*{event.anchor}` refers to nothing that is complete before it; define `&{event.anchor}` first", line
            )
        value, size = self._anchors[event.anchor]
        self._place(value, line, size)

    def _place(self, value: Any, line: int, size: int) -> None:
        """Puts a finished value into what encloses it."""
        self._values += size
        if self._values > MAX_VALUES:
            raise UnreadableError(
                f"expands to more than {MAX_VALUES:,} values; write the jobs out instead of nesting aliases", line
            )
        if not self._frames:
            self.root = value
            return
        frame = self._frames[-1]
        if isinstance(frame.container, list):
            frame.marks.children[len(frame.container)] = line
            frame.container.append(value)
            return
        key, frame.key = frame.key or "", None
        if key == _MERGE:
            frame.merges.append((value, frame.key_line))
            return
        if key in frame.container:
            first = frame.marks.children[key]
            self._problems.add(f"{shown(key)} is given twice, first on line {first}; keep one", line=frame.key_line)
        frame.marks.children[key] = frame.key_line
        frame.container[key] = value

    def _merge(self, frame: _Frame, target: dict[str, Any]) -> None:
        """Applies `<<: *other`: fields of the mapping itself win, then the first of several."""
        for given, line in frame.merges:
            for source in given if isinstance(given, list) else [given]:
                if not isinstance(source, dict):
                    raise UnreadableError("`<<:` takes a mapping, written `<<: *name`", line)
                for key, value in source.items():
                    if key not in target:
                        target[key] = value
                        frame.marks.children[key] = line

    def _check_tag(self, tag: str | None, line: int) -> None:
        if tag not in _TAGS:
            raise UnreadableError(f"the tag {shown(tag)} is not allowed in a batch; remove it", line)
