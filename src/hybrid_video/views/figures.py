"""What every view shares: money that prints as exact text, pages with a cursor, and the days that sums run over."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Generic, TypeVar

from pydantic import Field, PlainSerializer

from hybrid_video.engine.report import money
from hybrid_video.errors import InputError
from hybrid_video.models import Model

T = TypeVar("T")

MOST_ON_A_PAGE = 500
USUAL_PAGE = 50

Money = Annotated[
    Decimal,
    PlainSerializer(money, return_type=str, when_used="json"),
    Field(json_schema_extra={"examples": ["0.08"], "description": "US dollars as exact decimal text."}),
]
"""`Decimal` in Python; text without exponent in JSON, because a float would change it."""

NOTHING = Decimal(0)


class Page(Model, Generic[T]):
    """Some of a long list. Ask again with `next_cursor` for what follows; None: this is the end."""

    items: tuple[T, ...]
    next_cursor: str | None = Field(None, description="Pass it as `cursor` to get the following page.")


def encode_cursor(*position: str | int) -> str:
    """A place in a list as one opaque word."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, *kinds: type) -> tuple[str | int, ...]:
    """The place a cursor stands for.

    Raises:
        InputError: it was not made by `encode_cursor` with values of these kinds.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        position = None
    fits = isinstance(position, list) and len(position) == len(kinds)
    if not fits or not all(type(value) is kind for value, kind in zip(position, kinds, strict=True)):
        raise _not_ours(cursor)
    return tuple(position)


def _not_ours(cursor: str) -> InputError:
    return InputError(f"cursor: {cursor[:80]!r} is not one of ours; leave it out to start at the beginning")


def encode_moment(at: datetime, name: str) -> str:
    """A place in a list that is ordered by time, then by name."""
    return encode_cursor(at.isoformat(timespec="microseconds"), name)


def decode_moment(cursor: str) -> tuple[datetime, str]:
    """The place `encode_moment` made a cursor of.

    Raises:
        InputError: it is not such a cursor.
    """
    text, name = decode_cursor(cursor, str, str)
    with contextlib.suppress(ValueError):
        at = datetime.fromisoformat(str(text))
        if at.tzinfo is not None:
            return at, str(name)
    raise _not_ours(cursor)


def checked_limit(limit: int) -> int:
    """The size of a page.

    Raises:
        InputError: it is out of range.
    """
    if not 1 <= limit <= MOST_ON_A_PAGE:
        raise InputError(f"limit: {limit} is not between 1 and {MOST_ON_A_PAGE}")
    return limit


def day_start(now: datetime) -> datetime:
    """Midnight UTC of the day: daily budgets and daily figures begin there."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
