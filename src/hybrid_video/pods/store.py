"""Every write of a pod's life, each one checked transaction; and the reads that pool, roster and command line need.

A record is written, with its money reserved, before anything is sent to RunPod. The maximum of pods and every budget
are checked in that same transaction, so that any number of processes together cannot exceed them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from hybrid_video.backends.runpod.pod_records import Pod
from hybrid_video.errors import LedgerError, LimitError
from hybrid_video.ledger import Ledger, money
from hybrid_video.ledger import schema as t
from hybrid_video.ledger.money import Caps
from hybrid_video.ledger.noting import note
from hybrid_video.models import utc_now
from hybrid_video.pods.accounting import book_within
from hybrid_video.pods.budgets import scopes
from hybrid_video.pods.records import ALIVE, PodEvent, PodIntent, PodRecord, PodState, check_move, record
from hybrid_video.redaction import redact

MESSAGE_LENGTH = 1000

_ALIVE = sorted(ALIVE)
PlaceKey = tuple[str, str, str]
"""GPU, cloud and data centre ("" where RunPod chooses)."""


@dataclass(frozen=True)
class RefusedPlace:
    """Where no pod could be had."""

    until: datetime
    message: str


class PodStore:
    """The pods of one ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    # -- a pod's life ----------------------------------------------------------------------------------------------

    def intend(
        self, intent: PodIntent, *, caps: Caps, max_pods: int, owner: str | None = None, now: datetime | None = None
    ) -> PodRecord:
        """Writes the record and reserves its money, or does nothing at all.

        Raises:
            LimitError: as many pods are open as may be, or a budget does not allow it.
        """
        now = now or utc_now()
        day = now.date().isoformat()
        with self._ledger.writing() as connection:
            limits = scopes(day, intent.batch, self._with_batch(connection, intent.batch, caps))
            # The budgets first: on PostgreSQL this locks the row `all`, so that only one process counts pods at a time.
            money.check_caps(connection, limits, intent.reserve_usd, f"opening a pod with {intent.gpu}")
            self._check_count(connection, max_pods)
            values = intent.model_dump(exclude={"reserve_usd", "reason"}) | {
                "state": "intended",
                "day": day,
                "owner": owner,
                "opened_because": redact(intent.reason, MESSAGE_LENGTH),
                "intended_at": now,
                "reserved_usd": intent.reserve_usd,
                "booked_usd": Decimal(0),
            }
            connection.execute(sa.insert(t.pods).values(**values))
            self._event(connection, intent.name, "intended", intent.reason, now)
            money.move(connection, limits, reserved=intent.reserve_usd)
            return record(self._row(connection, intent.name))

    def mark_creating(self, name: str) -> PodRecord:
        """The create call is about to be sent."""
        return self._move(name, "creating")

    def try_place(self, name: str, intent: PodIntent, caps: Caps) -> PodRecord:
        """The same opening at another place, which may cost more; nothing was created so far.

        Raises:
            LimitError: a budget does not allow the difference.
        """
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            more = intent.reserve_usd - row.reserved_usd
            limits = scopes(row.day, row.batch, self._with_batch(connection, row.batch, caps))
            if more > 0:
                money.check_caps(connection, limits, more, f"opening a pod with {intent.gpu}")
            place = intent.model_dump(include={"gpu", "cloud", "data_center", "price_usd_per_h", "storage_usd_per_h"})
            connection.execute(self._update(name).values(reserved_usd=intent.reserve_usd, **place))
            money.move(connection, limits, reserved=more)
            self._event(connection, name, "next place", f"{intent.gpu}, {intent.cloud}, {intent.data_center or 'any'}")
            return record(self._row(connection, name))

    def mark_created(
        self,
        name: str,
        pod_id: str,
        *,
        price_usd_per_h: Decimal | None = None,
        data_center: str = "",
        now: datetime | None = None,
        detail: str = "",
    ) -> PodRecord:
        """RunPod has accepted it, and names it so; the price is the one it really asks.

        It is `closing` afterwards, and no more, when somebody asked for its end, or gave it up, in the meantime.
        """
        values: dict[str, Any] = {"pod_id": pod_id, "created_at": now or utc_now(), "error": ""}
        if price_usd_per_h:
            values["price_usd_per_h"] = price_usd_per_h
        if data_center:
            values["data_center"] = data_center
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            if row.pod_id == pod_id:
                return record(row)
            taken = connection.execute(sa.select(t.pods.c.name).where(t.pods.c.pod_id == pod_id)).scalar()
            if taken is not None:
                raise LedgerError(f"pod id {pod_id!r} belongs to {taken!r} already, and not to {name!r} as well")
            unwanted = row.state in ("closing", "closed", "failed")
            if row.state == "closing":
                connection.execute(self._update(name).values(**values))
                self._event(connection, name, "created", detail or pod_id, now)
                return record(self._row(connection, name))
            state: PodState = "closing" if unwanted else "starting"
            return self._set(connection, row, state, detail or pod_id, now, **values)

    def mark_ready(self, name: str, *, now: datetime | None = None, detail: str = "") -> PodRecord:
        """Its ComfyUI has rendered a probe."""
        moment = now or utc_now()
        return self._move(name, "ready", detail, moment, ready_at=moment, error="", closed_because="")

    def mark_draining(self, name: str, reason: str) -> PodRecord:
        """It gets no new jobs and is closed when the last has ended."""
        return self._move(name, "draining", reason, closed_because=redact(reason, MESSAGE_LENGTH))

    def mark_taking(self, name: str) -> PodRecord:
        """A draining pod gets jobs again: work has come before its last job was over."""
        return self._move(name, "ready", "takes jobs again", closed_because="")

    def mark_closing(self, name: str, reason: str = "") -> PodRecord:
        """The terminate call is about to be sent. An earlier reason stands."""
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            if row.state not in ALIVE:  # another process has ended it
                return record(row)
            values: dict[str, Any] = {}
            if not row.closed_because:
                values["closed_because"] = redact(reason, MESSAGE_LENGTH)
            return self._set(connection, row, "closing", reason, **values)

    def mark_closed(self, name: str, *, cost_usd: Decimal, reason: str = "", now: datetime | None = None) -> PodRecord:
        """It is gone for certain: what it cost by our clock is booked and its reservation given back in one commit."""
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            if row.state == "closed":  # another process was quicker
                return record(row)
            values: dict[str, Any] = {"closed_at": now or utc_now(), "cost_usd": cost_usd, "owner": None}
            if not row.closed_because:
                values["closed_because"] = redact(reason, MESSAGE_LENGTH)
            self._set(connection, row, "closed", reason, now, **values)
            book_within(connection, self._row(connection, name), cost_usd)
            return record(self._row(connection, name))

    def mark_failed(self, name: str, message: str, *, now: datetime | None = None) -> PodRecord:
        """It was certainly never created; its reservation is given back in the same commit."""
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            if row.state == "failed":
                return record(row)
            money.move(connection, scopes(row.day, row.batch), reserved=-row.reserved_usd)
            values = {"closed_at": now or utc_now(), "reserved_usd": Decimal(0), "owner": None}
            return self._set(connection, row, "failed", message, now, error=redact(message, MESSAGE_LENGTH), **values)

    def renewed(self, name: str, lease_until: datetime) -> None:
        """Its keeper has confirmed a lease until then."""
        self._write(name, lease_until=lease_until)

    def troubled(self, name: str, message: str) -> None:
        """What is wrong with it now; "" when nothing is. An event is written when that changes."""
        text = redact(message, MESSAGE_LENGTH)
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            if row.error != text:
                connection.execute(self._update(name).values(error=text))
                self._event(connection, name, "trouble" if text else "well again", text)

    def busy(self, name: str, at: datetime) -> None:
        """A job was last seen on it then."""
        self._write(name, busy_at=at)

    def extend(self, name: str, reserved_usd: Decimal, caps: Caps) -> None:
        """Raises the reservation of a living pod; never lowers it.

        Raises:
            LimitError: a budget does not allow it; the reservation stays as it was.
        """
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            more = reserved_usd - row.reserved_usd
            if row.state not in ALIVE or more <= 0:
                return
            limits = scopes(row.day, row.batch, self._with_batch(connection, row.batch, caps))
            money.check_caps(connection, limits, more, f"keeping pod {name!r} open")
            connection.execute(self._update(name).values(reserved_usd=reserved_usd))
            money.move(connection, limits, reserved=more)

    def found_again(self, name: str, pod_id: str) -> PodRecord:
        """A pod that was given up as never created, or counted as gone, exists after all and is being ended."""
        with self._ledger.writing() as connection:
            row = self._row(connection, name)
            values = {"pod_id": pod_id, "created_at": row.created_at or row.intended_at, "reconciled_at": None}
            return self._set(connection, row, "closing", f"{pod_id} exists though it counted as {row.state}", **values)

    def take_in(self, pod: Pod) -> PodRecord:
        """A listed pod that carries our name and has no record: written down to be ended and paid for."""
        now = utc_now()
        values = {
            "name": pod.name,
            "pod_id": pod.id,
            "state": "closing",
            "gpu": pod.gpu_name,
            "cloud": pod.cloud,
            "data_center": pod.data_center_id or "",
            "price_usd_per_h": pod.cost,
            "storage_usd_per_h": Decimal(0),
            "day": now.date().isoformat(),
            "opened_because": "found at RunPod without a record",
            "closed_because": "nobody knows why it was opened",
            "intended_at": min(pod.created_at or now, now),
            "created_at": min(pod.created_at or now, now),
            "reserved_usd": Decimal(0),
            "booked_usd": Decimal(0),
        }
        with self._ledger.writing() as connection:
            known = connection.execute(sa.select(t.pods).where(t.pods.c.name == pod.name)).one_or_none()
            if known is None:
                connection.execute(sa.insert(t.pods).values(**values))
                self._event(connection, pod.name, "found", pod.id)
            return record(self._row(connection, pod.name))

    def billed(self, name: str, amount_usd: Decimal, *, final: bool, detail: str = "") -> None:
        """What RunPod's bill says. When it is final it replaces what was booked by our clock, in the same commit."""
        with self._ledger.writing() as connection:
            values: dict[str, Any] = {"billed_usd": amount_usd}
            if final:
                values["reconciled_at"] = utc_now()
            connection.execute(self._update(name).values(**values))
            if final:
                book_within(connection, self._row(connection, name), amount_usd)
                self._event(connection, name, "billed", detail or f"RunPod bills ${amount_usd:f}")

    def note(self, name: str, event: str, detail: str = "") -> None:
        """Adds to what has happened to a pod, without changing it."""
        with self._ledger.writing() as connection:
            self._event(connection, name, event, detail)

    # -- reading ---------------------------------------------------------------------------------------------------

    def alive(self) -> tuple[PodRecord, ...]:
        """Pods that may cost money, in the order they were opened."""
        return self._where(t.pods.c.state.in_(_ALIVE))

    def ready(self) -> tuple[PodRecord, ...]:
        """Pods that jobs may be given."""
        return self._where(t.pods.c.state == "ready")

    def all(self, *, since: datetime | None = None) -> tuple[PodRecord, ...]:
        """Every pod there ever was, or that lived after a moment."""
        if since is None:
            return self._where(sa.true())
        return self._where(t.pods.c.state.in_(_ALIVE) | (t.pods.c.closed_at >= since))

    def unreconciled(self) -> tuple[PodRecord, ...]:
        """Pods that are gone and whose cost has not been compared with RunPod's bill for good."""
        over = t.pods.c.state.in_(["closed", "failed"])
        return self._where(over & t.pods.c.pod_id.is_not(None) & t.pods.c.reconciled_at.is_(None))

    def get(self, name: str) -> PodRecord | None:
        """One pod by name, or by RunPod's id of it."""
        found = self._where((t.pods.c.name == name) | (t.pods.c.pod_id == name))
        return found[-1] if found else None

    def events(self, name: str) -> tuple[PodEvent, ...]:
        """What has happened to a pod, oldest first."""
        query = sa.select(t.pod_events).where(t.pod_events.c.pod == name).order_by(t.pod_events.c.id)
        with self._ledger.reading() as connection:
            return tuple(
                PodEvent(pod=row.pod, at=row.at, event=row.event, detail=row.detail)
                for row in connection.execute(query)
            )

    # -- places ----------------------------------------------------------------------------------------------------

    def refuse_place(self, gpu: str, cloud: str, data_center: str, *, until: datetime, message: str) -> None:
        """No pod could be had there; nobody asks there again before `until`."""
        place = (t.pod_places.c.gpu == gpu) & (t.pod_places.c.cloud == cloud)
        place &= t.pod_places.c.data_center == data_center
        values = {"refused_until": until, "message": redact(message, MESSAGE_LENGTH)}
        with self._ledger.writing() as connection:
            if not connection.execute(sa.update(t.pod_places).where(place).values(**values)).rowcount:
                connection.execute(
                    sa.insert(t.pod_places).values(gpu=gpu, cloud=cloud, data_center=data_center, **values)
                )

    def refused_places(self, now: datetime | None = None) -> dict[PlaceKey, RefusedPlace]:
        """Each place nobody asks at now, until when, and what was said there."""
        query = sa.select(t.pod_places).where(t.pod_places.c.refused_until > (now or utc_now()))
        with self._ledger.reading() as connection:
            return {
                (row.gpu, row.cloud, row.data_center): RefusedPlace(row.refused_until, row.message)
                for row in connection.execute(query)
            }

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _where(self, condition: sa.ColumnElement[bool]) -> tuple[PodRecord, ...]:
        query = sa.select(t.pods).where(condition).order_by(t.pods.c.intended_at, t.pods.c.name)
        with self._ledger.reading() as connection:
            return tuple(record(row) for row in connection.execute(query))

    def _check_count(self, connection: Connection, max_pods: int) -> None:
        query = sa.select(t.pods.c.state, sa.func.count()).where(t.pods.c.state.in_(_ALIVE)).group_by(t.pods.c.state)
        counted: dict[str, int] = {row[0]: row[1] for row in connection.execute(query)}
        if sum(counted.values()) >= max_pods:
            words = ", ".join(f"{count} {state}" for state, count in sorted(counted.items())) or "none is open"
            raise LimitError(
                f"at most {max_pods} pods may be open at once ({words}); raise HYBRID_VIDEO_PODS_MAX_PODS, or close "
                "one with `hybrid-video pods stop ID`"
            )

    def _with_batch(self, connection: Connection, batch: str, caps: Caps) -> Caps:
        """The caps with the budget of the batch a pod is opened for."""
        if not batch:
            return caps
        query = sa.select(t.batches.c.budget_usd).where(t.batches.c.name == batch)
        budget = connection.execute(query).scalar_one_or_none()
        return Caps(batch_usd=budget, day_usd=caps.day_usd, month_usd=caps.month_usd, tier_usd=caps.tier_usd)

    def _move(
        self, name: str, state: PodState, detail: str = "", now: datetime | None = None, **values: Any
    ) -> PodRecord:
        with self._ledger.writing() as connection:
            return self._set(connection, self._row(connection, name), state, detail, now, **values)

    def _set(
        self,
        connection: Connection,
        row: sa.Row[Any],
        state: PodState,
        detail: str,
        now: datetime | None = None,
        **values: Any,
    ) -> PodRecord:
        if row.state == state:  # another process has done it already
            return record(row)
        check_move(row.name, row.state, state)
        connection.execute(self._update(row.name).values(state=state, **values))
        self._event(connection, row.name, state, detail, now)
        return record(self._row(connection, row.name))

    def _write(self, name: str, **values: Any) -> None:
        with self._ledger.writing() as connection:
            connection.execute(self._update(name).values(**values))

    def _row(self, connection: Connection, name: str) -> sa.Row[Any]:
        row = connection.execute(sa.select(t.pods).where(t.pods.c.name == name).with_for_update()).one_or_none()
        if row is None:
            raise LedgerError(f"no pod is named {name!r}; `hybrid-video pods list` names those that are")
        return row

    @staticmethod
    def _update(name: str) -> sa.Update:
        return sa.update(t.pods).where(t.pods.c.name == name)

    @staticmethod
    def _event(connection: Connection, name: str, event: str, detail: str = "", at: datetime | None = None) -> None:
        text = redact(detail, MESSAGE_LENGTH)
        connection.execute(sa.insert(t.pod_events).values(pod=name, at=at or utc_now(), event=event, detail=text))
        note(connection, "pod", name)
