"""The job template for a Kubernetes work pool: Prefect's own with our additions. No cluster is needed, or was used."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import prefect
from prefect.utilities.templating import apply_values

from hybrid_video.settings import GROUPS, variable_name

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE: dict[str, Any] = json.loads((ROOT / "deploy/kubernetes/job-template.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/how-to/several-machines.md").read_text(encoding="utf-8")
METADATA = Path(prefect.__file__).parent / "server/api/collections_data/views/aggregate-worker-metadata.json"
OWN: dict[str, Any] = json.loads(METADATA.read_text(encoding="utf-8"))["prefect-kubernetes"]["kubernetes"][
    "default_base_job_configuration"
]


def rendered(**values: object) -> dict[str, Any]:
    """The Job that a worker would send to the cluster."""
    defaults = {
        name: found["default"] for name, found in TEMPLATE["variables"]["properties"].items() if "default" in found
    }
    manifest = apply_values(TEMPLATE["job_configuration"]["job_manifest"], {**defaults, **values})
    assert isinstance(manifest, dict)
    return manifest


def test_everything_that_prefects_worker_fills_in_is_still_there() -> None:
    """Taken from the schema that this Prefect ships; an update that changes it shows here."""
    assert TEMPLATE["job_configuration"].keys() == OWN["job_configuration"].keys()
    assert TEMPLATE["variables"]["properties"].keys() == OWN["variables"]["properties"].keys()
    mine = deepcopy(TEMPLATE["job_configuration"]["job_manifest"])
    theirs = OWN["job_configuration"]["job_manifest"]
    pod, pod_of_theirs = mine["spec"]["template"]["spec"], theirs["spec"]["template"]["spec"]
    container, container_of_theirs = pod["containers"][0], pod_of_theirs["containers"][0]
    assert container_of_theirs.items() <= container.items()
    assert {k: v for k, v in pod_of_theirs.items() if k != "containers"}.items() <= pod.items()
    mine["spec"]["template"]["spec"] = pod_of_theirs
    assert mine == theirs


def test_the_job_has_least_rights_its_keys_from_a_secret_and_writes_only_where_it_may() -> None:
    """Nothing secret stands in the pool, where Prefect's UI would show it."""
    job = rendered(command="prefect flow-run execute", name="night", namespace="film", labels={"app": "hybrid-video"})
    assert "{{" not in json.dumps(job)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == "hybrid-video:latest"
    assert container["envFrom"] == [{"secretRef": {"name": "hybrid-video"}}]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["securityContext"]["runAsUser"] == 1000, "the user of the Dockerfile"
    assert pod["automountServiceAccountToken"] is False
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {"/clips", "/data", "/tmp"}  # noqa: S108 - of the container
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    assert container["env"]["HYBRID_VIDEO_OUT"] == "/clips"
    assert container["env"]["HYBRID_VIDEO_HOME"] == "/data"
    known = {variable_name(group, field) for group in GROUPS for field in group.model_fields}
    assert {name for name in container["env"] if name.startswith("HYBRID_VIDEO_")} <= known
    assert not re.search(r"KEY|TOKEN|PASSWORD|SECRET", " ".join(container["env"]))


def test_the_page_names_what_the_job_needs_in_the_cluster() -> None:
    """Secret and claim by their names, and that nobody has run it."""
    for word in ("secret generic hybrid-video", "hybrid-video-clips", "deploy/kubernetes/job-template.json", "not run"):
        assert word in PAGE, word
