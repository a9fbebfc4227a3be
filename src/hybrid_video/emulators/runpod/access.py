"""Who may call, how often, and what a refusal looks like on the two RunPod APIs.

The job API documents its error codes without bodies, so their form can be chosen; the management API answers
`application/problem+json` and counts calls in `RateLimit` headers (api-reference-v2/openapi.json, 2026-08-20).
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from aiohttp import web

ErrorBodies = Literal["json", "empty", "html"]

JOB_RATES = {
    "run": 1000,
    "runsync": 2000,
    "status": 2000,
    "stream": 2000,
    "cancel": 100,
    "purge-queue": 2,
    "requests": 10,
}
"""Calls per endpoint and 10 seconds (serverless/endpoints/operation-reference)."""

MANAGEMENT_WINDOWS = {"minute": 60, "hour": 3600, "day": 86_400}


def key_of(request: web.Request) -> str:
    """The key of a request: `Authorization: Bearer <key>`, or the bare key as the job API's examples send it."""
    value = request.headers.get("Authorization", "").strip()
    return value[7:].strip() if value.lower().startswith("bearer ") else value


def accepts(key: str, expected: str | None) -> bool:
    """Whether a key is good. Without an expected one every key is, unless it is empty or starts with `invalid`."""
    if expected is None:
        return bool(key) and not key.startswith("invalid")
    return key == expected


def job_error(status: int, message: str, form: ErrorBodies) -> web.Response:
    """A refusal of the job API in the chosen form; clients must not depend on it."""
    if form == "empty":
        return web.Response(status=status)
    if form == "html":
        text = f"<html><head><title>{status}</title></head><body>{message}</body></html>"
        return web.Response(status=status, text=text, content_type="text/html")
    return web.json_response({"error": message}, status=status)


class RefusedError(Exception):
    """A refusal of the management API; the gate turns it into `application/problem+json`."""

    def __init__(self, status: int, title: str, detail: str, errors: tuple[str, ...] = ()) -> None:
        super().__init__(detail)
        self.status = status
        self.body: dict[str, object] = {"title": title, "status": status, "detail": detail}
        if errors:
            self.body["errors"] = list(errors)

    @classmethod
    def bad_request(cls, detail: str) -> RefusedError:
        """400: against a rule, or no capacity."""
        return cls(400, "Bad Request", detail)

    @classmethod
    def unprocessable(cls, errors: tuple[str, ...]) -> RefusedError:
        """422: against the schema."""
        return cls(422, "Unprocessable Entity", "request validation failed", errors)

    @classmethod
    def not_found(cls) -> RefusedError:
        """404: no such thing, or not the caller's."""
        return cls(404, "Not Found", "resource not found")

    def response(self) -> web.Response:
        """The answer."""
        body = json.dumps(self.body).encode()
        return web.Response(status=self.status, body=body, content_type="application/problem+json")


class RateLimit:
    """Calls in a sliding window."""

    def __init__(self, quota: int, window_s: float, now: Callable[[], float] = time.monotonic) -> None:
        self.quota, self.window_s, self._now = quota, window_s, now
        self._calls: deque[float] = deque()

    def take(self) -> bool:
        """Counts a call; False when the quota is used up."""
        self._forget()
        if len(self._calls) >= self.quota:
            return False
        self._calls.append(self._now())
        return True

    @property
    def remaining(self) -> int:
        """Calls left in the window."""
        self._forget()
        return self.quota - len(self._calls)

    @property
    def reset_s(self) -> float:
        """Seconds until a call is possible again."""
        return max(0.0, self._calls[0] + self.window_s - self._now()) if self._calls else 0.0

    def _forget(self) -> None:
        while self._calls and self._calls[0] <= self._now() - self.window_s:
            self._calls.popleft()


class ManagementQuota:
    """The three windows of the management API and their headers.

    They count real time, because a client's pace is real; `per_minute` is the vendor's example figure of 60 times ten,
    so that a scaled clock, in which minutes fly, does not turn every poll into a 429.
    """

    def __init__(self, per_minute: int = 600) -> None:
        quotas = {"minute": per_minute, "hour": per_minute * 50, "day": per_minute * 2500 // 3}
        self._windows = {name: RateLimit(quotas[name], MANAGEMENT_WINDOWS[name]) for name in quotas}

    def take(self) -> str | None:
        """Counts a call; the name of the exhausted window, if one is."""
        for name, window in self._windows.items():
            if not window.take():
                return name
        return None

    def retry_after_s(self, name: str) -> int:
        """Whole seconds until the window has room."""
        return max(1, round(self._windows[name].reset_s))

    def headers(self) -> dict[str, str]:
        """`RateLimit` and `RateLimit-Policy`, sent with every answer to an authenticated call."""
        live = (f'"{n}";r={w.remaining};t={round(w.reset_s)}' for n, w in self._windows.items())
        policy = (f'"{n}";q={w.quota};w={w.window_s:g}' for n, w in self._windows.items())
        return {"RateLimit": ", ".join(live), "RateLimit-Policy": ", ".join(policy)}
