"""What a message may say outside this installation: no secrets, no prompts, no paths, nothing that was quoted.

Messages of exceptions are written by everybody: vendors, libraries, the interpreter. So nothing is searched for what
looks private; rather only what is likely to be harmless is let through. A message ends before its first quotation mark
or bracket, paths and addresses become `[path]`, and words that stand together in a prompt become `[text]`.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable

from hybrid_video.models import Batch
from hybrid_video.redaction import redact

WITHHELD = "[withheld]"
LONGEST = 300
TOGETHER = 3
"""So many words in a row of a prompt give it away; a shorter prompt is looked for as a whole."""
MOST_KEPT = 100_000
"""Word groups remembered, some 10 MB; prompts of batches long over are forgotten first."""

_QUOTE = re.compile(r"(?<!\w)['\"`‘“«<{\[]|\n")
_NAME = re.compile(r"(?<!\w)'([A-Za-z_][A-Za-z0-9_.]{0,60})'(?!\w)")
_PATH = re.compile(r"\S*[\\/@]\S*")
_FILE = re.compile(r"\S+\.(?:mp4|webm|webp|png|jpe?g|gif|json|ya?ml|csv|safetensors)\b", re.IGNORECASE)
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff"
"""Thai, Lao, Japanese and Chinese put no spaces between words: each character counts as one."""
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+")
_FROM_INTERPRETER = (AttributeError, NameError, TypeError, ImportError)
"""Their quotations are names in the code, such as `'NoneType' object has no attribute 'path'`."""

_lock = threading.Lock()
_groups: dict[int, None] = {}
"""Hashes of word groups in the order they came; one that meets another's hides a few words more."""
_keeping = False


def keep_private(texts: Iterable[str]) -> None:
    """From now on no words of these (prompts, names of files) leave in a message."""
    found = [hash(group) for text in texts for group in _grouped(_words(text))]
    with _lock:
        for group in found:
            _groups.pop(group, None)
            _groups[group] = None
        while len(_groups) > MOST_KEPT:
            del _groups[next(iter(_groups))]


def keep_batch_private(batch: Batch) -> None:
    """From now on nothing of what a batch's jobs say leaves in a message. Costs nothing where nothing leaves at all."""
    if not _keeping:
        return
    keep_private(text for job in batch.jobs for text in (job.prompt, job.negative_prompt, job.image) if text)


def keep(wanted: bool) -> None:
    """Whether anything may leave, so that batches are to be kept private; False forgets those that were."""
    global _keeping  # noqa: PLW0603 - one memory in a process
    with _lock:
        _keeping = wanted
        if not wanted:
            _groups.clear()


def of_error(error: BaseException) -> str:
    """What may be told of an exception beside its type."""
    text = _first_argument(error)
    names = isinstance(error, _FROM_INTERPRETER)
    return scrubbed(_NAME.sub(lambda match: f"‹{match.group(1)}›", text) if names else text)


def scrubbed(text: object) -> str:
    """The harmless part of a message."""
    # Words first: they are looked for in the whole text, before anything of it is cut away.
    whole = _without_words(redact(text, limit=4 * LONGEST))
    quoted = _QUOTE.search(whole.replace("[redacted]", "(redacted)").replace("[text]", "(text)"))
    told = whole if quoted is None else whole[: quoted.start()]
    told = _FILE.sub("[path]", _PATH.sub("[path]", told))
    told = told if len(told) <= LONGEST else told[: LONGEST - 1] + "…"
    return told if quoted is None else f"{told}{WITHHELD}"


def _first_argument(error: BaseException) -> str:
    """Not `str(error)` for an OSError: it appends the file's name."""
    if isinstance(error, OSError) and error.strerror:
        return f"[Errno {error.errno}] {error.strerror}".replace("[", "(").replace("]", ")")
    try:
        return str(error)
    except Exception:  # a foreign __str__ may fail
        return WITHHELD


def _words(text: str) -> list[str]:
    return [match.group().casefold() for match in _WORD.finditer(text)]


def _grouped(words: list[str]) -> Iterable[tuple[str, ...]]:
    if not words:
        return ()
    size = min(TOGETHER, len(words))
    return (tuple(words[at : at + size]) for at in range(len(words) - size + 1))


def _without_words(text: str) -> str:
    """The text with every run of words that stands in something private replaced."""
    found = list(_WORD.finditer(text))
    words = [match.group().casefold() for match in found]
    private = [False] * len(words)
    with _lock:
        if not _groups:
            return text
        for size in range(1, TOGETHER + 1):
            for at in range(len(words) - size + 1):
                if hash(tuple(words[at : at + size])) in _groups:
                    private[at : at + size] = [True] * size
    pieces, end, at = [], 0, 0
    while at < len(found):
        if not private[at]:
            at += 1
            continue
        pieces += [text[end : found[at].start()], "[text]"]
        while at < len(found) and private[at]:
            end = found[at].end()
            at += 1
    return "".join([*pieces, text[end:]])
