"""Names of pods: which are this installation's, which another's, and which are none of our business."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Literal

from hybrid_video.installation import installation_id

PREFIX = "hybrid-video-"
"""Every pod this product opens is named so; no pod with another name is ever touched."""

_NAME = re.compile(r"hybrid-video-([0-9a-f]{8})-[0-9a-z]{10}")
_LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"

Whose = Literal["ours", "other installation", "foreign"]

__all__ = ["PREFIX", "Whose", "installation_id", "is_product_pod", "is_well_formed", "new_name", "whose"]


def new_name(home: Path) -> str:
    """A name nobody has: `hybrid-video-<installation>-<token>`; by it a pod is found whose create answer was lost."""
    token = "".join(secrets.choice(_LETTERS) for _ in range(10))
    return f"{PREFIX}{installation_id(home)}-{token}"


def whose(name: str, installation: str) -> Whose:
    """Whose pod carries this name; a name that only begins like ours counts as another installation's."""
    match = _NAME.fullmatch(name)
    if match is not None and match[1] == installation:
        return "ours"
    return "other installation" if is_product_pod(name) else "foreign"


def is_well_formed(name: str) -> bool:
    """Whether some installation of this product can have given this name, and nobody by hand."""
    return _NAME.fullmatch(name) is not None


def is_product_pod(name: str) -> bool:
    """Whether a name begins as all of this product's do."""
    return name.startswith(PREFIX)
