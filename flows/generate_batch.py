"""The flow `generate-batch`: a batch of shots becomes finished clips, a table and a report.

Run it through a deployment, or as a program: `python flows/generate_batch.py REQUEST.json ANSWER.json` is how
`hybrid-video run` starts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # Prefect and `python flows/…` put only this folder on the path
    sys.path.insert(0, str(ROOT))

from prefect import flow, get_run_logger  # noqa: E402
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.runtime import flow_run  # noqa: E402
from prefect.states import Cancelled, Completed, Failed  # noqa: E402
from pydantic import Field  # noqa: E402

from hybrid_video import logs, observing  # noqa: E402
from hybrid_video.batchfile import load_batch  # noqa: E402
from hybrid_video.engine.report import BatchReport  # noqa: E402
from hybrid_video.engine.session import batch_run, stop_on_signal  # noqa: E402
from hybrid_video.errors import HybridVideoError, InputError  # noqa: E402
from hybrid_video.models import Batch  # noqa: E402
from hybrid_video.redaction import redact  # noqa: E402
from hybrid_video.settings import Settings  # noqa: E402
from tasks import PrefectSteps  # noqa: E402
from tasks.artifacts import LiveProgress, publish_report  # noqa: E402
from tasks.secrets import load_secret_blocks  # noqa: E402

# Before the run: Prefect's own lines and spans begin ahead of the flow's body, which tells of wrong settings.
with contextlib.suppress(HybridVideoError):
    logs.configure()
observing.start("generate-batch", strict=False)


def _run_name() -> str:
    """`night-shots (12 jobs) 14:02`, so that the list of runs can be read."""
    parameters = flow_run.parameters or {}
    batch = parameters.get("batch")
    now = datetime.now(UTC).strftime("%H:%M:%S")
    if isinstance(batch, Batch):
        return f"{batch.name} ({len(batch.jobs)} jobs) {now}"
    if isinstance(batch, dict):
        return f"{batch.get('name', 'batch')} ({len(batch.get('jobs', ()))} jobs) {now}"
    return f"{Path(str(parameters.get('batch_file') or 'batch')).stem} {now}"


@flow(name="generate-batch", flow_run_name=_run_name, persist_result=False, retries=0)
async def generate_batch(
    batch: Batch | None = None,
    batch_file: str = "",
    base_dir: str = "",
    out_dir: str = "",
    deadline_s: Annotated[float | None, Field(gt=0)] = None,
    budget_usd: Annotated[Decimal | None, Field(ge=0)] = None,
) -> State[Any]:
    """Make every clip of a batch, cheapest first, in time and within budget. The same batch name again resumes it.

    Args:
        batch: The shots. Leave it out to use a batch file.
        batch_file: Path of a YAML, JSON or CSV batch file on the worker's machine, instead of `batch`.
        base_dir: Folder that the batch's image and workflow paths start from; the batch file's own when empty.
        out_dir: Folder for the finished clips; the configured one when empty.
        deadline_s: Finish within so many seconds of the start; overrides the batch's own.
        budget_usd: Hard limit for the whole batch in US dollars. The smaller of this and the batch's own holds.
    """
    logger = get_run_logger()
    used = await load_secret_blocks()
    if used:
        logger.info("keys from Secret blocks: %s", ", ".join(used))
    try:
        logs.configure()
        observing.start("generate-batch")
        wanted, folder = _request(batch, batch_file, base_dir)
        wanted = wanted.with_goal(deadline_s, budget_usd)
        report, stopped = await _make(wanted, folder, Path(out_dir) if out_dir else None)
    except HybridVideoError as error:
        text = redact(str(error))
        logger.error("%s", text)  # noqa: TRY400 - a traceback tells the user nothing
        problems = error.problems if isinstance(error, InputError) else (text,)
        told = [redact(problem) for problem in problems]
        data = {"error": text, "problems": told, "exit_code": error.exit_code, "kind": type(error).__name__}
        _answer(data)
        return Failed(message=text[:1000], data=data)
    _answer(report.model_dump(mode="json"))
    await publish_report(report, Settings.load().storage.clips_url)
    summary = f"{report.completed} of {report.jobs} clips for ${report.to_json()['cost_usd']}"
    data = report.model_dump(mode="json")
    if stopped:
        return Cancelled(message=f"stopped: {summary}; remote jobs were told to stop, run it again to go on", data=data)
    if report.errors:
        first = report.errors[0]
        return Failed(message=f"{summary}; {report.failed} failed, the first: {first.job}: {first.message}", data=data)
    return Completed(message=summary, data=data)


def _request(batch: Batch | None, batch_file: str, base_dir: str) -> tuple[Batch, Path]:
    """Empty texts mean "not given": the form in the UI shows plain fields for them."""
    if (batch is None) == (not batch_file):
        raise InputError("give either `batch` or `batch_file`: one of them, not both")
    if batch is not None:
        return batch, Path(base_dir) if base_dir else Path.cwd()
    file = Path(batch_file).expanduser()
    return load_batch(file), Path(base_dir) if base_dir else file.resolve().parent


async def _make(batch: Batch, base_dir: Path, out_dir: Path | None) -> tuple[BatchReport, bool]:
    """Runs the batch; True beside the report if it was asked to stop.

    Signals set a flag instead of raising: Prefect's own handler raises inside whatever step happens to run, where
    asyncio may keep it from ever reaching the flow.
    """
    stopped = False
    async with (
        LiveProgress(batch) as progress,
        batch_run(
            batch,
            settings=Settings.load(),
            base_dir=base_dir,
            out_dir=out_dir,
            steps=PrefectSteps(),
            observer=progress,
        ) as run,
    ):

        def stop() -> None:
            nonlocal stopped
            stopped = True
            run.cancel()

        with stop_on_signal(stop):
            watcher = asyncio.create_task(progress.stop_when_cancelled(stop))
            try:
                return await run.run(), stopped
            finally:
                watcher.cancel()


_answer_file: Path | None = None


def _answer(data: dict[str, Any]) -> None:
    """Writes the report as soon as it is known: without its server Prefect may take minutes to end."""
    if _answer_file is not None:
        part = _answer_file.with_suffix(".part")
        part.write_text(json.dumps(data), encoding="utf-8")
        part.replace(_answer_file)


def main(request_file: str, answer_file: str) -> None:
    """Runs the flow once for a request file and writes the report, or the error, as JSON."""
    global _answer_file  # noqa: PLW0603 - this process runs one flow
    _answer_file = Path(answer_file)
    request = json.loads(Path(request_file).read_text(encoding="utf-8"))
    state: State[Any] = asyncio.run(
        generate_batch(  # type: ignore[arg-type]
            batch=Batch.model_validate(request["batch"]),
            base_dir=request["base_dir"] or "",
            out_dir=request["out_dir"] or "",
            return_state=True,
        )
    )
    if not _answer_file.exists():
        message = redact(state.message or "the flow ended without a report")
        _answer({"error": message, "problems": [message], "exit_code": 1})


if __name__ == "__main__":
    main(*sys.argv[1:])
