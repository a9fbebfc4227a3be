"""What all routes share: counting, faults, identity, and turning `Refused` into Google's error body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.google.answers import Refused, invalid
from hybrid_video.emulators.google.operations import Operations
from hybrid_video.emulators.google.requests import Wanted
from hybrid_video.emulators.server import inject, inject_after
from hybrid_video.errors import ConfigurationError
from hybrid_video.pricing.catalog import PriceEntry

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
JOB_HEADER = "x-hybrid-video-job"
"""Our own client names its job in this header; Google ignores headers it does not know."""


def job_label(request: web.Request, wanted: Wanted) -> str:
    """The job a request belongs to: our header, or else the beginning of the prompt."""
    return request.headers.get(JOB_HEADER) or wanted.prompt[:40]


class Wire:
    """Wraps handlers and holds what they need."""

    def __init__(self, operations: Operations, faults: FaultPlan, authorize: Callable[[web.Request], None]) -> None:
        self.operations, self.faults = operations, faults
        self.requests: Counter[str] = Counter()
        self._authorize = authorize

    def handler(self, operation: str, work: Handler) -> Handler:
        """A handler with counting, authorisation and the faults of `operation` around `work`."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.requests[operation] += 1
            rule = self.faults.take("gemini", operation, await self._about(request))
            injected = await inject(request, rule)
            if injected is not None:
                return injected
            try:
                self._authorize(request)
                response = await work(request)
            except Refused as refused:
                response = refused.response()
            await inject_after(request, rule)
            if rule is not None and rule.action == "truncate":
                return await _half(request, response)
            return response

        return handle

    def price(self, wanted: Wanted, backend: str) -> PriceEntry:
        """The price of a request; what has none (4k) is refused, so that nothing is ever made for free."""
        try:
            return self.operations.price_of(wanted, backend)
        except ConfigurationError:
            message = f"resolution {wanted.resolution} is not enabled for {wanted.model.name} in this project."
            raise invalid(message) from None

    async def _about(self, request: web.Request) -> str:
        """Text a fault rule's `match` is looked for in: job label and body of a submit, label and path of others."""
        if request.method == "POST" and "operationName" not in (
            body := (await request.read())[:4096].decode("utf-8", "replace")
        ):
            return f"{request.headers.get(JOB_HEADER, '')} {body}"
        name = request.match_info.get("id", "")
        known = self.operations.get(name) or self.operations.of_file(name)
        return f"{known.label if known else ''} {request.path}"


async def _half(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """Sends the headers and half of the body, then cuts the connection."""
    body = response.body if isinstance(response, web.Response) and isinstance(response.body, bytes) else b""
    cut = web.StreamResponse(status=response.status, headers=response.headers)
    cut.content_length = len(body)
    await cut.prepare(request)
    await cut.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return cut
