"""Errors as `application/problem+json` (RFC 9457): what happened, and one sentence for each thing to change."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response

from hybrid_video import observing
from hybrid_video.errors import (
    BackendError,
    ConfigurationError,
    FailureKind,
    HybridVideoError,
    InputError,
    LedgerError,
    LimitError,
    NotFoundError,
    TransientError,
)
from hybrid_video.redaction import redact

MEDIA_TYPE = "application/problem+json"
MOST_PROBLEMS = 50
RETRY_S = 2

logger = logging.getLogger("hybrid_video.api")


class ProblemPart(BaseModel):
    """One thing that is wrong."""

    field: str = Field("", description="Where: a body field, query parameter or path part; empty for the whole.")
    message: str


class Problem(BaseModel):
    """Every answer that is not a success."""

    type: str = Field("about:blank", description="Always about:blank: `kind` says more.")
    title: str = Field(description="The HTTP status in words.")
    status: int
    detail: str = Field(description="What happened, the value, and what to do next.")
    kind: str = Field(description="Stable word: input, not_found, configuration, limit, ledger, backend, …")
    instance: str = Field("", description="Path of the request, or a reference to look for in the log.")
    problems: list[ProblemPart] = Field(default_factory=list)


class Refused(HTTPException):
    """A refusal of the API itself, before or beside the product: a role, a host, a size.

    An HTTPException, because FastAPI turns any other error while a body is read into a plain 400.
    """

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.kind = kind


_STATUS: dict[type[HybridVideoError], tuple[int, str]] = {
    NotFoundError: (404, "not_found"),
    InputError: (422, "input"),
    LimitError: (409, "limit"),
    ConfigurationError: (409, "configuration"),
    LedgerError: (503, "ledger"),
    HybridVideoError: (500, "unexpected"),
}
"""Status and word of each error; the first class that fits counts."""


def answer(
    status: int,
    kind: str,
    detail: str,
    *,
    instance: str = "",
    problems: list[ProblemPart] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The response."""
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=redact(detail),
        kind=kind,
        instance=instance,
        problems=(problems or [])[:MOST_PROBLEMS],
    )
    content = json.dumps(problem.model_dump(), ensure_ascii=False).encode("utf-8", errors="replace")
    return Response(content, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def of_error(error: HybridVideoError, instance: str) -> Response:
    """Our own errors, each with its status."""
    if isinstance(error, BackendError):
        return _of_backend(error, instance)
    status, kind = next(known for cls, known in _STATUS.items() if isinstance(error, cls))
    parts = [ProblemPart(message=redact(text)) for text in error.problems] if isinstance(error, InputError) else []
    headers = {"Retry-After": str(RETRY_S)} if status == 503 else {}
    return answer(status, kind, str(error), instance=instance, problems=parts, headers=headers)


def _of_backend(error: BackendError, instance: str) -> Response:
    wait_s = error.retry_after_s if isinstance(error, TransientError) else None
    busy = error.kind in (FailureKind.NO_CAPACITY, FailureKind.RATE_LIMITED)
    headers = {"Retry-After": str(max(1, round(wait_s or 60)))} if busy else {}
    return answer(503 if busy else 502, error.kind.value, str(error), instance=instance, headers=headers)


def unexpected(error: Exception, instance: str) -> Response:
    """A defect of ours: the log has the traceback under the reference that the answer names."""
    reference = secrets.token_hex(6)
    logger.error("unexpected error %s at %s", reference, instance, exc_info=error)
    observing.report(error)
    text = f"unexpected error; the log has the details under {reference}. Please report it"
    return answer(500, "unexpected", text, instance=reference)


def install(app: FastAPI) -> None:
    """Makes every error of the application a problem."""

    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, HybridVideoError)  # noqa: S101 - registered for it alone
        return of_error(error, request.url.path)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)  # noqa: S101 - registered for it alone
        return answer(error.status_code, error.kind, error.detail, instance=request.url.path, headers=error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for it alone
        parts = [_part(problem) for problem in error.errors()]
        shown = parts[0].message if parts else "it does not fit"
        text = f"the request does not fit: {parts[0].field}: {shown}" if parts and parts[0].field else shown
        more = f" (and {len(parts) - 1} more)" if len(parts) > 1 else ""
        return answer(422, "input", text + more, instance=request.url.path, problems=parts)

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 - registered for it alone
        path = request.url.path
        texts = {
            404: f"there is nothing at {path[:200]!r}; /docs lists every address",
            405: f"{request.method} is not possible at {path[:200]!r}; /docs lists what is",
        }
        kinds = {404: "not_found", 405: "method"}
        detail = texts.get(error.status_code, str(error.detail))
        kind = kinds.get(error.status_code, "http")
        return answer(error.status_code, kind, detail, instance=path, headers=error.headers)

    app.add_exception_handler(HybridVideoError, ours)
    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _part(problem: Mapping[str, Any]) -> ProblemPart:
    """A validation error with the place in people's terms and the value, but never a long or secret one."""
    place = [str(part) for part in problem.get("loc", ()) if part not in ("body", "query", "path")]
    message = str(problem.get("msg", "")).removeprefix("Value error, ")
    given = problem.get("input")
    shown = f" (given: {redact(repr(given), limit=80)})" if isinstance(given, str | int | float | bool) else ""
    return ProblemPart(field=".".join(place), message=f"{message[:1].lower()}{message[1:]}{shown}")


RESPONSES: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": HTTPStatus(code).phrase, "content": {MEDIA_TYPE: {}}}
    for code in (400, 401, 403, 404, 409, 413, 415, 422, 429, 502, 503)
}
"""What every endpoint may answer beside its success."""
