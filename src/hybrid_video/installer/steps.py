"""The steps of an installation. Each knows whether it is needed, so that a second run changes nothing, and each can be
broken off anywhere and run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hybrid_video.installer.manifest import files_of, nodes_of
from hybrid_video.installer.steps_models import downloader_of, fetch_models, fetch_nodes, models_needed, nodes_needed
from hybrid_video.installer.steps_service import (
    finish_needed,
    render_clip,
    render_needed,
    service_needed,
    settings_needed,
    start_service,
    tell_product,
    write_the_end,
)
from hybrid_video.installer.steps_software import (
    check_system,
    fetch_code,
    make_python,
    packages_needed,
    put_packages,
    put_torch,
    python_needed,
    torch_needed,
    try_torch,
    verify_needed,
)
from hybrid_video.installer.work import Work


@dataclass(frozen=True)
class Step:
    """One step.

    Attributes:
        plan: what it will do, one sentence, without changing or asking anything outside this machine.
        needed: False where nothing is to be done.
        run: does it; returns what was done in a few words.
    """

    id: str
    title: str
    plan: Callable[[Work], str]
    needed: Callable[[Work], bool]
    run: Callable[[Work], str]


def _always(_work: Work) -> bool:
    """Checking costs little; fetching code first finds out which version the later steps work on."""
    return True


def _plan_models(work: Work) -> str:
    if not work.bundles:
        return "no models; add some later with --bundle"
    names = ", ".join(bundle.id for bundle in work.bundles)
    left = downloader_of(work).missing_bytes(files_of(work.bundles)) / 1e9
    total = sum(file.bytes for file in files_of(work.bundles)) / 1e9
    licences = ", ".join(dict.fromkeys(name for bundle in work.bundles for name in bundle.licences))
    return f"{names}: {total:.1f} GB, {left:.1f} GB still to come (licences: {licences})"


def _plan_service(work: Work) -> str:
    service = work.service()
    return service.sentence if service else "none: nothing is started"


INSTALL: Sequence[Step] = (
    Step(
        "check", "Check the system", lambda w: f"folder {w.layout.folder}, port {w.options.port}", _always, check_system
    ),
    Step("code", "Fetch ComfyUI", lambda w: f"{w.options.ref} from {w.options.source}", _always, fetch_code),
    Step(
        "python", "Make its Python", lambda w: w.options.python or "found or fetched by uv", python_needed, make_python
    ),
    Step("torch", "Install PyTorch", lambda w: f"build {w.torch.variant}: {w.torch.reason}", torch_needed, put_torch),
    Step("packages", "Install its packages", lambda _: "ComfyUI's requirements.txt", packages_needed, put_packages),
    Step("verify", "Try PyTorch", lambda _: "import it and look for the card", verify_needed, try_torch),
    Step(
        "nodes",
        "Fetch custom nodes",
        lambda w: ", ".join(node.name for node in nodes_of(w.bundles)) or "none needed",
        nodes_needed,
        fetch_nodes,
    ),
    Step("models", "Fetch models", _plan_models, models_needed, fetch_models),
    Step("service", "Start the service", _plan_service, service_needed, start_service),
    Step("render", "Render a test clip", lambda _: "four frames, without a model", render_needed, render_clip),
    Step(
        "settings",
        "Tell hybrid-video",
        lambda w: f"{w.options.url} into {w.settings_file}",
        settings_needed,
        tell_product,
    ),
    Step("finish", "Write the receipt", lambda w: str(w.layout.receipt), finish_needed, write_the_end),
)


def _back_needed(work: Work) -> bool:
    return work.receipt.current != work.target


ROLLBACK: Sequence[Step] = tuple(
    Step(step.id, step.title, step.plan, _back_needed if step.id == "service" else step.needed, step.run)
    for step in INSTALL
    if step.id in ("service", "render", "settings", "finish")
)
