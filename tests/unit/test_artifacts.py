"""What the Prefect UI is given: keys it accepts, links that lead to the clips, a page with every number."""

from __future__ import annotations

from decimal import Decimal

import pytest

from hybrid_video.engine.report import BatchReport, ClipLine, ErrorLine, TierLine
from hybrid_video.models import Tier
from tasks.artifacts import artifact_key, clip_link, report_markdown


@pytest.mark.parametrize(("batch", "key"), [("Night_Shots.2", "night-shots-2-clips"), ("a--b", "a-b-clips")])
def test_artifact_keys_hold_only_what_prefect_allows(batch: str, key: str) -> None:
    """Lower-case letters, digits and single dashes."""
    assert artifact_key(batch, "clips") == key


def test_clips_are_linked_below_the_configured_address() -> None:
    """With an address the link is http, and names are escaped."""
    link = clip_link("/data/clips/night/shot 1.mp4", "night", "https://nas.example/clips/")
    assert link == "[shot 1.mp4](https://nas.example/clips/night/shot%201.mp4)"


def test_clips_are_linked_as_files_otherwise() -> None:
    """Without one the path is the text and the link is a file."""
    assert clip_link("/data/night/s.mp4", "night", "") == "[/data/night/s.mp4](file:///data/night/s.mp4)"


def test_the_report_page_names_money_tiers_and_failures() -> None:
    """Everything a reader of the run wants without opening the ledger."""
    clip = ClipLine(
        job="s1",
        path="/c/s1.mp4",
        backend=Tier.CLOUD,
        provider="runpod-serverless",
        cost_usd=Decimal("0.007"),
        sha256="0" * 64,
        attempts=2,
    )
    page = report_markdown(
        BatchReport(
            batch="night",
            jobs=2,
            completed=1,
            failed=1,
            cost_usd=Decimal("0.007"),
            quoted_usd=Decimal("0.0065"),
            duration_s=12.3,
            failovers=1,
            by_backend={"cloud": TierLine(jobs=1, cost_usd=Decimal("0.007"), attempts=2)},
            clips=(clip,),
            errors=(ErrorLine(job="s2", kind="content_blocked", message="the filter refused it"),),
            simulated=True,
        )
    )
    for text in ("SIMULATED", "$0.007", "$0.0065", "12.3 s", "| cloud | 1 | 2 | $0.007 |", "the filter refused it"):
        assert text in page
