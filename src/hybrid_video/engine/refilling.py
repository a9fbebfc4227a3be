"""Fills a restored ledger with what happened after its backup, from what the vendors cannot take away.

First the journal (`hybrid_video.ledger.journal`): every send, receipt and end. Then the records beside the clips, for
what a journal does not tell. What is open afterwards is followed by `reconcile` like anything a crash has left open.
The gap is closed only when every journal that was in use has been read and no clip shows that one of them was not
whole; otherwise nothing more is bought until a person has looked at the vendors' bills.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.clips.records import ClipRecord, Receipt, records_in
from hybrid_video.ledger import Ledger, gaps, money
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.lookups import batch_rows
from hybrid_video.ledger.pod_checks import POD_ENDS, pod_scopes
from hybrid_video.ledger.states import MOVES
from hybrid_video.models import AttemptState, JobState, Model
from hybrid_video.pods.accounting import book_within

Row = dict[str, Any]


class Refilled(Model):
    """What was found out about the time since the backup."""

    taken_at: datetime
    attempts_added: int
    attempts_brought_on: int
    from_clips: int
    pods: tuple[str, ...] = ()
    waits_for: tuple[str, ...] = ()
    not_whole: tuple[str, ...] = ()
    """Signs that a journal does not hold everything."""

    @property
    def closed(self) -> bool:
        """Whether everything since the backup is known."""
        return not self.waits_for and not self.not_whole


@dataclass
class _Story:
    """The last thing a journal says of each row."""

    batches: dict[str, Row] = field(default_factory=dict)
    attempts: dict[str, Row] = field(default_factory=dict)
    jobs: dict[tuple[str, str], Row] = field(default_factory=dict)
    pods: dict[str, Row] = field(default_factory=dict)

    def add(self, record: Mapping[str, Any]) -> None:
        """One line of a journal; a later one completes an earlier one."""
        match record.get("kind"):
            case "batch":
                self.batches[record["batch"]["name"]] = record["batch"]
            case "pod":
                self.pods[record["pod"]["name"]] = record["pod"]
            case "attempt":
                attempt, job = record["attempt"], record["job"]
                self.attempts.setdefault(attempt["attempt_id"], {}).update(attempt)
                self.jobs.setdefault((attempt["batch"], attempt["job"]), {}).update(job)


def refill(ledger: Ledger, clips_dirs: Iterable[Path] = ()) -> Refilled | None:
    """Brings a restored ledger up to the present; None where there is no gap. Can be repeated.

    Args:
        clips_dirs: folders of clips beside those of the known batches.
    """
    with ledger.reading() as connection:
        gap = gaps.open_gap(connection)
    if gap is None:
        return None
    story, journal = _Story(), ledger.journal
    if journal is not None:
        for record in journal.read(gap.taken_at - gaps.MARGIN):
            story.add(record)
    with ledger.writing() as connection:
        added, brought_on, not_whole = _tell(connection, story)
        pods = _tell_pods(connection, story.pods)
    strangers, odd = _adopt_clips(ledger, clips_dirs, gap.taken_at)
    not_whole += odd
    with ledger.writing() as connection:
        if journal is None:
            not_whole.append("no journal is kept here")
        elif not journal.covers(gap.taken_at):
            since = f"{journal.identity.complete_since:%Y-%m-%d %H:%M:%S} UTC"
            not_whole.append(f"the journal of this home folder goes back to {since} only")
        else:
            gaps.journal_was_read(connection, journal.identity)
        still = gaps.open_gap(connection)
        found = Refilled(
            taken_at=gap.taken_at,
            attempts_added=added,
            attempts_brought_on=brought_on,
            from_clips=strangers,
            pods=pods,
            waits_for=still.waits_for if still else (),
            not_whole=tuple(not_whole),
        )
        if found.closed:
            gaps.close_gaps(connection, f"{added + brought_on} attempts were found in the journals")
    return found


# -- the journal -------------------------------------------------------------------------------------------------------


def _tell(connection: Connection, story: _Story) -> tuple[int, int, list[str]]:
    """Writes the attempts a journal knows of; returns how many were new, how many went on, and what is not clear."""
    added, brought_on, not_whole = 0, 0, []
    for row in story.batches.values():
        _add_batch(connection, _columns(t.batches, row))
    for row in sorted(story.attempts.values(), key=lambda row: (row["created_at"], row["number"])):
        values = _columns(t.attempts, row)
        old = connection.execute(sa.select(t.attempts).where(t.attempts.c.attempt_id == row["attempt_id"])).first()
        if old is not None:
            brought_on += _bring_on(connection, old, values)
        elif _pruned(connection, values["batch"]):
            continue
        elif "quote" not in values:
            not_whole.append(f"the journal knows an end of attempt {row['attempt_id']}, and not its beginning")
        elif _add_attempt(connection, values, _columns(t.jobs, story.jobs[row["batch"], row["job"]])):
            added += 1
        else:
            not_whole.append(f"the journal knows attempt {row['attempt_id']} of an unknown batch {row['batch']!r}")
    for (batch, job), row in story.jobs.items():
        _set_job(connection, batch, job, _columns(t.jobs, row))
    return added, brought_on, not_whole


def _add_batch(connection: Connection, values: Row) -> None:
    known = connection.execute(sa.select(t.batches.c.name).where(t.batches.c.name == values["name"])).first()
    if known is None:
        connection.execute(sa.insert(t.batches).values(values))
    else:
        later = {name: values.get(name) for name in ("started_at", "finished_at")}
        connection.execute(sa.update(t.batches).where(t.batches.c.name == values["name"]).values(later))


def _add_attempt(connection: Connection, values: Row, job: Row) -> bool:
    """Writes an attempt that the backup does not know, and its job; False where its batch is not known either."""
    batch, name = values["batch"], values["job"]
    if connection.execute(sa.select(t.batches.c.name).where(t.batches.c.name == batch)).first() is None:
        return False
    here = (t.jobs.c.batch == batch) & (t.jobs.c.job == name)
    if connection.execute(sa.select(t.jobs.c.job).where(here)).first() is None:
        connection.execute(sa.insert(t.jobs).values(**job, owner=None, lease_until=None))
    numbers = sa.select(t.attempts.c.number).where(t.attempts.c.batch == batch, t.attempts.c.job == name)
    taken = set(connection.execute(numbers).scalars())
    if values["number"] in taken:
        values = {**values, "number": max(taken) + 1}
    connection.execute(sa.insert(t.attempts).values({**values, "in_history": False}))
    more = sa.case((t.jobs.c.attempts < values["number"], values["number"]), else_=t.jobs.c.attempts)
    connection.execute(sa.update(t.jobs).where(here).values(attempts=more))
    _move_money(connection, values, values.get("cost_usd") or Decimal(0), values["reserved_usd"])
    return True


def _bring_on(connection: Connection, old: sa.Row[Any], values: Row) -> bool:
    """Moves an attempt that the backup knows to where it went, if it can have gone there."""
    state = AttemptState(values["state"])
    if state not in _reachable(AttemptState(old.state)):
        return False
    changed = {name: value for name, value in values.items() if name not in ("attempt_id", "number", "in_history")}
    connection.execute(
        sa.update(t.attempts).where(t.attempts.c.attempt_id == old.attempt_id).values(**changed, in_history=False)
    )
    settled = (values.get("cost_usd") or Decimal(0)) - (old.cost_usd or Decimal(0))
    _move_money(connection, old._asdict(), settled, values["reserved_usd"] - old.reserved_usd)
    return True


def _reachable(state: AttemptState) -> set[AttemptState]:
    found, ahead = set[AttemptState](), set(MOVES[state])
    while ahead:
        found |= ahead
        ahead = {further for step in ahead for further in MOVES[step]} - found
    return found - {state}


def _move_money(connection: Connection, attempt: Row, settled: Decimal, reserved: Decimal) -> None:
    scopes = money.scopes(attempt["batch"], attempt["job"], attempt["day"], attempt["tier"])
    money.move(connection, scopes, settled=settled, reserved=reserved)


def _set_job(connection: Connection, batch: str, job: str, values: Row) -> None:
    """The job as the journal saw it last; whoever drove it is gone."""
    here = (t.jobs.c.batch == batch) & (t.jobs.c.job == job)
    known = connection.execute(sa.select(t.jobs).where(here)).first()
    made = values.get("attempts", 0)
    if known is None or known.attempts > made or (known.attempts == made and known.state == JobState.DONE.value):
        return
    fresh = {name: values.get(name, "") for name in ("state", "error_kind", "error_message")}
    connection.execute(sa.update(t.jobs).where(here).values(**fresh, owner=None, lease_until=None))


def _pruned(connection: Connection, batch: str) -> bool:
    query = sa.select(t.batches.c.pruned_at).where(t.batches.c.name == batch)
    return connection.execute(query).scalar() is not None


def _columns(table: sa.Table, row: Mapping[str, Any]) -> Row:
    """A journal's text as the columns of a table; what this version does not know is left out."""
    return {column.name: _typed(column, row[column.name]) for column in table.columns if column.name in row}


