"""`/api/batches…`, `/api/clips`, `/api/spend`: submitting, watching, cancelling, re-running and collecting."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from hybrid_video import submitting, views
from hybrid_video.api import validating
from hybrid_video.api.access import Read, Submit
from hybrid_video.api.bodies import (
    BatchDetail,
    Cancelled,
    CancelledJob,
    CancelRequest,
    RunInfo,
    Submitted,
    Validation,
)
from hybrid_video.api.context import Context, Shared
from hybrid_video.api.problems import RESPONSES, Refused
from hybrid_video.engine.cancel import cancel as cancel_jobs
from hybrid_video.errors import ConfigurationError, InputError, NotFoundError
from hybrid_video.models import IDENTIFIER, MAX_BUDGET_USD, MAX_DEADLINE_S, Batch, JobState, UsdLimit
from hybrid_video.views import BatchLine, ClipLine, Dimension, EventPage, JobLine, JobView, Page, Spend
from hybrid_video.views.figures import encode_moment

router = APIRouter(prefix="/api", tags=["batches"], responses=RESPONSES)

Name = Annotated[str, PathParameter(pattern=IDENTIFIER, max_length=64, description="Name of the batch.")]
JobId = Annotated[str, PathParameter(pattern=IDENTIFIER, max_length=64, description="Id of the job.")]
Cursor = Annotated[str | None, Query(max_length=400, description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500, description="Entries on a page.")]

LONGEST_WAIT_S = 25.0
LOOK_S = 0.5

BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/Batch"},
            "example": {
                "name": "night-shots",
                "budget_usd": "2.50",
                "jobs": [{"id": "dusk", "prompt": "a lighthouse"}],
            },
        },
        "application/yaml": {"schema": {"type": "string", "description": "A batch file."}},
        "text/csv": {"schema": {"type": "string", "description": "A batch file."}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["batch"],
                "properties": {
                    "batch": {"type": "string", "format": "binary", "description": "The batch file."},
                    "files": {
                        "type": "array",
                        "items": {"type": "string", "format": "binary"},
                        "description": "Pictures and workflows that the jobs name.",
                    },
                },
            }
        },
    },
}


@router.post(
    "/batches",
    dependencies=[Submit],
    status_code=202,
    openapi_extra={"requestBody": BODY},
    responses={200: {"model": Submitted, "description": "Only validated: nothing was started."}},
)
async def submit(
    shared: Shared,
    request: Request,
    response: Response,
    validate_only: Annotated[bool, Query(description="Check everything that is free to check, and stop.")] = False,
    name: Annotated[
        str | None, Query(pattern=IDENTIFIER, max_length=64, description="Name, where the batch has none of its own.")
    ] = None,
    deadline_s: Annotated[float | None, Query(gt=0, le=MAX_DEADLINE_S, allow_inf_nan=False)] = None,
    budget_usd: Annotated[UsdLimit | None, Query(ge=0, le=MAX_BUDGET_USD)] = None,
) -> Submitted:
    """Starts a batch and returns at once. The same name again resumes it; what is done is not made again.

    The body is a batch as JSON, YAML or CSV, or an upload with the batch file and the files that its jobs name.
    """
    with tempfile.TemporaryDirectory(prefix="hybrid-video-upload-") as made:
        batch, folder = await _received(request, Path(made), name)
        batch = batch.with_goal(deadline_s, budget_usd)
        validation = await _validated(shared, batch, folder, required=validate_only)
        if validate_only:
            response.status_code = 200
            return Submitted(batch=batch.name, jobs=len(batch.jobs), started=False, validation=validation)
        return await _start(shared, batch, folder, validation, response)


@router.get("/batches", dependencies=[Read])
def list_batches(
    shared: Shared,
    search: Annotated[str, Query(max_length=64, description="Part of the name.")] = "",
    only_open: Annotated[bool, Query(description="Those that have not ended.")] = False,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[BatchLine]:
    """Batches, the latest start first."""
    return views.batches(shared.ledger, search=search, only_open=only_open, cursor=cursor, limit=limit)


@router.get("/batches/{name}", dependencies=[Read])
def get_batch(shared: Shared, name: Name) -> BatchDetail:
    """One batch: progress, money by tier, what is to be expected, and how its run stands."""
    known = submitting.find(shared.settings, name)
    try:
        view = views.batch(shared.ledger, name)
    except NotFoundError:
        if known is None:
            raise
        view = None
    over = view is not None and view.batch.finished_at is not None
    run = None if known is None else RunInfo(submission=known, status=_run_status(known, over=over))
    return BatchDetail(name=name, view=view, run=run)


@router.get("/batches/{name}/jobs", dependencies=[Read])
def list_jobs(
    shared: Shared, name: Name, state: JobState | None = None, cursor: Cursor = None, limit: Limit = 50
) -> Page[JobLine]:
    """The jobs of a batch in its order; none yet while its run is only starting."""
    try:
        return views.jobs(shared.ledger, name, state=state, cursor=cursor, limit=limit)
    except NotFoundError:
        if submitting.find(shared.settings, name) is None:
            raise
        return Page(items=())


@router.get("/batches/{name}/jobs/{job}", dependencies=[Read])
def get_job(shared: Shared, name: Name, job: JobId) -> JobView:
    """One job: every decision with all candidates, terms and reasons, its attempts, its clip and its cost."""
    return views.job(shared.ledger, name, job)


@router.get("/batches/{name}/events", dependencies=[Read])
async def list_events(
    shared: Shared,
    name: Name,
    cursor: Cursor = None,
    limit: Limit = 50,
    wait_s: Annotated[
        float, Query(ge=0, le=LONGEST_WAIT_S, allow_inf_nan=False, description="Wait so long for something new.")
    ] = 0.0,
) -> EventPage:
    """What happened, oldest first. With `wait_s` and the last `cursor` it answers when something new has happened."""
    until_s = time.monotonic() + wait_s
    while True:
        page = await asyncio.to_thread(_events, shared, name, cursor, limit)
        if page.items or time.monotonic() >= until_s:
            return page
        await asyncio.sleep(min(LOOK_S, max(0.0, until_s - time.monotonic())))


@router.get("/batches/{name}/clips", dependencies=[Read])
def list_batch_clips(shared: Shared, name: Name, cursor: Cursor = None, limit: Limit = 50) -> Page[ClipLine]:
    """The finished clips of a batch, the latest first."""
    try:
        return views.clips(shared.ledger, batch=name, cursor=cursor, limit=limit)
    except NotFoundError:
        if submitting.find(shared.settings, name) is None:
            raise
        return Page(items=())


@router.get("/clips", dependencies=[Read])
def list_clips(shared: Shared, cursor: Cursor = None, limit: Limit = 50) -> Page[ClipLine]:
    """Every finished clip, the latest first."""
    return views.clips(shared.ledger, cursor=cursor, limit=limit)


_VIDEO: dict[int | str, dict[str, Any]] = {
    code: {"description": text, "content": {"video/mp4": {}, "video/webm": {}, "image/webp": {}}}
    for code, text in {200: "The file.", 206: "A part of it."}.items()
}


@router.get(
    "/batches/{name}/jobs/{job}/clip",
    dependencies=[Read],
    response_class=FileResponse,
    responses={**_VIDEO, 416: {"description": "The range lies outside the file."}},
)
@router.head("/batches/{name}/jobs/{job}/clip", dependencies=[Read], include_in_schema=False)
def get_clip(
    shared: Shared,
    name: Name,
    job: JobId,
    request: Request,
    download: Annotated[bool, Query(description="As an attachment, for saving.")] = False,
) -> Response:
    """The clip itself. Ranges work, so players can seek; the ETag is the content's SHA-256."""
    found = views.clip_file(shared.ledger, name, job)
    etag = f'"{found.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Accept-Ranges": "bytes"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return FileResponse(
        found.path,
        media_type=found.media_type,
        filename=f"{name}-{found.name}",
        content_disposition_type="attachment" if download else "inline",
        headers=headers,
    )


