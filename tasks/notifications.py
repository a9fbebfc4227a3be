"""Messages through Prefect's notification blocks: Slack, Teams, Discord, Mattermost, Sendgrid e-mail, any webhook.

A block holds its address and its keys; nothing of it is logged or told. `mail` is a block type of our own for e-mail
over SMTP, which Prefect itself has not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prefect.blocks.core import Block
from prefect.blocks.notifications import AppriseNotificationBlock
from prefect.exceptions import PrefectException
from pydantic import BaseModel, Field, SecretStr

from hybrid_video.errors import ConfigurationError
from hybrid_video.redaction import redact, register

LONGEST = 3500
"""Slack cuts a message's text off at 4,000 characters."""


class Mail(AppriseNotificationBlock):
    """E-mail over SMTP by an Apprise address: `mailtos://user:password@smtp.example.com?to=studio@example.com`."""

    _block_type_name = "Hybrid Video Mail"
    _block_type_slug = "hybrid-video-mail"

    url: SecretStr = Field(
        default=...,
        title="Mail address",
        description="Apprise address of the mail server: mailtos://user:password@smtp.example.com?to=studio@example.com",
    )


async def notify(block: str, subject: str, body: str) -> None:
    """Sends one message through the block `type/name`, for example `slack-webhook/studio`.

    Raises:
        ConfigurationError: there is no such block, or the message could not be sent; says what to do.
    """
    loaded = await _load(block)
    for secret in _secrets(loaded):
        register(secret)
    text = body if len(body) <= LONGEST else f"{body[:LONGEST]}\n…"
    try:
        await loaded.anotify(text, subject)
    except Exception as error:  # every block raises errors of its own
        told = redact(f"{type(error).__name__}: {error}", limit=300)
        raise ConfigurationError(
            f"the message could not be sent through {block!r}: {told}; look at the block in Prefect's UI (Blocks)"
        ) from None


async def _load(block: str) -> Any:
    try:
        loaded = await Block.aload(block)
    except (ValueError, KeyError, PrefectException, RuntimeError) as error:
        told = redact(str(error).splitlines()[0], limit=200)
        raise ConfigurationError(
            f"no notification block {block!r} can be loaded ({told}); make one in Prefect's UI (Blocks) and name it "
            "as its type and its name, like slack-webhook/studio"
        ) from None
    if not hasattr(loaded, "anotify"):
        raise ConfigurationError(f"the block {block!r} is a {type(loaded).__name__}, which cannot send messages")
    return loaded


def _secrets(value: Any) -> Iterator[str]:
    """Every secret in a block, and the addresses, which are secrets in webhooks."""
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            found = getattr(value, name)
            if name == "url" and isinstance(found, str):
                yield found
            yield from _secrets(found)
    elif hasattr(value, "get_secret_value"):
        yield from _secrets(value.get_secret_value())
    elif isinstance(value, dict):
        for found in value.values():
            yield from ([found] if isinstance(found, str) else _secrets(found))
