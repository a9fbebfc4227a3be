"""A history of any size for the dashboard's benchmark and tests, made inside DuckDB: deterministic and quick."""

from __future__ import annotations

from pathlib import Path

import duckdb

from hybrid_video.history import History, rollup

DAYS = 365
JOBS_PER_BATCH = 250

ROWS = """
insert into attempts
with raw as (
    select i, hash(i) as h, hash(i, 'b') as g, i % 40 = 39 as again from range(?) t(i)
), shaped as (
    select i, h, g, again,
           (i - again::int) // {per_batch} as batch_number, (i - again::int) % {per_batch} as job_number,
           case when (h >> 3) % 20 = 0 then 'failed' else 'settled' end as outcome,
           case h % 20 when 0 then 'gemini' when 1 then 'runpod-pod' when 2 then 'runpod-pod'
                when 3 then 'runpod-serverless' when 4 then 'runpod-serverless' when 5 then 'runpod-serverless'
                when 6 then 'runpod-serverless' else 'comfyui' end as backend,
           now()::timestamp - to_seconds(cast(({days} * 86400.0) * (1 - i / cast(? as double)) as bigint)) as finished
    from raw
), timed as (
    select *, case backend when 'comfyui' then 40 when 'gemini' then 35 else 30 end
           * (0.7 + (g % 1000) / 1400.0) as run_s
    from shaped
)
select md5(cast(i as varchar)), 'batch-' || lpad(cast(batch_number as varchar), 5, '0'), 'shot-' || job_number,
       1 + again::int, backend,
       case backend when 'comfyui' then 'local' when 'gemini' then 'gemini' else 'cloud' end,
       case when backend = 'gemini' then 'gemini-omni-1.2-flash' when (g >> 7) % 3 = 0 then 'wan2.2-t2v-a14b'
            else 'wan2.2-ti2v-5b' end,
       case backend when 'comfyui' then 'NVIDIA GeForce RTX 4090' when 'gemini' then ''
            else 'NVIDIA GeForce RTX 5090' end,
       outcome,
       case backend when 'comfyui' then 0.001 when 'gemini' then 0.35 else 0.012 end,
       case backend when 'comfyui' then 0.001 when 'gemini' then 0.35 else round(0.0004 * run_s, 7) end
           * case when outcome = 'failed' and backend = 'gemini' then 0 else 1 end,
       35, finished - to_seconds(cast(run_s * 2 as bigint)), finished - to_seconds(cast(run_s as bigint)), finished,
       run_s, run_s / 2, run_s * 2, 832 * 480 * 81,
       case when outcome = 'settled' then '' else list_value('out_of_memory', 'unreachable', 'content_blocked',
            'timeout')[cast(1 + (g >> 11) % 4 as bigint)] end,
       '', 60, run_s, run_s / (832 * 480 * 81), '', null, 1, backend || '-' || (g >> 5) % 4, 5
from timed
"""


def make_history(path: Path, attempts: int) -> History:
    """A history with so many attempts over the past year: three tiers, failures, retries, hundreds of batches."""
    history = History(path)
    history.query("select 1")  # makes the table
    connection = duckdb.connect(str(path))
    try:
        connection.execute(ROWS.format(per_batch=JOBS_PER_BATCH, days=DAYS), [attempts, attempts])
        rollup.refresh(connection)
    finally:
        connection.close()
    return history
