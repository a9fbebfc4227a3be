"""The REST API as one ASGI application: routes, errors, access, and the OpenAPI document with the batch schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.middleware.cors import CORSMiddleware

from hybrid_video import __version__
from hybrid_video.api import batches, cloud, loadbalancer, problems, system
from hybrid_video.api.access import Gate, check_exposure
from hybrid_video.api.context import Submitter, opened_context, start
from hybrid_video.models import Batch
from hybrid_video.settings import Settings

DESCRIPTION = (
    "Batches of AI video shots on your own GPU, rented GPUs and Google: cheapest first, in time, within budget, never "
    "paid for twice. Money is text with exact decimals; times are UTC; lists are pages with a cursor; every error is "
    "application/problem+json."
)


def create_app(settings: Settings, *, submitter: Submitter = start) -> FastAPI:
    """The application. Ledger and backends are opened when the server starts it.

    Args:
        submitter: starts a batch; the ordinary one asks Prefect or starts a process.

    Raises:
        ConfigurationError: it would be open to other machines without a token.
    """
    check_exposure(settings.api)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with opened_context(app, settings, submitter):
            yield

    app = FastAPI(
        title="hybrid-video",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
    )
    for part in (system, loadbalancer, cloud, batches):
        app.include_router(part.router)
    problems.install(app)
    app.add_middleware(Gate, api=settings.api)
    if settings.api.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.api.origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Range"],
            expose_headers=["Location", "Retry-After", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"],
            max_age=600,
        )
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document with the schema of a batch, which the endpoint reads itself for its better messages."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        batch = Batch.model_json_schema(ref_template="#/components/schemas/{model}")
        known = schema["components"]["schemas"]
        for name, definition in batch.pop("$defs", {}).items():
            known.setdefault(name, definition)
        known["Batch"] = batch
        app.openapi_schema = schema
    return app.openapi_schema
