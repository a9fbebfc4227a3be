"""Gemini Omni through the Interactions API, with an API key.

Veo left the Gemini API on 2026-10-22, so a key alone buys Omni only; `hybrid_video.backends.google.veo` is the other
road.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any

from google.genai import Client

from hybrid_video.backends.base import BackendContext, CancelOutcome
from hybrid_video.backends.google.catalog import OMNI_MODELS, GoogleModel, aspect_of, resolution_of
from hybrid_video.backends.google.failures import SDK_ERRORS, submit_error
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
from hybrid_video.settings import GeminiSettings

GEMINI_URL = "https://generativelanguage.googleapis.com"
VEO_REMEDY = (
    "Veo left the Gemini API on 2026-10-22. Set HYBRID_VIDEO_GEMINI_MODEL to auto to use Gemini Omni with this key, or "
    "set HYBRID_VIDEO_GEMINI_PROJECT to a Google Cloud project to use Veo 3.1 there"
)
_SEED_LIMIT = 2**31


class GeminiBackend(GoogleRoad):
    """Gemini Omni. Quotes before `start` assume every known model; `start` keeps those the key offers."""

    key: str = "gemini"

    def __init__(self, context: BackendContext, *, submit_timeout_s: float = 90.0) -> None:
        super().__init__(context, _configured(context.settings.gemini), submit_timeout_s=submit_timeout_s)

    async def start(self) -> None:
        """Lists the key's models and keeps the usable ones."""
        if self._settings.api_key is None:
            raise ConfigurationError("GEMINI_API_KEY is not set; make a key in Google AI Studio and set it.")
        wanted = self._settings.model
        if wanted.startswith("veo-"):
            raise ConfigurationError(f"model {wanted!r} cannot be used with an API key: {VEO_REMEDY}.")
        try:
            offered = await self._offered()
        except TerminalError as error:
            raise ConfigurationError(f"GEMINI_API_KEY cannot be used: {error.message}") from error
        usable = tuple(model for model in _configured(self._settings) if model.name in offered)
        if not usable:
            raise ConfigurationError(_nothing_usable(wanted, offered))
        self._models = usable

    async def health(self) -> Health:
        """Lists the models: proves that Google answers, the key is valid and a usable model exists."""
        begun = time.monotonic()
        detail, remedy = "", ""
        try:
            if self._settings.api_key is None:
                detail, remedy = "no API key is set", "Set GEMINI_API_KEY."
            else:
                offered = await self._offered()
                present = [model.name for model in _configured(self._settings) if model.name in offered]
                detail = f"the key is valid and offers {', '.join(present) or 'no usable video model'}"
                remedy = "" if present else _nothing_usable(self._settings.model, offered)
        except BackendError as error:
            detail, remedy = error.message, "Set a valid GEMINI_API_KEY, or wait until Google answers."
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
        """Creates one background interaction; the request is sent at most once."""
        output, image = order.quote.output, self._read_image(order)
        wanted = {
            "resolution": resolution_of(output),
            "aspect_ratio": aspect_of(output.width, output.height),
            "duration": f"{round(output.duration_s)}s",
        }
        known = next((model for model in OMNI_MODELS if model.name == order.quote.model), None)
        extra: dict[str, Any] = {}
        if known is not None and known.seed:
            extra["generation_config"] = {"seed": order.seed % _SEED_LIMIT}
        submitted_at = utc_now()
        create: Any = self._open().submitting.interactions.create
        try:
            interaction = await create(
                model=order.quote.model,
                input=_input(order.job.prompt, image),
                background=True,
                response_format={"type": "video", "delivery": "uri", **wanted},
                extra_headers={JOB_HEADER: order.label},
                **extra,
            )
        except Exception as error:  # whatever it is, the request may be on its way
            raise submit_error(error, backend=self.key, model=order.quote.model) from error
        remote_id = getattr(interaction, "id", None)
        if not remote_id:
            raise SubmitUncertain("Google took the clip but gave no id for it; it is not sent again", backend=self.key)
        return self._handle(order, str(remote_id), submitted_at, wanted)

    async def status(self, handle: JobHandle) -> JobStatus:
        """One look at the interaction."""
        reading: Any = self._open().reading
        try:
            interaction = await self._open().read(
                lambda: reading.interactions.get(handle.remote_id), backend=self.key, what=handle.remote_id
            )
        except BackendError as error:
            raise self._about_operation(error, handle) from error
        return self._read(interaction, handle)

    async def cancel(self, handle: JobHandle) -> CancelOutcome:
        """Cancels the interaction; what is finished stays finished."""
        submitting: Any = self._open().submitting
        try:
            interaction = await submitting.interactions.cancel(handle.remote_id)
        except SDK_ERRORS:
            return await super().cancel(handle)
        match str(interaction.status):
            case "cancelled":
                return "stopped"
            case "completed" | "failed" | "incomplete" | "budget_exceeded":
                return "finished"
            case _:
                return "unknown"

    def _read(self, interaction: Any, handle: JobHandle) -> JobStatus:
        files, texts = _results(interaction)
        match str(interaction.status):
            case "queued":
                return JobStatus(phase="queued")
            case "in_progress":
                return JobStatus(phase="running")
            case "completed" if files:
                return JobStatus(phase="succeeded", files=files)
            case "completed":
                said = redact(" ".join(texts), 500)
                raise TerminalError(
                    f"Google's filter gave no video, only text: {said!r}. Rephrase the prompt.",
                    kind=FailureKind.CONTENT_BLOCKED,
                    backend=self.key,
                    detail=said,
                )
            case ended:
                raise _ended_badly(ended, interaction, handle)

    async def _offered(self) -> set[str]:
        session = self._open()

        async def names() -> set[str]:
            pages = await session.reading.models.list(config={"page_size": 1000})
            return {str(model.name).removeprefix("models/") async for model in pages}

        return await session.read(names, backend=self.key, what="the list of models")

    def _open(self) -> Session:
        if self._session is None:
            if self._settings.api_key is None:
                raise ConfigurationError("GEMINI_API_KEY is not set; make a key in Google AI Studio and set it.")
            key = self._settings.api_key.get_secret_value()
            self._session = Session(
                self._settings.url or GEMINI_URL,
                "v1beta",
                lambda options: Client(vertexai=False, api_key=key, http_options=options),
                submit_timeout_s=self._submit_timeout_s,
            )
        return self._session

    async def _download_headers(self) -> Mapping[str, str]:
        key = self._settings.api_key
        return {"x-goog-api-key": key.get_secret_value()} if key else {}


