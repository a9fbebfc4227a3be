"""The nouns of the product: what a user asks for, what was decided, what ran, what it cost.

Everything here is a frozen value. Money is `Decimal` in US dollars, times are UTC-aware, durations are seconds.
Nothing here does I/O or knows a vendor.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from decimal import ROUND_DOWN, Decimal
from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

MAX_JOBS = 10_000
MAX_BUDGET_USD = 1_000_000
MAX_DEADLINE_S = 30 * 86_400
NANO_USD = Decimal("0.000000001")
IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Names of batches and jobs: they become file names, ComfyUI prefixes and Prefect run names."""

AUTO_WORKFLOW = "auto"


def utc_now() -> datetime:
    """The present moment, UTC-aware."""
    return datetime.now(UTC)


class Model(BaseModel):
    """A frozen record that refuses fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Tier(StrEnum):
    """The three kinds of place a clip can be made, cheapest first in the seed's figures."""

    LOCAL = "local"
    CLOUD = "cloud"
    GEMINI = "gemini"


BackendChoice = Literal["auto", "local", "cloud", "gemini"]


def _usd(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise ValueError("must be a finite amount of US dollars")
    return value


def whole_nano_usd(value: Decimal) -> Decimal:
    """A limit cut to whole nano-dollars, the ledger's unit: a computed 0.30000000000000004 is meant as 0.30."""
    if not value.is_finite() or abs(value) > MAX_BUDGET_USD:
        return value
    cut = value.quantize(NANO_USD, rounding=ROUND_DOWN)
    return value if cut == value else cut


Usd = Annotated[Decimal, AfterValidator(_usd)]
UsdLimit = Annotated[Decimal, AfterValidator(_usd), AfterValidator(whole_nano_usd)]
Identifier = Annotated[str, Field(pattern=IDENTIFIER, max_length=64)]


class ScoreWeights(Model):
    """Weights of the selection score. They are shares: only their ratios matter."""

    priority: float = Field(40, ge=0, le=1000, description="Tier order: local before cloud before gemini.")
    cost: float = Field(30, ge=0, le=1000, description="Cheaper is better.")
    speed: float = Field(20, ge=0, le=1000, description="Earlier expected finish is better.")
    queue: float = Field(10, ge=0, le=1000, description="Shorter wait is better.")

    @model_validator(mode="after")
    def _some_weight(self) -> Self:
        if self.priority + self.cost + self.speed + self.queue <= 0:
            raise ValueError("at least one weight must be above 0")
        return self


class Preferences(Model):
    """What the user prefers and forbids. A field left out is inherited: job, then batch, then system.

    Preferences are overridden by the nearer level. Limits only tighten: the smallest `max_cost_usd` of the three
    levels holds, and a `allow_cloud_fallback: false` on any level holds.
    """

    backend: BackendChoice | None = Field(
        None,
        description="Preferred tier. `auto` lets the router choose. A preferred tier is used whenever it can "
        "serve within the limits; the others are fallbacks.",
    )
    max_cost_usd: UsdLimit | None = Field(
        None, ge=0, le=1000, description="Hard limit for one job in US dollars, all attempts together."
    )
    prioritize_speed: bool | None = Field(
        None, description="Prefer the earliest finish over the lowest price, within the limits."
    )
    allow_cloud_fallback: bool | None = Field(
        None,
        description="If false, only the local GPU and a tier named in `backend` may be used; no other paid tier.",
    )
    prefer_serverless: bool | None = Field(
        None, description="Within the cloud tier, prefer RunPod serverless over pods."
    )
    weights: ScoreWeights | None = Field(None, description="Weights of the selection score.")


class EffectivePreferences(Model):
    """The three levels of `Preferences` folded into one, nothing left open but the cost limit."""

    backend: BackendChoice = "auto"
    max_cost_usd: Usd | None = None
    prioritize_speed: bool = False
    allow_cloud_fallback: bool = True
    prefer_serverless: bool = False
    weights: ScoreWeights = ScoreWeights()

    @classmethod
    def fold(cls, *levels: Preferences | None) -> EffectivePreferences:
        """Folds levels given from the nearest (job) to the farthest (system)."""
        present = [level for level in levels if level is not None]
        chosen: dict[str, Any] = {}
        for name in ("backend", "prioritize_speed", "prefer_serverless", "weights"):
            for level in present:
                value = getattr(level, name)
                if value is not None:
                    chosen[name] = value
                    break
        caps = [level.max_cost_usd for level in present if level.max_cost_usd is not None]
        if caps:
            chosen["max_cost_usd"] = min(caps)
        if any(level.allow_cloud_fallback is False for level in present):
            chosen["allow_cloud_fallback"] = False
        return cls(**chosen)

    def permits(self, tier: Tier) -> bool:
        """Whether the user allows this tier at all, price aside."""
        return self.allow_cloud_fallback or tier is Tier.LOCAL or tier.value == self.backend


class OutputSpec(Model):
    """The clip a backend promises: what `clips.check` holds the file against."""

    width: int = Field(ge=16, le=8192)
    height: int = Field(ge=16, le=8192)
    fps: float = Field(gt=0, le=240)
    frames: int = Field(ge=1)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.frames / self.fps


class VideoJob(Model):
    """One shot: text-to-video, or image-to-video where `image` is given."""

    id: Identifier = Field(description="Unique within the batch; becomes the clip's file name.")
    prompt: str = Field(min_length=1, max_length=8000, description="What to show.")
    negative_prompt: str = Field("", max_length=8000, description="What to avoid.")
    image: str | None = Field(
        None,
        max_length=2048,
        description="First frame for image-to-video: a path inside the batch file's folder, or an https URL.",
    )
    duration_s: float = Field(5.0, gt=0, le=60, allow_inf_nan=False, description="Length in seconds.")
    width: int = Field(832, ge=64, le=4096, multiple_of=2, description="Width in pixels, even.")
    height: int = Field(480, ge=64, le=4096, multiple_of=2, description="Height in pixels, even.")
    fps: int = Field(16, ge=1, le=120, description="Frames per second.")
    fit: Literal["nearest", "exact"] = Field(
        "nearest",
        description="`nearest` accepts the closest size, frame rate and length a backend offers (never shorter); "
        "`exact` refuses backends that cannot make exactly this.",
    )
    seed: int | None = Field(
        None, ge=0, le=2**63 - 1, description="Left out, it is derived from the batch name and the job id."
    )
    workflow: str = Field(
        AUTO_WORKFLOW,
        min_length=1,
        max_length=200,
        description="`auto`, the name of a shipped template, or a path to your own API-format workflow. "
        "A named workflow runs only on ComfyUI backends.",
    )
    inputs: dict[str, str | int | float | bool] = Field(
        default_factory=dict,
        max_length=64,
        description="Further named inputs of your own workflow, by node title or mapping name.",
    )
    priority: int = Field(50, ge=0, le=100, description="Higher runs earlier.")
    preferences: Preferences | None = Field(None, description="Overrides for this job.")

    @field_validator("prompt", "negative_prompt")
    @classmethod
    def _printable(cls, value: str) -> str:
        if re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", value):
            raise ValueError("contains control characters; remove them")
        return value

    @field_validator("prompt")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError("is blank; describe the shot")
        return value

    @property
    def kind(self) -> Literal["text-to-video", "image-to-video"]:
        """Which of the two things this job is."""
        return "image-to-video" if self.image else "text-to-video"

    @property
    def frames(self) -> int:
        """Frames asked for: length times rate, at least one."""
        return max(1, round(self.duration_s * self.fps))

    def seed_in(self, batch_name: str) -> int:
        """The seed to use: the job's own, or one derived from batch and job so that a re-run repeats it."""
        if self.seed is not None:
            return self.seed
        digest = hashlib.sha256(f"{batch_name}/{self.id}".encode()).digest()
        return int.from_bytes(digest[:6], "big")


class Batch(Model):
    """A list of shots with a goal. `name` identifies it: running the same name again resumes it."""

    name: Identifier = Field(description="Identifies the batch; running the same name again resumes it.")
    jobs: tuple[VideoJob, ...] = Field(min_length=1, max_length=MAX_JOBS)
    deadline_s: float | None = Field(
        None, gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False, description="Finish within so many seconds of the start."
    )
    budget_usd: UsdLimit | None = Field(
        None, ge=0, le=MAX_BUDGET_USD, description="Hard limit for the whole batch in US dollars."
    )
    preferences: Preferences | None = Field(None, description="Preferences for every job of the batch.")

    @model_validator(mode="after")
    def _unique_ids(self) -> Self:
        seen: dict[str, int] = {}
        for index, job in enumerate(self.jobs):
            key = job.id.casefold()
            if key in seen:
                raise ValueError(
                    f"jobs[{seen[key]}] and jobs[{index}] share the id {job.id!r}; ids become file names, "
                    "so give each job its own (upper and lower case count as the same)"
                )
            seen[key] = index
        return self

    def with_goal(self, deadline_s: float | None, budget_usd: Decimal | None) -> Batch:
        """The batch with another deadline and a further budget: a deadline replaces, the smaller budget holds."""
        update: dict[str, Any] = {} if deadline_s is None else {"deadline_s": deadline_s}
        if budget_usd is not None:
            update["budget_usd"] = budget_usd if self.budget_usd is None else min(budget_usd, self.budget_usd)
        return self.model_copy(update=update) if update else self


class Capabilities(Model):
    """What a backend, with its present model, can make. Checked before it is chosen, never after."""

    text_to_video: bool = True
    image_to_video: bool = True
    workflows: bool = Field(description="Runs ComfyUI workflows.")
    negative_prompt: bool = True
    seed: bool = True
    max_duration_s: float = 60.0
    min_duration_s: float = 0.0


class Refusal(Model):
    """Why a backend cannot take a job. `reason` is a whole sentence for the user."""

    code: str = Field(description="Stable word: capability, limit, permission, health, breaker, excluded, preflight.")
    reason: str


class Quote(Model):
    """What a job would cost and how long it would take on one backend, and from what figures."""

    backend: str
    tier: Tier
    model: str = Field(description="Workflow template or vendor model that would make it.")
    amount_usd: Usd = Field(ge=0, description="Expected cost: what is booked if the clip takes the expected time.")
    reserve_usd: Usd = Field(ge=0, description="Pessimistic cost: what the spend gate reserves.")
    start_usd: Usd = Field(
        Decimal(0),
        ge=0,
        description="Expected cost of starting a worker, which the vendor bills to the endpoint and not to the job.",
    )
    service_s: float = Field(ge=0, description="Expected seconds from start to finished clip, queue excluded.")
    output: OutputSpec
    rate_usd_per_s: Usd = Field(
        Decimal(0), ge=0, description="What a running second costs; 0 where the price does not depend on the time."
    )
    basis: str = Field(description="The figures behind it: price entry, date, formula.")
    service_p90_s: float = Field(
        0.0, ge=0, description="Nine of ten clips take no longer than this; 0 where the quote does not say."
    )
    cold_start_s: float = Field(0.0, ge=0, description="Part of the expected time in which a worker only starts.")
    observed: int = Field(0, ge=0, description="Finished clips of this kind behind the expected time.")
    signature: str = Field("", description="Settings of the workflow that time depends on; empty for vendor models.")
    time_scale: float = Field(1.0, gt=0, description="How much faster than real time the backend runs (emulators).")

    @property
    def caused_usd(self) -> Decimal:
        """What choosing it for one job alone is expected to cause, the start of a worker included."""
        return self.amount_usd + self.start_usd


class ScoreTerm(Model):
    """One visible term of the score: `points = weight * value`, value between 0 and 1."""

    name: Literal["priority", "cost", "speed", "queue"]
    value: float
    weight: float
    points: float


class Candidate(Model):
    """One backend as it stood when a decision was made: refused with a reason, or scored."""

    backend: str
    tier: Tier
    quote: Quote | None = None
    refusal: Refusal | None = None
    wait_s: float = Field(0.0, ge=0, description="Expected wait before it could start.")
    queued: int = Field(0, ge=0)
    terms: tuple[ScoreTerm, ...] = ()
    score: float | None = None
    lost_because: str = Field("", description="Empty for the chosen one.")

    @property
    def finish_s(self) -> float:
        """Expected seconds from now to the finished clip."""
        return self.wait_s + (self.quote.service_s if self.quote else 0.0)


class Decision(Model):
    """Which backend gets a job, why, and why not each of the others."""

    job: str
    attempt: int = Field(ge=1)
    chosen: str | None = Field(description="Registry key of the backend; None if every one was refused.")
    tier: Tier | None
    reason: str
    candidates: tuple[Candidate, ...]
    decided_at: datetime
    elapsed_us: float = Field(ge=0, description="Time the decision itself took, microseconds.")

    @property
    def quote(self) -> Quote | None:
        """The chosen candidate's quote."""
        return next((c.quote for c in self.candidates if c.backend == self.chosen), None)


class AttemptState(StrEnum):
    """Life of one attempt; `hybrid_video.ledger.states` holds the table of allowed moves."""

    INTENT = "intent"
    SUBMITTED = "submitted"
    RUNNING = "running"
    COLLECTED = "collected"
    SETTLED = "settled"
    UNCERTAIN = "uncertain"
    FAILED = "failed"
    CANCELLED = "cancelled"


class JobState(StrEnum):
    """Life of a job across its attempts."""

    PENDING = "pending"
    ACTIVE = "active"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNCERTAIN = "uncertain"


class Lane(Model):
    """One place that makes one clip at a time: a ComfyUI process, a serverless worker, a concurrent vendor call.

    `ahead` is how many further prompts it may hold behind the running one (ComfyUI: 1, so the GPU never waits).
    `start_s` is expected until its first clip can begin (a worker that is not up yet), `turn_s` between the end of one
    clip and the start of the next (where the end is only seen at the next look). Both are seconds of our clock.
    """

    id: str
    backend: str
    tier: Tier
    gpu: str = ""
    ahead: int = Field(0, ge=0, le=4)
    start_s: float = Field(0.0, ge=0)
    turn_s: float = Field(0.0, ge=0)


class WorkOrder(Model):
    """One attempt, ready to be submitted: everything a backend needs to know."""

    attempt_id: str = Field(description="UUID of the attempt; ComfyUI takes it as its prompt_id.")
    batch: str
    job: VideoJob
    number: int = Field(ge=1, description="Attempt number within the job.")
    seed: int
    lane: str
    quote: Quote
    image_path: str | None = Field(None, description="Local file of the input image, already checked.")
    workflow_path: str | None = Field(None, description="Local file of the user's own workflow, already checked.")

    @property
    def label(self) -> str:
        """`batch/job`, for logs, charges and run names."""
        return f"{self.batch}/{self.job.id}"

    @property
    def filename_prefix(self) -> str:
        """ComfyUI `filename_prefix`, unique to the attempt: `hv/<batch>/<job>.<attempt id>`."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", self.job.id)
        return f"hv/{re.sub(r'[^A-Za-z0-9_-]', '_', self.batch)}/{safe}-{self.attempt_id[:8]}"


class JobHandle(Model):
    """The receipt of an accepted submit. Stored before anything waits on it; enough to re-attach after a crash."""

    backend: str
    attempt_id: str
    remote_id: str = Field(description="prompt_id, RunPod job id, operation or interaction name.")
    lane: str
    submitted_at: datetime
    expires_at: datetime | None = Field(None, description="When the vendor forgets the result, if it does.")
    details: dict[str, str] = Field(default_factory=dict, description="Whatever else the backend needs to re-attach.")


class RemoteFile(Model):
    """A file a backend offers. `url` may hold a presigned signature: it is used, never logged or stored."""

    name: str
    url: str = Field(repr=False)
    media_type: str = ""
    inline_base64: str | None = Field(None, repr=False)
    details: dict[str, str] = Field(default_factory=dict)


class JobStatus(Model):
    """What a backend says about a running operation. Failures are raised, not returned."""

    phase: Literal["queued", "running", "succeeded"]
    progress: float | None = Field(None, ge=0, le=1)
    message: str = ""
    files: tuple[RemoteFile, ...] = ()
    queue_s: float | None = Field(None, ge=0, description="Vendor's own figure: waited before the start.")
    execution_s: float | None = Field(None, ge=0, description="Vendor's own figure: ran for.")
    gpu: str = ""


class Health(Model):
    """Outcome of one real check of a backend."""

    backend: str
    tier: Tier
    healthy: bool
    detail: str = Field(description="What was tested and what came back.")
    remedy: str = Field("", description="What to do; empty when healthy.")
    checked_at: datetime
    latency_s: float | None = None
    queued: int = Field(0, ge=0)


class Clip(Model):
    """A finished, checked video file."""

    job: str
    path: str = Field(description="Absolute path of the file.")
    sha256: str
    size_bytes: int = Field(ge=1)
    width: int
    height: int
    fps: float
    frames: int
    duration_s: float
    container: str
    codec: str
    simulated: bool = False


class CostEntry(Model):
    """What an attempt finally cost, and how that is known."""

    amount_usd: Usd = Field(ge=0)
    basis: str = Field(description="The figures: seconds, rate, price entry, rounding.")
    source: Literal["vendor", "metered", "quoted", "person"] = Field(
        description="vendor: reported by it; metered: its times multiplied by its price; quoted: the quote stands; "
        "person: somebody looked at the vendor's bill."
    )


class Attempt(Model):
    """One row per attempt, as the ledger keeps it."""

    attempt_id: str
    batch: str
    job: str
    number: int
    backend: str
    tier: Tier
    model: str
    lane: str
    state: AttemptState
    quoted_usd: Usd
    reserved_usd: Usd
    cost_usd: Usd | None = None
    cost_basis: str = ""
    workflow_path: str = Field("", description="Local file of the user's own workflow, as it was then.")
    handle: JobHandle | None = None
    quote: Quote
    created_at: datetime
    submitted_at: datetime | None = None
    finished_at: datetime | None = None
    execution_s: float | None = None
    queue_s: float | None = None
    gpu: str = ""
    clip: Clip | None = None
    error_kind: str = ""
    error_message: str = ""

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state in (AttemptState.SETTLED, AttemptState.FAILED, AttemptState.CANCELLED)
