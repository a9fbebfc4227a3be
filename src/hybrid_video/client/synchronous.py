"""The synchronous client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

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
from hybrid_video.client import calls
from hybrid_video.client.calls import Call
from hybrid_video.models import Batch
from hybrid_video.views import (
    BackendView,
    BatchEvent,
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


class Client:
    """Synchronous client. Close it, or use it in a `with` block.

    Args:
        url: where `hybrid-video api` listens.
        token: one of HYBRID_VIDEO_API_*; None on a loopback address without tokens.
        transport: another httpx transport, for tests.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8321",
        token: str | None = None,
        *,
        timeout_s: float = calls.TIMEOUT_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=self._url, headers=calls.headers(token), timeout=timeout_s, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    # -- state and decisions ---------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Whether the API can do its work."""
        return self._send(calls.health())

    def status(self) -> Status:
        """Everything at a glance, with each backend."""
        return self._send(calls.status())

    def backends(self) -> tuple[BackendView, ...]:
        """Each backend with health, load, breakers and prices."""
        return self._send(calls.backends())

    def select(self, request: SelectRequest | None = None) -> SelectAnswer:
        """Where a run would send a job now; nothing is spent."""
        return self._send(calls.select(request))

    def recommendations(self, *, jobs: int | None = None) -> Recommendations:
        """What is worth doing, and a plan for so many clips."""
        return self._send(calls.recommendations(jobs))

    def estimate_cost(self, request: EstimateRequest) -> Estimate:
        """Money and time for a number of clips and a goal."""
        return self._send(calls.estimate(request))

    def preferences(self) -> PreferencesAnswer:
        """System-wide preferences."""
        return self._send(calls.preferences())

    def change_preferences(self, **changes: Any) -> PreferencesAnswer:
        """Changes some; None resets a field to the environment's."""
        return self._send(calls.change_preferences(changes))

    def reset_preferences(self) -> PreferencesAnswer:
        """Resets all of them."""
        return self._send(calls.reset_preferences())

    # -- rented GPUs -----------------------------------------------------------------------------------------------

    def cloud_status(self) -> CloudStatus:
        """Rented GPUs at a glance."""
        return self._send(calls.cloud_status())

    def pods(self, *, include_closed: bool = False, cursor: str | None = None, limit: int = 50) -> Page[PodLine]:
        """A page of pods."""
        return self._send(calls.pods(include_closed, cursor, limit))

    def pod(self, name: str) -> PodView:
        """One pod by name or provider's id."""
        return self._send(calls.pod(name))

    def cloud_cost(self, *, since: date | None = None, until: date | None = None) -> CloudCost:
        """What rented GPUs cost."""
        return self._send(calls.cloud_cost(since, until))

    def spawn(self, request: SpawnRequest | None = None) -> PodLine:
        """Opens a pod."""
        return self._send(calls.spawn(request))

    def terminate(self, name: str) -> PodLine:
        """Ends a pod."""
        return self._send(calls.terminate(name))

    def shutdown_all(self) -> PodsEnded:
        """Ends every pod of the installation."""
        return self._send(calls.shutdown_all())

    def configure_cloud(self, **changes: Any) -> PodConfig:
        """Changes how pods are opened and closed; None resets a field."""
        return self._send(calls.configure_cloud(changes))

    # -- batches ---------------------------------------------------------------------------------------------------

    def submit(self, batch: Batch | Mapping[str, Any], *, validate_only: bool = False) -> Submitted:
        """Starts a batch (or only checks it) and returns at once."""
        return self._send(calls.submit(batch, validate_only))

    def submit_file(
        self, path: str | Path, *, files: Sequence[str | Path] = (), validate_only: bool = False
    ) -> Submitted:
        """Uploads a batch file with the pictures and workflows that its jobs name, and starts it."""
        with ExitStack() as stack:
            parts = calls.upload(Path(path), [Path(file) for file in files], stack)
            return self._send(calls.submit_file(parts, validate_only))

    def batches(
        self, *, search: str = "", only_open: bool = False, cursor: str | None = None, limit: int = 50
    ) -> Page[BatchLine]:
        """A page of batches."""
        return self._send(calls.batches(search, only_open, cursor, limit))

    def every_batch(self, *, search: str = "", only_open: bool = False) -> Iterator[BatchLine]:
        """All batches, page by page."""
        return self._every(lambda cursor: self.batches(search=search, only_open=only_open, cursor=cursor))

    def batch(self, name: str) -> BatchDetail:
        """One batch with progress, money and outlook."""
        return self._send(calls.batch(name))

    def jobs(
        self, batch: str, *, state: str | None = None, cursor: str | None = None, limit: int = 50
    ) -> Page[JobLine]:
        """A page of a batch's jobs."""
        return self._send(calls.jobs(batch, state, cursor, limit))

    def every_job(self, batch: str, *, state: str | None = None) -> Iterator[JobLine]:
        """All jobs of a batch, page by page."""
        return self._every(lambda cursor: self.jobs(batch, state=state, cursor=cursor))

    def job(self, batch: str, job: str) -> JobView:
        """One job with its decision card."""
        return self._send(calls.job(batch, job))

    def events(self, batch: str, *, cursor: str | None = None, limit: int = 50, wait_s: float = 0.0) -> EventPage:
        """What happened after a cursor; waits for something new where asked to."""
        return self._send(calls.events(batch, cursor, limit, wait_s))

    def follow(self, batch: str) -> Iterator[BatchEvent]:
        """Everything that happens in a batch, until it is over."""
        cursor: str | None = None
        last = ""
        while True:
            page = self.events(batch, cursor=cursor, limit=500, wait_s=calls.patience_s(cursor, last))
            for item in page.items:
                last = item.kind
                yield item
            cursor = page.cursor
            if not page.items and calls.over(self.batch(batch)):
                return

    def wait(
        self, batch: str, *, timeout_s: float | None = None, tell: Callable[[BatchDetail], None] | None = None
    ) -> BatchDetail:
        """Waits until a batch is over.

        Raises:
            InputError: its run was refused before it began; says why.
            ApiError: it is not over in time.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            detail = self.batch(batch)
            if tell is not None:
                tell(detail)
            if calls.over(detail):
                calls.check_started(detail)
                return detail
            if until_s is not None and time.monotonic() > until_s:
                raise calls.ApiError(f"batch {batch!r} is not over after {timeout_s:g} s; it goes on")
            time.sleep(calls.POLL_S)

    def cancel(self, batch: str, *, jobs: Sequence[str] = (), wait_s: float = 10.0) -> Cancelled:
        """Stops a batch, or some of its jobs."""
        return self._send(calls.cancel(batch, CancelRequest(jobs=tuple(jobs), wait_s=wait_s)))

    def rerun(self, batch: str) -> Submitted:
        """Makes what is not done."""
        return self._send(calls.rerun(batch))

    def clips(self, batch: str | None = None, *, cursor: str | None = None, limit: int = 50) -> Page[ClipLine]:
        """A page of finished clips."""
        return self._send(calls.clips(batch, cursor, limit))

    def every_clip(self, batch: str | None = None) -> Iterator[ClipLine]:
        """All finished clips, page by page."""
        return self._every(lambda cursor: self.clips(batch, cursor=cursor))

    def download(self, batch: str, job: str, folder: str | Path) -> Path:
        """Saves a clip as `<folder>/<job><suffix>`; the file appears only when it is complete."""
        with self._http.stream("GET", calls.clip_path(batch, job)) as response:
            if response.is_error:
                response.read()
                raise calls.failure(response)
            target, part = calls.target(response, Path(folder), job)
            with part.open("wb") as file:
                for chunk in response.iter_bytes(calls.CHUNK):
                    file.write(chunk)
        part.replace(target)
        return target

    def spend(
        self,
        *by: Dimension,
        since: date | None = None,
        until: date | None = None,
        batch: str | None = None,
    ) -> Spend:
        """Exact money by day, tier, backend, batch or workflow."""
        return self._send(calls.spend(by, since, until, batch))

    # -- pieces ----------------------------------------------------------------------------------------------------

    def _send(self, call: Call[T]) -> T:
        tries = 0
        while True:
            response: httpx.Response | None = None
            try:
                response = self._http.request(call.method, call.path, **call.sent)
            except httpx.HTTPError as error:
                wait_s = calls.pause_s(call, None, tries)
                if wait_s is None:
                    raise calls.unreachable(self._url, error) from None
            else:
                wait_s = calls.pause_s(call, response, tries)
                if wait_s is None:
                    return call.read(response)
            time.sleep(wait_s)
            tries += 1

    @staticmethod
    def _every(page_at: Callable[[str | None], Page[T]]) -> Iterator[T]:
        cursor: str | None = None
        while True:
            page = page_at(cursor)
            yield from page.items
            cursor = page.next_cursor
            if cursor is None:
                return