def _configured(settings: GeminiSettings) -> tuple[GoogleModel, ...]:
    if settings.model == "auto":
        return OMNI_MODELS
    return tuple(model for model in OMNI_MODELS if model.name == settings.model)


def _nothing_usable(wanted: str, offered: set[str]) -> str:
    known = ", ".join(model.name for model in OMNI_MODELS)
    if wanted != "auto":
        there = ", ".join(model.name for model in OMNI_MODELS if model.name in offered) or "none"
        return (
            f"HYBRID_VIDEO_GEMINI_MODEL {wanted!r} is not a video model this key offers (usable: {there}); "
            "set it to auto or to one of them."
        )
    only_veo = any(name.startswith("veo-") for name in offered)
    why = f" {VEO_REMEDY}." if only_veo else ""
    return f"the API key offers none of the video models {known}; check the key's project and region.{why}"


def _input(prompt: str, image: tuple[bytes, str] | None) -> str | list[dict[str, str]]:
    if image is None:
        return prompt
    data, media_type = image
    return [
        {"type": "image", "data": base64.b64encode(data).decode("ascii"), "mime_type": media_type},
        {"type": "text", "text": prompt},
    ]


def _results(interaction: Any) -> tuple[tuple[RemoteFile, ...], list[str]]:
    files: list[RemoteFile] = []
    texts: list[str] = []
    for step in interaction.steps or []:
        for part in getattr(step, "content", None) or []:
            if part.type == "video" and (part.uri or part.data):
                inline = None if part.uri else str(part.data)
                files.append(
                    RemoteFile(
                        name="clip.mp4", url=part.uri or "", media_type=part.mime_type or "", inline_base64=inline
                    )
                )
            elif part.type == "text":
                texts.append(str(part.text))
    return tuple(files), texts


def _ended_badly(ended: str, interaction: Any, handle: JobHandle) -> BackendError:
    said = redact("; ".join(f"{e.code}: {e.message}" for e in interaction.errors or []), 500)
    what = f"interaction {handle.remote_id!r} ended as {ended!r}" + (f": {said!r}" if said else "")
    terminal = {
        "cancelled": (FailureKind.CANCELLED, "run the batch again to make it"),
        "requires_action": (FailureKind.INVALID_REQUEST, "change the prompt: the model asked a question back"),
        "budget_exceeded": (FailureKind.INSUFFICIENT_FUNDS, "raise the spending limit of the Google project"),
    }
    if ended in terminal:
        kind, remedy = terminal[ended]
        return TerminalError(f"{what}; {remedy}", kind=kind, backend=handle.backend, detail=said)
    if "safety" in said.lower() or "prohibited" in said.lower():
        return TerminalError(
            f"{what}; rephrase the prompt", kind=FailureKind.CONTENT_BLOCKED, backend=handle.backend, detail=said
        )
    return TransientError(f"{what}; try again", kind=FailureKind.VENDOR_ERROR, backend=handle.backend, detail=said)
