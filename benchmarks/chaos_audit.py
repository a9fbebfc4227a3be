"""What must hold after every batch, and the person who resolves what nobody can look up.

The person reads the vendors' charge lists, as one reads a console or a bill: a submit whose answer was lost is either
among the charges, and is then booked at what it cost, or it never arrived, and is then free to be made.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from hybrid_video.ledger import Ledger, Owner
from hybrid_video.ledger.resolving import resolve
from hybrid_video.ledger.verify import verify
from hybrid_video.models import Attempt, AttemptState, JobState

Charges = list[dict[str, str]]


class Person:
    """Resolves uncertain attempts from the charge lists, by the words `hybrid-video ledger resolve` knows."""

    def __init__(self, ledger: Ledger, home: Path) -> None:
        self._ledger = ledger
        self._owner = Owner(home)
        self._booked: set[str] = set()
        self.charged: set[str] = set()
        """Jobs (`batch/job`) whose paid clip nobody could fetch, because its receipt was lost."""

    def close(self) -> None:
        """Gives up ownership."""
        self._owner.close()

    def release_never_accepted(self, batch: str, charges: Charges) -> int:
        """Frees the attempts no vendor has; returns how many."""
        never = [each for each in self._unknown(batch) if self._charge_of(each, charges) is None]
        for attempt in never:
            resolve(self._ledger, self._owner, attempt, "never-accepted")
        return len(never)

    def book_accepted(self, batch: str, charges: Charges) -> int:
        """Books what the others cost and gives their jobs up; returns how many."""
        count = 0
        for attempt in self._unknown(batch):
            charge = self._charge_of(attempt, charges)
            if charge is not None:
                resolve(self._ledger, self._owner, attempt, "charged", usd=Decimal(charge["usd"]))
                self._booked.add(charge["id"])
                self.charged.add(f"{attempt.batch}/{attempt.job}")
                count += 1
        return count

    def _unknown(self, batch: str) -> list[Attempt]:
        found = self._ledger.attempts(batch, states=[AttemptState.UNCERTAIN])
        return [attempt for attempt in found if attempt.handle is None]

    def _charge_of(self, attempt: Attempt, charges: Charges) -> dict[str, str] | None:
        """The charge of an attempt without receipt: its job's only one at that vendor that no receipt accounts for."""
        siblings = self._ledger.attempts(attempt.batch, job=attempt.job)
        known = {each.handle.remote_id for each in siblings if each.handle} | self._booked
        label = f"{attempt.batch}/{attempt.job}"
        mine = (row for row in charges if row["job"] == label and row["tier"] == attempt.tier.value)
        return next((row for row in mine if row["id"] not in known), None)


@dataclass(frozen=True)
class Audit:
    """State of the whole ledger and of the batches looked at. All but `difference_usd` and the texts count things."""

    duplicates: tuple[str, ...]
    lost_clips: tuple[str, ...]
    leaked_usd: Decimal
    difference_usd: Decimal
    findings: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether nothing is wrong."""
        wrong = self.duplicates or self.lost_clips or self.findings
        return not wrong and not self.leaked_usd and not self.difference_usd


def audit(ledger: Ledger, charges: Charges, batch: str, person: Person) -> Audit:
    """Compares ledger, disk and charge lists; `batch` has just been finished."""
    report = verify(ledger)
    billed = sum((Decimal(row["usd"]) for row in charges), Decimal(0))
    serious = tuple(f"{each.kind} {each.subject}: {each.message}" for each in report.findings if each.serious)
    return Audit(
        duplicates=_paid_twice(ledger, charges, batch),
        lost_clips=_lost(ledger, batch, person),
        leaked_usd=report.reserved_usd,
        difference_usd=report.settled_usd - billed,
        findings=serious,
    )


def _paid_twice(ledger: Ledger, charges: Charges, batch: str) -> tuple[str, ...]:
    """Jobs whose clip was delivered and that have more than one charge for a finished clip."""
    paid: dict[str, list[str]] = defaultdict(list)
    for row in charges:
        if Decimal(row["usd"]) > 0 and row["state"] == "done":
            paid[row["job"]].append(row["id"])
    done = {f"{row.batch}/{row.job}" for row in ledger.job_rows(batch) if row.state is JobState.DONE}
    return tuple(f"{job}: {ids}" for job, ids in paid.items() if len(ids) > 1 and job in done)


def _lost(ledger: Ledger, batch: str, person: Person) -> tuple[str, ...]:
    """Jobs without a whole clip on disk, apart from those whose receipt was lost."""
    newest = {each.job: each for each in ledger.attempts(batch, states=[AttemptState.SETTLED])}
    lost = []
    for row in ledger.job_rows(batch):
        label = f"{row.batch}/{row.job}"
        if label in person.charged:
            continue
        attempt = newest.get(row.job)
        if row.state is not JobState.DONE or attempt is None or attempt.clip is None:
            lost.append(f"{label}: {row.state.value} {row.error_kind} {row.error_message}")
        elif not _is_whole(Path(attempt.clip.path), attempt.clip.sha256):
            lost.append(f"{label}: {attempt.clip.path} is missing or changed")
    return tuple(lost)


def _is_whole(path: Path, sha256: str) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == sha256
