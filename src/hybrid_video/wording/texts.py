"""Texts by key and language, from the TOML files beside this module."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from hybrid_video.wording.amounts import Amounts

LANGUAGES: dict[str, str] = {"en": "English", "th": "ไทย"}
"""Language code to the language's name for itself. English is the one that everything else falls back to."""

FALLBACK = "en"


@cache
def catalogue(language: str) -> Mapping[str, str]:
    """Every text of a language by its dotted key, for example `overview.title`."""
    raw = resources.files(__package__).joinpath(f"{language}.toml").read_text(encoding="utf-8")
    return dict(_flat(tomllib.loads(raw)))


def placeholders(text: str) -> set[str]:
    """The names in braces of a text."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


class Words:
    """The texts of one language, and the numbers as that language writes them.

    A key that nobody has written is shown as itself rather than as an error page.
    """

    def __init__(self, language: str = FALLBACK) -> None:
        self.language = language if language in LANGUAGES else FALLBACK
        self.amounts = Amounts({unit: self(f"units.{unit}") for unit in Amounts.UNITS})

    def __call__(self, key: str, /, **values: object) -> str:
        """The text of a key, its placeholders filled."""
        text = catalogue(self.language).get(key) or catalogue(FALLBACK).get(key)
        if text is None:
            return key
        return text.format(**values) if values else text

    def known(self, prefix: str, name: str) -> str:
        """The text of `prefix.name`, or the name itself where it is none of ours: states and kinds may grow."""
        key = f"{prefix}.{name.replace('-', '_')}"
        return self(key) if key in catalogue(FALLBACK) else name.replace("_", " ")


def _flat(table: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, value in table.items():
        key = f"{prefix}{name}"
        found += _flat(value, f"{key}.") if isinstance(value, Mapping) else [(key, str(value))]
    return found
