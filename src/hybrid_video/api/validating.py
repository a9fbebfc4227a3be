"""A submitted batch before it is started: read from whatever was sent, its files kept in a folder, tried for free."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from starlette.datastructures import FormData, UploadFile

from hybrid_video import workflows
from hybrid_video.api.bodies import Validation
from hybrid_video.api.live import LiveBackends
from hybrid_video.api.problems import Refused
from hybrid_video.batchfile import load_batch, parse_batch
from hybrid_video.batchfile.loading import slug
from hybrid_video.engine.forecast import forecast
from hybrid_video.engine.pod_outlook import pod_outlook, told
from hybrid_video.engine.prepare import MOST_PROBLEMS
from hybrid_video.engine.report import money
from hybrid_video.engine.selection import Shot
from hybrid_video.errors import InputError
from hybrid_video.inputs import resolve_image, resolve_workflow
from hybrid_video.models import Batch, EffectivePreferences, VideoJob
from hybrid_video.settings import Settings

BATCH_PART = "batch"
FILES_PART = "files"
FORMATS = {
    "application/yaml": ".yaml",
    "application/x-yaml": ".yaml",
    "text/yaml": ".yaml",
    "text/csv": ".csv",
}
MOST_FILES = 1000
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._ -]{0,120}")


def read_json(raw: bytes, name: str | None) -> Batch:
    """The batch of a JSON body.

    Raises:
        InputError: with one sentence for each problem.
    """
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is no JSON: {str(error)[:200]}; send a batch like in docs/batch-files.md") from None
    if not isinstance(data, dict):
        raise InputError(f"the body is a {type(data).__name__}, and a batch is an object with `name` and `jobs`")
    try:
        return parse_batch({"name": name, **data} if name else data, source="body")
    except RecursionError:
        raise InputError("the body is nested too deeply; a batch has jobs and preferences, nothing below") from None


def read_file(raw: bytes, suffix: str, folder: Path, name: str | None) -> Batch:
    """The batch of a YAML, JSON or CSV file, read by the same rules as `hybrid-video run`.

    Raises:
        InputError: with one sentence for each problem.
    """
    path = folder / f"{slug(name or 'batch')}{suffix}"
    path.write_bytes(raw)
    try:
        return load_batch(path)
    except InputError as error:
        shown = tuple(problem.replace(str(path), path.name) for problem in error.problems)
        raise InputError("\n".join(shown), shown) from None
    finally:
        path.unlink(missing_ok=True)


async def read_form(form: FormData, folder: Path) -> Batch:
    """The batch of an upload, with the pictures and workflows sent beside it stored in `folder`.

    Raises:
        InputError: there is no batch part, or a file's name cannot be one.
    """
    part = form.get(BATCH_PART)
    if not isinstance(part, UploadFile):
        raise InputError(f"the upload has no file in the part {BATCH_PART!r}; send the batch file there")
    for sent in form.getlist(FILES_PART):
        if not isinstance(sent, UploadFile):
            raise InputError(f"the part {FILES_PART!r} holds a text and no file; send each picture as a file")
        await asyncio.to_thread((folder / _safe(sent.filename or "")).write_bytes, await sent.read())
    raw, name = await part.read(), Path((part.filename or "batch.yaml").replace("\\", "/"))
    return await asyncio.to_thread(read_file, raw, name.suffix.lower(), folder, name.stem)


def _safe(name: str) -> str:
    """A plain file name, as the jobs give it: no folder, nothing hidden.

    Raises:
        InputError: it is something else.
    """
    if not _FILE_NAME.fullmatch(name) or ".." in name:
        raise InputError(
            f"the file name {name[:100]!r} cannot be used; send files with plain names of letters, digits, '.', '_', "
            "'-' and spaces, and name them so in the jobs"
        )
    return name


def format_of(content_type: str) -> str:
    """The suffix that a content type stands for; "" for JSON.

    Raises:
        Refused: it is none of ours.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/json", ""):
        return ""
    if kind in FORMATS:
        return FORMATS[kind]
    raise Refused(
        415,
        "media_type",
        f"{kind[:80]!r} is not understood; send application/json, application/yaml, text/csv or multipart/form-data",
    )


