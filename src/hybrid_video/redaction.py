"""Keeps secrets out of everything that is written down.

Every secret the settings load is registered here; `redact` replaces it, and anything that looks like a credential,
before a text becomes a log line, an error message, a row or an artifact.
"""

from __future__ import annotations

import logging
import re
from urllib.parse import quote

MASK = "[redacted]"
_MIN_LENGTH = 6
_known: set[str] = set()

_PATTERNS = (
    re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(r"(?i)(authorization[\"']?\s*[=:]\s*[\"']?basic\s+)[A-Za-z0-9+/=_-]+"),
    re.compile(
        r"(?i)((?:api[_-]?key|key|token|password|secret|authorization|x-goog-api-key)[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]{6,}"
    ),
    re.compile(r"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|signature|sig|key|token|awsaccesskeyid)=)[^&\s\"']+"),
    re.compile(r"(//[^/\s:@]+:)[^@/\s]+(?=@)"),
)


def register(secret: str | None) -> None:
    """Makes `redact` hide this value from now on, plain and URL-encoded."""
    if secret and len(secret) >= _MIN_LENGTH:
        _known.add(secret)
        _known.add(quote(secret, safe=""))


def redact(text: object, limit: int = 2000) -> str:
    """The text without secrets, at most `limit` characters long."""
    result = str(text)
    for secret in sorted(_known, key=len, reverse=True):
        result = result.replace(secret, MASK)
    for pattern in _PATTERNS:
        result = pattern.sub(lambda match: match.group(1) + MASK, result)
    return result if len(result) <= limit else result[: limit - 1] + "…"


_FORMATTER = logging.Formatter()


class RedactingFilter(logging.Filter):
    """A logging filter that redacts the finished message and the traceback, and drops the arguments."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record in place; never drops it."""
        record.msg = redact(record.getMessage(), limit=20_000)
        record.args = None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = redact(_FORMATTER.formatException(record.exc_info), limit=20_000)
        return True
