"""Where faults enter: every route that a fault plan can name passes through here."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from hybrid_video.emulators.comfyui.execution import RESTART_S
from hybrid_video.emulators.comfyui.machine import Machine
from hybrid_video.emulators.faults import FaultRule
from hybrid_video.emulators.server import cut, inject, inject_after

Work = Callable[[], Awaitable[web.StreamResponse]]


class Gate:
    """Applies the fault plan of one machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    async def pass_through(self, request: web.Request, operation: str, label: str, work: Work) -> web.StreamResponse:
        """Does the work, unless a fault says otherwise; the kinds of fault are those of `emulators.faults`."""
        rule = self._machine.faults.take("comfyui", operation, label)
        early = await inject(request, rule)
        if early is not None:
            return early
        if rule is not None and rule.action == "lose":
            return web.Response(status=404)
        response = await work()
        if rule is not None:
            replaced = await self._spoil(request, rule, response)
            if replaced is not None:
                return replaced
        await inject_after(request, rule)
        return response

    async def _spoil(
        self, request: web.Request, rule: FaultRule, response: web.StreamResponse
    ) -> web.StreamResponse | None:
        if rule.action == "restart":
            self._machine.restart(RESTART_S)
            cut(request)
        elif rule.action == "wedge":
            self._machine.wedge()
        elif rule.action == "truncate":
            return await _half(request, response)
        return None


async def _half(request: web.Request, response: web.StreamResponse) -> web.StreamResponse | None:
    """Promises the whole body, sends half of it and closes the connection."""
    if isinstance(response, web.FileResponse):
        whole, headers, status = _file_part(request, response)
    elif isinstance(response, web.Response) and isinstance(response.body, bytes):
        whole, headers, status = response.body, dict(response.headers), response.status
    else:
        return None
    cut_short = web.StreamResponse(status=status, headers=headers)
    cut_short.content_length = len(whole)
    await cut_short.prepare(request)
    await cut_short.write(whole[: len(whole) // 2])
    await asyncio.sleep(0.02)  # lets the half leave before the end
    if request.transport is not None:
        request.transport.close()
    return cut_short


def _file_part(request: web.Request, response: web.FileResponse) -> tuple[bytes, dict[str, str], int]:
    path = response._path  # noqa: SLF001 - aiohttp keeps it to itself
    content, stat = path.read_bytes(), path.stat()
    headers = dict(response.headers)
    headers |= {"ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"', "Accept-Ranges": "bytes"}
    start = request.http_range.start
    if start is None:
        return content, headers, 200
    headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    return content[start:], headers, 206