async def validate(batch: Batch, folder: Path | None, settings: Settings, live: LiveBackends) -> Validation:
    """Tries a batch on the backends that are configured here, without fetching pictures and without spending.

    Raises:
        InputError: with one sentence for each job that cannot be made, or for a budget that is too small.
        ConfigurationError: no backend is configured.
    """
    problems: list[str] = []
    shots: list[Shot] = []
    for index, job in enumerate(batch.jobs):
        preferences = EffectivePreferences.fold(job.preferences, batch.preferences, settings.routing.preferences)
        try:
            workflow, image = await _files(job, folder, settings)
            shot = await live.shot(job, preferences, image_path=image, workflow_path=workflow)
        except InputError as error:
            problems += [f"jobs[{index}] ({job.id}): {problem}" for problem in error.problems]
            continue
        shots.append(shot)
        if not shot.open_offers:
            reasons = "; ".join(f"{o.backend}: {o.refusal.reason}" for o in shot.offers if o.refusal is not None)
            problems.append(f"jobs[{index}] ({job.id}): no configured backend can make it: {reasons}")
        if index % 50 == 0:
            await asyncio.sleep(0)  # ten thousand jobs take a second: others are answered in between
    if not problems:
        problems += _too_dear(batch, shots, settings)
    if problems:
        more = (f"and {len(problems) - MOST_PROBLEMS} more",) if len(problems) > MOST_PROBLEMS else ()
        shown = (*problems[:MOST_PROBLEMS], *more)
        raise InputError("\n".join(shown), shown)
    return await asyncio.to_thread(_planned, batch, shots, settings, live)


async def _files(job: VideoJob, folder: Path | None, settings: Settings) -> tuple[Path | None, Path | None]:
    remote = job.image is not None and job.image.lower().startswith(("http://", "https://"))
    own_workflow = job.workflow.lower().endswith(".json")
    if folder is None:
        if own_workflow or (job.image is not None and not remote):
            raise InputError("names a file, and a JSON body carries none; send the batch and its files as an upload")
        return None, None
    workflow = await asyncio.to_thread(resolve_workflow, job, folder)
    if workflow is not None:
        await asyncio.to_thread(workflows.plan, job, workflow_path=workflow)
    if remote:
        return workflow, None
    cache = settings.storage.home / "inputs"
    return workflow, await resolve_image(job, folder, allow_private=False, cache_dir=cache)


def _least(shots: Sequence[Shot]) -> Decimal:
    return sum((min(quote.amount_usd for quote in shot.open_offers.values()) for shot in shots), Decimal(0))


def _too_dear(batch: Batch, shots: Sequence[Shot], settings: Settings) -> list[str]:
    least = _least(shots)
    limits = {
        "the batch budget (budget_usd)": batch.budget_usd,
        "the daily budget": settings.routing.daily_budget_usd,
        "the monthly budget": settings.routing.monthly_budget_usd,
    }
    return [
        f"{what} is ${money(cap)}, but the cheapest way to make the {len(shots)} jobs costs ${money(least)}; raise it, "
        "or make fewer or shorter clips"
        for what, cap in limits.items()
        if cap is not None and least > cap
    ]


def _planned(batch: Batch, shots: Sequence[Shot], settings: Settings, live: LiveBackends) -> Validation:
    plan = forecast(
        batch.name,
        shots,
        live.lanes(),
        deadline_s=batch.deadline_s,
        budget_usd=batch.budget_usd,
        value_of_time_usd_per_h=settings.routing.value_of_time_usd_per_h,
    )
    late = plan is not None and batch.deadline_s is not None and plan.planned_s > batch.deadline_s
    notice = (
        f"the deadline of {batch.deadline_s} s is not kept: the nearest plan takes {plan.planned_s:.0f} s"
        if (plan is not None and late)
        else ""
    )
    pods = pod_outlook(
        shots,
        live.lanes(),
        settings,
        room=settings.pods.max_pods if settings.pods.may_open else 0,
        deadline_s=batch.deadline_s,
        budget_usd=batch.budget_usd,
    )
    return Validation(
        batch=batch.name,
        jobs=len(batch.jobs),
        least_usd=_least(shots),
        planned_usd=plan.planned_usd if plan else None,
        planned_s=plan.planned_s if plan else None,
        split=plan.split if plan else {},
        notices=tuple(text for text in (notice, f"expected: {told(pods)}" if pods else "") if text),
    )
