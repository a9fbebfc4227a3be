"""The frame rule: allowed numbers of frames and how a wish is fitted to them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hybrid_video import workflows
from hybrid_video.workflows.sizing import FrameRule, SizeRule, frames_for

rules = st.builds(
    lambda base, step, minimum: FrameRule(base=base, step=step, minimum=minimum, trained=1000, maximum=1000),
    st.integers(0, 8),
    st.integers(1, 8),
    st.integers(1, 40),
)


@given(rule=rules, frames=st.integers(1, 2000))
def test_rounding_up_gives_the_smallest_allowed_number(rule: FrameRule, frames: int) -> None:
    """It is allowed, not below the wish or the minimum, and one step less would be."""
    found = rule.at_least(frames)

    assert (found - rule.base) % rule.step == 0
    assert found >= max(frames, rule.minimum)
    assert found - rule.step < max(frames, rule.minimum)
    assert rule.at_least(found) == found


@given(rule=rules, frames=st.integers(1, 2000))
def test_rounding_down_never_leaves_the_allowed_numbers(rule: FrameRule, frames: int) -> None:
    """It is allowed and not above the wish, unless the wish is below the smallest allowed."""
    found = rule.at_most(frames)

    assert (found - rule.base) % rule.step == 0
    assert found >= rule.minimum
    assert found <= max(frames, rule.at_least(1))


@given(multiple=st.sampled_from([2, 8, 16, 32, 64]), pixels=st.integers(64, 4096))
def test_sides_are_rounded_up_by_less_than_one_multiple(multiple: int, pixels: int) -> None:
    """Nearest never shrinks a picture."""
    found = SizeRule(multiple=multiple, max_pixels=1, native=(64, 64), native_fps=1).at_least(pixels)

    assert found % multiple == 0
    assert 0 <= found - pixels < multiple


@given(fps=st.integers(1, 120), frames=st.integers(1, 960))
def test_a_length_of_whole_frames_needs_exactly_those(fps: int, frames: int) -> None:
    """Binary fractions such as 2.4 s at 25 fps do not add a frame."""
    assert frames_for(frames / fps, fps) == frames


def test_the_longest_clip_of_every_template_is_an_allowed_one() -> None:
    """So that the refusal can name it as the remedy."""
    for info in workflows.describe():
        assert info.frames.at_most(info.frames.maximum) == info.frames.maximum
        assert info.frames.at_least(info.frames.trained) == info.frames.trained
        assert info.size.native[0] % info.size.multiple == info.size.native[1] % info.size.multiple == 0
