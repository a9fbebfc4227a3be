"""Sums by day, kept beside the attempts in the same transaction, so that a year is asked as fast as a week.

One row for each day, backend, model, batch, outcome and way of failing over: a million attempts come to some tens of
thousands of rows. Percentiles and GPUs need the attempts themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

TABLE = """
create table if not exists daily (
    day date not null,
    tier varchar not null,
    backend varchar not null,
    model varchar not null,
    batch varchar not null,
    state varchar not null,
    error_kind varchar not null,
    away_from varchar not null,
    attempts bigint not null,
    cost_usd decimal(38, 9) not null,
    quoted_usd decimal(38, 9) not null,
    total_s double not null,
    google_s double not null,
    sized bigint not null
)
"""
"""`away_from`: backend of the attempt before, where it was another one. `google_s`: what Google would bill, whole
seconds and at least three, of clips whose length is known (`sized`)."""

FIGURES = """
    count(*), sum(cost_usd), sum(quoted_usd), sum(total_s), coalesce(sum(greatest(3, ceil(clip_s))), 0), count(clip_s)
"""

FIRST = f"""
insert into daily
select cast(finished_at as date) as day, tier, backend, model, batch, state, error_kind, '' as away_from, {FIGURES}
from attempts where number = 1 and {{within}} group by all
"""  # noqa: S608  # nosec B608 - our own text

LATER = f"""
insert into daily
with later as materialized (select * from attempts where number > 1 and {{within}}),
earlier as materialized (
    select batch, job, number, backend from attempts where (batch, job) in (select (batch, job) from later)
)
select cast(a.finished_at as date) as day, a.tier, a.backend, a.model, a.batch, a.state, a.error_kind,
       case when b.backend <> a.backend then b.backend else '' end as away_from, {FIGURES}
from later a left join earlier b on b.batch = a.batch and b.job = a.job and b.number = a.number - 1
group by all
"""  # noqa: S608  # nosec B608 - our own text


def ensure(connection: duckdb.DuckDBPyConnection) -> None:
    """The table; filled at once where the file was made before there was one."""
    found = connection.execute("select count(*) from duckdb_tables() where table_name = 'daily'").fetchone()
    if found is not None and found[0]:
        return
    connection.execute("begin")
    connection.execute(TABLE)
    refresh(connection)
    connection.execute("commit")


def refresh(connection: duckdb.DuckDBPyConnection, days: Sequence[date] | None = None) -> None:
    """Makes the sums of these days again, or of all; inside the caller's transaction."""
    within, values = "true", list[object]()
    if days is not None:
        within, values = "list_contains(?::date[], cast(finished_at as date))", [list(days)]
        connection.execute("delete from daily where list_contains(?::date[], day)", values)
    else:
        connection.execute("delete from daily")
    connection.execute(FIRST.format(within=within), values)
    connection.execute(LATER.format(within=within), values)
