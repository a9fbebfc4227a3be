"""The failure taxonomy as data: who is at fault, whether and where to try again, and what the user is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hybrid_video.errors import FailureKind

Fault = Literal["user", "configuration", "backend", "unknown"]
Next = Literal["anywhere", "elsewhere", "nowhere", "look"]
"""anywhere: same backend allowed when no other can serve; elsewhere: never this backend again for this job;
nowhere: the job fails now; look: the outcome is unknown, so it is only looked up."""


@dataclass(frozen=True)
class Policy:
    """What one kind of failure means for the next move."""

    fault: Fault
    next: Next
    fatal_for_backend: bool
    advice: str


POLICIES: dict[FailureKind, Policy] = {
    FailureKind.UNREACHABLE: Policy("backend", "anywhere", False, "Check that it runs and that the address is right."),
    FailureKind.RATE_LIMITED: Policy("backend", "anywhere", False, "Wait, or ask the vendor for a higher quota."),
    FailureKind.NO_CAPACITY: Policy("backend", "anywhere", False, "Try another GPU type or region, or later."),
    FailureKind.RESTARTED: Policy("backend", "anywhere", False, "It lost its queue; the job is made again."),
    FailureKind.WEDGED: Policy("backend", "elsewhere", True, "Restart ComfyUI: it answers but runs nothing."),
    FailureKind.TIMED_OUT: Policy("backend", "elsewhere", False, "Raise the time limit or shorten the clip."),
    FailureKind.EXPIRED: Policy("backend", "anywhere", False, "The vendor deleted the result before it was collected."),
    FailureKind.DOWNLOAD_FAILED: Policy("backend", "anywhere", False, "Check the network and the disk."),
    FailureKind.VENDOR_ERROR: Policy("unknown", "anywhere", False, "The vendor gave no reason; see its status page."),
    FailureKind.OUT_OF_MEMORY: Policy(
        "configuration", "elsewhere", False, "Use a larger GPU, or a smaller or shorter clip."
    ),
    FailureKind.MISSING_NODE: Policy(
        "configuration", "elsewhere", False, "Install the custom node, or use another workflow."
    ),
    FailureKind.MISSING_MODEL: Policy("configuration", "elsewhere", False, "Download the model file to that ComfyUI."),
    FailureKind.INVALID_WORKFLOW: Policy("user", "nowhere", False, "Correct the workflow."),
    FailureKind.INVALID_REQUEST: Policy("user", "elsewhere", False, "Change the job: this backend refuses it."),
    FailureKind.EXECUTION_FAILED: Policy("user", "elsewhere", False, "A node failed; open the workflow in ComfyUI."),
    FailureKind.CONTENT_BLOCKED: Policy("user", "elsewhere", False, "Rephrase the prompt, or allow the local GPU."),
    FailureKind.AUTHENTICATION: Policy("configuration", "elsewhere", True, "Set a valid key."),
    FailureKind.INSUFFICIENT_FUNDS: Policy("configuration", "elsewhere", True, "Top up the account."),
    FailureKind.MODEL_RETIRED: Policy("configuration", "elsewhere", True, "Choose a model the vendor still offers."),
    FailureKind.BAD_CLIP: Policy(
        "backend", "anywhere", False, "Look at the workflow's output; it was not the clip asked for."
    ),
    FailureKind.OVER_BUDGET: Policy("configuration", "elsewhere", False, "Raise the limit, or shorten the clip."),
    FailureKind.UNCERTAIN: Policy("unknown", "look", False, "Run `hybrid-video reconcile`; it is never sent twice."),
    FailureKind.CANCELLED: Policy("user", "nowhere", False, "Run the batch again to make it."),
}


def policy(kind: FailureKind) -> Policy:
    """The policy of a failure kind."""
    return POLICIES[kind]
