"""What a pod cost beyond the jobs it ran, and whose that is.

A job on a pod is charged its own seconds, in its attempt. Everything else the pod cost (start-up, idle tail, storage)
is its overhead: the cost of the pod minus the charges on it, so that jobs and overhead together are exactly what RunPod
asks, to the nano-dollar. The overhead is shared out to the jobs that ran there, by their seconds; a pod that served
nobody is carried by the batch it was opened for, or by nobody ("unused").

`book` may be called again at any time: it works out whose money it is anew and books only the differences. So a job
that settles after its pod has gone, and RunPod's bill days later, correct what was booked before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import ROUND_DOWN, ROUND_UP, Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.errors import LedgerError
from hybrid_video.ledger import Ledger, money
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.money import Caps
from hybrid_video.models import utc_now
from hybrid_video.pods.budgets import scopes
from hybrid_video.pods.records import PodRecord, record
from hybrid_video.settings import Settings

NANO = Decimal("0.000000001")
STORAGE_USD_PER_GB_H = Decimal("0.10") / 730
"""Container disk of a running pod: $0.10 per GB and month (docs.runpod.io/pods/pricing)."""

Key = tuple[str, str]
"""Batch and job; an empty job is the batch as a whole, an empty batch nobody."""

NOBODY: Key = ("", "")


@dataclass(frozen=True)
class Tariff:
    """How seconds of a pod become money.

    `time_scale` is 1 except beside emulators that run faster than real time: there a real second is billed as so many.
    """

    time_scale: float = 1.0
    billing: str = "second"

    @classmethod
    def of(cls, settings: Settings) -> Tariff:
        """As the settings say."""
        return cls(settings.routing.time_scale, settings.pods.billing)

    def for_seconds(self, seconds: float, gpu_usd_per_h: Decimal, storage_usd_per_h: Decimal = Decimal(0)) -> Decimal:
        """What so many billed seconds cost, rounded up to a nano-dollar."""
        hours = Decimal(str(round(max(0.0, seconds), 3))) / 3600
        gpu_hours = Decimal(math.ceil(hours)) if self.billing == "hour" else hours
        return (gpu_hours * gpu_usd_per_h + hours * storage_usd_per_h).quantize(NANO, rounding=ROUND_UP)

    def billed_s(self, pod: PodRecord, now: datetime) -> float:
        """Seconds RunPod has billed by now, by our clock."""
        until = pod.closed_at or now
        return max(0.0, (until - pod.billed_from).total_seconds()) * self.time_scale

    def cost(self, pod: PodRecord, now: datetime | None = None) -> Decimal:
        """What a pod has cost so far, or came to: RunPod's bill where there is one."""
        if pod.state == "failed" or pod.pod_id is None:
            return Decimal(0)
        if pod.reconciled_at is not None and pod.billed_usd is not None:
            return pod.billed_usd
        if pod.cost_usd is not None:
            return pod.cost_usd
        return self.for_seconds(self.billed_s(pod, now or utc_now()), pod.price_usd_per_h, pod.storage_usd_per_h)


@dataclass(frozen=True)
class PodAccount:
    """A pod's money: `cost_usd` is `jobs_usd` and `overhead_usd` together."""

    cost_usd: Decimal
    jobs_usd: Decimal
    jobs: int
    open_attempts: int

    @property
    def overhead_usd(self) -> Decimal:
        """Start-up, idle time, storage: what no job was charged."""
        return self.cost_usd - self.jobs_usd


@dataclass(frozen=True)
class _Ran:
    """One attempt that ran on a pod."""

    batch: str
    job: str
    cost_usd: Decimal
    seconds: float
    is_open: bool


def account(ledger: Ledger, pod: PodRecord, cost_usd: Decimal) -> PodAccount:
    """A pod's cost beside what its jobs were charged."""
    with ledger.reading() as connection:
        ran = _ran(connection, pod.lane)
    return PodAccount(
        cost_usd=cost_usd,
        jobs_usd=sum((one.cost_usd for one in ran), Decimal(0)),
        jobs=len({(one.batch, one.job) for one in ran if one.batch}),
        open_attempts=sum(one.is_open for one in ran),
    )


def book(ledger: Ledger, name: str, cost_usd: Decimal, *, day: str | None = None, release: bool = True) -> PodRecord:
    """Books a pod's overhead as its cost now stands; gives its reservation back unless it lives on. One commit.

    Args:
        cost_usd: what the whole pod cost.
        day: the UTC day new amounts count in; the day the pod ended, or today, when None.
    """
    with ledger.writing() as connection:
        book_within(connection, _row(connection, name), cost_usd, day=day, release=release)
        return record(_row(connection, name))


