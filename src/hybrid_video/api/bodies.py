"""What is sent to the API and what it answers, beside the views that it shows as they are."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import ConfigDict, Field

from hybrid_video.models import (
    MAX_BUDGET_USD,
    MAX_DEADLINE_S,
    MAX_JOBS,
    Identifier,
    Model,
    Preferences,
    Tier,
    UsdLimit,
    VideoJob,
)
from hybrid_video.preferences import Pods, Routing
from hybrid_video.submitting import RunStatus, Submission
from hybrid_video.views import BackendView, BatchView, DecisionLine, Money, Overview, PodSummary, Spend

Name = Identifier


class Health(Model):
    """Whether the API can do its work."""

    status: Literal["ok"]
    version: str
    ledger: Literal["ok"]
    simulated: bool


class Status(Model):
    """Everything at a glance, with each backend."""

    overview: Overview
    backends: tuple[BackendView, ...]


class SelectJob(VideoJob):
    """A job as in a batch file; neither id nor prompt decides where it goes."""

    id: Identifier = "probe"
    prompt: str = Field("a shot", min_length=1, max_length=8000)


class SelectRequest(Model):
    """A job to find the best backend for. What is left out is as in a batch file."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "job": {
                        "id": "hero",
                        "prompt": "a lighthouse at dusk",
                        "duration_s": 5,
                        "width": 832,
                        "height": 480,
                    },
                    "preferences": {"max_cost_usd": "0.10"},
                }
            ]
        }
    )

    job: SelectJob = Field(default_factory=SelectJob, description="As in a batch file.")
    preferences: Preferences | None = Field(None, description="Preferences of the batch it would belong to.")
    attempt: int = Field(1, ge=1, le=10, description="Which attempt of the job it would be.")


class SelectAnswer(Model):
    """Where a run would send the job now. Nothing was reserved or sent."""

    backend: str | None = Field(description="None: no backend can take it; the decision says why.")
    tier: Tier | None
    reason: str
    estimated_cost_usd: Money | None
    estimated_time_s: float | None = Field(description="From its start to the finished clip.")
    estimated_wait_s: float | None
    decision: DecisionLine


class EstimateRequest(Model):
    """A number of like clips and a goal."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"jobs": 100, "duration_s": 5, "deadline_s": 3600, "prices": "current"}]}
    )

    jobs: int = Field(1, ge=1, le=MAX_JOBS, description="How many clips.")
    duration_s: float = Field(5.0, gt=0, le=60, allow_inf_nan=False)
    width: int = Field(832, ge=64, le=4096, multiple_of=2)
    height: int = Field(480, ge=64, le=4096, multiple_of=2)
    fps: int = Field(16, ge=1, le=120)
    workflow: str = Field("auto", min_length=1, max_length=200, description="auto, or the name of a shipped template.")
    slots: dict[Tier, int] = Field(
        default_factory=dict, description="Clips at once per tier; a tier with 0 is off. Empty: as configured."
    )
    deadline_s: float | None = Field(None, ge=1, le=MAX_DEADLINE_S, allow_inf_nan=False)
    budget_usd: UsdLimit | None = Field(None, ge=0, le=MAX_BUDGET_USD)
    prices: Literal["current", "seed"] | None = Field(
        None, description="Price profile; the configured one when absent."
    )
    batches_per_month: int = Field(1, ge=1, le=10_000)
    pods: int = Field(0, ge=0, le=20, description="Rented GPUs that may be opened for it, beside the slots.")


class PlanPoint(Model):
    """One split, its money and its time."""

    split: dict[str, int]
    cost_usd: Money
    duration_s: float


class PodPlanPoint(PlanPoint):
    """One split with rented GPUs opened for it; the split counts their clips under `pods`."""

    pods: int
    opening_usd: Money = Field(description="Part of the cost that is not clips: starts, or hours begun.")


class PodEstimate(Model):
    """The same question with rented GPUs, their starts included."""

    price_usd_per_h: Money
    cold_start_s: float
    service_s: float
    billing: Literal["second", "hour"]
    plan: PodPlanPoint | None = Field(description="For the goal; none where it cannot be kept with them either.")
    frontier: tuple[PodPlanPoint, ...]


class TierPrice(Model):
    """One clip on one tier."""

    tier: Tier
    price_usd: Money
    service_s: float
    slots: int
    basis: str


class Estimate(Model):
    """The plan for the goal beside everything it can be compared with. Money and time always together."""

    jobs: int
    split: dict[str, int]
    cost_usd: Money
    duration_s: float
    feasible: bool = Field(description="Whether the goal is kept; if not, this is the nearest plan.")
    missed: str = Field(description="deadline, budget, deadline_over_budget, or empty.")
    per_clip: tuple[TierPrice, ...]
    all_gemini_usd: Money
    all_gemini_duration_s: float
    saved_usd: Money
    savings_percent: float | None
    kink: PlanPoint = Field(description="Before it a second saved is dear, after it cheap.")
    frontier: tuple[PlanPoint, ...] = Field(description="From the fastest plan to the cheapest.")
    month_usd: Money
    month_all_gemini_usd: Money
    advice: tuple[str, ...]
    pods: PodEstimate | None = Field(None, description="With rented GPUs, where that was asked.")


class Recommendation(Model):
    """One thing worth doing, with the figures behind it."""

    kind: Literal["setup", "health", "breaker", "budget", "prices", "uncertain", "waiting", "plan"]
    urgency: Literal["now", "soon", "idea"]
    message: str
    action: str = Field(description="What to do; empty where the message says it.")


class Recommendations(Model):
    """What is worth doing, the most urgent first."""

    items: tuple[Recommendation, ...]
    plan: Estimate | None = Field(None, description="The split for `jobs`, where that was asked.")


class PreferenceValues(Routing, Pods):
    """Every preference with a value, or none where there is no such limit."""


class PreferenceChanges(Routing, Pods):
    """Fields to change. A field given as null is reset to the environment's; one left out stays."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"backend": "auto", "max_cost_per_job_usd": "0.25", "daily_budget_usd": None}]}
    )


