"""A Sentry and an OpenTelemetry collector on loopback: they decode what is sent and keep it to be searched."""

from __future__ import annotations

import gzip
import importlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Receiver:
    """A server that answers 200 to every POST and keeps paths, headers and bodies."""

    url: str = ""
    status: int = 200
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)

    @property
    def dsn(self) -> str:
        """What a project of this Sentry gives its clients."""
        return f"{self.url.replace('http://', 'http://publickey0123456789@')}/42"

    def envelopes(self) -> list[tuple[dict[str, Any], list[tuple[dict[str, Any], Any]]]]:
        """Each envelope as its header and its items, decoded (develop.sentry.dev/sdk/data-model/envelopes)."""
        found = []
        for path, _, body in self.requests:
            assert path == "/api/42/envelope/"
            lines = body.split(b"\n")
            items = [(json.loads(head), json.loads(payload)) for head, payload in zip(lines[1::2], lines[2::2])]  # noqa: B905
            found.append((json.loads(lines[0]), items))
        return found

    def events(self) -> list[dict[str, Any]]:
        """Every error reported."""
        items = [item for _, items in self.envelopes() for item in items]
        assert {head["type"] for head, _ in items} <= {"event"}, "something else than errors was sent"
        return [payload for _, payload in items]

    def spans(self) -> list[Span]:
        """Every span received."""
        found = []
        for path, _, body in self.requests:
            assert path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {a.key: a.value.string_value for a in resource.resource.attributes}
                found += [Span(span, about) for scope in resource.scope_spans for span in scope.spans]
        return found

    @property
    def everything(self) -> bytes:
        """Paths, headers and bodies in one, to be searched."""
        return b"\n".join(path.encode() + json.dumps(headers).encode() + body for path, headers, body in self.requests)

    def until(self, so: Callable[[], object], patience_s: float = 60.0) -> None:
        """Waits until something has come in."""
        end_s = time.monotonic() + patience_s
        while not so():
            assert time.monotonic() < end_s, f"{len(self.requests)} requests came in, not what was waited for"
            time.sleep(0.02)


class Span:
    """One span with plain values."""

    def __init__(self, wire: Any, resource: dict[str, str]) -> None:
        self.name: str = wire.name
        self.trace: str = wire.trace_id.hex()
        self.id: str = wire.span_id.hex()
        self.parent: str = wire.parent_span_id.hex()
        self.resource = resource
        self.attributes = {a.key: a.value.string_value or a.value.int_value for a in wire.attributes}
        self.failed: bool = wire.status.code == 2  # STATUS_CODE_ERROR
        self.why: str = wire.status.message
        self.begin_ns, self.end_ns = wire.start_time_unix_nano, wire.end_time_unix_nano

    def __repr__(self) -> str:
        return f"{self.name} {self.attributes}"


@contextmanager
def receiving(status: int = 200) -> Iterator[Receiver]:
    """Such a server on a free port."""
    receiver = Receiver(status=status)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            packed = self.headers.get("Content-Encoding", "")
            if packed == "gzip":
                body = gzip.decompress(body)
            elif packed == "br":  # what sentry_sdk takes where that package happens to be there
                body = importlib.import_module("brotli").decompress(body)
            receiver.requests.append((self.path, dict(self.headers), body))
            self.send_response(receiver.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)