def _typed(column: sa.Column[Any], value: Any) -> Any:
    if value is None:
        return None
    if isinstance(column.type, t.Money):
        return Decimal(value)
    return datetime.fromisoformat(value) if isinstance(column.type, t.Utc) else value


# -- pods --------------------------------------------------------------------------------------------------------------


def _tell_pods(connection: Connection, pods: Mapping[str, Row]) -> tuple[str, ...]:
    """Writes the pods a journal knows of, and books what those that are gone came to; their bill corrects it."""
    told = []
    for name, row in pods.items():
        values = _columns(t.pods, row)
        old = connection.execute(sa.select(t.pods).where(t.pods.c.name == name)).first()
        if old is not None and (old.state in POD_ENDS or old.state == values["state"]):
            continue
        reserved = old.reserved_usd if old is not None else values["reserved_usd"]
        values |= {"reserved_usd": reserved, "billed_usd": None, "reconciled_at": None}
        if old is None:
            connection.execute(sa.insert(t.pods).values({**values, "booked_usd": Decimal(0)}))
            money.move(connection, sorted(pod_scopes(values["day"], values.get("batch", ""))), reserved=reserved)
        else:
            values.pop("booked_usd", None)
            connection.execute(sa.update(t.pods).where(t.pods.c.name == name).values(values | {"day": old.day}))
        if values["state"] in POD_ENDS:
            written = connection.execute(sa.select(t.pods).where(t.pods.c.name == name)).one()
            book_within(connection, written, values.get("cost_usd") or Decimal(0))
        told.append(name)
    return tuple(told)


