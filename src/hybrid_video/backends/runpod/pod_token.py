"""The bearer token of the pods' gate: the configured one, or one made once for the installation.

The made one lives in `<home>/secrets/pod-token`, readable by its owner only, and nowhere else: not in the database, not
in a handle, not in a message. Whoever may list the account's pods sees it in their environment; that cannot be helped.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from hybrid_video import redaction
from hybrid_video.backends.runpod.transport import key_of
from hybrid_video.errors import ConfigurationError
from hybrid_video.settings import Settings

FOLDER, FILE = "secrets", "pod-token"
VARIABLE = "HYBRID_VIDEO_RUNPOD_POD_TOKEN"


def pod_token(settings: Settings) -> str:
    """The token; made at the first call if none is configured.

    Raises:
        ConfigurationError: the configured one cannot be sent in a header, or the file cannot be read or written.
    """
    if settings.runpod.pod_token is not None and settings.runpod.pod_token.get_secret_value().strip():
        return key_of(settings.runpod.pod_token, VARIABLE)
    path = settings.storage.home / FOLDER / FILE
    try:
        token = _read(path) or _create(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"the pods' token at {str(path)!r} cannot be used ({error}); check the folder's permissions, or set "
            f"{VARIABLE}"
        ) from None
    redaction.register(token)
    return token


def _read(path: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    return ""


def _create(path: Path) -> str:
    """Written whole under another name first; of two processes at once the first one's token counts."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # a file system without permissions
        path.parent.chmod(0o700)
    draft = path.with_name(f".{FILE}-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_urlsafe(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        if not path.exists() or not _read(path):
            try:
                os.link(draft, path)
            except FileExistsError:
                if not _read(path):  # an empty one, left by a full disk
                    draft.replace(path)
            except (OSError, NotImplementedError):  # a file system without hard links
                draft.replace(path)
        return _read(path)
    finally:
        draft.unlink(missing_ok=True)
