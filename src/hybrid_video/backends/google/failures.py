"""Google's errors in our words: which kind of failure an exception of the SDK, of httpx or of google-auth is.

The SDK raises two unrelated families (`google.genai.errors.APIError`, and another one for Interactions), and lets httpx
errors through on one road and wraps them on the other. Only the HTTP code, the body and the cause are read here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
from google.auth.exceptions import GoogleAuthError, RefreshError, TransportError
from google.genai import errors as genai_errors
from google.genai._interactions import GeminiNextGenAPIClientError  # no public name is exported

from hybrid_video.errors import BackendError, FailureKind, SubmitUncertain, TerminalError, TransientError
from hybrid_video.redaction import redact

SDK_ERRORS: tuple[type[Exception], ...] = (
    genai_errors.APIError,
    genai_errors.UnknownApiResponseError,
    GeminiNextGenAPIClientError,
    GoogleAuthError,
    httpx.HTTPError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
)
"""What the SDK raises for a call that did not work. It lets an answer that is not JSON, or not of the expected shape,
through as the plain error its own code stumbled over (`JSONDecodeError` on the Veo road)."""

NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
_SAFETY = re.compile(r"(?i)safety|responsible ai|usage guidelines|prohibited|content polic|blocked|violat")


@dataclass(frozen=True)
class Answer:
    """What an HTTP error said."""

    code: int
    message: str
    reason: str
    retry_after_s: float | None


_MEANINGS: tuple[tuple[Callable[[Answer], bool], FailureKind, str], ...] = (
    (
        lambda a: a.reason.startswith("API_KEY") or a.code == 401,
        FailureKind.AUTHENTICATION,
        "Google does not accept the credentials: {said}. Set a valid key or log in again.",
    ),
    (
        lambda a: a.code == 402 or a.reason == "BILLING_DISABLED",
        FailureKind.INSUFFICIENT_FUNDS,
        "Google refuses for lack of billing: {said}. Enable billing for the project.",
    ),
    (
        lambda a: a.code == 403,
        FailureKind.AUTHENTICATION,
        "Google does not allow this: {said}. Check the rights of the key or login, and the project.",
    ),
    (
        lambda a: a.code == 404,
        FailureKind.MODEL_RETIRED,
        "Google does not offer {model!r}: {said}. Choose a model it still offers.",
    ),
    (
        lambda a: a.code == 429,
        FailureKind.RATE_LIMITED,
        "Google's quota is used up: {said}. Wait, or ask Google for a higher quota.",
    ),
    (lambda a: a.code >= 500, FailureKind.UNREACHABLE, "Google answered {code}: {said}. Try again later."),
    (
        lambda a: _SAFETY.search(a.message) is not None,
        FailureKind.CONTENT_BLOCKED,
        "Google's filter refused the prompt: {said}. Rephrase it.",
    ),
    (lambda _a: True, FailureKind.INVALID_REQUEST, "Google refused the request ({code}): {said}. Change the job."),
)
"""In order: the first rule that applies says what an answer means and what to do."""


def answer_of(error: BaseException) -> Answer | None:
    """The HTTP answer behind an exception; None when there was none."""
    code = getattr(error, "status_code", None) or getattr(error, "code", None)
    if not isinstance(code, int):
        return None
    body = getattr(error, "body", None) or getattr(error, "details", None)
    response = getattr(error, "response", None)
    header = response.headers.get("retry-after", "") if isinstance(response, httpx.Response) else ""
    return read_answer(code, body, header)


def read_answer(code: int, body: object, retry_after: str = "") -> Answer:
    """Reads `{"error": …}`, `[{"error": …}]` or plain text."""
    if isinstance(body, list) and body:
        body = body[0]
    inner: Any = body.get("error", body) if isinstance(body, dict) else {}
    inner = inner if isinstance(inner, dict) else {}
    details = [each for each in inner.get("details") or [] if isinstance(each, dict)]
    message = str(inner.get("message") or (body if isinstance(body, str) else "") or f"HTTP {code}")
    reason = next((str(each["reason"]) for each in details if "reason" in each), str(inner.get("status", "")))
    delays = [str(each["retryDelay"]) for each in details if "retryDelay" in each] + [retry_after]
    advice = re.search(r"retry in ([\d.]+) ?s", message)
    seconds = [_seconds(text) for text in [*delays, advice[1] if advice else ""]]
    return Answer(code, redact(message, 500), reason, next((s for s in seconds if s is not None), None))


def _seconds(text: str) -> float | None:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)s?", text.strip())
    return float(match[1]) if match else None


def submit_error(error: Exception, *, backend: str, model: str) -> BackendError:
    """What a failed submit means: certainly not accepted, or uncertain.

    Not accepted: no connection, credentials that could not be had, any 4xx but 408, 500 and 503. Everything else
    (lost answer, time-out, a gateway's 502 or 504, an answer that makes no sense) may have been accepted.
    """
    answer = answer_of(error)
    if answer is not None and answer.code != 408 and (400 <= answer.code < 500 or answer.code in (500, 503)):
        return refusal(answer, backend=backend, model=model)
    before_sending = _before_sending(error, backend)
    if before_sending is not None:
        return before_sending
    said = f"it answered {answer.code}" if answer else f"the answer was lost ({type(_root(error)).__name__})"
    return SubmitUncertain(
        f"Google may have taken the clip for {model!r}: {said}. It is not sent again; look in the usage page of "
        "your Google project before making it anew.",
        backend=backend,
        detail=redact(answer.message if answer else _root(error), 500),
    )


def refusal(answer: Answer, *, backend: str, model: str) -> BackendError:
    """An HTTP error that says that nothing was accepted."""
    kind, message = _meaning(answer, model)
    if kind in (FailureKind.RATE_LIMITED, FailureKind.UNREACHABLE):
        return TransientError(
            message, kind=kind, backend=backend, detail=answer.message, retry_after_s=answer.retry_after_s
        )
    return TerminalError(message, kind=kind, backend=backend, detail=answer.message)


def read_error(error: Exception, *, backend: str, what: str) -> BackendError:
    """What a failed look (list, status) means."""
    answer = answer_of(error)
    if answer is not None and answer.code >= 400:
        return refusal(answer, backend=backend, model=what)
    before_sending = _before_sending(error, backend)
    if before_sending is not None:
        return before_sending
    return TransientError(
        f"Google did not answer properly while asking for {what!r} ({type(_root(error)).__name__}); try again later",
        kind=FailureKind.UNREACHABLE,
        backend=backend,
        detail=redact(_root(error), 500),
    )


def passes(error: Exception) -> bool:
    """Whether a read is worth repeating at once: transport trouble and 5xx, never a quota."""
    answer = answer_of(error)
    if answer is not None:
        return answer.code in (408, 500, 502, 503, 504)
    return isinstance(_root(error), (httpx.TransportError, TransportError))


def _meaning(answer: Answer, model: str) -> tuple[FailureKind, str]:
    for applies, kind, sentence in _MEANINGS:
        if applies(answer):
            return kind, sentence.format(said=repr(answer.message), model=model, code=answer.code)
    raise AssertionError("unreachable: the last rule applies to everything")


def _before_sending(error: Exception, backend: str) -> BackendError | None:
    root = _root(error)
    if isinstance(root, NOT_SENT) or isinstance(error, TransportError):
        return TransientError(
            f"Google could not be reached ({type(root).__name__}); check the network and HYBRID_VIDEO_GEMINI_URL",
            kind=FailureKind.UNREACHABLE,
            backend=backend,
            detail=redact(root, 500),
        )
    if isinstance(error, GoogleAuthError):
        hint = "log in again" if isinstance(error, RefreshError) else "run `gcloud auth application-default login`"
        return TerminalError(
            f"no access token could be had from Google ({type(error).__name__}); {hint}",
            kind=FailureKind.AUTHENTICATION,
            backend=backend,
            detail=redact(error, 500),
        )
    return None


def _root(error: BaseException) -> BaseException:
    """The httpx error the SDK wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, httpx.HTTPError):
            return seen
        seen = seen.__cause__
    return error
