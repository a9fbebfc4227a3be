"""The statements on the way of an attempt, built once: building them anew takes longer than running them."""

from __future__ import annotations

import sqlalchemy as sa

from hybrid_video.ledger import schema as t
from hybrid_video.ledger.states import OPEN

JOB = (
    sa.select(t.jobs)
    .where(t.jobs.c.batch == sa.bindparam("of_batch"), t.jobs.c.job == sa.bindparam("of_job"))
    .with_for_update()
)
UPDATE_JOB = sa.update(t.jobs).where(t.jobs.c.batch == sa.bindparam("of_batch"), t.jobs.c.job == sa.bindparam("of_job"))
"""Sets the columns named in its parameters beside `of_batch` and `of_job`."""

ATTEMPT = sa.select(t.attempts).where(t.attempts.c.attempt_id == sa.bindparam("of_attempt")).with_for_update()
UPDATE_ATTEMPT = sa.update(t.attempts).where(t.attempts.c.attempt_id == sa.bindparam("of_attempt"))
"""Sets the columns named in its parameters beside `of_attempt`."""

INSERT_ATTEMPT = sa.insert(t.attempts)
INSERT_DECISION = sa.insert(t.decisions)

OPEN_ATTEMPTS = (
    sa.select(sa.func.count())
    .select_from(t.attempts)
    .where(
        t.attempts.c.batch == sa.bindparam("of_batch"),
        t.attempts.c.job == sa.bindparam("of_job"),
        t.attempts.c.state.in_([state.value for state in OPEN]),
    )
)
BALANCE = sa.select(t.balances).where(t.balances.c.scope == sa.bindparam("of_scope"))
