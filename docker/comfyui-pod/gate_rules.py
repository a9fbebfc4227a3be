"""Which requests may pass the gate of a pod: routes, methods, query fields, sizes. Pure: no network, no secrets.

A request is never forwarded as it came. Its path is taken apart, every part is decoded once and checked, and the path
for ComfyUI is put together anew, so nothing that only looks like an allowed path can slip through.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

ANY = "*"
"""One path segment of any content."""

KIB, MIB = 1024, 1024 * 1024
_LONGEST_TARGET = 4096
_LONGEST_SEGMENT = 256
_FILE_TYPES = frozenset({"output", "input", "temp"})


@dataclass(frozen=True)
class Route:
    """One thing that may be asked. `local` ones are answered by the gate itself, `upstream` begins ComfyUI's path."""

    name: str
    segments: tuple[str, ...]
    methods: frozenset[str]
    queries: frozenset[str] = frozenset()
    largest_body: int = 64 * KIB
    local: bool = False
    prefix: str = ""

    def fits(self, segments: tuple[str, ...]) -> bool:
        """Whether a path has this shape."""
        return len(segments) == len(self.segments) and all(
            want in (ANY, got) for want, got in zip(self.segments, segments, strict=True)
        )


def _route(name: str, path: str, methods: str, queries: str = "", **more: object) -> Route:
    segments = tuple(path.strip("/").split("/"))
    return Route(name, segments, frozenset(methods.split()), frozenset(queries.split()), **more)  # type: ignore[arg-type]


ROUTES: tuple[Route, ...] = (
    _route("prompt", "/prompt", "GET POST", largest_body=32 * MIB),
    _route("queue", "/queue", "GET POST"),
    _route("history", "/history", "GET", "max_items offset"),
    _route("history-entry", "/history/*", "GET"),
    _route("view", "/view", "GET HEAD", "filename subfolder type"),
    _route("upload", "/upload/image", "POST", largest_body=100 * MIB),
    _route("object-info", "/object_info", "GET"),
    _route("object-info-node", "/object_info/*", "GET"),
    _route("models", "/models", "GET"),
    _route("models-folder", "/models/*", "GET"),
    _route("system-stats", "/system_stats", "GET"),
    _route("features", "/features", "GET"),
    _route("interrupt", "/interrupt", "POST"),
    _route("free", "/free", "POST"),
    # Only with the prefix (observed on ComfyUI 0.8.0: /jobs is 404, /api/jobs is there).
    _route("jobs", "/jobs", "GET", "status workflow_id sort_by sort_order limit offset", prefix="/api"),
    _route("job", "/jobs/*", "GET", prefix="/api"),
    _route("lease", "/lease", "GET POST", local=True, largest_body=4 * KIB),
    _route("health", "/health", "GET", local=True),
)
"""Everything a controller needs and nothing else: no /ws, no /internal, no /userdata, no extensions, no pages."""


@dataclass(frozen=True)
class Passage:
    """A request that may pass; `target` is the path and query for ComfyUI."""

    route: Route
    target: str


class RefusedError(Exception):
    """A request that may not pass."""

    def __init__(self, status: int, message: str, *, allow: frozenset[str] = frozenset()) -> None:
        super().__init__(message)
        self.status, self.message, self.allow = status, message, allow


def judge(method: str, raw_target: str) -> Passage:
    """What an authenticated request may do.

    Args:
        method: of the request.
        raw_target: path and query exactly as they came over the wire, still encoded.

    Raises:
        RefusedError: 400 malformed, 404 not offered, 405 another method, 414 too long.
    """
    path, _, query = raw_target.partition("?")
    if len(raw_target) > _LONGEST_TARGET:
        raise RefusedError(414, f"the address has {len(raw_target)} characters; at most {_LONGEST_TARGET} are taken")
    segments = _segments(path)
    if segments[:1] == ("api",):  # ComfyUI answers every route below /api as well
        segments = segments[1:]
    fitting = [route for route in ROUTES if route.fits(segments)]
    if not fitting:
        raise RefusedError(404, "the gate of this pod does not offer this; see the list of routes in docs/pods.md")
    route = fitting[0]
    if method not in route.methods:
        raise RefusedError(
            405, f"{method} is not offered here; use {' or '.join(sorted(route.methods))}", allow=route.methods
        )
    target = f"{route.prefix}/" + "/".join(quote(segment, safe="") for segment in segments)
    fields = _fields(route, query)
    return Passage(route, f"{target}?{urlencode(fields)}" if fields else target)


def _segments(path: str) -> tuple[str, ...]:
    if not path.startswith("/") or not path.isascii():
        raise RefusedError(400, "the path must begin with a slash and be percent-encoded")
    return tuple(_plain(part, "the path") for part in path[1:].split("/"))


def _plain(encoded: str, where: str) -> str:
    """A decoded part that names exactly one thing in one folder."""
    try:
        text = unquote(encoded, errors="strict")
    except UnicodeDecodeError:
        raise RefusedError(400, f"{where} is not UTF-8") from None
    if text in ("", ".", "..") or len(text) > _LONGEST_SEGMENT or "/" in text or _is_odd(text):
        raise RefusedError(400, f"{where} holds an empty part, a dot part, a slash, a backslash or a control character")
    return text


def _is_odd(text: str) -> bool:
    return "\\" in text or any(ord(character) < 32 or ord(character) == 127 for character in text)


def _fields(route: Route, query: str) -> list[tuple[str, str]]:
    try:
        fields = parse_qsl(
            query, keep_blank_values=True, strict_parsing=bool(query), errors="strict", max_num_fields=16
        )
    except ValueError:
        raise RefusedError(400, "the query is not well formed") from None
    names = [name for name, _ in fields]
    unknown = sorted(set(names) - route.queries)
    if unknown:
        raise RefusedError(400, f"the query field {unknown[0][:40]!r} is not offered for {route.name!r}")
    if len(names) != len(set(names)):
        raise RefusedError(400, "a query field is there twice")
    if route.name == "view":
        _check_file(dict(fields))
    return fields


def _check_file(fields: dict[str, str]) -> None:
    """Files of ComfyUI's own folders only; it checks that as well, but a gate does not rely on what is behind it."""
    filename, subfolder = fields.get("filename", ""), fields.get("subfolder", "")
    parts = [part for part in subfolder.split("/") if subfolder]
    if not filename or "/" in filename or ".." in filename or _is_odd(filename):
        raise RefusedError(400, "filename must name one file, without folders")
    if any(part in ("", ".", "..") for part in parts) or _is_odd(subfolder):
        raise RefusedError(400, "subfolder must be a plain folder below ComfyUI's own")
    if fields.get("type", "output") not in _FILE_TYPES:
        raise RefusedError(400, "type must be output, input or temp")
