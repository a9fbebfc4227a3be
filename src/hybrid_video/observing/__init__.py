"""What leaves this installation for its operators: unexpected errors to Sentry, traces to an OpenTelemetry collector.

Both are off until they are given an address (HYBRID_VIDEO_SENTRY_DSN, OTEL_EXPORTER_OTLP_ENDPOINT), both need the extra
`observability`, and neither may ever delay or fail the work: what cannot be delivered is dropped. Nothing that belongs
to the user goes out (`privacy`). `sentry` is the only module that imports sentry_sdk, `traces` the only one that
imports opentelemetry. Log lines are `logs`, figures are `metrics`.
"""

from hybrid_video.observing.privacy import keep_batch_private, scrubbed
from hybrid_video.observing.sentry import report
from hybrid_video.observing.starting import start, stop
from hybrid_video.observing.traces import about, traced

__all__ = ["about", "keep_batch_private", "report", "scrubbed", "start", "stop", "traced"]
