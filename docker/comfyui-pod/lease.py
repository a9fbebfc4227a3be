"""The lease of a pod: how long it may still run, and how it ends itself at RunPod. Standard library only.

Nothing here starts or stops processes; `lease_keeper` does.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

API_URL = "https://api.runpod.io/v2"
GRAPHQL_URL = "https://api.runpod.io/graphql"
CALL_TIMEOUT_S = 20.0
LONGEST_PAUSE_S = 60.0

Outcome = Literal["ended", "refused", "unclear"]


def seconds_since_boot() -> float:
    """A clock that nobody can set and that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


class Lease:
    """A span of time that is begun anew by each renewal and cannot be begun again once it has run out.

    What is left is also kept in a file, so that a container which is restarted after a crash does not come back with a
    fresh lease. RunPod may throw that file away with the container's disk; the lease is then as long as the first one.
    """

    def __init__(self, lease_s: float, *, pod_id: str, file: Path) -> None:
        self.lease_s, self._pod_id, self._file = lease_s, pod_id, file
        self.ended_because = ""
        self._runs_out_at = seconds_since_boot() + lease_s
        self._take_over()

    @property
    def left_s(self) -> float:
        """Seconds left; 0 when it has run out."""
        return 0.0 if self.ended_because else max(0.0, self._runs_out_at - seconds_since_boot())

    def renew(self, lease_s: float) -> bool:
        """Begins a new lease from now; False when it has run out already."""
        if self.left_s <= 0:
            return False
        self.lease_s, self._runs_out_at = lease_s, seconds_since_boot() + lease_s
        self._keep()
        return True

    def end(self, reason: str) -> None:
        """Ends it for good."""
        self.ended_because = reason
        self._keep()

    def _take_over(self) -> None:
        try:
            kept = json.loads(self._file.read_text())
            left_s = float(kept["ends_at"]) - datetime.now(UTC).timestamp()
            mine, ended = kept["pod"] == self._pod_id, str(kept["ended"])
        except (OSError, ValueError, KeyError, TypeError):
            mine, ended, left_s = False, "", self.lease_s
        if mine:
            self.ended_because = ended or ("the lease ran out while the container was down" if left_s <= 0 else "")
            self._runs_out_at = seconds_since_boot() + min(self.lease_s, max(0.0, left_s))
        self._keep()

    def _keep(self) -> None:
        ends_at = datetime.now(UTC).timestamp() + self.left_s
        document = {"pod": self._pod_id, "ends_at": ends_at, "ended": self.ended_because}
        with contextlib.suppress(OSError):  # a full or read-only disk must not keep a pod alive
            self._file.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._file.with_suffix(".new")
            fresh.write_text(json.dumps(document))
            os.replace(fresh, self._file)  # noqa: PTH105 - atomic


@dataclass(frozen=True)
class Answer:
    """What one call came to; `said` is safe to log."""

    outcome: Outcome
    said: str
    retry_after_s: float = 0.0


@dataclass(frozen=True)
class Terminator:
    """Ends this very pod, with the key that RunPod puts into it.

    Three roads, because RunPod documents the key only as "Pod-scoped API key"
    (docs.runpod.io/pods/templates/environment-variables) and not which of its APIs take it: deleting by REST v2, the
    GraphQL call that the `runpodctl` preinstalled in every pod has used (it goes in early 2027), and, where deleting is
    refused, stopping, which at least releases the GPU.
    """

    pod_id: str
    api_key: str
    api_url: str = API_URL
    graphql_url: str = GRAPHQL_URL

    @property
    def possible(self) -> bool:
        """Whether there is anything to try."""
        return bool(self.pod_id and self.api_key)

    def attempt(self) -> Answer:
        """Tries each road once. Only a 2xx or a 404 of the pod itself counts as ended."""
        refusals: list[Answer] = []
        for road in self._roads():
            answer = self._call(*road)
            if answer.outcome != "refused":
                return answer
            refusals.append(answer)
        return Answer("refused", "; ".join(answer.said for answer in refusals))

    def _roads(self) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
        pod = f"{self.api_url.rstrip('/')}/pods/{quote(self.pod_id, safe='')}"
        yield "DELETE", pod, None
        if self.graphql_url:
            query = "mutation End($id: String!) { podTerminate(input: {podId: $id}) }"
            yield "POST", self.graphql_url, {"query": query, "variables": {"id": self.pod_id}}
        yield "POST", f"{pod}/action", {"action": "stop"}

    def _call(self, method: str, url: str, body: dict[str, Any] | None) -> Answer:
        what = f"{method} {url.partition('://')[2]}"
        request = urllib.request.Request(  # noqa: S310 - http(s) only, checked by the keeper
            url,
            method=method,
            data=json.dumps(body).encode() if body is not None else None,
            headers={
                "Authorization": f"Bearer {self.api_key}",
                "Content-Type": "application/json",
                "User-Agent": "hybrid-video-pod",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_TIMEOUT_S) as response:  # noqa: S310  # nosec B310
                refused = body is not None and "query" in body and b'"errors"' in response.read(100_000)
                return Answer("refused" if refused else "ended", f"{what}: {response.status}")
        except urllib.error.HTTPError as error:
            with error:
                return self._judge(error, what, deleting=method == "DELETE")
        except (OSError, ValueError) as error:
            return Answer("unclear", f"{what}: {type(error).__name__}")

    def _judge(self, error: urllib.error.HTTPError, what: str, *, deleting: bool) -> Answer:
        said = f"{what}: {error.code}"
        if deleting and error.code == 404:
            return Answer("ended", said)
        if error.code in (408, 429) or error.code >= 500:
            with contextlib.suppress(ValueError):
                wait_s = float(error.headers.get("Retry-After", "0"))
                return Answer("unclear", said, min(max(0.0, wait_s), LONGEST_PAUSE_S))
            return Answer("unclear", said)
        return Answer("refused", said)
