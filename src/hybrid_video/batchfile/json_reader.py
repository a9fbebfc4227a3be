"""Reads JSON into plain data with the line of every value, which the standard library's parser does not keep."""

from __future__ import annotations

import re
from bisect import bisect_right
from json import JSONDecodeError
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from hybrid_video.batchfile.documents import MAX_DEPTH, Document, Marks, Problems, UnreadableError, shown

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?(?![0-9A-Za-z_.])")
_WORD = re.compile(r"[-+A-Za-z0-9_.]+")
_WORDS = {"true": True, "false": False, "null": None}
_MAX_DIGITS = 40


def read_json(text: str, problems: Problems) -> Document:
    """Parses the text.

    Raises:
        UnreadableError: it is not JSON.
    """
    scanner = _Scanner(text, problems)
    data, end = scanner.value(scanner.skip(0), 0)
    end = scanner.skip(end)
    if end != len(text):
        raise scanner.refuse(end, "expected the end of the file")
    return Document(data, scanner.marks)


class _Scanner:
    """A recursive JSON scanner. Every method takes a position and returns the value and the position after it."""

    def __init__(self, text: str, problems: Problems) -> None:
        self.marks: dict[int, Marks] = {}
        self._text = text
        self._problems = problems
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def line(self, position: int) -> int:
        """The line of a position, from 1."""
        return bisect_right(self._newlines, position - 1) + 1

    def skip(self, position: int) -> int:
        """The position of the next character that is not white space."""
        match = _SPACE.match(self._text, position)
        return match.end() if match else position

    def refuse(self, position: int, expectation: str) -> UnreadableError:
        """The error for an unexpected character."""
        line = self.line(position)
        column = position - (self._newlines[line - 2] if line > 1 else -1)
        found = repr(self._text[position]) if position < len(self._text) else "the end of the file"
        return UnreadableError(f"not readable as JSON: {expectation}, found {found} in column {column}", line)

    def value(self, position: int, depth: int) -> tuple[Any, int]:
        """Any value."""
        character = self._text[position : position + 1]
        if character == '"':
            return self._string(position)
        if character == "{":
            return self._object(position, depth + 1)
        if character == "[":
            return self._array(position, depth + 1)
        if character == "'":
            raise self.refuse(position, 'expected a value; JSON text stands in double quotes (")')
        return self._number_or_word(position)

    def _string(self, position: int) -> tuple[str, int]:
        try:
            value, end = scanstring(self._text, position + 1, True)
        except JSONDecodeError as error:
            line = self.line(error.pos)
            raise UnreadableError(f"not readable as JSON: {error.msg.lower()}; correct the quotes", line) from None
        return value, end

    def _number_or_word(self, position: int) -> tuple[Any, int]:
        match = _NUMBER.match(self._text, position)
        if match:
            text = match.group()
            if match.group(1) or match.group(2):
                return float(text), match.end()
            return (int(text) if len(text) <= _MAX_DIGITS else text), match.end()
        word = _WORD.match(self._text, position)
        if word is None:
            raise self.refuse(position, "expected a value")
        if word.group() not in _WORDS:
            raise UnreadableError(
                f"not readable as JSON: {shown(word.group())} is not a value; put text in double quotes",
                self.line(position),
            )
        return _WORDS[word.group()], word.end()

    def _object(self, position: int, depth: int) -> tuple[dict[str, Any], int]:
        result: dict[str, Any] = {}
        marks = self._open(result, position, depth)
        position = self.skip(position + 1)
        if self._text[position : position + 1] == "}":
            return result, position + 1
        while True:
            if self._text[position : position + 1] != '"':
                raise self.refuse(position, "expected a field name in double quotes (no comma after the last field)")
            line = self.line(position)
            key, position = self._string(position)
            position = self.skip(position)
            if self._text[position : position + 1] != ":":
                raise self.refuse(position, f"expected ':' after {shown(key)}")
            if key in result:
                first = marks.children[key]
                self._problems.add(f"{shown(key)} is given twice, first on line {first}; keep one", line=line)
            marks.children[key] = line
            result[key], position = self.value(self.skip(position + 1), depth)
            position, more = self._next(position, "}")
            if not more:
                return result, position

    def _array(self, position: int, depth: int) -> tuple[list[Any], int]:
        result: list[Any] = []
        marks = self._open(result, position, depth)
        position = self.skip(position + 1)
        if self._text[position : position + 1] == "]":
            return result, position + 1
        while True:
            marks.children[len(result)] = self.line(position)
            value, position = self.value(position, depth)
            result.append(value)
            position, more = self._next(position, "]")
            if not more:
                return result, position

    def _open(self, container: dict[str, Any] | list[Any], position: int, depth: int) -> Marks:
        line = self.line(position)
        if depth > MAX_DEPTH:
            raise UnreadableError(f"nested more than {MAX_DEPTH} levels deep; a batch needs five", line)
        marks = self.marks[id(container)] = Marks(line)
        return marks

    def _next(self, position: int, closing: str) -> tuple[int, bool]:
        """The position of the next member, and whether there is one."""
        position = self.skip(position)
        character = self._text[position : position + 1]
        if character == closing:
            return position + 1, False
        if character != ",":
            raise self.refuse(position, f"expected ',' or '{closing}'")
        return self.skip(position + 1), True
