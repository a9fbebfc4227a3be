"""Which jobs Google's models take, what they promise, and at what price."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from google_rig import context, job

from hybrid_video.backends.google import GeminiBackend, VeoBackend
from hybrid_video.models import Quote, Refusal


def gemini(**settings: Any) -> GeminiBackend:
    return GeminiBackend(context(**{"resolution": "720p", **settings}))


def veo(**settings: Any) -> VeoBackend:
    return VeoBackend(context(**{"resolution": "720p", **settings}))


def quoted(result: Quote | Refusal) -> Quote:
    assert isinstance(result, Quote), result
    return result


def refused(result: Quote | Refusal) -> str:
    assert isinstance(result, Refusal), result
    assert result.code == "capability"
    return result.reason


@pytest.mark.parametrize(
    ("asked", "promised"),
    [
        ({"width": 832, "height": 480, "duration_s": 5}, (1280, 720, 120)),
        ({"width": 480, "height": 832, "duration_s": 5}, (720, 1280, 120)),
        ({"width": 1280, "height": 720, "duration_s": 4.2}, (1280, 720, 120)),
        ({"width": 1280, "height": 720, "duration_s": 1}, (1280, 720, 72)),
        ({"width": 1280, "height": 768, "duration_s": 15}, (1920, 1080, 360)),
        ({"width": 1920, "height": 1080, "duration_s": 3}, (1920, 1080, 72)),
    ],
)
def test_omni_promises_the_nearest_clip_that_is_not_smaller_or_shorter(
    asked: dict[str, Any], promised: tuple[int, int, int]
) -> None:
    """Whole seconds rounded up, at least three; the smallest class that covers the job's shorter side; 24 fps."""
    output = quoted(gemini().quote(job(**asked))).output
    assert (output.width, output.height, output.frames) == promised
    assert output.fps == 24


@pytest.mark.parametrize(
    ("asked", "seconds", "height"),
    [
        ({"duration_s": 1}, 4, 720),
        ({"duration_s": 4.5}, 6, 720),
        ({"duration_s": 8}, 8, 720),
        ({"duration_s": 4, "width": 1920, "height": 1080}, 8, 1080),
    ],
)
def test_veo_sells_four_six_or_eight_seconds(asked: dict[str, Any], seconds: int, height: int) -> None:
    """1080p is bought with eight seconds only."""
    output = quoted(veo().quote(job(**asked))).output
    assert (output.duration_s, output.height) == (seconds, height)


def test_the_price_is_seconds_times_the_published_price() -> None:
    """5 s of 720p on Omni 1.2 at $0.07."""
    quote = quoted(gemini().quote(job(duration_s=5)))
    assert quote.amount_usd == quote.reserve_usd == Decimal("0.35")
    assert "gemini-omni-1.2-flash-720p" in quote.basis


def test_the_smallest_resolution_to_buy_is_a_setting() -> None:
    """With 360p allowed a small job costs a third."""
    assert quoted(gemini(resolution="360p").quote(job(duration_s=5))).amount_usd == Decimal("0.115")
    assert quoted(gemini(resolution="1080p").quote(job(duration_s=5))).output.height == 1080


def test_an_older_model_is_bound_to_its_own_lengths() -> None:
    """Omni 1.1 ends at 10 s, 1.2 at 15 s; Veo at 8 s."""
    long = job(duration_s=11)
    assert quoted(gemini().quote(long)).model == "gemini-omni-1.2-flash"
    assert "at most 10 s" in refused(gemini(model="gemini-omni-1.1-flash").quote(long))
    assert "at most 8 s" in refused(veo().quote(long))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"width": 640, "height": 640}, "16:9 or 9:16 only"),
        ({"width": 1024, "height": 768}, "16:9 or 9:16 only"),
        ({"duration_s": 15.5}, "at most 15 s"),
        ({"width": 2560, "height": 1440}, "at most 1080p"),
        ({"workflow": "wan2.2-t2v"}, "runs only on ComfyUI"),
        ({"fit": "exact", "width": 832, "height": 480, "fps": 24}, "exactly 832x480"),
        ({"fit": "exact", "fps": 16}, "not exactly 16"),
        ({"fit": "exact", "fps": 24, "duration_s": 3.5}, "exactly 3.5 s"),
        ({"fit": "exact", "fps": 24, "negative_prompt": "text"}, "takes no negative prompt"),
    ],
)
def test_omni_refuses_what_it_cannot_make(asked: dict[str, Any], reason: str) -> None:
    """Each refusal is a sentence with the reason."""
    assert reason in refused(gemini().quote(job(**asked)))


def test_an_exact_job_gets_exactly_its_size() -> None:
    """Also below the smallest class that is otherwise bought."""
    exact = job(fit="exact", fps=24, width=640, height=360, duration_s=3)
    assert quoted(gemini().quote(exact)).output.height == 360
    assert "exactly 640x360" in refused(veo().quote(exact))


def test_a_negative_prompt_is_allowed_and_noted() -> None:
    """Omni has no parameter for it; the quote says that it is not sent."""
    assert "negative prompt is not sent" in quoted(gemini().quote(job(negative_prompt="text"))).basis
    assert "not sent" not in quoted(veo().quote(job(negative_prompt="text"))).basis


def test_a_seed_is_a_matter_of_the_model() -> None:
    """1.2 takes a seed, 1.1 does not: noted when nearest, refused when exact."""
    seeded = {"seed": 5, "fps": 24, "width": 1280, "height": 720}
    assert "seed" not in quoted(gemini().quote(job(**seeded))).basis
    old = gemini(model="gemini-omni-1.1-flash")
    assert "seed is not sent" in quoted(old.quote(job(**seeded))).basis
    assert "takes no seed" in refused(old.quote(job(**seeded, fit="exact")))


def test_the_seed_profile_quotes_its_flat_price_and_prefers_the_newest_model() -> None:
    """All models cost $0.08 there, in five seconds."""
    quote = quoted(gemini(profile="seed").quote(job(duration_s=9)))
    assert (quote.amount_usd, quote.service_s, quote.model) == (Decimal("0.08"), 5, "gemini-omni-1.2-flash")


def test_capabilities_tell_the_two_roads_apart() -> None:
    """Neither runs workflows; only Veo takes a negative prompt."""
    omni, cloud = gemini().capabilities(), veo().capabilities()
    assert (omni.workflows, cloud.workflows) == (False, False)
    assert (omni.negative_prompt, cloud.negative_prompt) == (False, True)
    assert (omni.min_duration_s, omni.max_duration_s) == (3, 15)
    assert (cloud.min_duration_s, cloud.max_duration_s) == (4, 8)
