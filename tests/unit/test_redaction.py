"""Secrets never reach a text: registered ones anywhere, unknown ones where they look like credentials."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_video import redaction
from hybrid_video.redaction import MASK, RedactingFilter, redact

secrets = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=6, max_size=40).filter(
    lambda text: text not in MASK and MASK not in text
)


@pytest.fixture(autouse=True)
def _forget_again() -> Iterator[None]:
    """Secrets of these tests would be hidden in the texts of others."""
    known = set(redaction._known)
    yield
    redaction._known.intersection_update(known)


@given(secrets, st.text(max_size=60), st.text(max_size=60))
def test_a_registered_secret_is_never_in_the_result(secret: str, before: str, after: str) -> None:
    """Plain or URL-encoded, wherever it stands."""
    redaction.register(secret)
    for form in (secret, quote(secret, safe="")):
        assert form not in redact(f"{before}{form}{after}").replace(MASK, "\0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {MASK}"),
        ("sent Bearer abcdef.123456 to it", f"sent Bearer {MASK} to it"),
        ('{"api_key": "sk-1234567890"}', f'{{"api_key": "{MASK}"}}'),
        ("https://x/y.mp4?X-Amz-Signature=deadbeef&a=1", f"https://x/y.mp4?X-Amz-Signature={MASK}&a=1"),
        ("GET /v1?key=AIzaSyABCDEF&alt=media", f"GET /v1?key={MASK}&alt=media"),
        ("postgresql://user:hunter2@db/ledger", f"postgresql://user:{MASK}@db/ledger"),
        ("x-goog-api-key: AIzaSyABCDEF", f"x-goog-api-key: {MASK}"),
    ],
)
def test_what_looks_like_a_credential_is_hidden(text: str, expected: str) -> None:
    """Headers, query parameters, JSON fields and addresses with passwords."""
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    ["jobs[2].duration_s: -3 is not above 0", "a monkey with a key in its hand", "max_tokens: 4096, seed 12345678"],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    """Nothing is hidden that is no credential."""
    assert redact(text) == text


def test_long_texts_are_cut() -> None:
    """A vendor's page of HTML does not fill the ledger."""
    assert len(redact("x" * 10_000, limit=100)) == 100
    assert redact("x" * 10_000, limit=100).endswith("…")


def test_short_values_are_not_registered() -> None:
    """A key of a few letters would blank half of every text."""
    redaction.register("abc")
    redaction.register("")
    redaction.register(None)
    assert redact("abc abc") == "abc abc"


def test_the_log_filter_hides_secrets_in_messages_arguments_and_tracebacks(caplog: pytest.LogCaptureFixture) -> None:
    """What is written is redacted as a whole."""
    secret = "sk-log-secret-0815"
    redaction.register(secret)
    logger = logging.getLogger("test.redaction")
    caplog.handler.addFilter(RedactingFilter())
    with caplog.at_level(logging.INFO, logger="test.redaction"):
        logger.info("sent %s with %s", secret, {"token": secret})
        try:
            raise RuntimeError(f"refused {secret}")
        except RuntimeError:
            logger.exception("failed with %s", secret)
    assert secret not in caplog.text
    assert "RuntimeError: refused" in caplog.text
    assert caplog.text.count(MASK) >= 3
