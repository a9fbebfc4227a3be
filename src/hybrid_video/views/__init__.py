"""What the dashboard and the API show: typed, frozen, read only, every number from the ledger.

    overview(ledger, settings)            everything at a glance
    batches(ledger, …)  batch(ledger, n)  a page of batches; one with progress, money and outlook
    jobs(ledger, b, …)  job(ledger, b, j) a page of jobs; one with its decision card and attempts
    clips(ledger, …)    clip_file(…)      the gallery; the one file that may be handed out for a job
    events(ledger, b, …)                  what happened in a batch
    backends(ledger, settings)            health, load, breakers, prices with their age
    pods(ledger, …)     pod(ledger, n)    rented pods and their story
    spend(ledger, "day", "tier", …)       exact breakdowns

`settings` are those with stored preferences applied (`hybrid_video.preferences.applied`), so that the limits shown are
the ones in force. Lists are pages with a cursor. Nothing here writes, asks a vendor or opens the history.
"""

from hybrid_video.views.backends import BackendView, BreakerLine, HealthLine, PriceLine, backends
from hybrid_video.views.batches import (
    BatchLine,
    BatchState,
    BatchTier,
    BatchView,
    JobCounts,
    batch,
    batches,
    stored_batch,
)
from hybrid_video.views.clips import ClipFile, ClipLine, clip_file, clips
from hybrid_video.views.events import BatchEvent, EventPage, events
from hybrid_video.views.figures import Money, Page
from hybrid_video.views.jobs import AttemptLine, CandidateLine, DecisionLine, JobLine, JobView, TermLine, job, jobs
from hybrid_video.views.outlook import Outlook
from hybrid_video.views.overview import Overview, SpendSummary, TierSpend, overview
from hybrid_video.views.pods import PodEvent, PodLine, PodSummary, PodView, pod, pods
from hybrid_video.views.spend import Dimension, Spend, SpendLine, spend

__all__ = [
    "AttemptLine",
    "BackendView",
    "BatchEvent",
    "BatchLine",
    "BatchState",
    "BatchTier",
    "BatchView",
    "BreakerLine",
    "CandidateLine",
    "ClipFile",
    "ClipLine",
    "DecisionLine",
    "Dimension",
    "EventPage",
    "HealthLine",
    "JobCounts",
    "JobLine",
    "JobView",
    "Money",
    "Outlook",
    "Overview",
    "Page",
    "PodEvent",
    "PodLine",
    "PodSummary",
    "PodView",
    "PriceLine",
    "Spend",
    "SpendLine",
    "SpendSummary",
    "TermLine",
    "TierSpend",
    "backends",
    "batch",
    "batches",
    "clip_file",
    "clips",
    "events",
    "job",
    "jobs",
    "overview",
    "pod",
    "pods",
    "spend",
    "stored_batch",
]