def book_within(
    connection: Connection, row: sa.Row[Any], cost_usd: Decimal, *, day: str | None = None, release: bool = True
) -> None:
    """`book` in the caller's transaction."""
    _book(connection, row, cost_usd, day or (row.closed_at or utc_now()).date().isoformat(), release=release)


def roll_over(ledger: Ledger, name: str, cost_usd: Decimal, *, day: str, reserve_usd: Decimal, caps: Caps) -> PodRecord:
    """A pod lives into a new day: what it cost until now is booked on the old one, the rest reserved on the new.

    Raises:
        LimitError: the new day's or month's budget does not allow it; nothing is changed.
    """
    with ledger.writing() as connection:
        row = _row(connection, name)
        if row.day == day:
            return record(row)
        limits = scopes(day, row.batch, caps)
        money.check_caps(connection, limits, reserve_usd, f"keeping pod {name!r} open")
        _book(connection, row, cost_usd, row.day, release=True)
        connection.execute(sa.update(t.pods).where(t.pods.c.name == name).values(day=day, reserved_usd=reserve_usd))
        money.move(connection, limits, reserved=reserve_usd)
        return record(_row(connection, name))


def batch_overhead(ledger: Ledger, batch: str) -> Decimal:
    """Booked pod overhead that a batch carries, beyond its attempts' own costs."""
    query = sa.select(t.pod_shares.c.amount_usd).where(t.pod_shares.c.batch == batch)
    with ledger.reading() as connection:
        return sum(connection.execute(query).scalars(), Decimal(0))


def job_overheads(ledger: Ledger, batch: str) -> dict[str, Decimal]:
    """Booked pod overhead of each job of a batch ("" for the batch as a whole)."""
    amounts: dict[str, Decimal] = {}
    query = sa.select(t.pod_shares.c.job, t.pod_shares.c.amount_usd).where(t.pod_shares.c.batch == batch)
    with ledger.reading() as connection:
        for job, amount in connection.execute(query):
            amounts[job] = amounts.get(job, Decimal(0)) + amount
    return amounts


def expected_overhead(ledger: Ledger, batch: str, pods: Iterable[PodRecord], tariff: Tariff) -> Decimal:
    """A batch's share of pods that still live, as it would be if they ended now; nothing of it is booked yet."""
    total = Decimal(0)
    now = utc_now()
    with ledger.reading() as connection:
        for pod in pods:
            ran = _ran(connection, pod.lane)
            overhead = tariff.cost(pod, now) - sum((one.cost_usd for one in ran), Decimal(0)) - pod.booked_usd
            shares = share_out(overhead, _weights(ran), fallback=(pod.batch, ""))
            total += sum((amount for (name, _job), amount in shares.items() if name == batch), Decimal(0))
    return total


def share_out(overhead_usd: Decimal, weights: Mapping[Key, float], *, fallback: Key = NOBODY) -> dict[Key, Decimal]:
    """An amount by weight, exact to the nano-dollar; without any weight the fallback carries it."""
    total = sum(weights.values())
    if total <= 0:
        return {fallback: overhead_usd} if overhead_usd else {}
    shares = {
        key: (overhead_usd * Decimal(repr(weight)) / Decimal(repr(total))).quantize(NANO, rounding=ROUND_DOWN)
        for key, weight in sorted(weights.items())
    }
    heaviest = max(shares, key=lambda key: (weights[key], key))
    shares[heaviest] += overhead_usd - sum(shares.values(), Decimal(0))
    return {key: amount for key, amount in shares.items() if amount}


def within(shares: Mapping[Key, Decimal], headroom_usd: Mapping[str, Decimal]) -> dict[Key, Decimal]:
    """The shares with no batch carrying more than its budget still holds; the rest is nobody's."""
    fitted: dict[Key, Decimal] = {}
    by_batch: dict[str, Decimal] = {}
    for (batch, _job), amount in shares.items():
        by_batch[batch] = by_batch.get(batch, Decimal(0)) + amount
    for (batch, job), amount in shares.items():
        room, wanted = max(Decimal(0), headroom_usd.get(batch, by_batch[batch])), by_batch[batch]
        part = amount if wanted <= room else (amount * room / wanted).quantize(NANO, rounding=ROUND_DOWN)
        fitted[batch, job] = fitted.get((batch, job), Decimal(0)) + part
        fitted[NOBODY] = fitted.get(NOBODY, Decimal(0)) + amount - part
    return {key: amount for key, amount in fitted.items() if amount}


