"""`/api/jobs`: the queue and the history in one list, as ComfyUI 0.8.0 offers it (0.3.x does not)."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from hybrid_video.emulators.comfyui.machine import Machine
from hybrid_video.emulators.comfyui.prompt_queue import Item

STATES = ("pending", "in_progress", "completed", "failed")
_SORT_KEYS = ("created_at", "execution_duration")
_VIDEO_KEYS = ("images", "gifs", "video", "audio")


class BadParameterError(ValueError):
    """A query parameter `/api/jobs` answers with 400."""


def list_jobs(machine: Machine, query: dict[str, str]) -> dict[str, Any]:
    """The body of `GET /api/jobs`.

    Raises:
        BadParameterError: see its message.
    """
    wanted = _states(query.get("status"))
    sort_by = _one_of(query, "sort_by", _SORT_KEYS)
    descending = _one_of(query, "sort_order", ("desc", "asc")) == "desc"
    limit = _whole(query, "limit")
    if limit is not None and limit <= 0:
        raise BadParameterError("limit must be a positive integer")
    offset = max(0, _whole(query, "offset") or 0)
    jobs = [job for job in _all(machine) if job["status"] in wanted]
    workflow = query.get("workflow_id")
    if workflow:
        jobs = [job for job in jobs if job.get("workflow_id") == workflow]
    jobs.sort(key=_duration if sort_by == "execution_duration" else _created, reverse=descending)
    page = jobs[offset:] if limit is None else jobs[offset : offset + limit]
    more = offset + len(page) < len(jobs)
    pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
    return {"jobs": page, "pagination": pagination}


def one_job(machine: Machine, prompt_id: str) -> dict[str, Any] | None:
    """The body of `GET /api/jobs/{id}`: a finished one tells more; queued again under its id, the old end."""
    entry = machine.queue.history.get(prompt_id)
    if entry is not None:
        job = _finished(prompt_id, entry)
        job["outputs"] = entry["outputs"]
        job["execution_status"] = entry["status"]
        job["workflow"] = {"prompt": entry["prompt"][2], "extra_data": entry["prompt"][3]}
        return job
    return next((job for job in _unfinished(machine) if job["id"] == prompt_id), None)


async def get_jobs(machine: Machine, request: web.Request) -> web.Response:
    """`GET /api/jobs`; unlike everywhere else, bad parameters get a JSON 400."""
    try:
        return web.json_response(list_jobs(machine, dict(request.rel_url.query)))
    except BadParameterError as error:
        return web.json_response({"error": str(error)}, status=400)


async def get_job(machine: Machine, request: web.Request) -> web.Response:
    """`GET /api/jobs/{id}`."""
    job = one_job(machine, request.match_info["job_id"])
    if job is None:
        return web.json_response({"error": "Job not found"}, status=404)
    return web.json_response(job)


def _all(machine: Machine) -> list[dict[str, Any]]:
    finished = [_finished(prompt_id, entry) for prompt_id, entry in machine.queue.history.items()]
    return _unfinished(machine) + finished


def _unfinished(machine: Machine) -> list[dict[str, Any]]:
    running = [_job(item, "in_progress") for item in [machine.queue.running] if item is not None]
    return running + [_job(item, "pending") for item in sorted(machine.queue.pending, key=lambda item: item[:2])]


def _job(item: Item | list[Any], status: str) -> dict[str, Any]:
    job = {"id": item[1], "status": status, "priority": item[0], "create_time": item[3].get("create_time")}
    workflow = (item[3].get("extra_pnginfo") or {}).get("workflow") or {}
    if workflow.get("id"):
        job["workflow_id"] = workflow["id"]
    return job | {"outputs_count": 0}


def _finished(prompt_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    status = entry["status"]
    job = _job(entry["prompt"], "completed" if status["completed"] else "failed")
    times = {kind: data.get("timestamp") for kind, data in status["messages"]}
    ends = ("execution_success", "execution_error", "execution_interrupted")
    job["execution_start_time"] = times.get("execution_start")
    job["execution_end_time"] = next((times[kind] for kind in ends if kind in times), None)
    error = next((data for kind, data in status["messages"] if kind == "execution_error"), None)
    if error is not None:
        job["execution_error"] = error
    files = [
        {**item, "nodeId": node, "mediaType": key}
        for node, shown in entry["outputs"].items()
        for key in _VIDEO_KEYS
        for item in shown.get(key, [])
    ]
    job["outputs_count"] = len(files)
    if files:
        job["preview_output"] = files[0]
    return job | {"id": prompt_id}


def _created(job: dict[str, Any]) -> float:
    return float(job.get("create_time") or 0)


def _duration(job: dict[str, Any]) -> float:
    start, end = job.get("execution_start_time"), job.get("execution_end_time")
    return float(end - start) if start and end else 0.0


def _states(text: str | None) -> set[str]:
    if not text:
        return set(STATES)
    wanted = [part.strip().lower() for part in text.split(",") if part.strip()]
    wrong = [part for part in wanted if part not in STATES]
    if wrong:
        raise BadParameterError(f"Invalid status value(s): {', '.join(wrong)}. Valid values: {', '.join(STATES)}")
    return set(wanted)


def _one_of(query: dict[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = query.get(name, allowed[0]).lower()
    if value not in allowed:
        raise BadParameterError(f"{name} must be one of: {', '.join(allowed)}")
    return value


def _whole(query: dict[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise BadParameterError(f"{name} must be an integer") from None
