"""The check of a budget before anything starts: what the jobs must cost at least, a worker's start counted once."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hybrid_video.engine.prepare import _check_budget
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import LimitError
from hybrid_video.models import Candidate, EffectivePreferences, Quote
from hybrid_video.settings import Settings
from tests.unit.deciding_rig import job, quote
from tests.unit.ledger_rig import make_batch

COLD = quote("runpod-serverless", "0.0003", 20).model_copy(update={"start_usd": Decimal("0.0186")})
GOOGLE = quote("gemini", "0.0138", 5)


def shots(count: int, *quotes: Quote) -> list[Shot]:
    """Jobs with these offers."""
    offers = tuple(Candidate(backend=one.backend, tier=one.tier, quote=one) for one in quotes)
    return [Shot(job(f"shot-{number}"), 1, EffectivePreferences(), offers=offers) for number in range(count)]


def check(budget: str, made: list[Shot]) -> None:
    """Looks whether the budget can be enough."""
    _check_budget(make_batch("night", len(made), budget_usd=Decimal(budget)), made, Settings())


def test_a_start_is_counted_once_and_not_for_every_job() -> None:
    """A hundred clips on a cold endpoint cost three cents and one start, not a hundred clips of Google's."""
    check("0.0486", shots(100, COLD, GOOGLE))
    with pytest.raises(LimitError, match=r"costs \$0\.0486 .*100 on runpod-serverless with one start for \$0\.0186"):
        check("0.0485", shots(100, COLD, GOOGLE))


def test_one_clip_goes_where_no_worker_has_to_start() -> None:
    """For a single clip the start is dearer than Google's price."""
    check("0.0138", shots(1, COLD, GOOGLE))
    with pytest.raises(LimitError, match=r"costs \$0\.0138 .*1 on gemini"):
        check("0.0137", shots(1, COLD, GOOGLE))


def test_a_job_that_needs_the_endpoint_pays_for_its_start_and_the_others_use_it() -> None:
    """Once it has started anyway, the cheap clips go there as well."""
    made = [*shots(1, COLD), *shots(1, COLD, GOOGLE)]
    check("0.0192", made)
    with pytest.raises(LimitError, match=r"costs \$0\.0192 "):
        check("0.0191", made)