# -- clips -------------------------------------------------------------------------------------------------------------


def _adopt_clips(ledger: Ledger, clips_dirs: Iterable[Path], since: datetime) -> tuple[int, list[str]]:
    """Writes what the records beside the clips know and the ledger does not; each is a sign of a torn journal."""
    known = batch_rows(ledger)
    folders = {row.out_dir / name for name, row in known.items()}
    for place in clips_dirs:
        if place.is_dir():
            folders |= {folder for folder in place.iterdir() if folder.is_dir()}
    adopted, odd = 0, []
    for folder in sorted(folders):
        for record in records_in(folder, since - gaps.MARGIN):
            with ledger.writing() as connection:
                query = sa.select(t.attempts).where(t.attempts.c.attempt_id == record.attempt_id)
                if connection.execute(query).first() is not None or _pruned(connection, record.batch):
                    continue
                what = f"the clip {record.clip.path!r} was made since the backup, and no journal knows of it"
                if record.receipt is None:
                    odd.append(f"{what}; its record does not say enough to write it down again")
                    continue
                _adopt(connection, record, record.receipt, folder.parent)
            adopted += 1
            odd.append(what)
    return adopted, odd


def _adopt(connection: Connection, record: ClipRecord, receipt: Receipt, out_dir: Path) -> None:
    """A settled attempt from the record beside its clip."""
    sent = receipt.submitted_at or record.created_at
    batch = {"name": record.batch, "spec": f'{{"name":"{record.batch}"}}', "out_dir": str(out_dir)}
    known = connection.execute(sa.select(t.batches.c.name).where(t.batches.c.name == record.batch)).first()
    if known is None:
        times = {"created_at": sent, "started_at": sent, "finished_at": record.created_at}
        connection.execute(sa.insert(t.batches).values(**batch, **times, simulated=record.simulated))
    ordinals = sa.select(sa.func.coalesce(sa.func.max(t.jobs.c.ordinal), -1) + 1).where(t.jobs.c.batch == record.batch)
    job = {
        "batch": record.batch,
        "job": record.job,
        "ordinal": connection.execute(ordinals).scalar_one(),
        "spec": receipt.job.model_dump_json(),
        "state": JobState.DONE.value,
        "attempts": record.number,
        "updated_at": record.created_at,
        "registered_at": sent,
    }
    values = {
        "attempt_id": record.attempt_id,
        "batch": record.batch,
        "job": record.job,
        "number": record.number,
        "backend": record.backend,
        "tier": record.tier.value,
        "model": receipt.quote.model,
        "lane": receipt.lane,
        "state": AttemptState.SETTLED.value,
        "spec_sha": receipt.spec_sha,
        "quote": receipt.quote.model_dump_json(),
        "quoted_usd": receipt.quote.amount_usd,
        "reserved_usd": Decimal(0),
        "cost_usd": record.cost_usd,
        "cost_basis": "recorded: the record beside the clip says so",
        "day": sent.date().isoformat(),
        "clip": record.clip.model_dump_json(),
        "created_at": sent,
        "submitted_at": sent,
        "finished_at": record.created_at,
        "execution_s": record.execution_s,
        "queue_s": receipt.queue_s,
        "gpu": record.gpu,
    }
    _add_attempt(connection, values, job)
    here = (t.jobs.c.batch == record.batch) & (t.jobs.c.job == record.job)
    connection.execute(sa.update(t.jobs).where(here).values(state=JobState.DONE.value, owner=None, lease_until=None))
