"""Batches in this process over the vendors of the chaos suite, each test with a home of its own."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos_audit import Audit, Person, audit
from benchmarks.chaos_farm import SMALL, Vendors
from hybrid_video.emulators.faults import FaultRule
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.session import run_batch
from hybrid_video.ledger import Ledger
from hybrid_video.models import Attempt, Batch, Preferences, Tier, VideoJob
from hybrid_video.settings import Settings

VARIABLES = {
    Tier.LOCAL: ("HYBRID_VIDEO_COMFYUI_URLS",),
    Tier.CLOUD: ("HYBRID_VIDEO_RUNPOD_JOBS_URL", "HYBRID_VIDEO_RUNPOD_PODS_URL", "RUNPOD_API_KEY"),
    Tier.GEMINI: ("HYBRID_VIDEO_GEMINI_URL", "GEMINI_API_KEY"),
}
SERVERS = {Tier.LOCAL: "comfyui", Tier.CLOUD: "runpod", Tier.GEMINI: "gemini"}


class Studio:
    """One home, the vendors as new, and batches of small clips."""

    def __init__(self, vendors: Vendors, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        vendors.reset()
        self.vendors = vendors
        self.home = folder / "home"
        self._folder = folder
        self._monkeypatch = monkeypatch
        self.use(*Tier)
        self.ledger = Ledger.open(self.home / "ledger.sqlite3")
        self.person = Person(self.ledger, self.home)

    def close(self) -> None:
        """Closes the ledger."""
        self.person.close()
        self.ledger.close()

    def use(self, *tiers: Tier) -> None:
        """Configures these tiers and no others."""
        absent = {name for tier in Tier if tier not in tiers for name in VARIABLES[tier]}
        for name, value in {**self.vendors.environment, "HYBRID_VIDEO_HOME": str(self.home)}.items():
            if name in absent:
                self._monkeypatch.delenv(name, raising=False)
            else:
                self._monkeypatch.setenv(name, value)

    def fault(self, **rule: Any) -> None:
        """Adds a fault."""
        self.vendors.faults.add(FaultRule(**rule))

    def batch(self, tiers: Sequence[Tier] = tuple(Tier), name: str = "film") -> Batch:
        """One job for each tier named, which prefers it."""
        jobs = [
            VideoJob(id=f"s{n}", prompt=f"shot {n}", preferences=Preferences(backend=tier.value), **SMALL)
            for n, tier in enumerate(tiers)
        ]
        return Batch(name=name, jobs=tuple(jobs))

    async def run(self, batch: Batch) -> BatchReport:
        """Runs a batch to its end."""
        async with asyncio.timeout(60):
            return await run_batch(batch, settings=Settings.load(), base_dir=self._folder)

    def attempts(self, job: str) -> list[Attempt]:
        """The attempts of a job of the batch `film`."""
        return self.ledger.attempts("film", job=job)

    def charged(self) -> Counter[str]:
        """Submissions the vendors accepted, by job."""
        return Counter(row["job"].partition("/")[2] for row in self.vendors.final_charges())

    def audit(self) -> Audit:
        """Ledger, clips and charge lists compared."""
        return audit(self.ledger, self.vendors.final_charges(), "film", self.person)

    def made_for_one_price(self, report: BatchReport) -> None:
        """Every job has its clip, was accepted once, and the books agree to the last cent."""
        assert report.errors == ()
        assert set(self.charged().values()) == {1}, self.charged()
        assert report.cost_usd == sum((Decimal(row["usd"]) for row in self.vendors.charges()), Decimal(0))
        assert self.audit().clean, self.audit()
