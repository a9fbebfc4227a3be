"""The published schema and the examples keep step with what the loader accepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from hybrid_video.batchfile import json_schema, load_batch
from hybrid_video.inputs import resolve_image, resolve_workflow

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.*") if path.suffix in {".yaml", ".json", ".csv"})


def test_the_published_schema_is_the_one_of_the_models() -> None:
    """Regenerate it with `python -m hybrid_video.batchfile > schemas/batch.schema.json`."""
    published = json.loads((ROOT / "schemas" / "batch.schema.json").read_text(encoding="utf-8"))
    assert published == json_schema()
    Draft202012Validator.check_schema(published)


def test_there_is_an_example_of_each_format() -> None:
    """YAML, JSON and CSV."""
    assert {path.suffix for path in EXAMPLES} == {".yaml", ".json", ".csv"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
async def test_an_example_loads_and_its_files_are_there(path: Path, tmp_path: Path) -> None:
    """Also the pictures and workflows that the jobs name."""
    batch = load_batch(path)
    assert batch.budget_usd is not None, "examples show how to limit the cost"
    for job in batch.jobs:
        resolve_workflow(job, path.parent)
        await resolve_image(job, path.parent, allow_private=False, cache_dir=tmp_path)


@pytest.mark.parametrize("path", [path for path in EXAMPLES if path.suffix != ".csv"], ids=lambda path: path.name)
def test_an_example_is_valid_by_the_schema(path: Path) -> None:
    """An editor shows no error in it."""
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert list(Draft202012Validator(json_schema()).iter_errors(data)) == []


def test_the_cinematic_example_has_a_dozen_different_shots() -> None:
    """Long enough to see jobs spread over backends."""
    jobs = load_batch(ROOT / "examples" / "shots.yaml").jobs
    assert len({job.prompt for job in jobs}) == 12


@pytest.mark.parametrize(
    ("data", "valid"),
    [
        ({"jobs": [{"prompt": "a"}]}, True),
        ({"name": "x", "defaults": {"fps": 24, "preferences": {"backend": "local"}}, "jobs": [{"prompt": "a"}]}, True),
        ({"budget_usd": 1.5, "deadline_s": 60, "jobs": [{"id": "a", "prompt": "a", "inputs": {"x": 1}}]}, True),
        ({"jobs": []}, False),
        ({"jobs": [{"id": "a"}]}, False),
        ({"jobs": [{"prompt": "a", "duration": 5}]}, False),
        ({"jobs": [{"prompt": "a", "width": 833}]}, False),
        ({"jobs": [{"prompt": "a", "id": "a b"}]}, False),
        ({"defaults": {"id": "x"}, "jobs": [{"prompt": "a"}]}, False),
        ({"jobs": [{"prompt": "a", "preferences": {"backend": "runpod"}}]}, False),
    ],
)
def test_schema_and_loader_agree(data: dict[str, Any], valid: bool, tmp_path: Path) -> None:
    """What an editor marks as wrong, the loader refuses, and the other way round."""
    from hybrid_video.errors import InputError

    path = tmp_path / "a.json"
    path.write_text(json.dumps(data))
    assert Draft202012Validator(json_schema()).is_valid(data) is valid
    if valid:
        load_batch(path)
    else:
        with pytest.raises(InputError):
            load_batch(path)
