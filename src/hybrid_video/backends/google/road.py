"""What Google's two roads share: lanes, quotes, waiting, collecting and charging.

A road says how to start, submit, look and cancel; everything else is the same for both, because both sell finished
seconds of video and offer no way to find an operation by an id of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from hybrid_video.backends.base import BackendContext, CancelOutcome, ProgressCallback
from hybrid_video.backends.google import download, images
from hybrid_video.backends.google.catalog import GoogleModel, Offer, offer
from hybrid_video.backends.google.session import Session
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    SubmitUncertain,
    TerminalError,
    TransientError,
)
from hybrid_video.models import (
    Capabilities,
    CostEntry,
    JobHandle,
    JobStatus,
    Lane,
    Quote,
    Refusal,
    Tier,
    VideoJob,
    WorkOrder,
    utc_now,
)

RETENTION = timedelta(days=2)
"""How long Google keeps a finished file (its own documentation, as recalled; the emulator does the same)."""
SETTLING = timedelta(seconds=30)
"""An operation younger than this that is not found is looked for again: calling it lost would pay for it twice."""

_DELIVERED = (FailureKind.BAD_CLIP, FailureKind.DOWNLOAD_FAILED, FailureKind.EXPIRED)
_PASSING = (FailureKind.UNREACHABLE, FailureKind.RATE_LIMITED)


class GoogleRoad:
    """Base of `GeminiBackend` and `VeoBackend`.

    Args:
        submit_timeout_s: how long a submit waits for its answer before it counts as uncertain.
    """

    key: str
    tier = Tier.GEMINI

    def __init__(
        self, context: BackendContext, models: tuple[GoogleModel, ...], *, submit_timeout_s: float = 90.0
    ) -> None:
        self._settings = context.settings.gemini
        self._quoter = context.quoter
        self._models = models
        self._submit_timeout_s = submit_timeout_s
        self._session: Session | None = None
        self._lanes: tuple[Lane, ...] = ()

    def lanes(self) -> tuple[Lane, ...]:
        """One lane for each operation Google lets us have under way."""
        count = self._settings.max_concurrent
        if len(self._lanes) != count:
            ids = (f"{self.key}/{number}" for number in range(1, count + 1))
            self._lanes = tuple(Lane(id=lane, backend=self.key, tier=self.tier) for lane in ids)
        return self._lanes

    def capabilities(self) -> Capabilities:
        """What its models can make together."""
        return Capabilities(
            workflows=False,
            negative_prompt=any(model.negative_prompt for model in self._models),
            seed=any(model.seed for model in self._models),
            min_duration_s=min((model.durations[0] for model in self._models), default=0),
            max_duration_s=max((model.durations[-1] for model in self._models), default=0),
        )

    def quote(self, job: VideoJob, *, workflow_path: Path | None = None) -> Quote | Refusal:
        """The cheapest of its models that can make the job; pure."""
        del workflow_path
        quotes: list[Quote] = []
        reasons: dict[str, None] = {}
        for model in self._models:
            found = offer(model, job, smallest=self._settings.resolution)
            priced = self._price(found) if isinstance(found, Offer) else found
            if isinstance(priced, Quote):
                quotes.append(priced)
            else:
                reasons[priced] = None
        if quotes:
            return min(quotes, key=lambda quote: quote.amount_usd)
        reason = " ".join(reasons) or f"no model of {self.key} can be used."
        return Refusal(code="capability", reason=reason)

    async def preflight(
        self, job: VideoJob, *, workflow_path: Path | None = None, image_path: Path | None = None
    ) -> Refusal | None:
        """Checks the image; whether the model exists was seen at the start."""
        del workflow_path
        if job.image is None:
            return None
        try:
            if image_path is None:
                raise ValueError(f"image {job.image!r} has not been fetched; give it as a local file.")
            images.media_type(image_path)
        except ValueError as problem:
            return Refusal(code="preflight", reason=str(problem))
        return None

    async def find(self, order: WorkOrder) -> JobHandle | Literal["unknown"] | None:
        """Always "unknown": Google takes no id of ours and lists no operations."""
        del order
        return "unknown"

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look; each road has its own."""
        raise NotImplementedError

    async def watch(self, handle: JobHandle, on_progress: ProgressCallback | None = None) -> JobStatus:
        """Polls until the clip is there. Outages and quotas are waited out, because the clip is paid for.

        Raises:
            SubmitUncertain: it is not over after `operation_timeout_s`; it is left alone, never started again.
            BackendError: it failed.
        """
        deadline = handle.submitted_at + timedelta(seconds=self._settings.operation_timeout_s)
        while True:
            pause_s, trouble = self._settings.poll_interval_s, ""
            try:
                status = await self.status(handle)
            except TransientError as error:
                if error.kind not in _PASSING:
                    raise
                pause_s, trouble = max(pause_s, error.retry_after_s or 0.0), f"; last answer: {error.detail}"
            else:
                if on_progress is not None:
                    on_progress(status)
                if status.phase == "succeeded":
                    return status
            if utc_now() >= deadline:
                raise SubmitUncertain(
                    f"{self.key} operation {handle.remote_id!r} is not over after "
                    f"{self._settings.operation_timeout_s:g} s{trouble}; it is looked up again by "
                    "`hybrid-video reconcile`, never started anew",
                    backend=self.key,
                )
            await asyncio.sleep(pause_s)

    async def collect(self, handle: JobHandle, status: JobStatus, folder: Path) -> Path:
        """Downloads the clip; credentials go to Google's API host only."""
        if not status.files:
            status = await self.status(handle)
        if not status.files:
            raise TerminalError(
                f"{self.key} operation {handle.remote_id!r} has no video among its results",
                kind=FailureKind.BAD_CLIP,
                backend=self.key,
            )
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        target, file = folder / f"{handle.attempt_id}.mp4", status.files[0]
        if file.inline_base64 is not None:
            return await download.write_inline(file.inline_base64, target, backend=self.key)
        headers = await self._download_headers()
        session = self._open()
        origin = self._file_origin(session, file.url)
        url = download.bucket_url(file.url, origin) if file.url.startswith("gs://") else file.url
        return await download.fetch(session.http, url, target, backend=self.key, credentials=headers, origin=origin)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Google Cloud documents no cancel for Veo: finished, or nobody can say."""
        try:
            status = await self.status(handle)
        except SubmitUncertain:
            return "unknown"
        except BackendError as error:
            return "unknown" if error.kind in _PASSING else "finished"
        return "finished" if status.phase == "succeeded" else "unknown"

    def charge(self, quote: Quote, status: JobStatus | None, failure: BackendError | None = None) -> CostEntry:
        """Delivered clips cost their quote, also when they could not be fetched; nothing else does."""
        if failure is None:
            if status is not None and status.phase == "succeeded":
                return self._settle(quote, True, f"delivered: {quote.basis}")
            return self._settle(quote, False, "no clip was delivered")
        if failure.kind in _DELIVERED:
            return self._settle(quote, True, f"delivered, then lost ({failure.kind}): {quote.basis}")
        if failure.kind is FailureKind.UNCERTAIN:
            return CostEntry(
                amount_usd=quote.reserve_usd,
                basis="outcome unknown; counted as delivered until Google's bill says otherwise",
                source="quoted",
            )
        if failure.kind is FailureKind.CONTENT_BLOCKED:
            charged = self._settings.charge_filtered
            return self._settle(quote, charged, f"filtered; {'charged by setting' if charged else 'not charged'}")
        return self._settle(quote, False, f"not delivered ({failure.kind}); Google charges delivered video only")

    async def close(self) -> None:
        """Closes connections; operations go on at Google."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _open(self) -> Session:
        raise NotImplementedError

    async def _download_headers(self) -> Mapping[str, str]:
        raise NotImplementedError

    def _file_origin(self, session: Session, url: str) -> str:
        del url
        return session.base_url

    def _settle(self, quote: Quote, delivered: bool, basis: str) -> CostEntry:
        return self._quoter.settle_video(quote, delivered=delivered, basis=basis)

    def _price(self, found: Offer) -> Quote | str:
        try:
            quote = self._quoter.video_time(
                backend=self.key,
                tier=self.tier,
                model=found.model.name,
                resolution=found.resolution,
                billed_video_s=found.seconds,
                output=found.output,
            )
        except ConfigurationError as error:
            return f"{error}."
        return quote.model_copy(update={"basis": "; ".join((quote.basis, *found.notes))}) if found.notes else quote

    def _read_image(self, order: WorkOrder) -> tuple[bytes, str] | None:
        if order.job.image is None:
            return None
        try:
            if order.image_path is None:
                raise ValueError(f"image {order.job.image!r} has not been fetched.")
            path = Path(order.image_path)
            return path.read_bytes(), images.media_type(path)
        except (OSError, ValueError) as problem:
            raise TerminalError(str(problem), kind=FailureKind.INVALID_REQUEST, backend=self.key) from problem

    def _handle(self, order: WorkOrder, remote_id: str, submitted_at: datetime, details: dict[str, str]) -> JobHandle:
        return JobHandle(
            backend=self.key,
            attempt_id=order.attempt_id,
            remote_id=remote_id,
            lane=order.lane,
            submitted_at=submitted_at,
            expires_at=submitted_at + RETENTION,
            details={"model": order.quote.model, **details},
        )

    def _about_operation(self, error: BackendError, handle: JobHandle) -> BackendError:
        """Turns a refused *look* into what it says about the *operation*, which may well go on and be paid."""
        if error.kind is FailureKind.MODEL_RETIRED or "interaction name" in error.detail:
            if utc_now() - handle.submitted_at < SETTLING:
                return TransientError(
                    f"Google does not show {self.key} operation {handle.remote_id!r} yet; look again in a moment",
                    kind=FailureKind.UNREACHABLE,
                    backend=self.key,
                    detail=error.detail,
                )
            return TransientError(
                f"Google no longer knows {self.key} operation {handle.remote_id!r} ({error.detail}); results are kept "
                "two days, so it has to be made again",
                kind=FailureKind.EXPIRED,
                backend=self.key,
                detail=error.detail,
            )
        if isinstance(error, TransientError):
            return error
        return SubmitUncertain(
            f"{self.key} operation {handle.remote_id!r} cannot be looked up: {error.message}",
            backend=self.key,
            detail=error.detail,
        )
