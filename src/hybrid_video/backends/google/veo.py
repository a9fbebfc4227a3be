"""Veo 3.1 on Google Cloud: `predictLongRunning` with OAuth.

The clip comes inline in the finished operation, because no bucket is asked for; a `gs://` address is fetched too,
should one come. There is no way to cancel an operation.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from typing import Any

import google.auth
from google.auth.credentials import Credentials
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.genai import Client, types
from google.oauth2.credentials import Credentials as TokenCredentials

from hybrid_video.backends.base import BackendContext
from hybrid_video.backends.google.catalog import VEO_MODELS, GoogleModel, aspect_of, resolution_of
from hybrid_video.backends.google.failures import submit_error
from hybrid_video.backends.google.road import GoogleRoad
from hybrid_video.backends.google.session import JOB_HEADER, Session
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    SubmitUncertain,
    TerminalError,
    TransientError,
)
from hybrid_video.models import Health, JobHandle, JobStatus, RemoteFile, WorkOrder, utc_now
from hybrid_video.redaction import redact
from hybrid_video.settings import GeminiSettings, is_loopback

STORAGE_URL = "https://storage.googleapis.com"
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_SEED_LIMIT = 2**32
_EMULATED_TOKEN = "emulated"  # noqa: S105 - what the emulator is given on loopback
_LOGIN = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a service account file"


class VeoBackend(GoogleRoad):
    """Veo 3.1 in one Google Cloud project.

    Args:
        credentials: OAuth credentials; the application default ones when None (on loopback: the emulator's token).
    """

    key: str = "veo"

    def __init__(
        self, context: BackendContext, *, credentials: Credentials | None = None, submit_timeout_s: float = 90.0
    ) -> None:
        super().__init__(context, _configured(context.settings.gemini), submit_timeout_s=submit_timeout_s)
        self._credentials = credentials

    async def start(self) -> None:
        """Finds credentials and asks which of its models the project's location offers."""
        if not self._settings.project:
            raise ConfigurationError("HYBRID_VIDEO_GEMINI_PROJECT is not set; set it to a Google Cloud project id.")
        configured = _configured(self._settings)
        if not configured:
            known = ", ".join(model.name for model in VEO_MODELS)
            raise ConfigurationError(
                f"HYBRID_VIDEO_GEMINI_MODEL {self._settings.model!r} is no Veo model known on Google Cloud; "
                f"set it to auto or one of {known}."
            )
        await self._find_credentials()
        try:
            usable = await self._offered(configured)
        except TerminalError as error:
            raise ConfigurationError(
                f"Google Cloud project {self._settings.project!r} cannot be used for Veo: {error.message} {_LOGIN}."
            ) from error
        if not usable:
            names = ", ".join(model.name for model in configured)
            raise ConfigurationError(f"Google Cloud offers none of {names}; set HYBRID_VIDEO_GEMINI_MODEL to auto.")
        self._models = usable

    async def health(self) -> Health:
        """Asks for its models: proves that Google answers, the login is valid and a model exists."""
        begun = time.monotonic()
        try:
            await self._find_credentials()
            present = await self._offered(_configured(self._settings))
        except (BackendError, ConfigurationError) as error:
            detail, remedy = error.message, f"Check HYBRID_VIDEO_GEMINI_PROJECT; {_LOGIN}."
        else:
            names = ", ".join(model.name for model in present)
            detail = f"the login is valid and Google Cloud offers {names or 'no Veo model'}"
            remedy = "" if present else "Set HYBRID_VIDEO_GEMINI_MODEL to auto."
        return Health(
            backend=self.key,
            tier=self.tier,
            healthy=not remedy,
            detail=detail,
            remedy=remedy,
            checked_at=utc_now(),
            latency_s=time.monotonic() - begun,
        )

    async def submit(self, order: WorkOrder) -> JobHandle:
        """Starts one operation; the request is sent at most once."""
        output, image = order.quote.output, self._read_image(order)
        aspect, resolution = aspect_of(output.width, output.height), resolution_of(output)
        config = types.GenerateVideosConfig(
            number_of_videos=1,
            duration_seconds=round(output.duration_s),
            aspect_ratio=aspect,
            resolution=resolution,
            negative_prompt=order.job.negative_prompt.strip() or None,
            seed=order.seed % _SEED_LIMIT,
            generate_audio=True,
            http_options=types.HttpOptions(headers={JOB_HEADER: order.label}),
        )
        frame = types.Image(image_bytes=image[0], mime_type=image[1]) if image else None
        await self._find_credentials()
        submitted_at = utc_now()
        try:
            operation = await self._open().submitting.models.generate_videos(
                model=order.quote.model,
                source=types.GenerateVideosSource(prompt=order.job.prompt, image=frame),
                config=config,
            )
        except Exception as error:  # whatever it is, the request may be on its way
            raise submit_error(error, backend=self.key, model=order.quote.model) from error
        if not operation.name:
            raise SubmitUncertain("Google took the clip but named no operation; it is not sent again", backend=self.key)
        details = {"resolution": resolution, "aspect_ratio": aspect, "duration": str(round(output.duration_s))}
        return self._handle(order, operation.name, submitted_at, details)

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look at the operation: error, then samples, then the filter, then an unknown shape."""
        await self._find_credentials()
        operation = types.GenerateVideosOperation.model_validate({"name": handle.remote_id})
        session = self._open()
        try:
            found = await session.read(
                lambda: session.reading.operations.get(operation), backend=self.key, what=handle.remote_id
            )
        except BackendError as error:
            raise self._about_operation(error, handle) from error
        if not found.done:
            return JobStatus(phase="running")
        if found.error:
            raise _operation_error(found.error, handle)
        response = found.response or types.GenerateVideosResponse()
        files = tuple(_file(each.video) for each in response.generated_videos or [] if each.video)
        if files:
            return JobStatus(phase="succeeded", files=files)
        if response.rai_media_filtered_count:
            said = redact(" ".join(response.rai_media_filtered_reasons or []), 500)
            raise TerminalError(
                f"Google's filter withheld the clip: {said!r}. Rephrase the prompt.",
                kind=FailureKind.CONTENT_BLOCKED,
                backend=self.key,
                detail=said,
            )
        raise TransientError(
            f"operation {handle.remote_id!r} is done, with neither a clip nor a reason; try again",
            kind=FailureKind.VENDOR_ERROR,
            backend=self.key,
        )

    async def _offered(self, models: tuple[GoogleModel, ...]) -> tuple[GoogleModel, ...]:
        session, present = self._open(), []
        for model in models:
            try:
                await session.read(
                    lambda name=model.name: session.reading.models.get(model=name),  # type: ignore[misc]
                    backend=self.key,
                    what=model.name,
                )
            except TerminalError as error:
                if error.kind is not FailureKind.MODEL_RETIRED:
                    raise
            else:
                present.append(model)
        return tuple(present)

    async def _find_credentials(self) -> None:
        if self._credentials is not None:
            return
        if self._settings.url and is_loopback(self._settings.url):
            self._credentials = TokenCredentials(_EMULATED_TOKEN)  # type: ignore[no-untyped-call]
            return
        try:
            found, _project = await asyncio.to_thread(google.auth.default, scopes=[_SCOPE])
        except GoogleAuthError as error:
            raise ConfigurationError(f"no Google Cloud login was found ({redact(error, 200)}); {_LOGIN}.") from error
        self._credentials = found

    def _open(self) -> Session:
        if self._session is None:
            place = self._settings.location
            host = "aiplatform.googleapis.com" if place == "global" else f"{place}-aiplatform.googleapis.com"
            self._session = Session(
                self._settings.url or f"https://{host}",
                "v1",
                lambda options: Client(
                    vertexai=True,
                    project=self._settings.project,
                    location=place,
                    credentials=self._credentials,
                    http_options=options,
                ),
                submit_timeout_s=self._submit_timeout_s,
            )
        return self._session

    def _file_origin(self, session: Session, url: str) -> str:
        return STORAGE_URL if url.startswith("gs://") and not self._settings.url else session.base_url

    async def _download_headers(self) -> Mapping[str, str]:
        await self._find_credentials()
        credentials: Any = self._credentials
        try:
            if not credentials.valid:
                await asyncio.to_thread(credentials.refresh, Request())
        except GoogleAuthError as error:
            raise TransientError(
                f"the finished clip cannot be fetched, Google gives no access token ({redact(error, 200)}); {_LOGIN}",
                kind=FailureKind.DOWNLOAD_FAILED,
                backend=self.key,
            ) from error
        return {"Authorization": f"Bearer {credentials.token}"}


def _configured(settings: GeminiSettings) -> tuple[GoogleModel, ...]:
    if not settings.model.startswith("veo-"):
        return VEO_MODELS
    return tuple(model for model in VEO_MODELS if model.name == settings.model)


def _file(video: types.Video) -> RemoteFile:
    inline = base64.b64encode(video.video_bytes).decode("ascii") if video.video_bytes else None
    return RemoteFile(name="clip.mp4", url=video.uri or "", media_type=video.mime_type or "", inline_base64=inline)


def _operation_error(error: Mapping[str, Any], handle: JobHandle) -> BackendError:
    """Maps a google.rpc.Status: 8 is a quota, 3 and 7 are the request's or the filter's fault, the rest may pass."""
    code, said = error.get("code"), redact(error.get("message", ""), 500)
    what = f"operation {handle.remote_id!r} failed with code {code!r}: {said!r}"
    if code == 8:
        return TransientError(
            f"{what}; wait and try again", kind=FailureKind.NO_CAPACITY, backend=handle.backend, detail=said
        )
    if code == 3:
        blocked = any(word in said.lower() for word in ("safety", "violat", "guideline", "blocked", "prohibited"))
        kind = FailureKind.CONTENT_BLOCKED if blocked else FailureKind.INVALID_REQUEST
        return TerminalError(f"{what}; change the prompt", kind=kind, backend=handle.backend, detail=said)
    return TransientError(f"{what}; try again", kind=FailureKind.VENDOR_ERROR, backend=handle.backend, detail=said)
