"""Every endpoint as a call, how its answer is read, and what follows from a failure; shared by both clients. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from hybrid_video.api.bodies import (
    BatchDetail,
    Cancelled,
    CancelRequest,
    CloudCost,
    CloudStatus,
    Estimate,
    EstimateRequest,
    Health,
    PodConfig,
    PodsEnded,
    PreferencesAnswer,
    Recommendations,
    SelectAnswer,
    SelectRequest,
    SpawnRequest,
    Status,
    Submitted,
)
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    HybridVideoError,
    InputError,
    LedgerError,
    LimitError,
    NotFoundError,
    TerminalError,
    TransientError,
)
from hybrid_video.models import Batch
from hybrid_video.views import (
    BackendView,
    BatchLine,
    ClipLine,
    Dimension,
    EventPage,
    JobLine,
    JobView,
    Page,
    PodLine,
    PodView,
    Spend,
)

T = TypeVar("T")
TIMEOUT_S: Final = 30.0
PAUSES_S: Final = (0.2, 0.6, 1.8)
LONGEST_PAUSE_S: Final = 30.0
POLL_S: Final = 1.0
EVENTS_S: Final = 10.0
ENDING_S: Final = 0.3
CHUNK: Final = 1 << 20
_OURS: Final[dict[str, type[HybridVideoError]]] = {
    "not_found": NotFoundError,
    "configuration": ConfigurationError,
    "limit": LimitError,
    "ledger": LedgerError,
}


class ApiError(HybridVideoError):
    """The API itself refused or did not answer. `status` is its HTTP status, 0 without an answer."""

    def __init__(self, message: str, *, status: int = 0, kind: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.retry_after_s = retry_after_s


class Call(Generic[T]):
    """One request: what is sent, and how its answer is read."""

    def __init__(self, method: str, path: str, answer: TypeAdapter[T], **sent: Any) -> None:
        self.method = method
        self.path = path
        self.answer = answer
        self.sent = {name: value for name, value in sent.items() if value is not None}
        if "content" in self.sent:
            self.sent["headers"] = {"Content-Type": "application/json"}

    @property
    def repeatable(self) -> bool:
        """Whether it may be sent again when its fate is unknown."""
        return self.method == "GET"

    def read(self, response: httpx.Response) -> T:
        """The answer as its model.

        Raises:
            HybridVideoError: the server refused; or the answer is not understood.
        """
        if response.is_error:
            raise failure(response)
        try:
            return self.answer.validate_json(response.content)
        except ValidationError as error:
            raise ApiError(
                f"the answer to {self.method} {self.path} is not understood ({error.error_count()} problems); server "
                "and client may be of different versions",
                status=response.status_code,
            ) from None


def health() -> Call[Health]:
    return Call("GET", "/health", TypeAdapter(Health))


def status() -> Call[Status]:
    return Call("GET", "/api/loadbalancer/status", TypeAdapter(Status))


def backends() -> Call[tuple[BackendView, ...]]:
    return Call("GET", "/api/loadbalancer/backends", TypeAdapter(tuple[BackendView, ...]))


def select(request: SelectRequest | None) -> Call[SelectAnswer]:
    return Call("POST", "/api/loadbalancer/select", TypeAdapter(SelectAnswer), json=_body(request or SelectRequest()))


def recommendations(jobs: int | None) -> Call[Recommendations]:
    return Call("GET", "/api/loadbalancer/recommendations", TypeAdapter(Recommendations), params=_params(jobs=jobs))


def estimate(request: EstimateRequest) -> Call[Estimate]:
    return Call("POST", "/api/loadbalancer/estimate-cost", TypeAdapter(Estimate), json=_body(request))


def preferences() -> Call[PreferencesAnswer]:
    return Call("GET", "/api/loadbalancer/preferences", TypeAdapter(PreferencesAnswer))


def change_preferences(changes: Mapping[str, Any]) -> Call[PreferencesAnswer]:
    return Call("POST", "/api/loadbalancer/preferences", TypeAdapter(PreferencesAnswer), content=_plain(changes))


def reset_preferences() -> Call[PreferencesAnswer]:
    return Call("DELETE", "/api/loadbalancer/preferences", TypeAdapter(PreferencesAnswer))


def cloud_status() -> Call[CloudStatus]:
    return Call("GET", "/api/cloud/status", TypeAdapter(CloudStatus))


def pods(include_closed: bool, cursor: str | None, limit: int) -> Call[Page[PodLine]]:
    wanted = _params(include_closed=include_closed, cursor=cursor, limit=limit)
    return Call("GET", "/api/cloud/pods", TypeAdapter(Page[PodLine]), params=wanted)


def pod(name: str) -> Call[PodView]:
    return Call("GET", f"/api/cloud/pods/{quote(name, safe='')}", TypeAdapter(PodView))


def cloud_cost(since: date | None, until: date | None) -> Call[CloudCost]:
    return Call("GET", "/api/cloud/cost", TypeAdapter(CloudCost), params=_params(since=since, until=until))


def spawn(request: SpawnRequest | None) -> Call[PodLine]:
    return Call("POST", "/api/cloud/spawn", TypeAdapter(PodLine), json=_body(request or SpawnRequest()))


def terminate(name: str) -> Call[PodLine]:
    return Call("POST", f"/api/cloud/terminate/{quote(name, safe='')}", TypeAdapter(PodLine))


def shutdown_all() -> Call[PodsEnded]:
    return Call("POST", "/api/cloud/shutdown-all", TypeAdapter(PodsEnded))


def configure_cloud(changes: Mapping[str, Any]) -> Call[PodConfig]:
    return Call("PUT", "/api/cloud/config", TypeAdapter(PodConfig), content=_plain(changes))


def submit(batch: Batch | Mapping[str, Any], validate_only: bool) -> Call[Submitted]:
    content = batch.model_dump_json(exclude_none=True) if isinstance(batch, Batch) else _plain(batch)
    wanted = _params(validate_only=validate_only)
    return Call("POST", "/api/batches", TypeAdapter(Submitted), content=content, params=wanted)


def batches(search: str, only_open: bool, cursor: str | None, limit: int) -> Call[Page[BatchLine]]:
    wanted = _params(search=search, only_open=only_open, cursor=cursor, limit=limit)
    return Call("GET", "/api/batches", TypeAdapter(Page[BatchLine]), params=wanted)


def batch(name: str) -> Call[BatchDetail]:
    return Call("GET", f"/api/batches/{quote(name, safe='')}", TypeAdapter(BatchDetail))


def jobs(name: str, state: str | None, cursor: str | None, limit: int) -> Call[Page[JobLine]]:
    wanted = _params(state=state, cursor=cursor, limit=limit)
    return Call("GET", f"/api/batches/{quote(name, safe='')}/jobs", TypeAdapter(Page[JobLine]), params=wanted)


def job(name: str, job: str) -> Call[JobView]:
    return Call("GET", f"/api/batches/{quote(name, safe='')}/jobs/{quote(job, safe='')}", TypeAdapter(JobView))


def events(name: str, cursor: str | None, limit: int, wait_s: float) -> Call[EventPage]:
    wanted = _params(cursor=cursor, limit=limit, wait_s=wait_s or None)
    return Call("GET", f"/api/batches/{quote(name, safe='')}/events", TypeAdapter(EventPage), params=wanted)


def clips(batch: str | None, cursor: str | None, limit: int) -> Call[Page[ClipLine]]:
    path = f"/api/batches/{quote(batch, safe='')}/clips" if batch else "/api/clips"
    return Call("GET", path, TypeAdapter(Page[ClipLine]), params=_params(cursor=cursor, limit=limit))


def cancel(name: str, request: CancelRequest) -> Call[Cancelled]:
    path = f"/api/batches/{quote(name, safe='')}/cancel"
    return Call("POST", path, TypeAdapter(Cancelled), json=_body(request), timeout=TIMEOUT_S + request.wait_s)


def rerun(name: str) -> Call[Submitted]:
    return Call("POST", f"/api/batches/{quote(name, safe='')}/rerun", TypeAdapter(Submitted))


def spend(by: Sequence[Dimension], since: date | None, until: date | None, batch: str | None) -> Call[Spend]:
    wanted = _params(by=list(by), since=since, until=until, batch=batch)
    return Call("GET", "/api/spend", TypeAdapter(Spend), params=wanted)


def clip_path(batch: str, job: str) -> str:
    return f"/api/batches/{quote(batch, safe='')}/jobs/{quote(job, safe='')}/clip"


def submit_file(parts: Any, validate_only: bool) -> Call[Submitted]:
    wanted = _params(validate_only=validate_only)
    return Call("POST", "/api/batches", TypeAdapter(Submitted), files=parts, params=wanted)


def _params(**values: Any) -> dict[str, Any]:
    shown = {name: value for name, value in values.items() if value not in (None, "", ())}
    return {name: value.isoformat() if isinstance(value, date) else value for name, value in shown.items()}


def _body(model: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = model.model_dump(mode="json", exclude_none=True)
    return found


def _plain(changes: Mapping[str, Any]) -> str:
    """A mapping as JSON, amounts as exact text; null is kept, because it resets a field."""
    return json.dumps(changes, default=str)


def headers(token: str | None) -> dict[str, str]:
    """What every request carries."""
    return {"Authorization": f"Bearer {token}"} if token else {}


def failure(response: httpx.Response) -> HybridVideoError:
    """The error that the server met, from its problem document."""
    try:
        problem = response.json()
        kind, text = str(problem["kind"]), str(problem["detail"])
    except (ValueError, KeyError, TypeError):
        return ApiError(
            f"the server answered {response.status_code} and no problem document; is this a hybrid-video API?",
            status=response.status_code,
        )
    if kind in _OURS:
        return _OURS[kind](text)
    if kind == "input":
        parts = [(str(part.get("field", "")), str(part.get("message", ""))) for part in problem.get("problems", ())]
        return InputError(text, tuple(f"{field}: {message}" if field else message for field, message in parts))
    wait_s = _retry_after(response)
    if kind in set(FailureKind):
        return _backend_failure(FailureKind(kind), text, response.status_code, wait_s)
    return ApiError(text, status=response.status_code, kind=kind, retry_after_s=wait_s)


def _backend_failure(kind: FailureKind, text: str, status: int, wait_s: float | None) -> BackendError:
    if status == httpx.codes.SERVICE_UNAVAILABLE:
        return TransientError(text, kind=kind, backend="runpod-pod", retry_after_s=wait_s)
    return TerminalError(text, kind=kind, backend="runpod-pod")


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("retry-after", "")
    return float(text) if text.isdecimal() else None


def pause_s(call: Call[Any], response: httpx.Response | None, tries: int) -> float | None:
    """How long to wait before the same call again; None: do not."""
    if tries >= len(PAUSES_S):
        return None
    if response is None:
        return PAUSES_S[tries] if call.repeatable else None
    busy = response.status_code == httpx.codes.TOO_MANY_REQUESTS or (
        response.status_code == httpx.codes.SERVICE_UNAVAILABLE and call.repeatable
    )
    if not busy:
        return None
    wait_s = _retry_after(response) or PAUSES_S[tries]
    return wait_s if wait_s <= LONGEST_PAUSE_S else None


def unreachable(url: str, error: httpx.HTTPError) -> ApiError:
    """No answer, or one that was cut off."""
    return ApiError(
        f"the API at {url!r} does not answer ({type(error).__name__}); start it with `hybrid-video api`, and check the "
        "address"
    )


def patience_s(cursor: str | None, last: str) -> float:
    """How long to wait for the next event of a batch: only a moment once it has told that it ended.

    Nothing follows that but the end of its process; whoever waited on would hear of it seconds late.
    """
    if cursor is None:
        return 0.0
    return ENDING_S if last == "ended" else EVENTS_S


def over(detail: BatchDetail) -> bool:
    """Whether nothing more happens with a batch by itself."""
    running = detail.run is not None and detail.run.status.state in ("starting", "running")
    return not running and (detail.view is None or detail.view.batch.state != "running")


def check_started(detail: BatchDetail) -> None:
    """Raises what a run was refused by before it began, or that it crashed before it reached the ledger."""
    run = detail.run
    if run is not None and run.status.error and (detail.view is None or run.status.exit_code in (2, 3)):
        raise InputError(run.status.error, run.status.problems)


def upload(path: Path, files: Sequence[Path], stack: ExitStack) -> list[tuple[str, tuple[str, Any]]]:
    """The parts of an upload, their files open until the stack is closed.

    Raises:
        InputError: a file cannot be read.
    """
    parts = [("batch", path), *(("files", file) for file in files)]
    try:
        return [(part, (file.name, stack.enter_context(file.open("rb")))) for part, file in parts]
    except OSError as error:
        raise InputError(f"{str(error.filename)!r} cannot be read: {error.strerror}; check the path") from None


def target(response: httpx.Response, folder: Path, job: str) -> tuple[Path, Path]:
    """Where a clip goes, and the name it has until it is complete."""
    name = response.headers.get("content-disposition", "").rpartition("filename=")[2].strip('"')
    suffix = Path(name).suffix if name else ".mp4"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{Path(job).name}{suffix}"
    return target, target.with_name(f".{target.name}.part")