@router.post("/batches/{name}/cancel", dependencies=[Submit])
async def cancel(shared: Shared, name: Name, body: CancelRequest | None = None) -> Cancelled:
    """Stops jobs, remotely too, and settles what they cost. What was over already is collected: it is paid for."""
    wanted = body or CancelRequest()
    known = await asyncio.to_thread(submitting.find, shared.settings, name)
    stopped = False
    if not wanted.jobs and known is not None:
        stopped = await asyncio.to_thread(submitting.stop, known)
    try:
        report = await cancel_jobs(shared.settings, batch=name, jobs=wanted.jobs, wait_s=wanted.wait_s)
    except InputError as error:
        if stopped and "no batch is named" in str(error):  # it was stopped before it reached the ledger
            return Cancelled(batch=name, counts={}, jobs=(), run_stopped=True)
        raise NotFoundError(str(error)) from None
    shared.changed()
    counts: dict[str, int] = {}
    for line in report.jobs:
        counts[line.outcome] = counts.get(line.outcome, 0) + 1
    lines = tuple(
        CancelledJob(job=line.job, outcome=line.outcome, message=line.message, cost_usd=line.cost_usd)
        for line in report.jobs
    )
    return Cancelled(batch=name, counts=counts, jobs=lines, run_stopped=stopped)


