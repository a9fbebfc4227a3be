"""The failure taxonomy: every kind has a policy, and the policies say what the design says."""

from __future__ import annotations

import pytest

from hybrid_video.errors import FailureKind
from hybrid_video.failures import POLICIES, policy


def test_every_kind_has_a_policy_with_advice() -> None:
    """Nothing fails without the user being told what to do."""
    assert set(POLICIES) == set(FailureKind)
    for kind in FailureKind:
        advice = policy(kind).advice
        assert advice.endswith(".")
        assert len(advice) > 15


@pytest.mark.parametrize(
    ("kind", "move"),
    [
        (FailureKind.OUT_OF_MEMORY, "elsewhere"),
        (FailureKind.MISSING_NODE, "elsewhere"),
        (FailureKind.MISSING_MODEL, "elsewhere"),
        (FailureKind.INVALID_WORKFLOW, "nowhere"),
        (FailureKind.CONTENT_BLOCKED, "elsewhere"),
        (FailureKind.NO_CAPACITY, "anywhere"),
        (FailureKind.UNREACHABLE, "anywhere"),
        (FailureKind.RATE_LIMITED, "anywhere"),
        (FailureKind.WEDGED, "elsewhere"),
        (FailureKind.UNCERTAIN, "look"),
        (FailureKind.CANCELLED, "nowhere"),
    ],
)
def test_a_failure_chooses_the_next_move(kind: FailureKind, move: str) -> None:
    """Deterministic failures never go back to the same backend; an unknown outcome is only looked up."""
    assert policy(kind).next == move


def test_only_what_concerns_the_whole_backend_is_fatal_for_it() -> None:
    """A bad key, an empty account, a retired model and a wedged machine rest the backend at once."""
    fatal = {kind for kind in FailureKind if policy(kind).fatal_for_backend}
    assert fatal == {
        FailureKind.WEDGED,
        FailureKind.AUTHENTICATION,
        FailureKind.INSUFFICIENT_FUNDS,
        FailureKind.MODEL_RETIRED,
    }


def test_the_fault_of_a_user_never_rests_a_backend() -> None:
    """A wrong prompt or workflow says nothing about the machine."""
    for kind in FailureKind:
        if policy(kind).fault == "user":
            assert not policy(kind).fatal_for_backend