class PreferencesAnswer(Model):
    """System-wide preferences: in force, the environment's, and what was changed when."""

    effective: PreferenceValues
    environment: PreferenceValues
    changed: dict[str, datetime]


class PodConfig(Pods):
    """How rented pods are opened and closed."""


class CloudStatus(Model):
    """Rented GPUs."""

    configured: bool
    serverless: BackendView
    pod_backend: BackendView
    pods: PodSummary
    prefer_serverless: bool
    today_usd: Money
    month_usd: Money
    reserved_usd: Money
    month_cap_usd: Money | None
    config: PodConfig


class CloudCost(Model):
    """What rented GPUs cost, by day and backend."""

    spend: Spend
    serverless_usd: Money
    pods_usd: Money = Field(description="Seconds of jobs on pods, and what pods cost beside them.")
    pods_overhead_usd: Money = Field(description="The second part alone: starting, idling, storage.")
    usd_per_h: Money = Field(description="What the open pods cost by the hour now.")


class SpawnRequest(Model):
    """Why a pod is wanted."""

    reason: str = Field("asked for over the API", min_length=1, max_length=200)
    batch: Identifier | None = Field(None, description="Batch to open it for: its budget is counted too.")


class PodsEnded(Model):
    """Pods that were told to end."""

    pods: tuple[str, ...]
    failed: tuple[str, ...] = Field((), description="Pods whose end the provider has not confirmed.")
    message: str


class Validation(Model):
    """A batch that could be run as it stands."""

    valid: Literal[True] = True
    batch: str
    jobs: int
    least_usd: Money | None = Field(None, description="If every job went to the cheapest backend that can make it.")
    planned_usd: Money | None = Field(None, description="What the plan for its goal costs.")
    planned_s: float | None = None
    split: dict[str, int] = Field(default_factory=dict)
    notices: tuple[str, ...] = ()


class RunInfo(Model):
    """The newest start of a batch from here."""

    submission: Submission
    status: RunStatus


class Submitted(Model):
    """A batch that was started, or with `validate_only` would be."""

    batch: str
    jobs: int
    started: bool
    run: Submission | None = None
    validation: Validation | None = None
    links: dict[str, str] = Field(default_factory=dict)


class BatchDetail(Model):
    """One batch. `view` is None until its run has reached the ledger, `run` where it was started elsewhere."""

    name: str
    view: BatchView | None
    run: RunInfo | None


class CancelRequest(Model):
    """Which jobs to cancel."""

    jobs: tuple[Identifier, ...] = Field((), max_length=MAX_JOBS, description="Ids; all that are not over when empty.")
    wait_s: float = Field(
        10.0, ge=0, le=90, allow_inf_nan=False, description="How long a live run may take to confirm."
    )


class CancelledJob(Model):
    """What became of one job."""

    job: str
    outcome: str = Field(description="cancelled, finished, failed, uncertain or unconfirmed.")
    message: str
    cost_usd: Money


class Cancelled(Model):
    """What became of every job that was not over."""

    batch: str
    counts: dict[str, int]
    jobs: tuple[CancelledJob, ...]
    run_stopped: bool = Field(description="The run itself was told to end.")
