"""The nouns: what a job may be, and how three levels of preferences become one."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hybrid_video.models import (
    MAX_JOBS,
    Batch,
    EffectivePreferences,
    OutputSpec,
    Preferences,
    ScoreWeights,
    Tier,
    VideoJob,
    WorkOrder,
)
from tests.unit.deciding_rig import job, quote

levels = st.none() | st.builds(
    Preferences,
    backend=st.none() | st.sampled_from(["auto", "local", "cloud", "gemini"]),
    max_cost_usd=st.none() | st.decimals(0, 1000, places=3),
    prioritize_speed=st.none() | st.booleans(),
    allow_cloud_fallback=st.none() | st.booleans(),
    prefer_serverless=st.none() | st.booleans(),
    weights=st.none() | st.builds(ScoreWeights, priority=st.floats(1, 100)),
)


@given(levels, levels, levels)
def test_limits_only_tighten(nearest: Preferences | None, middle: Preferences | None, far: Preferences | None) -> None:
    """No level can raise a cost limit or allow a fallback that another one forbids."""
    folded = EffectivePreferences.fold(nearest, middle, far)
    present = [level for level in (nearest, middle, far) if level is not None]
    caps = [level.max_cost_usd for level in present if level.max_cost_usd is not None]
    assert folded.max_cost_usd == (min(caps) if caps else None)
    assert folded.allow_cloud_fallback is not any(level.allow_cloud_fallback is False for level in present)


@given(levels, levels, levels)
def test_the_nearest_preference_counts(
    nearest: Preferences | None, middle: Preferences | None, far: Preferences | None
) -> None:
    """Job before batch before system, for everything that is no limit."""
    folded = EffectivePreferences.fold(nearest, middle, far)
    present = [level for level in (nearest, middle, far) if level is not None]
    for name in ("backend", "prioritize_speed", "prefer_serverless", "weights"):
        stated = [getattr(level, name) for level in present if getattr(level, name) is not None]
        expected = stated[0] if stated else EffectivePreferences.model_fields[name].get_default()
        assert getattr(folded, name) == expected


@given(levels, levels, levels)
def test_folding_in_steps_gives_the_same_limits(
    nearest: Preferences | None, middle: Preferences | None, far: Preferences | None
) -> None:
    """A fold of folds is the fold, and another level never loosens one."""
    both = EffectivePreferences.fold(nearest, middle)
    all_three = EffectivePreferences.fold(nearest, middle, far)
    for tier in Tier:
        if tier.value != all_three.backend:
            assert not all_three.permits(tier) or both.permits(tier) or tier.value == both.backend
    if both.max_cost_usd is not None:
        assert all_three.max_cost_usd is not None
        assert all_three.max_cost_usd <= both.max_cost_usd


def test_without_fallback_only_local_and_the_named_tier_are_permitted() -> None:
    """`allow_cloud_fallback: false` excludes cloud and Gemini alike."""
    strict = EffectivePreferences(allow_cloud_fallback=False)
    assert [tier for tier in Tier if strict.permits(tier)] == [Tier.LOCAL]
    named = EffectivePreferences(allow_cloud_fallback=False, backend="gemini")
    assert [tier for tier in Tier if named.permits(tier)] == [Tier.LOCAL, Tier.GEMINI]
    assert all(EffectivePreferences().permits(tier) for tier in Tier)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", ""),
        ("id", "a/b"),
        ("id", ".hidden"),
        ("id", "x" * 65),
        ("prompt", ""),
        ("prompt", "   \n"),
        ("prompt", "bell\x07"),
        ("prompt", "x" * 8001),
        ("negative_prompt", "null\x00"),
        ("duration_s", 0),
        ("duration_s", -3),
        ("duration_s", 61),
        ("duration_s", float("nan")),
        ("width", 63),
        ("width", 641),
        ("height", 5000),
        ("fps", 0),
        ("fps", 121),
        ("seed", -1),
        ("seed", 2**63),
        ("priority", 101),
        ("fit", "roughly"),
        ("workflow", ""),
        ("colour", "blue"),
    ],
)
def test_a_job_outside_its_ranges_is_refused(field: str, value: object) -> None:
    """The field is named in the error."""
    with pytest.raises(ValidationError) as caught:
        VideoJob.model_validate({"id": "shot", "prompt": "a harbour", field: value})
    assert caught.value.errors()[0]["loc"] == (field,)


def test_values_are_frozen() -> None:
    """What was decided on cannot change afterwards."""
    shot = job()
    with pytest.raises(ValidationError, match="frozen"):
        shot.prompt = "other"  # type: ignore[misc]


def test_ids_that_differ_only_in_case_are_one_file_name() -> None:
    """Both are named, because they would overwrite each other's clip on some disks."""
    with pytest.raises(ValidationError, match=r"jobs\[0\] and jobs\[1\] share the id 'SHOT'"):
        Batch(name="b", jobs=(job("shot"), job("SHOT")))


