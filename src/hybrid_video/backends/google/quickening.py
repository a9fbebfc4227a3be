"""Lets Google's SDK make each of its models once. Not responsible for what they say.

google-genai 3.4.0 builds a new pydantic class for every request it writes and every answer it reads
(`_gaos/utils/serializers.py`): 5 to 10 ms of CPU for each look at each clip. The classes depend on nothing but the
type, so they are kept. An SDK that is made otherwise is left alone: then this does nothing.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pydantic

KEPT = 64
MODULE = "google.genai._gaos.utils.serializers"


def make_models_once() -> bool:
    """Keeps the classes from now on; False where this SDK has nothing to keep."""
    try:
        serializers: Any = importlib.import_module(MODULE)
    except ImportError:
        return False
    found = getattr(serializers, "create_model", None)
    if found is pydantic.create_model:
        serializers.create_model = _kept
    return getattr(serializers, "create_model", None) is _kept


def _kept(name: str, /, **fields: Any) -> Any:
    """A wrapper of one field `body` is made once for each type; anything else is made as ever."""
    if fields.keys() != {"body", "__config__"} or fields["body"][1:] != (...,):
        return pydantic.create_model(name, **fields)
    try:
        return _made(name, fields["body"][0], repr(fields["body"][0]), tuple(sorted(fields["__config__"].items())))
    except TypeError:  # a type that cannot be a key
        return pydantic.create_model(name, **fields)


@functools.lru_cache(maxsize=KEPT)
def _made(name: str, of: Any, _spelled: str, config: tuple[tuple[str, Any], ...]) -> Any:
    """`_spelled` tells `A | B` from `B | A`, which are equal but are not read the same."""
    return pydantic.create_model(name, body=(of, ...), __config__=pydantic.ConfigDict(**dict(config)))  # type: ignore[typeddict-item]
