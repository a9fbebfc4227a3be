"""Which workflow a job runs on, and the plan for it."""

from __future__ import annotations

from pathlib import Path

from hybrid_video.errors import InputError
from hybrid_video.models import AUTO_WORKFLOW, VideoJob
from hybrid_video.workflows.catalog import DEFAULT_TEMPLATE, template_names
from hybrid_video.workflows.own import plan_file
from hybrid_video.workflows.plans import WorkflowPlan
from hybrid_video.workflows.shipped import plan_template


def plan(job: VideoJob, *, workflow_path: Path | None = None) -> WorkflowPlan:
    """Prepares the workflow of a job: `auto`, a template, or the user's own file.

    Pure apart from reading the file and its mapping, which is cheap: parsed files are kept until they change.

    Args:
        job: The job.
        workflow_path: File of the user's own workflow, resolved and allowed by whoever read the batch.

    Raises:
        InputError: the workflow is unknown or unusable, or cannot make what the job asks for.
    """
    if workflow_path is not None:
        return plan_file(job, workflow_path)
    name = DEFAULT_TEMPLATE if job.workflow == AUTO_WORKFLOW else job.workflow
    if name in template_names():
        return plan_template(job, name)
    if name.endswith(".json"):
        raise InputError(
            f"job {job.id!r}: workflow {name!r} was not found; give the path of an API-format workflow, "
            "relative to the batch file"
        )
    raise InputError(
        f"job {job.id!r}: workflow {name!r} is unknown; use auto, the path of your own .json, "
        f"or one of {', '.join(template_names())}"
    )
