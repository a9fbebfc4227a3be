"""The life of an attempt as one table.

    state      means                                                    money
    ---------  -------------------------------------------------------  ----------------------------
    (planned)  the job waits; an attempt is only written with its       nothing yet
               intent, so this is the job's own state `pending`
    intent     decided and reserved; the call is about to be sent       reserved
    submitted  accepted; the handle is stored                           reserved
    running    the backend has been seen working on it                  reserved
    collected  the clip is on disk, checked and named                   reserved
    settled    the cost is known and booked                             settled
    uncertain  accepted, or perhaps, but out of reach; only looked up   reserved
    failed     ended without a clip; what it cost is booked             settled (often 0)
    cancelled  stopped on request; what it cost is booked               settled (often 0)

A crash leaves one of the reserved states behind; `engine.resume` says what follows from each.
"""

from __future__ import annotations

from hybrid_video.errors import LedgerError
from hybrid_video.models import AttemptState as S

MOVES: dict[S, frozenset[S]] = {
    S.INTENT: frozenset({S.SUBMITTED, S.UNCERTAIN, S.FAILED, S.CANCELLED}),
    S.SUBMITTED: frozenset({S.RUNNING, S.COLLECTED, S.UNCERTAIN, S.FAILED, S.CANCELLED}),
    S.RUNNING: frozenset({S.COLLECTED, S.UNCERTAIN, S.FAILED, S.CANCELLED}),
    S.COLLECTED: frozenset({S.SETTLED}),
    S.UNCERTAIN: frozenset({S.SUBMITTED, S.RUNNING, S.COLLECTED, S.FAILED, S.CANCELLED}),
    S.SETTLED: frozenset(),
    S.FAILED: frozenset(),
    S.CANCELLED: frozenset(),
}

OPEN = frozenset(state for state, moves in MOVES.items() if moves)
"""States that still hold a reservation."""


def check_move(attempt_id: str, old: S, new: S) -> None:
    """Raises LedgerError unless the table allows the move (or it is no move at all)."""
    if new is not old and new not in MOVES[old]:
        raise LedgerError(f"attempt {attempt_id!r} cannot go from {old.value!r} to {new.value!r}")
