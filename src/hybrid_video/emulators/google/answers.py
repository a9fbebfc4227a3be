"""Google's error bodies and the check of keys and tokens.

Forms recorded on the real API: an invalid key is 400 (not 401) with reason `API_KEY_INVALID`; quota is 429
`RESOURCE_EXHAUSTED` with `QuotaFailure` and `RetryInfo`; a model that is gone is 404 `NOT_FOUND`.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

_TYPE = "type.googleapis.com/google.rpc."

STATUS_OF = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}


class Refused(Exception):
    """A request that is answered with an error body. `listed` wraps it in a list, as Interactions sometimes do."""

    def __init__(
        self, code: int, message: str, details: list[dict[str, Any]] | None = None, *, listed: bool = False
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.details, self.listed = code, message, details, listed

    def response(self) -> web.Response:
        """The answer as Google writes it."""
        error: dict[str, Any] = {"code": self.code, "message": self.message, "status": STATUS_OF[self.code]}
        if self.details:
            error["details"] = self.details
        body: Any = {"error": error}
        return web.json_response([body] if self.listed else body, status=self.code)


def invalid(message: str) -> Refused:
    """400 INVALID_ARGUMENT."""
    return Refused(400, message)


def gone(model: str) -> Refused:
    """404 for a model that was retired or never existed."""
    return Refused(
        404,
        f"models/{model} is no longer available. Please update your code to use a newer model for the latest "
        "features and improvements.",
    )


def quota_exceeded(model: str, limit: int, retry_s: float) -> Refused:
    """429 with the violated quota and the advice when to come back."""
    return Refused(
        429,
        f"You exceeded your current quota, please check your plan and billing details. Please retry in {retry_s:g}s.",
        [
            {
                "@type": _TYPE + "QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": "generativelanguage.googleapis.com/concurrent_video_requests",
                        "quotaId": "ConcurrentVideoRequestsPerProjectPerModel",
                        "quotaDimensions": {"location": "global", "model": model},
                        "quotaValue": str(limit),
                    }
                ],
            },
            {"@type": _TYPE + "RetryInfo", "retryDelay": f"{retry_s:g}s"},
        ],
    )


def check_key(request: web.Request, expected: str | None) -> None:
    """Requires a valid API key in the header or the query.

    With `expected` None every key is accepted that does not begin with "invalid".
    """
    key = request.headers.get("x-goog-api-key") or request.query.get("key", "")
    if not key:
        raise Refused(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API.",
        )
    if key != expected if expected is not None else key.startswith("invalid"):
        info = {
            "@type": _TYPE + "ErrorInfo",
            "reason": "API_KEY_INVALID",
            "domain": "googleapis.com",
            "metadata": {"service": "generativelanguage.googleapis.com"},
        }
        raise Refused(400, "API key not valid. Please pass a valid API key.", [info])


def check_bearer(request: web.Request) -> None:
    """Requires an OAuth bearer token; one that begins with "invalid" is refused."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token or token.startswith("invalid"):
        raise Refused(
            401,
            "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other "
            "valid authentication credential.",
            [{"@type": _TYPE + "ErrorInfo", "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED", "domain": "googleapis.com"}],
        )
