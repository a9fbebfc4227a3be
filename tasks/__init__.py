"""Thin Prefect tasks over `hybrid_video.engine`: one attempt is select, generate on a tier, record."""

from tasks.steps import (
    PrefectSteps,
    generate_cloud,
    generate_gemini,
    generate_local,
    record,
    select_backend,
)

__all__ = ["PrefectSteps", "generate_cloud", "generate_gemini", "generate_local", "record", "select_backend"]