def test_a_batch_has_one_to_ten_thousand_jobs() -> None:
    """The ends are in."""
    with pytest.raises(ValidationError, match="at least 1"):
        Batch(name="b", jobs=())
    shots = tuple(VideoJob.model_construct(id=f"s{n}", prompt="p") for n in range(MAX_JOBS + 1))
    with pytest.raises(ValidationError, match="at most 10000"):
        Batch(name="b", jobs=shots)


def test_a_seed_is_repeated_by_a_second_run_and_differs_between_jobs() -> None:
    """Derived from batch and job where the user gave none."""
    assert job("a").seed_in("b") == job("a").seed_in("b")
    seeds = {job(name).seed_in(batch) for name in ("a", "b") for batch in ("x", "y")}
    assert len(seeds) == 4
    assert all(0 <= seed < 2**48 for seed in seeds)
    assert job("a", seed=7).seed_in("b") == 7


@given(st.floats(0.1, 60), st.integers(1, 120))
def test_frames_are_length_times_rate_and_at_least_one(duration_s: float, fps: int) -> None:
    """Never an empty clip."""
    shot = job(duration_s=duration_s, fps=fps)
    assert shot.frames >= 1
    assert abs(shot.frames - duration_s * fps) <= 1


def test_the_kind_follows_from_the_image() -> None:
    """A first frame makes it image-to-video."""
    assert job().kind == "text-to-video"
    assert job(image="first.png").kind == "image-to-video"


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "-Infinity"])
def test_money_is_a_number(amount: str) -> None:
    """Neither a limit nor a quote can be something else."""
    with pytest.raises(ValidationError):
        Preferences(max_cost_usd=Decimal(amount))
    with pytest.raises(ValidationError):
        Batch(name="b", jobs=(job(),), budget_usd=Decimal(amount))


def test_weights_need_something_to_weigh() -> None:
    """Four zeros decide nothing."""
    with pytest.raises(ValidationError, match="at least one weight must be above 0"):
        ScoreWeights(priority=0, cost=0, speed=0, queue=0)


@given(st.text(min_size=1, max_size=30), st.decimals(0, 1000, places=9), st.integers(0, 2**63 - 1))
def test_jobs_and_quotes_survive_json(prompt: str, amount: Decimal, seed: int) -> None:
    """What the ledger stores is what comes back, money to the last digit."""
    text = "".join(letter for letter in prompt if letter.isprintable()).strip() or "x"
    shot = job(prompt=text, seed=seed)
    assert VideoJob.model_validate_json(shot.model_dump_json()) == shot
    offer = quote("gemini", str(amount), 5)
    assert type(offer).model_validate_json(offer.model_dump_json()) == offer
    assert Decimal(json.loads(offer.model_dump_json())["amount_usd"]) == amount


def test_names_for_vendors_are_safe_and_unique_to_the_attempt() -> None:
    """ComfyUI's file prefix has no dots that it would read as an extension."""
    order = WorkOrder(
        attempt_id="0123456789abcdef",
        batch="night.1",
        job=job("shot.2"),
        number=1,
        seed=1,
        lane="l",
        quote=quote("comfyui", "0", 10),
    )
    assert order.label == "night.1/shot.2"
    assert order.filename_prefix == "hv/night_1/shot_2-01234567"
    assert OutputSpec(width=64, height=64, fps=16, frames=80).duration_s == 5
