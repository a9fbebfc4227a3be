"""The same shots made in two or more ways: which is cheaper, which is faster, and is that more than chance?

Each way is a batch of its own, `<name>.<way>`, run by the engine one after the other so that they do not get in each
other's way; running the same comparison again resumes them and pays for nothing twice. Seeds are taken from the batch
that is compared, so every way starts each shot from the same noise. How the clips look is for people to judge: see
`comparing_sheet`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from statistics import quantiles
from typing import Any, Literal

from hybrid_video.engine.report import BatchReport, money
from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger
from hybrid_video.models import AUTO_WORKFLOW, Attempt, AttemptState, Batch
from hybrid_video.settings import Settings

Kind = Literal["workflow", "model"]

MOST_WAYS = 6
SURE = 0.05
"""A difference that chance alone would show as often as this is not called one."""


@dataclass(frozen=True)
class Way:
    """One way to make the shots: a workflow on ComfyUI, or a model at Google."""

    kind: Kind
    value: str

    @property
    def name(self) -> str:
        """Short and usable in file names: the workflow's or the model's own."""
        stem = Path(self.value).name.removesuffix(".json")
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "way"


@dataclass(frozen=True)
class Shot:
    """One shot made in one way."""

    job: str
    path: str = ""
    sha256: str = ""
    backend: str = ""
    model: str = ""
    gpu: str = ""
    cost_usd: Decimal = Decimal(0)
    seconds: float | None = None
    attempts: int = 0
    error: str = ""


@dataclass(frozen=True)
class Made:
    """What one way came to."""

    way: Way
    batch: str
    shots: tuple[Shot, ...]
    elapsed_s: float
    cost_usd: Decimal
    exit_code: int = 0

    @property
    def completed(self) -> int:
        """Finished clips."""
        return sum(not shot.error for shot in self.shots)

    @property
    def cost_per_clip_usd(self) -> Decimal | None:
        """Everything paid, failed attempts included, over the clips there are."""
        return self.cost_usd / self.completed if self.completed else None

    def seconds(self, share: float) -> float | None:
        """The time that this share of the clips stayed within; None without a clip."""
        times = sorted(shot.seconds for shot in self.shots if shot.seconds is not None)
        if len(times) < 2:
            return times[0] if times else None
        return quantiles(times, n=100, method="inclusive")[round(100 * share) - 1]


@dataclass(frozen=True)
class Pair:
    """Two ways, shot by shot."""

    first: str
    second: str
    what: Literal["time", "cost"]
    first_better: int
    second_better: int
    chance: float
    """How often chance alone would divide the shots so unevenly (two-sided sign test)."""

    @property
    def sentence(self) -> str:
        """The finding in words."""
        word = "faster" if self.what == "time" else "cheaper"
        total = self.first_better + self.second_better
        if not total:
            return f"{self.first} and {self.second}: no shot in which one was {word}"
        ahead, behind, won = (
            (self.first, self.second, self.first_better)
            if self.first_better >= self.second_better
            else (self.second, self.first, self.second_better)
        )
        verdict = "" if self.chance <= SURE else "; too few shots to call that more than chance"
        return f"{ahead} was {word} than {behind} in {won} of {total} shots (by chance: {self.chance:.1%}){verdict}"


@dataclass(frozen=True)
class Comparison:
    """All ways side by side."""

    name: str
    made: tuple[Made, ...]
    prompts: dict[str, str]
    simulated: bool = False

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Every two ways, in time and in cost."""
        return tuple(
            _pair(first, second, what) for first, second in combinations(self.made, 2) for what in ("time", "cost")
        )

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed, 3 where everything that failed was refused by a limit."""
        codes = {made.exit_code for made in self.made} - {0}
        return 0 if not codes else 3 if codes == {3} else 1

    def to_json(self) -> dict[str, Any]:
        """Plain values; money as strings."""
        return {
            "comparison": self.name,
            "simulated": self.simulated,
            "ways": [_way_json(made) for made in self.made],
            "findings": [pair.sentence for pair in self.pairs],
            "pairs": [
                {
                    "first": pair.first,
                    "second": pair.second,
                    "what": pair.what,
                    "first_better": pair.first_better,
                    "second_better": pair.second_better,
                    "chance": round(pair.chance, 6),
                }
                for pair in self.pairs
            ],
        }


def ways_of(workflows: Sequence[str], models: Sequence[str]) -> tuple[Way, ...]:
    """The ways that were asked for.

    Raises:
        InputError: fewer than two, too many, or two that are called the same.
    """
    ways = tuple(
        [Way("workflow", value) for value in dict.fromkeys(workflows)]
        + [Way("model", value) for value in dict.fromkeys(models)]
    )
    if len(ways) < 2:
        raise InputError(
            f"{len(ways)} different ways are no comparison; name two or more, for example "
            "--workflows wan-t2v,animatediff or --models MODEL,MODEL (with one of each option, both count)"
        )
    if len(ways) > MOST_WAYS:
        raise InputError(f"{len(ways)} ways are more than {MOST_WAYS}; compare fewer at once")
    names = [way.name.casefold() for way in ways]
    doubled = {way.value for way in ways if names.count(way.name.casefold()) > 1}
    if doubled:
        raise InputError(f"{', '.join(sorted(doubled))} have the same short name; rename one of the files")
    return ways


def batch_for(batch: Batch, way: Way) -> Batch:
    """The shots as a batch of their own, made in one way.

    Raises:
        InputError: the names together are too long for a batch.
    """
    name = f"{batch.name}.{way.name}"
    if len(name) > 64:
        raise InputError(f"the name {name!r} is longer than 64 characters; give the batch a shorter one")
    workflow = way.value if way.kind == "workflow" else AUTO_WORKFLOW
    jobs = tuple(job.model_copy(update={"workflow": workflow, "seed": job.seed_in(batch.name)}) for job in batch.jobs)
    return batch.model_copy(update={"name": name, "jobs": jobs})


def settings_for(settings: Settings, way: Way) -> Settings:
    """A model at Google is compared at Google: the other tiers are left out, so that no clip comes from elsewhere."""
    if way.kind == "workflow":
        return settings
    return Settings(
        comfyui=settings.comfyui.model_copy(update={"urls": ()}),
        runpod=settings.runpod.model_copy(update={"api_key": None, "endpoint_id": "", "pod_ids": ()}),
        pods=settings.pods.model_copy(update={"image": "", "template_id": ""}),
        gemini=settings.gemini.model_copy(update={"model": way.value}),
        routing=settings.routing,
        storage=settings.storage,
        dashboard=settings.dashboard,
        api=settings.api,
        log=settings.log,
    )


RunWay = Callable[[Batch, Settings], Awaitable[BatchReport]]


async def compare(
    batch: Batch, ways: Sequence[Way], *, settings: Settings, run: RunWay, ledger: Callable[[], Ledger]
) -> Comparison:
    """Makes the shots in every way, one after the other. A budget is for all ways together.

    Args:
        run: makes one batch; the engine.
        ledger: opens the ledger to read what each way came to.
    """
    batches = [batch_for(batch, way) for way in ways]
    made: list[Made] = []
    simulated = False
    for way, one in zip(ways, batches, strict=True):
        if batch.budget_usd is not None:
            spent = sum((other.cost_usd for other in made), Decimal(0))
            one = one.model_copy(update={"budget_usd": max(Decimal(0), batch.budget_usd - spent)})  # noqa: PLW2901
        report = await run(one, settings_for(settings, way))
        simulated = simulated or report.simulated
        with_ledger = ledger()
        try:
            made.append(_made(way, one, report, with_ledger.attempts(one.name)))
        finally:
            with_ledger.close()
    return Comparison(batch.name, tuple(made), {job.id: job.prompt for job in batch.jobs}, simulated)


def _made(way: Way, batch: Batch, report: BatchReport, attempts: Sequence[Attempt]) -> Made:
    clips = {clip.job: clip for clip in report.clips}
    errors = {line.job: f"{line.kind}: {line.message}" for line in report.errors}
    settled = {one.job: one for one in attempts if one.state is AttemptState.SETTLED and one.clip is not None}
    shots = []
    for job in batch.jobs:
        clip, attempt = clips.get(job.id), settled.get(job.id)
        if clip is None or attempt is None:
            shots.append(Shot(job.id, error=errors.get(job.id, "was not made")))
            continue
        shots.append(
            Shot(
                job=job.id,
                path=clip.path,
                sha256=clip.sha256,
                backend=clip.provider,
                model=attempt.model,
                gpu=attempt.gpu,
                cost_usd=clip.cost_usd,
                seconds=_seconds(attempt),
                attempts=clip.attempts,
            )
        )
    return Made(way, batch.name, tuple(shots), _elapsed_s(attempts), report.cost_usd, report.exit_code)


def _seconds(attempt: Attempt) -> float | None:
    """The vendor's own figure, else from sending it to its end."""
    if attempt.execution_s is not None:
        return attempt.execution_s
    if attempt.submitted_at is None or attempt.finished_at is None:
        return None
    return (attempt.finished_at - attempt.submitted_at).total_seconds()


