"""`/health`, `/metrics` and `/docs`: what monitors and readers ask for."""

from __future__ import annotations

import html
from typing import Any

import sqlalchemy as sa
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response

from hybrid_video import __version__
from hybrid_video.api.access import Read
from hybrid_video.api.bodies import Health
from hybrid_video.api.context import Shared
from hybrid_video.api.problems import RESPONSES
from hybrid_video.metrics import CONTENT_TYPE, exposition
from hybrid_video.views.reading import reading

router = APIRouter(tags=["system"])


@router.get("/health", responses={503: RESPONSES[503]})
def health(shared: Shared) -> Health:
    """Whether the API can do its work: it answers, and its ledger can be read. Needs no token."""
    with reading(shared.ledger) as connection:
        connection.execute(sa.text("select 1"))
    return Health(status="ok", version=__version__, ledger="ok", simulated=shared.settings.routing.simulated)


@router.get(
    "/metrics",
    dependencies=[Read],
    response_class=PlainTextResponse,
    responses={**RESPONSES, 200: {"content": {"text/plain": {}}, "description": "Prometheus text"}},
)
def metrics(shared: Shared) -> Response:
    """Every figure for Prometheus, from the ledger at this moment."""
    return Response(exposition(shared.ledger, shared.applied()), media_type=CONTENT_TYPE)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """The reference as one page without scripts, so that it works offline and nothing foreign runs beside the API."""
    return HTMLResponse(_page(request.app.openapi()))


def _page(schema: dict[str, Any]) -> str:
    rows = []
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            text = html.escape(operation.get("description", operation.get("summary", "")))
            parameters = ", ".join(p["name"] for p in operation.get("parameters", ()))
            rows.append(
                f"<tr><td><b>{method.upper()}</b></td><td><code>{html.escape(path)}</code><br><small>"
                f"{html.escape(parameters)}</small></td><td>{text}</td></tr>"
            )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>hybrid-video API</title><style>body{font:15px/1.5 "
        "system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}td{padding:.4rem "
        ".8rem .4rem 0;vertical-align:top;border-top:1px solid #8884}</style>"
        f"<h1>{html.escape(schema['info']['title'])} {html.escape(schema['info']['version'])}</h1>"
        f"<p>{html.escape(schema['info'].get('description', ''))} The machine-readable form is at "
        f"<a href=/openapi.json>/openapi.json</a>.</p><table>{''.join(rows)}</table></html>"
    )
