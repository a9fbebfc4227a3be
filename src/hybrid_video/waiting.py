"""The central queue of a batch: jobs that wait for a lane, kept so that looking at ten thousand costs no more than ten.

Jobs that may go to the same backends with the same models, at the same rank, are one `Kind`. Within a kind the largest
come first, because small ones fill the gaps at the end; equally large ones keep the order in which they came.

Pure: knows nothing of clocks, vendors or storage.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from hybrid_video.models import Quote

AGING_S = 60.0
"""Seconds of waiting that weigh as much as one step of priority."""


def precedence(priority: int, submitted_s: float = 0.0) -> float:
    """Rank of a job, lower first: its priority, and how long ago it came.

    A job is passed by one of higher priority only if that one came less than `AGING_S` seconds per step of difference
    after it, so with 100 steps nothing waits behind later arrivals for more than 6,000 s. Jobs that came together are
    taken strictly in order of priority.
    """
    return submitted_s / AGING_S - priority


@dataclass(frozen=True)
class PendingJob:
    """A waiting job and the quotes of the backends that may take it now."""

    id: str
    options: Mapping[str, Quote]
    urgent: bool = False
    """Speed is prioritised: the earliest finish wins, whatever it costs within the limits."""
    rank: float = 0.0
    """Order of precedence, lower first; see `precedence`."""
    size: float = 0.0
    """How large it is, in a unit all jobs share; 0 takes `size_of` its options. To be given where backends are left out
    of the options, so that a job does not look larger for having failed on the fastest."""


Entry = tuple[float, int, PendingJob]
"""(minus the size, place in the order of arrival, job)"""


class Kind:
    """Waiting jobs that differ at most in size, the largest first."""

    __slots__ = ("backends", "entries", "models", "rank", "urgent")

    def __init__(self, job: PendingJob) -> None:
        self.backends = frozenset(job.options)
        self.models = {key: quote.model for key, quote in job.options.items()}
        self.rank = job.rank
        self.urgent = job.urgent
        self.entries: list[Entry] = []


class Total:
    """Sums over the waiting jobs that one backend may take."""

    __slots__ = ("_service_s", "jobs", "prices", "services")

    def __init__(self) -> None:
        self.jobs = 0
        self.services: dict[float, int] = {}
        self.prices: dict[Decimal, int] = {}
        self._service_s = 0.0

    def count(self, quote: Quote, jobs: int) -> None:
        """Counts jobs of one quote in (or out, if negative)."""
        self.jobs += jobs
        service_s, amount_usd = quote.service_s, quote.amount_usd
        self._service_s += jobs * service_s
        left = self.services.get(service_s, 0) + jobs
        if left:
            self.services[service_s] = left
        else:
            del self.services[service_s]
        left = self.prices.get(amount_usd, 0) + jobs
        if left:
            self.prices[amount_usd] = left
        else:
            del self.prices[amount_usd]

    @property
    def alike(self) -> bool:
        """Whether every job takes the same time."""
        return len(self.services) == 1

    @property
    def service_s(self) -> float:
        """Mean seconds of a clip; exact where all are alike."""
        return next(iter(self.services)) if self.alike else self._service_s / self.jobs

    @property
    def price_usd(self) -> Decimal:
        """Mean price of a clip."""
        if len(self.prices) == 1:
            return next(iter(self.prices))
        return sum((amount * jobs for amount, jobs in self.prices.items()), Decimal(0)) / self.jobs


class Waiting:
    """Every waiting job of a batch. `add` and `remove` keep it up to date; asking changes nothing."""

    def __init__(self, jobs: Iterable[PendingJob] = ()) -> None:
        self.kinds: dict[tuple[object, ...], Kind] = {}
        self.totals: dict[str, Total] = {}
        self._places: dict[str, tuple[Kind, Entry]] = {}
        self._newest = 0
        self._oldest = 0
        self._sizes = 0.0
        for job in jobs:
            self.add(job)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def mean_size(self) -> float:
        """Mean size of a waiting job."""
        return self._sizes / len(self._places) if self._places else 0.0

    def add(self, job: PendingJob, *, first: bool = False) -> None:
        """Takes a job in, behind (or, with `first`, before) those of its rank and size."""
        if first:
            self._oldest -= 1
        else:
            self._newest += 1
        self._put(job, self._oldest if first else self._newest)

    def remove(self, job_id: str) -> PendingJob:
        """Takes a job out.

        Raises:
            KeyError: it is not there.
        """
        return self._take(job_id)[2]

    def take(self, entry: Entry) -> None:
        """Takes out what `put_back` will put back in its old place."""
        self._take(entry[2].id)

    def put_back(self, entry: Entry) -> None:
        """Undoes `take`."""
        self._put(entry[2], entry[1])

    def _put(self, job: PendingJob, place: int) -> None:
        key = (job.rank, job.urgent, *((name, quote.model) for name, quote in job.options.items()))
        kind = self.kinds.get(key)
        if kind is None:
            kind = self.kinds[key] = Kind(job)
        entry = (-(job.size or size_of(job.options)), place, job)
        insort(kind.entries, entry, key=_order)
        self._places[job.id] = (kind, entry)
        self._count(entry, 1)

    def _take(self, job_id: str) -> Entry:
        kind, entry = self._places.pop(job_id)
        del kind.entries[bisect_left(kind.entries, _order(entry), key=_order)]
        self._count(entry, -1)
        return entry

    def _count(self, entry: Entry, number: int) -> None:
        job = entry[2]
        self._sizes -= entry[0] * number
        for key, quote in job.options.items():
            total = self.totals.get(key)
            if total is None:
                total = self.totals[key] = Total()
            total.count(quote, number)


def grouped(pending: Iterable[PendingJob]) -> Waiting:
    """Jobs in order of precedence as a queue."""
    return Waiting(pending)


def _order(entry: Entry) -> tuple[float, int]:
    return entry[:2]


def size_of(options: Mapping[str, Quote]) -> float:
    """Seconds on the cheapest backend: what tells large from small."""
    return min(((quote.amount_usd, quote.service_s) for quote in options.values()), default=(0, 0.0))[1]
