"""`hybrid-video api`."""

from __future__ import annotations

import signal
import socket
from typing import Annotated

import typer

from hybrid_video import logs
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console
from hybrid_video.errors import ConfigurationError, InputError
from hybrid_video.settings import ApiSettings, Settings

STOP_S = 10
KEEP_ALIVE_S = 30
"""Longer than clients keep an idle connection (httpx: 5 s), so that none sends into one that is just being closed."""


@app.command()
def api(
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on. Default: HYBRID_VIDEO_API_HOST, 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", help="Port; 0 takes a free one. Default: HYBRID_VIDEO_API_PORT, 8321.")
    ] = None,
) -> int:
    """Serve the REST API until Ctrl-C. Beyond this machine it needs a token. Batches it started run on."""
    import uvicorn  # noqa: PLC0415 - half a second that no other command needs

    from hybrid_video.api import create_app  # noqa: PLC0415

    settings = Settings.load()
    if port is not None and not 0 <= port <= 65535:
        raise InputError(f"--port: {port} is not between 0 and 65535")
    changes = {"host": host, "port": port}
    given = {name: value for name, value in changes.items() if value is not None}
    settings.api = ApiSettings(**{**settings.api.model_dump(), **given})
    application = create_app(settings)
    listening = _bound(settings.api.host, settings.api.port)
    address = listening.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    console.print(f"API: http://{shown}:{address[1]} (reference at /docs)", markup=False, soft_wrap=True)
    if not settings.api.role_tokens:
        console.print("no token is set: everybody on this machine may use it, and nobody else")
    config = uvicorn.Config(
        application,
        log_level="warning",
        log_config=None if logs.is_configured() else uvicorn.config.LOGGING_CONFIG,
        access_log=False,
        proxy_headers=bool(settings.api.trusted_proxies),  # else anybody could say that he is somebody else
        forwarded_allow_ips=list(settings.api.trusted_proxies),
        server_header=False,
        timeout_graceful_shutdown=STOP_S,
        timeout_keep_alive=KEEP_ALIVE_S,
        limit_concurrency=None,
        h11_max_incomplete_event_size=64_000,
    )
    server = uvicorn.Server(config)
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises them again after its graceful stop
        signal.signal(number, lambda _number, _frame: None)
    server.run(sockets=[listening])
    if not server.started:
        raise ConfigurationError("the API could not start; see the message above")
    return 0


def _bound(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # who calls the address as soon as it is printed waits a moment and is not refused
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {host!r} port {port}: {error.strerror or error}; another program may use it: give "
            "another with --port, or 0 for a free one"
        ) from None
    listening.set_inheritable(True)
    return listening