def _book(connection: Connection, row: sa.Row[Any], cost_usd: Decimal, day: str, *, release: bool) -> None:
    ran = _ran(connection, f"runpod-pod/{row.pod_id}" if row.pod_id else "")
    overhead = cost_usd - sum((one.cost_usd for one in ran), Decimal(0))
    before = _booked(connection, row.name)
    released = row.reserved_usd if release else Decimal(0)
    wanted = share_out(overhead, _weights(ran), fallback=(row.batch, ""))
    wanted = within(wanted, _headroom(connection, wanted, before, row, released))
    now = utc_now()
    for key in sorted(wanted.keys() | before.keys()):
        delta = wanted.get(key, Decimal(0)) - before.get(key, Decimal(0))
        if delta:
            _add_share(connection, row.name, key, day, delta, now)
            money.move(connection, scopes(day, key[0]), settled=delta)
    if released:
        money.move(connection, scopes(row.day, row.batch), reserved=-released)
    values = {"booked_usd": overhead, "reserved_usd": row.reserved_usd - released}
    connection.execute(sa.update(t.pods).where(t.pods.c.name == row.name).values(**values))


def _headroom(
    connection: Connection,
    wanted: Mapping[Key, Decimal],
    before: Mapping[Key, Decimal],
    row: sa.Row[Any],
    released: Decimal,
) -> dict[str, Decimal]:
    """For each batch with a budget, how much of this pod's overhead it can carry in all."""
    room: dict[str, Decimal] = {}
    for batch in {batch for batch, _job in wanted if batch}:
        query = sa.select(t.batches.c.budget_usd).where(t.batches.c.name == batch)
        budget = connection.execute(query).scalar_one_or_none()
        if budget is None:
            continue
        held = connection.execute(sa.select(t.balances).where(t.balances.c.scope == f"batch:{batch}")).one_or_none()
        used = held.settled_usd + held.reserved_usd if held else Decimal(0)
        mine = sum((amount for (name, _job), amount in before.items() if name == batch), Decimal(0))
        room[batch] = budget - used + mine + (released if batch == row.batch else Decimal(0))
    return room


def _add_share(connection: Connection, pod: str, key: Key, day: str, delta: Decimal, now: datetime) -> None:
    shares = t.pod_shares
    where = (shares.c.pod == pod) & (shares.c.batch == key[0]) & (shares.c.job == key[1]) & (shares.c.day == day)
    old = connection.execute(sa.select(shares.c.amount_usd).where(where)).scalar_one_or_none()
    if old is None:
        fresh = {"pod": pod, "batch": key[0], "job": key[1], "day": day, "amount_usd": delta, "booked_at": now}
        connection.execute(sa.insert(shares).values(**fresh))
    else:
        connection.execute(sa.update(shares).where(where).values(amount_usd=old + delta, booked_at=now))


def _booked(connection: Connection, pod: str) -> dict[Key, Decimal]:
    amounts: dict[Key, Decimal] = {}
    for row in connection.execute(sa.select(t.pod_shares).where(t.pod_shares.c.pod == pod)):
        key = (row.batch, row.job)
        amounts[key] = amounts.get(key, Decimal(0)) + row.amount_usd
    return amounts


def _ran(connection: Connection, lane: str) -> list[_Ran]:
    if not lane:
        return []
    query = sa.select(t.attempts).where(t.attempts.c.lane == lane).order_by(t.attempts.c.created_at)
    deleted = sa.select(t.pruned.c.settled_usd).where(t.pruned.c.scope == f"lane:{lane}")
    pruned = connection.execute(deleted).scalar_one_or_none() or Decimal(0)
    earlier = [_Ran("", "", pruned, 0.0, is_open=False)] if pruned else []  # details deleted for their age
    return earlier + [
        _Ran(
            batch=row.batch,
            job=row.job,
            cost_usd=row.cost_usd or Decimal(0),
            seconds=row.execution_s or 0.0,
            is_open=row.cost_usd is None,
        )
        for row in connection.execute(query)
    ]


def _weights(ran: Iterable[_Ran]) -> dict[Key, float]:
    """Seconds of each job on the pod; money where no seconds are known."""
    ran = [one for one in ran if not one.is_open and one.batch]
    by_seconds = any(one.seconds > 0 for one in ran)
    weights: dict[Key, float] = {}
    for one in ran:
        weight = one.seconds if by_seconds else float(one.cost_usd)
        if weight > 0:
            weights[one.batch, one.job] = weights.get((one.batch, one.job), 0.0) + weight
    return weights


def _row(connection: Connection, name: str) -> sa.Row[Any]:
    row = connection.execute(sa.select(t.pods).where(t.pods.c.name == name).with_for_update()).one_or_none()
    if row is None:
        raise LedgerError(f"no pod is named {name!r}; `hybrid-video pods list` names those that are")
    return row
