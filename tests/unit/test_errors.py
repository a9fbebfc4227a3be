"""The error tree: exit codes, what survives pickling, and what a message holds."""

from __future__ import annotations

import pickle

import pytest

from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    HybridVideoError,
    InputError,
    LedgerError,
    LimitError,
    SubmitUncertain,
    TerminalError,
    TransientError,
)

EXAMPLES: list[HybridVideoError] = [
    InputError("two problems", ("first", "second")),
    InputError("one problem"),
    ConfigurationError("no key"),
    LimitError("too dear"),
    LedgerError("locked"),
    TransientError(
        "refused", kind=FailureKind.RATE_LIMITED, backend="gemini", detail="429", execution_s=1.5, retry_after_s=7.0
    ),
    TerminalError("no", kind=FailureKind.OUT_OF_MEMORY, backend="comfyui", detail="CUDA", execution_s=3.0),
    SubmitUncertain("who knows", backend="runpod-serverless", detail="time-out"),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_every_error_survives_pickling_whole(error: HybridVideoError) -> None:
    """Prefect carries them between processes: class, message and every attribute come back."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.args == error.args
    assert vars(again) == vars(error)


def test_the_exit_codes_are_the_contract() -> None:
    """1 some jobs failed, 2 bad input or configuration, 3 refused by a limit."""
    codes = {type(error).__name__: error.exit_code for error in EXAMPLES}
    assert codes == {
        "InputError": 2,
        "ConfigurationError": 2,
        "LimitError": 3,
        "LedgerError": 1,
        "TransientError": 1,
        "TerminalError": 1,
        "SubmitUncertain": 1,
    }


def test_one_except_catches_them_all() -> None:
    """Each is a HybridVideoError, and those of an attempt are BackendErrors."""
    assert all(isinstance(error, HybridVideoError) for error in EXAMPLES)
    assert [type(e) for e in EXAMPLES if isinstance(e, BackendError)] == [
        TransientError,
        TerminalError,
        SubmitUncertain,
    ]


def test_an_input_error_always_lists_its_problems() -> None:
    """One sentence each; a single message is its own list."""
    assert EXAMPLES[0].problems == ("first", "second")  # type: ignore[attr-defined]
    assert EXAMPLES[1].problems == ("one problem",)  # type: ignore[attr-defined]


def test_an_uncertain_submit_is_neither_transient_nor_terminal() -> None:
    """Whoever retries transient errors or gives up on terminal ones leaves it alone."""
    error = SubmitUncertain("lost", backend="gemini")
    assert error.kind is FailureKind.UNCERTAIN
    assert not isinstance(error, TransientError | TerminalError)
