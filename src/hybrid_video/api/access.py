"""Who may ask what: host check, tokens with roles, cross-origin refusal, rate and size limits, security headers.

One ASGI layer around the whole application, so that nothing answers beside it. Without tokens only a loopback address
is served, and then every caller on this machine is an administrator; web pages from elsewhere are kept out by checking
`Host` (DNS rebinding) and `Origin`/`Sec-Fetch-Site` (cross-site requests). Tokens travel in the Authorization header
only, never in cookies or addresses, so browsers cannot be made to send them.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_video.api import problems
from hybrid_video.api.limits import RateLimit
from hybrid_video.api.problems import Refused
from hybrid_video.errors import ConfigurationError
from hybrid_video.settings import ApiRole, ApiSettings

RANK: dict[ApiRole, int] = {"read": 0, "submit": 1, "admin": 2}
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
ONLY_LOOKS = frozenset({"/api/loadbalancer/select", "/api/loadbalancer/estimate-cost"})
"""Sent by POST because they carry a body, but they change nothing."""

PUBLIC = frozenset({"/health", "/docs", "/openapi.json"})
FAILED_LOGINS_PER_MINUTE = 30

SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; style-src 'unsafe-inline'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


def check_exposure(api: ApiSettings) -> None:
    """Refuses to listen beyond this machine without a token.

    Raises:
        ConfigurationError: what to set.
    """
    if api.role_tokens:
        return
    if api.trusted_proxies:
        raise ConfigurationError(
            f"the API is to be reached through the proxy {', '.join(api.trusted_proxies)!r}, and no token is set: "
            "whoever reaches the proxy could spend your money. Set HYBRID_VIDEO_API_ADMIN_TOKEN (make one with "
            "`openssl rand -hex 24`), or leave HYBRID_VIDEO_API_TRUSTED_PROXIES empty"
        )
    if _is_loopback(api.host):
        return
    raise ConfigurationError(
        f"the API would listen on {api.host!r}, which other machines can reach, and no token is set: anybody could "
        "spend your money. Set HYBRID_VIDEO_API_ADMIN_TOKEN (make one with `openssl rand -hex 24`), or listen on "
        "127.0.0.1"
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Gate:
    """The layer. Everything it refuses is answered as a problem."""

    def __init__(self, app: ASGIApp, *, api: ApiSettings) -> None:
        self._app = app
        self._api = api
        self._tokens = [(role, hashlib.sha256(token.encode()).digest()) for role, token in api.role_tokens]
        self._reads, self._writes = RateLimit(api.reads_per_minute), RateLimit(api.writes_per_minute)
        self._failed = RateLimit(FAILED_LOGINS_PER_MINUTE)
        self._largest = api.max_body_mb * 1_000_000
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Checks one request and passes it on."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        extra: dict[str, str] = {}
        started = False

        async def told(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in {**SECURITY_HEADERS, **extra}.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["Cache-Control"] = "no-store"
            await send(message)

        self._under_way += 1
        try:
            extra |= self._admit(scope)
            await self._app(scope, self._counted(scope, receive), told)
        except Refused as error:
            if not started:
                await self._refuse(error, scope, receive, told)
        except Exception as error:
            if started:
                raise
            await problems.unexpected(error, scope["path"])(scope, receive, told)
        finally:
            self._under_way -= 1

    def _admit(self, scope: Scope) -> dict[str, str]:
        """Raises Refused, or says which headers the answer gets."""
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        if self._under_way > self._api.max_clients:
            raise Refused(503, "busy", "too many requests at once; try again in a moment", {"Retry-After": "1"})
        self._check_host(headers)
        self._check_length(headers)
        client = scope.get("client")
        address = client[0] if client else "local"
        role = self._role(headers, path, address)
        scope.setdefault("state", {})["role"] = role
        if method not in SAFE:
            self._check_origin(headers)
        caller = f"{role}@{address}"
        looks = method in SAFE or path in ONLY_LOOKS
        allowance = (self._reads if looks else self._writes).take(caller)
        if not allowance.granted:
            raise Refused(
                429,
                "rate",
                f"more than {allowance.limit} requests a minute; try again in {allowance.retry_s} s",
                allowance.headers,
            )
        return allowance.headers

    def _check_host(self, headers: Headers) -> None:
        """Without tokens a page that makes its own name point at this machine must not get an answer."""
        if self._tokens and not self._api.hosts:
            return
        allowed = {host.lower() for host in self._api.hosts}
        name = _host_name(headers.get("host", ""))
        if "*" in allowed or name in allowed or _is_loopback(name) or name == self._api.host.lower():
            return
        raise Refused(
            400,
            "host",
            f"this API does not answer to the name {name[:100]!r}; call it by its address, or add the name to "
            "HYBRID_VIDEO_API_HOSTS",
        )

    def _role(self, headers: Headers, path: str, address: str) -> ApiRole | None:
        """What the caller may do; None on a public page without a token."""
        if not self._tokens:
            return "admin"
        given = headers.get("authorization", "")
        if not given and path in PUBLIC:
            return None
        kind, _, token = given.partition(" ")
        digest = hashlib.sha256(token.strip().encode()).digest()
        found: ApiRole | None = None
        for role, known in self._tokens:  # all are compared, so that the time says nothing
            if hmac.compare_digest(digest, known) and (found is None or RANK[role] > RANK[found]):
                found = role
        if found is not None and kind.lower() == "bearer":
            return found
        challenge = 'Bearer realm="hybrid-video"'
        if not given:
            text = "a token is needed; send it as `Authorization: Bearer …`"
            raise Refused(401, "unauthenticated", text, {"WWW-Authenticate": challenge})
        allowance = self._failed.take(address)
        if not allowance.granted:
            text = f"too many wrong tokens from this address; try again in {allowance.retry_s} s"
            raise Refused(429, "rate", text, allowance.headers)
        text = "the token is not known here; send one as `Authorization: Bearer …`"
        headers_ = {"WWW-Authenticate": f'{challenge}, error="invalid_token"'}
        raise Refused(401, "unauthenticated", text, headers_)

    def _check_origin(self, headers: Headers) -> None:
        """A web page from elsewhere may not change anything through a browser on this machine."""
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if origin is None and site in ("none", "same-origin"):
            return
        if origin is not None and (origin in self._api.origins or self._same(origin, headers)):
            return
        raise Refused(
            403,
            "origin",
            f"requests from the web page {str(origin)[:100]!r} are not allowed to change anything; add it to "
            "HYBRID_VIDEO_API_ORIGINS if it is yours",
        )

    @staticmethod
    def _same(origin: str, headers: Headers) -> bool:
        return bool(origin) and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()

    def _check_length(self, headers: Headers) -> None:
        length = headers.get("content-length")
        if length is None:
            return
        if not length.isdecimal():
            raise Refused(400, "length", f"Content-Length {length[:40]!r} is not a number")
        if int(length) > self._largest:
            raise self._too_large()

    def _too_large(self) -> Refused:
        return Refused(
            413,
            "size",
            f"the request is larger than {self._api.max_body_mb} MB; send a smaller one, or raise "
            "HYBRID_VIDEO_API_MAX_BODY_MB",
            {"Connection": "close"},
        )

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """The body as it comes in, refused once it is too long: a chunked one has no length to check before."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                if seen > self._largest:
                    raise self._too_large()
            return message

        return counted

    @staticmethod
    async def _refuse(error: Refused, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response = problems.answer(
            error.status_code, error.kind, error.detail, instance=scope["path"], headers=error.headers
        )
        await response(scope, receive, send)


def _host_name(host: str) -> str:
    """The name in a Host header, without its port; IPv6 addresses without brackets."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


_bearer = HTTPBearer(auto_error=False, description="A token of HYBRID_VIDEO_API_*; none on a loopback without tokens.")


def needs(role: ApiRole) -> Callable[..., Awaitable[None]]:
    """A dependency: the caller must have this role, or one above it."""

    async def check(
        request: Request, _token: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
    ) -> None:
        has: ApiRole | None = request.scope.get("state", {}).get("role")
        if has is None or RANK[has] < RANK[role]:
            raise Refused(403, "role", f"this needs a token with the role {role!r}; yours has {has or 'none'!r}")

    return check


Read: Any = Depends(needs("read"))
Submit: Any = Depends(needs("submit"))
Admin: Any = Depends(needs("admin"))
