"""A submission where a real Prefect server and worker are: the deployment makes the clips, and its run is shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from pipeline_rig import SMALL, Deployed, Project, Servers, until

from hybrid_video import submitting, views
from hybrid_video.batchfile import parse_batch
from hybrid_video.errors import InputError
from hybrid_video.ledger import Ledger
from hybrid_video.prefect_api import call
from hybrid_video.prefect_worker import PrefectWorker
from hybrid_video.project import project_dir
from hybrid_video.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_prefect_makes_a_submitted_batch(project: Project, farm: Servers, tmp_path: Path, deployed: Deployed) -> None:
    """Without a worker the submission says that it waits; with one the clips are made and the run has ended well."""
    project.use(farm)
    with deployed.server(tmp_path / "prefect", lean=True) as server:
        project.set(PREFECT_API_URL=server.url)
        settings = Settings.load()
        jobs = [{"id": f"s{n}", "prompt": f"shot {n}", **SMALL} for n in range(3)]
        made = submitting.submit(parse_batch({"name": "film", "jobs": jobs}), settings)
        assert made.via == "prefect"
        assert submitting.status(made).state == "starting"
        assert made.run_url.startswith(server.url.removesuffix("/api"))
        with pytest.raises(InputError, match="is being run already"):
            submitting.submit(parse_batch({"name": "film", "jobs": jobs}), settings)
        worker = PrefectWorker("local-gpu", server.url, project_dir(), home=server.home)
        worker.start()
        try:
            until("the run has ended", lambda: submitting.status(made).state == "ended", timeout_s=200, every_s=0.2)
        finally:
            worker.stop()
        assert submitting.status(made).exit_code == 0, submitting.status(made)
        run = call(server.url, "GET", f"/flow_runs/{made.run_id}")
        assert run["parameters"]["batch"]["name"] == "film"
        ledger = Ledger.open(settings.storage.ledger_path)
        try:
            view = views.batch(ledger, "film")
            assert (view.batch.state, view.batch.jobs.done) == ("done", 3)
            assert len(views.clips(ledger, batch="film").items) == 3
        finally:
            ledger.close()
