"""Typed Python client of the REST API, synchronous and asynchronous, over httpx.

Every endpoint is one method that returns the same models as the server's. A refusal raises the error of our own tree
that the server met (`NotFoundError`, `InputError` with its sentences, `LimitError`, …); a server that does not answer,
or refuses the token, raises `ApiError`. Reads are tried again when the server is busy; what changes something is sent
once.

    with Client("http://127.0.0.1:8321", token="…") as api:
        api.submit_file("shots.yaml")
        report = api.wait("shots")
        for clip in api.every_clip("shots"):
            api.download(clip.batch, clip.job, Path("clips"))
"""

from hybrid_video.client.asynchronous import AsyncClient
from hybrid_video.client.calls import ApiError
from hybrid_video.client.synchronous import Client

__all__ = ["ApiError", "AsyncClient", "Client"]