@router.post("/batches/{name}/rerun", dependencies=[Submit], status_code=202)
async def rerun(shared: Shared, name: Name, response: Response) -> Submitted:
    """Makes everything of a batch that is not done: failed, cancelled and unfinished jobs. Clips are not made again."""
    batch = await asyncio.to_thread(views.stored_batch, shared.ledger, name)
    jobs = await asyncio.to_thread(shared.ledger.job_rows, name)
    if all(row.state is JobState.DONE for row in jobs):
        raise InputError(f"every job of batch {name!r} is done; there is nothing to make again")
    known = await asyncio.to_thread(submitting.find, shared.settings, name)
    return await _start(shared, batch, Path(known.folder) if known else None, None, response)


@router.get("/spend", dependencies=[Read])
def spend(
    shared: Shared,
    by: Annotated[list[Dimension] | None, Query(description="One or more; day when left out.")] = None,
    since: Annotated[date | None, Query(description="First day (UTC).")] = None,
    until: Annotated[date | None, Query(description="Last day, itself included.")] = None,
    batch: Annotated[str | None, Query(max_length=64, description="Only this batch.")] = None,
) -> Spend:
    """Money by day, tier, backend, batch or workflow, from the ledger's rows, exact."""
    return views.spend(shared.ledger, *(by or ()), since=since, until=until, batch=batch)


# -- pieces ------------------------------------------------------------------------------------------------------------


def _events(shared: Context, name: str, cursor: str | None, limit: int) -> EventPage:
    """The events; of a batch whose run has not reached the ledger none yet, with a cursor to go on from."""
    try:
        return views.events(shared.ledger, name, cursor=cursor, limit=limit)
    except NotFoundError:
        known = submitting.find(shared.settings, name)
        if known is None:
            raise
        return EventPage(items=(), cursor=cursor or encode_moment(known.submitted_at, ""), more=False)


async def _received(request: Request, folder: Path, name: str | None) -> tuple[Batch, Path | None]:
    """The batch, and the folder of its files where the request can carry any."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() == "multipart/form-data":
        async with request.form(max_files=validating.MOST_FILES, max_part_size=2**31) as form:
            return await validating.read_form(form, folder), folder
    suffix = validating.format_of(content_type)
    raw = await request.body()
    if suffix:
        return await asyncio.to_thread(validating.read_file, raw, suffix, folder, name), None
    return await asyncio.to_thread(validating.read_json, raw, name), None


async def _validated(shared: Context, batch: Batch, folder: Path | None, *, required: bool) -> Validation | None:
    """What can be said here. A Prefect worker may know backends that this process does not."""
    try:
        return await validating.validate(batch, folder, await asyncio.to_thread(shared.applied), shared.live)
    except ConfigurationError:
        if required or not await asyncio.to_thread(submitting.uses_prefect):
            raise
        return None


async def _start(
    shared: Context, batch: Batch, folder: Path | None, validation: Validation | None, response: Response
) -> Submitted:
    async with _room(shared):
        run = await asyncio.to_thread(shared.submitter, batch, shared.settings, folder)
    shared.changed()
    response.headers["Location"] = f"/api/batches/{batch.name}"
    root = f"/api/batches/{batch.name}"
    links = {"self": root, "jobs": f"{root}/jobs", "events": f"{root}/events", "clips": f"{root}/clips"}
    return Submitted(batch=batch.name, jobs=len(batch.jobs), started=True, run=run, validation=validation, links=links)


@asynccontextmanager
async def _room(shared: Context) -> AsyncIterator[None]:
    """Refuses another process where as many as may are running: each holds memory and threads of its own."""
    async with shared.starting:
        running = await asyncio.to_thread(submitting.running_processes, shared.settings)
        most = shared.settings.api.max_runs
        if running >= most and not await asyncio.to_thread(submitting.uses_prefect):
            raise Refused(
                429,
                "runs",
                f"{running} batches are being run already, and {most} may be; wait for one, raise "
                "HYBRID_VIDEO_API_MAX_RUNS, or set PREFECT_API_URL so that Prefect queues them",
                {"Retry-After": "30"},
            )
        yield


def _run_status(known: submitting.Submission, *, over: bool) -> submitting.RunStatus:
    """How a run stands. Prefect's server is only asked while the ledger does not know the end."""
    if known.via == "prefect" and over:
        return submitting.RunStatus(state="ended")
    return submitting.status(known)
