"""The REST API (FastAPI): `create_app(settings)`; `hybrid-video api` serves it."""

from hybrid_video.api.app import create_app

__all__ = ["create_app"]
