"""JSON Schema of batch files, for editors and for callers of the API.

`python -m hybrid_video.batchfile > schemas/batch.schema.json` writes the copy that travels with the repository.
"""

from __future__ import annotations

from typing import Any

from hybrid_video.models import Batch


def json_schema() -> dict[str, Any]:
    """The schema of a YAML or JSON batch file: `Batch` with `defaults`, an optional name and optional job ids."""
    schema = Batch.model_json_schema()
    jobs = schema["$defs"]["VideoJob"]
    jobs["required"] = ["prompt"]
    jobs["properties"]["id"]["description"] += " Left out: shot-001, shot-002 and so on, by position."
    defaults = {name: value for name, value in jobs["properties"].items() if name != "id"}
    schema["$defs"]["Defaults"] = {
        "type": "object",
        "title": "Defaults",
        "description": "Fields of a job that hold for every job which does not give them itself.",
        "additionalProperties": False,
        "properties": {name: _without_default(value) for name, value in defaults.items()},
    }
    properties = schema["properties"]
    properties["name"]["description"] += " Left out: made from the file's name."
    properties["$schema"] = {"type": "string", "description": "Address of this schema, for editors."}
    properties["defaults"] = {"$ref": "#/$defs/Defaults"}
    schema["required"] = ["jobs"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hybrid-video batch",
        **{key: value for key, value in schema.items() if key != "title"},
    }


def _without_default(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != "default"}
