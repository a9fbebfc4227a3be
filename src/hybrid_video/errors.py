"""Every error this product raises on purpose.

    HybridVideoError
    ├── InputError                 a batch, job, file or workflow the user must change        exit 2
    │   └── NotFoundError          something asked for by name does not exist                 exit 2
    ├── ConfigurationError         a setting, key or installation the user must change        exit 2
    ├── LimitError                 a budget or limit refuses; nothing was spent               exit 3
    ├── LedgerError                the ledger cannot be read or written, or contradicts itself
    └── BackendError               one attempt on one backend did not end in a clip
        ├── TransientError         may pass: the same job may be tried again
        ├── TerminalError          deterministic: trying the same thing again cannot help
        └── SubmitUncertain        the call may have been accepted: never sent again, only looked up

A message says what happened, shows the value with ``!r`` and says what to do next. It never holds a secret:
vendor texts pass `hybrid_video.redaction.redact` before they become part of a message. All of them survive pickling,
because Prefect carries them between processes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class FailureKind(StrEnum):
    """What went wrong with an attempt. `hybrid_video.failures` says what each one means for the next move."""

    # transient
    UNREACHABLE = "unreachable"  # refused, reset, DNS, 5xx
    RATE_LIMITED = "rate_limited"  # 429
    NO_CAPACITY = "no_capacity"  # no worker, no GPU, queue refused
    RESTARTED = "restarted"  # the backend lost its queue and history
    WEDGED = "wedged"  # answers, but nothing runs any more
    TIMED_OUT = "timed_out"  # the vendor ended it for taking too long
    EXPIRED = "expired"  # the result was gone before it was collected
    DOWNLOAD_FAILED = "download_failed"
    VENDOR_ERROR = "vendor_error"  # the vendor failed without saying why
    # terminal on this backend, perhaps not elsewhere
    OUT_OF_MEMORY = "out_of_memory"
    MISSING_NODE = "missing_node"
    MISSING_MODEL = "missing_model"
    INVALID_WORKFLOW = "invalid_workflow"
    INVALID_REQUEST = "invalid_request"
    EXECUTION_FAILED = "execution_failed"  # a node raised
    CONTENT_BLOCKED = "content_blocked"
    AUTHENTICATION = "authentication"
    INSUFFICIENT_FUNDS = "insufficient_funds"
    MODEL_RETIRED = "model_retired"
    BAD_CLIP = "bad_clip"  # came back, but is not the clip asked for
    OVER_BUDGET = "limit"  # it ran longer than the limits allow
    # neither
    UNCERTAIN = "uncertain"
    CANCELLED = "cancelled"


class HybridVideoError(Exception):
    """Base of the tree; never raised itself."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_restore, (type(self), self.__dict__))


def _restore(cls: type[HybridVideoError], state: dict[str, Any]) -> HybridVideoError:
    error = cls.__new__(cls)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class InputError(HybridVideoError):
    """The user's batch, job, file or workflow is wrong; `problems` holds one sentence each."""

    exit_code = 2

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class NotFoundError(InputError):
    """A batch, job, clip or pod that was asked for by name does not exist."""


class ConfigurationError(HybridVideoError):
    """A setting, a key or the installation is wrong."""

    exit_code = 2


class LimitError(HybridVideoError):
    """A budget or a limit refuses. Raised before anything is sent, so nothing was spent."""

    exit_code = 3


class LedgerError(HybridVideoError):
    """The ledger cannot be used, or holds something that contradicts itself."""


class BackendError(HybridVideoError):
    """One attempt on one backend did not end in a clip.

    Args:
        kind: the class of failure; decides the next move.
        backend: registry key of the backend, for example ``"comfyui"``.
        detail: the vendor's own words, shortened and redacted; may be empty.
        execution_s: seconds the vendor says it worked before failing, where it says so; they may be billed.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        backend: str,
        detail: str = "",
        execution_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.backend = backend
        self.detail = detail
        self.execution_s = execution_s


class TransientError(BackendError):
    """May pass by itself. `retry_after_s` is the vendor's own advice in seconds, where it gave one.

    Raised by a submit, it means for certain that the backend did not take the job (connection refused, 429).
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind,
        backend: str,
        detail: str = "",
        execution_s: float | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, kind=kind, backend=backend, detail=detail, execution_s=execution_s)
        self.retry_after_s = retry_after_s


class TerminalError(BackendError):
    """Deterministic here: the same job on the same backend fails again."""


class SubmitUncertain(BackendError):
    """The submit may have been accepted: time-out or lost answer after the request was sent.

    The attempt keeps its reservation. It is resolved by looking (`Backend.find`), never by sending again.
    """

    def __init__(self, message: str, *, backend: str, detail: str = "") -> None:
        super().__init__(message, kind=FailureKind.UNCERTAIN, backend=backend, detail=detail)
