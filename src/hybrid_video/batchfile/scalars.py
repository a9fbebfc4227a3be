"""What an unquoted word in YAML or a cell in CSV stands for: the YAML 1.2 core schema, without octal and hex.

YAML 1.1, PyYAML's own rule set, reads `no` as false, `12:30:00` as 45000, `010` as 8 and `2026-11-22` as a date.
Shot ids look like all of these, so here they stay text.
"""

from __future__ import annotations

import re

TEXT_FIELDS = frozenset({"id", "name", "prompt", "negative_prompt", "image", "workflow"})
"""Fields that take an unquoted word as it is written: `id: 7` is the text 7."""

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_CONSTANTS: dict[str, bool | float] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
    **{sign + word: float("inf") for sign in ("", "+") for word in (".inf", ".Inf", ".INF")},
    **{"-" + word: float("-inf") for word in (".inf", ".Inf", ".INF")},
}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,39})")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")


def resolve_plain(text: str) -> str | int | float | bool | None:
    """The value of an unquoted word. Numbers with leading zeros stay text; pydantic still reads them as numbers."""
    if text in NULLS:
        return None
    if text[0].isalpha() and text[0] not in "tTfF":
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    if len(text) <= 64 and _FLOAT.fullmatch(text):
        return float(text)
    return text
