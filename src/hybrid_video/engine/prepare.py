"""Everything that is settled before a batch spends anything: files, backends, offers, limits.

Whatever cannot work is refused here, all problems at once, with nothing sent and nothing booked.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain, combinations
from pathlib import Path

from hybrid_video import workflows
from hybrid_video.backends.base import BackendContext
from hybrid_video.engine.fleet import Fleet
from hybrid_video.engine.report import money
from hybrid_video.engine.selection import Shot, make_offers
from hybrid_video.errors import ConfigurationError, InputError, LimitError
from hybrid_video.history import History
from hybrid_video.history.queries import learned_times
from hybrid_video.inputs import resolve_image, resolve_workflow
from hybrid_video.models import Batch, EffectivePreferences, Quote, VideoJob
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.settings import Settings

MOST_PROBLEMS = 20


@dataclass(frozen=True)
class Prepared:
    """A batch that can start."""

    batch: Batch
    shots: tuple[Shot, ...]
    fleet: Fleet
    out_dir: Path
    notices: tuple[str, ...]


def build_context(settings: Settings, history: History | None) -> BackendContext:
    """Prices of the configured profile and timings corrected by the history, where there is one."""
    scale = settings.routing.time_scale
    timings = learned_times(history, time_scale=scale) if history is not None else ServiceTimes()
    prices = load_prices(settings.routing.prices, settings)
    return BackendContext(settings, Quoter(prices, timings, scale))


async def resolve_files(
    batch: Batch, base_dir: Path, settings: Settings
) -> list[tuple[VideoJob, Path | None, Path | None]]:
    """Each job with the local files of its image and workflow.

    Raises:
        InputError: with one problem for each file that cannot be used.
    """
    cache_dir = settings.storage.home / "inputs"
    problems: list[str] = []
    limit = asyncio.Semaphore(8)

    async def resolve(index: int, job: VideoJob) -> tuple[VideoJob, Path | None, Path | None] | None:
        try:
            workflow = resolve_workflow(job, base_dir)
            async with limit:
                image = await resolve_image(
                    job, base_dir, allow_private=settings.routing.allow_private_urls, cache_dir=cache_dir
                )
        except InputError as error:
            problems.extend(f"jobs[{index}] ({job.id}): {problem}" for problem in error.problems)
            return None
        return job, image, workflow

    entries = await asyncio.gather(*(resolve(index, job) for index, job in enumerate(batch.jobs)))
    _raise_problems(problems)
    return [entry for entry in entries if entry is not None]


async def prepare(batch: Batch, *, base_dir: Path, out_dir: Path, settings: Settings, fleet: Fleet) -> Prepared:
    """Checks everything that can be checked for free. The fleet is started here and left open.

    Raises:
        InputError, ConfigurationError: what the user must change; nothing was spent.
        LimitError: the limits do not allow the batch at all.
    """
    _check_folder(out_dir, settings.storage.min_free_disk_mb)
    resolved = await resolve_files(batch, base_dir, settings)
    await fleet.start()
    shots, problems, warnings = [], [], Counter[str]()
    for job, image, workflow in resolved:
        preferences = EffectivePreferences.fold(job.preferences, batch.preferences, settings.routing.preferences)
        offers = await make_offers(fleet, job, preferences, image, workflow)
        lenient = False
        if workflow is not None and any(offer.refusal is None for offer in offers):
            drawn = workflows.plan(job, workflow_path=workflow)
            lenient = not drawn.exact
            warnings.update(drawn.warnings)
        shot = Shot(job, job.seed_in(batch.name), preferences, image, workflow, offers, lenient)
        shots.append(shot)
        if not shot.open_offers:
            problems.append(_nothing_can(shot))
    _raise_problems(problems)
    _check_reachable(shots, fleet)
    _check_budget(batch, shots, settings)
    down = [f"{key} is not used for now: {reason}" for key, reason in fleet.down.items()]
    notices = down + [f"{text} ({count} jobs)" for text, count in warnings.most_common(MOST_PROBLEMS)]
    return Prepared(batch, tuple(shots), fleet, out_dir, tuple(notices))


def _check_folder(out_dir: Path, min_free_mb: int) -> None:
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        writable = os.access(out_dir, os.W_OK)
        free_mb = shutil.disk_usage(out_dir).free // 2**20
    except OSError as error:
        raise InputError(
            f"the output folder {str(out_dir)!r} cannot be used: {error.strerror}; give another with --out"
        ) from None
    if not writable:
        raise InputError(f"the output folder {str(out_dir)!r} is not writable; give another with --out")
    if free_mb < min_free_mb:
        raise InputError(
            f"the output folder {str(out_dir)!r} has {free_mb} MB free and at least {min_free_mb} MB are wanted; "
            "free some space, give another folder with --out, or lower HYBRID_VIDEO_MIN_FREE_DISK_MB"
        )


def _nothing_can(shot: Shot) -> str:
    reasons = [f"{offer.backend}: {offer.refusal.reason}" for offer in shot.offers if offer.refusal is not None]
    free = any(offer.quote is not None and offer.quote.amount_usd == 0 for offer in shot.offers)
    hint = ""
    if shot.preferences.max_cost_usd == 0 and not free:
        hint = "; a maximum cost of 0 needs a free backend: set HYBRID_VIDEO_COMFYUI_URLS or raise max_cost_usd"
    return f"job {shot.job.id!r} cannot be made by any configured backend: " + "; ".join(reasons) + hint


def _check_reachable(shots: Sequence[Shot], fleet: Fleet) -> None:
    stranded = [shot for shot in shots if all(key in fleet.down for key in shot.open_offers)]
    if stranded:
        needed = sorted({key for shot in stranded for key in shot.open_offers})
        details = "; ".join(f"{key}: {fleet.down[key]}" for key in needed)
        raise ConfigurationError(
            f"{len(stranded)} of {len(shots)} jobs cannot start: no backend that can make them answers. {details}"
        )


def _check_budget(batch: Batch, shots: Sequence[Shot], settings: Settings) -> None:
    caps = {
        "the batch budget (budget_usd)": batch.budget_usd,
        "the daily budget (HYBRID_VIDEO_DAILY_BUDGET_USD)": settings.routing.daily_budget_usd,
        "the monthly budget (HYBRID_VIDEO_MONTHLY_BUDGET_USD)": settings.routing.monthly_budget_usd,
    }
    cheapest, starts = _cheapest(shots)
    least = sum((quote.amount_usd for quote in cheapest), sum(starts.values(), Decimal(0)))
    for what, cap in caps.items():
        if cap is None or least <= cap:
            continue
        backends = Counter(quote.backend for quote in cheapest)
        split = ", ".join(
            f"{count} on {key}{f' with one start for ${money(starts[key])}' if key in starts else ''}"
            for key, count in backends.items()
        )
        message = (
            f"{what} is ${money(cap)}, but the cheapest way to make the {len(shots)} jobs costs ${money(least)} "
            f"({split}); raise it, make fewer or shorter clips, or add a cheaper backend. Nothing was started."
        )
        if cap == 0:
            raise InputError(message)
        raise LimitError(message)


def _cheapest(shots: Sequence[Shot]) -> tuple[list[Quote], dict[str, Decimal]]:
    """The cheapest quote of each job, where a backend's worker is started once and not for every job; and the starts.

    Exact: every set of backends that start one is tried. There are as many sets as 2 to the number of such backends.
    """
    offers = [tuple(shot.open_offers.values()) for shot in shots]
    starts: dict[str, Decimal] = {}
    for quote in (quote for mine in offers for quote in mine if quote.start_usd):
        starts[quote.backend] = max(quote.start_usd, starts.get(quote.backend, Decimal(0)))
    best: tuple[Decimal, list[Quote], dict[str, Decimal]] | None = None
    for used in chain.from_iterable(combinations(starts, count) for count in range(len(starts) + 1)):
        able = [[quote for quote in mine if quote.backend not in starts or quote.backend in used] for mine in offers]
        if not all(able):
            continue
        chosen = [min(mine, key=lambda quote: quote.amount_usd) for mine in able]
        paid = {key: starts[key] for key in used}
        total = sum((quote.amount_usd for quote in chosen), sum(paid.values(), Decimal(0)))
        if best is None or total < best[0]:
            best = (total, chosen, paid)
    assert best is not None  # noqa: S101 - with every backend allowed each job has an offer: it was prepared
    return best[1], best[2]


def _raise_problems(problems: Sequence[str]) -> None:
    if not problems:
        return
    shown = list(problems[:MOST_PROBLEMS])
    if len(problems) > MOST_PROBLEMS:
        shown.append(f"and {len(problems) - MOST_PROBLEMS} more")
    raise InputError("\n".join(shown), problems=tuple(shown))
