"""The S3 bucket the workers upload to, and its presigned downloads.

As worker-comfyui does it: key `<job id>/<8 hex><suffix>` in a bucket named after the month, content type
`image/<suffix>` even for video, and a presigned GET that is good for seven days.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import shutil
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from aiohttp import web

from hybrid_video.emulators.faults import FaultPlan
from hybrid_video.emulators.server import ScaledClock, cut, inject, inject_after

PRESIGNED_FOR_S = 7 * 86_400
ROUTE = "/_s3/{key:.+}"
_STAMP = "%Y%m%dT%H%M%SZ"


class Bucket:
    """Objects on disk under `folder`, reachable only through their presigned URLs."""

    def __init__(self, folder: Path, *, clock: ScaledClock, faults: FaultPlan, valid_for_s: float) -> None:
        self._folder, self._clock, self._faults, self._valid_for_s = folder, clock, faults, valid_for_s
        self._secret = secrets.token_bytes(32)
        self._labels: dict[str, str] = {}

    def store(self, job_id: str, file: Path, *, base_url: str, label: str) -> str:
        """Copies a file into the bucket and returns its presigned URL."""
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        key = f"{now:%m-%y}/{job_id}/{secrets.token_hex(4)}{file.suffix}"
        target = self._folder / key
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        self._labels[key] = label
        query = {
            "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
            "X-Amz-Credential": f"EMULATEDKEY/{now:%Y%m%d}/us-east-1/s3/aws4_request",
            "X-Amz-Date": now.strftime(_STAMP),
            "X-Amz-Expires": str(round(self._valid_for_s)),
            "X-Amz-SignedHeaders": "host",
        }
        query["X-Amz-Signature"] = self._sign(key, query["X-Amz-Date"], query["X-Amz-Expires"])
        return f"{base_url}/_s3/{key}?{urlencode(query)}"

    def clear(self) -> None:
        """Deletes every object."""
        shutil.rmtree(self._folder, ignore_errors=True)
        self._labels.clear()

    async def download(self, request: web.Request) -> web.StreamResponse:
        """`GET` of a presigned URL; a HEAD is refused, because the signature names the method."""
        key = request.match_info["key"]
        rule = self._faults.take("runpod", "download", self._labels.get(key, ""))
        if (early := await inject(request, rule)) is not None:
            return early
        if (refusal := self._refusal(request, key)) is not None:
            return refusal
        file = self._folder / key
        if key not in self._labels or not file.is_file() or (rule is not None and rule.action == "lose"):
            return _xml_error(404, "NoSuchKey", "The specified key does not exist.")
        if rule is not None and rule.action == "truncate":
            return await _half(request, file)
        await inject_after(request, rule)
        return web.FileResponse(file, headers={"Content-Type": _wrong_type(file), "Server": "AmazonS3"})

    def _refusal(self, request: web.Request, key: str) -> web.Response | None:
        query = request.query
        try:
            stamp, seconds = query["X-Amz-Date"], query["X-Amz-Expires"]
            signature = query["X-Amz-Signature"]
            expires = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC).timestamp() + float(seconds)
        except (KeyError, ValueError):
            return _xml_error(403, "AccessDenied", "Access Denied")
        if request.method != "GET" or not hmac.compare_digest(signature, self._sign(key, stamp, seconds)):
            text = "The request signature we calculated does not match the signature you provided."
            return _xml_error(403, "SignatureDoesNotMatch", text)
        if self._clock.now() >= expires:
            return _xml_error(403, "AccessDenied", "Request has expired")
        return None

    def _sign(self, key: str, stamp: str, seconds: str) -> str:
        return hmac.new(self._secret, f"GET\n{key}\n{stamp}\n{seconds}".encode(), hashlib.sha256).hexdigest()


def _wrong_type(file: Path) -> str:
    return f"image/{file.suffix.lstrip('.')}"


async def _half(request: web.Request, file: Path) -> web.StreamResponse:
    """Sends half of the bytes it announced, then cuts the connection."""
    data = await asyncio.to_thread(file.read_bytes)
    response = web.StreamResponse(headers={"Content-Type": _wrong_type(file), "Content-Length": str(len(data))})
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    cut(request)
    return response


def _xml_error(status: int, code: str, message: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return web.Response(status=status, text=text, content_type="application/xml")
