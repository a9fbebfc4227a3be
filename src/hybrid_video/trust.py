"""The certificates this process trusts, read once.

Reading them takes 14 to 17 ms of CPU (httpx 0.28 with certifi, observed), and httpx reads them for every client it
makes, in the event loop, even for a server without TLS. Where clients are made for one request each (a paid submit must
not meet a stale connection) that was more than all else a job costs.
"""

from __future__ import annotations

import ssl
from functools import cache

import httpx


@cache
def certificates(*, of_environment: bool = True) -> ssl.SSLContext:
    """What httpx would trust by itself, for the `verify` of a client.

    Args:
        of_environment: SSL_CERT_FILE and SSL_CERT_DIR count, as they do in httpx.
    """
    return httpx.create_ssl_context(trust_env=of_environment)
