"""The way of a batch: fleet, selection, attempts, resumption and report.

Everything a flow or a command needs to get a batch done, without Prefect: `BatchRun` takes its three steps (select,
generate, record) from outside, so the same engine runs them as plain calls or as Prefect tasks.
"""

from hybrid_video.engine.events import Event, Observer
from hybrid_video.engine.report import BatchReport
from hybrid_video.engine.run import BatchRun
from hybrid_video.engine.steps import DirectSteps, Steps

__all__ = ["BatchReport", "BatchRun", "DirectSteps", "Event", "Observer", "Steps"]
