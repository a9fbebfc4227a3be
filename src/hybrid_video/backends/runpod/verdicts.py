"""Reads one look at a serverless job: progress, the clip of a completed one, or the error of one that ended badly."""

from __future__ import annotations

from datetime import timedelta

from hybrid_video.backends.runpod import worker, worker_failures
from hybrid_video.backends.runpod.jobs import RESULT_KEPT_S, RemoteJob
from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.models import JobHandle, JobStatus, RemoteFile, utc_now
from hybrid_video.redaction import redact

UNPICKED_SHARE = 0.9
"""A timed-out job that waited this share of its time to live and shows no run was never picked up by a worker."""


def progress_of(job: RemoteJob, gpu: str) -> JobStatus:
    """Queued or running. A job may go back from running to queued when RunPod loses its worker."""
    running = job.state == "IN_PROGRESS"
    message = redact(job.output, 200) if running and isinstance(job.output, str) else ""
    return JobStatus(
        phase="running" if running else "queued",
        message=message,
        queue_s=job.queue_s,
        execution_s=job.execution_s,
        gpu=gpu,
    )


def clip_of(handle: JobHandle, job: RemoteJob, *, backend: str) -> RemoteFile:
    """The clip of a COMPLETED job.

    A clip of ours is taken even when the worker reports errors beside it (a second file that failed to upload): it is
    paid for, and checked after the download.

    Raises:
        TerminalError: BAD_CLIP when there is no video among the results, or what the worker's errors say.
    """
    files = worker.files_of(job.output)
    prefix = handle.details.get("prefix", "")
    clip = worker.clip_among(files, prefix)
    errors = worker.errors_of(job.output)
    if errors and (clip is None or not worker.is_ours(clip, prefix)):
        error = worker_failures.from_text("\n".join(errors), backend, job.execution_s)
        if error.kind is not FailureKind.VENDOR_ERROR:
            raise error
        raise _bad_clip(f"the job completed with errors instead of a clip: {redact(errors[0], 240)!r}", job, backend)
    if clip is None:
        names = ", ".join(repr(file.name) for file in files[:5])
        found = f"only {names}" if names else "no file"
        raise _bad_clip(
            f"the job completed with {found} and no video; end the workflow in SaveVideo, because worker-comfyui "
            "returns nothing else of what VHS_VideoCombine and similar nodes save",
            job,
            backend,
        )
    if clip.inline_base64 is None and not worker.is_url(clip):
        raise _bad_clip(
            f"the worker kept the clip {clip.name!r} on its own disk: its endpoint has BUCKET_ENDPOINT_URL but not "
            "BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY; set all three",
            job,
            backend,
        )
    return clip


def failure_of(handle: JobHandle, job: RemoteJob | None, *, backend: str) -> BackendError:
    """The error of a job that FAILED, TIMED_OUT, was CANCELLED or is not known (None)."""
    if job is None:
        return _gone(handle, backend)
    if job.state == "CANCELLED":
        untouched = job.execution_ms is None and job.delay_ms is None and job.worker_id is None
        return TerminalError(
            f"job {job.id!r} was cancelled on RunPod",
            kind=FailureKind.CANCELLED,
            backend=backend,
            execution_s=0.0 if untouched else job.execution_s,
        )
    if job.state == "TIMED_OUT":
        return _timed_out(handle, job, backend)
    return worker_failures.failed(job, backend)


def overdue(handle: JobHandle) -> bool:
    """Whether RunPod should have ended the job long ago, by the time to live it was given."""
    return handle.expires_at is not None and utc_now() > handle.expires_at + timedelta(seconds=RESULT_KEPT_S)


def lost_contact(handle: JobHandle, error: BackendError | None) -> SubmitUncertain:
    """The error for a job that was accepted and can no longer be looked at: it may go on and cost money."""
    reason = error.message if error else "it is past its time to live and still not over"
    return SubmitUncertain(
        f"what became of job {handle.remote_id!r} is not known: {reason}. RunPod may still be running it, so it is not "
        "sent again; run `hybrid-video reconcile` when RunPod can be reached",
        backend=handle.backend,
        detail=error.detail if error else "",
    )


def _timed_out(handle: JobHandle, job: RemoteJob, backend: str) -> BackendError:
    ttl_s = (handle.expires_at - handle.submitted_at).total_seconds() if handle.expires_at else None
    if not job.execution_s and ttl_s and (job.queue_s or 0.0) >= UNPICKED_SHARE * ttl_s:
        return TransientError(
            f"no worker took job {job.id!r} within its {ttl_s:g} s; check that the endpoint's maximum of workers is "
            "above 0 and that its GPU type is available",
            kind=FailureKind.NO_CAPACITY,
            backend=backend,
            execution_s=0.0,
        )
    limit = handle.details.get("execution_timeout_s", "")
    billed_s = job.execution_s or (float(limit) if limit else None)
    return TransientError(
        f"RunPod ended job {job.id!r} for taking longer than {limit or 'its limit of'} s; raise "
        "HYBRID_VIDEO_RUNPOD_EXECUTION_TIMEOUT_S, shorten the clip or use a faster GPU",
        kind=FailureKind.TIMED_OUT,
        backend=backend,
        detail=redact(worker_failures.spoken(job.error), 600),
        execution_s=billed_s,
    )


def _gone(handle: JobHandle, backend: str) -> TransientError:
    """RunPod answers 404 for a result that was deleted, a time to live that ended and an id that never was alike."""
    age = utc_now() - handle.submitted_at
    if handle.expires_at is not None and utc_now() >= handle.expires_at:
        why = f"its time to live ended at {handle.expires_at:%Y-%m-%d %H:%M:%S} UTC, which ends even a running job"
    elif age > timedelta(seconds=RESULT_KEPT_S):
        why = f"results are deleted {RESULT_KEPT_S // 60} minutes after completion, or the job was purged"
    else:
        why = "it is too young for RunPod's own clean-up, so it was purged or its endpoint was changed"
    return TransientError(
        f"RunPod no longer knows job {handle.remote_id!r}, submitted {age.total_seconds():.0f} s ago: {why}; it may "
        "have cost up to its reservation, compare with the endpoint's bill",
        kind=FailureKind.EXPIRED,
        backend=backend,
    )


def _bad_clip(message: str, job: RemoteJob, backend: str) -> TerminalError:
    return TerminalError(message, kind=FailureKind.BAD_CLIP, backend=backend, execution_s=job.execution_s)
