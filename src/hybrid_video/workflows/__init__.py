"""Workflow templates (AnimateDiff, Stable Video Diffusion, Wan 2.1 and 2.2) and the user's own API-format workflows.

`plan(job)` says what a workflow will make and `WorkflowPlan.bind` gives the graph to submit. Pure apart from reading
files: no server is asked here.
"""

from hybrid_video.workflows.catalog import (
    CustomNodes,
    ModelFile,
    TemplateInfo,
    describe,
    models_of,
    template_graph,
    template_info,
    template_names,
)
from hybrid_video.workflows.planning import plan
from hybrid_video.workflows.plans import WorkflowPlan

__all__ = [
    "CustomNodes",
    "ModelFile",
    "TemplateInfo",
    "WorkflowPlan",
    "describe",
    "models_of",
    "plan",
    "template_graph",
    "template_info",
    "template_names",
]