def _elapsed_s(attempts: Sequence[Attempt]) -> float:
    """From the first attempt to the end of the last; pauses between two runs of a comparison count."""
    ends = [one.finished_at for one in attempts if one.finished_at is not None]
    if not ends:
        return 0.0
    return (max(ends) - min(one.created_at for one in attempts)).total_seconds()


def _pair(first: Made, second: Made, what: Literal["time", "cost"]) -> Pair:
    others = {shot.job: shot for shot in second.shots if not shot.error}
    wins = losses = 0
    for shot in first.shots:
        other = others.get(shot.job)
        if shot.error or other is None:
            continue
        mine, theirs = _figure(shot, what), _figure(other, what)
        if mine is None or theirs is None or mine == theirs:
            continue
        wins += mine < theirs
        losses += mine > theirs
    return Pair(first.way.name, second.way.name, what, wins, losses, sign_test(wins, losses))


def _figure(shot: Shot, what: Literal["time", "cost"]) -> float | Decimal | None:
    return shot.seconds if what == "time" else shot.cost_usd


def sign_test(wins: int, losses: int) -> float:
    """How often a fair coin would fall at least so unevenly, to either side."""
    total, most = wins + losses, max(wins, losses)
    if not total:
        return 1.0
    tail = sum(math.comb(total, count) for count in range(most, total + 1))
    return min(1.0, 2 * tail / float(2**total))


def _way_json(made: Made) -> dict[str, Any]:
    per_clip = made.cost_per_clip_usd
    p50, p90 = made.seconds(0.5), made.seconds(0.9)
    return {
        "way": made.way.name,
        "kind": made.way.kind,
        "value": made.way.value,
        "batch": made.batch,
        "jobs": len(made.shots),
        "completed": made.completed,
        "cost_usd": money(made.cost_usd),
        "cost_per_clip_usd": None if per_clip is None else money(round(per_clip, 9)),
        "elapsed_s": round(made.elapsed_s, 3),
        "p50_s": None if p50 is None else round(p50, 3),
        "p90_s": None if p90 is None else round(p90, 3),
        "clips": [
            {
                "job": shot.job,
                "path": shot.path,
                "backend": shot.backend,
                "model": shot.model,
                "gpu": shot.gpu,
                "cost_usd": money(shot.cost_usd),
                "seconds": None if shot.seconds is None else round(shot.seconds, 3),
                "attempts": shot.attempts,
                "error": shot.error,
            }
            for shot in made.shots
        ],
    }
