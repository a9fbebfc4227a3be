"""Fault injection: which call fails, how, and how often, read from a YAML or JSON file.

seed: 7
rules:
  - server: comfyui          # comfyui, runpod, gemini or *
    operation: submit        # submit, status, download, upload, health, execute, cancel, create, list or *
    action: drop_after       # see `Action`
    after: 2                 # skip the first two matching calls
    times: 1                 # then hit this many (null: for ever)
    probability: 0.5         # of those, each with this chance (default 1)
    match: "shot-0[13]"      # only where this regular expression is found in the job label or prompt
    status: 503              # for action: status
    body: "upstream sad"     # for action: status and garbage
    headers: {Retry-After: "2"}
    delay_s: 1.5             # real seconds, for action: delay
"""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from hybrid_video.errors import InputError
from hybrid_video.models import Model

ServerName = Literal["comfyui", "runpod", "gemini"]

Action = Literal[
    "refuse",  # close the connection before reading: certainly not accepted
    "drop",  # close the connection without doing anything
    "drop_after",  # do it, then close the connection without an answer
    "status",  # answer with `status` and `body`, do nothing
    "delay",  # wait `delay_s` real seconds first, then go on as usual
    "hang",  # accept and do it, but never answer
    "truncate",  # send half of the body, then close
    "garbage",  # answer 200 with a body that makes no sense
    "fail",  # operation execute: the render fails with the vendor's ordinary error
    "oom",  # operation execute: out of memory
    "filter",  # operation execute: blocked by the content filter (Google)
    "black",  # operation execute: the clip is all black
    "lose",  # operation execute: the result is gone when asked for (expired, 404)
    "restart",  # the server forgets queue and history, as ComfyUI does
    "wedge",  # the worker stops for good while HTTP stays healthy
]


class FaultRule(Model):
    """One way to fail."""

    server: ServerName | Literal["*"] = "*"
    operation: str = "*"
    action: Action
    after: int = Field(0, ge=0)
    times: int | None = Field(1, ge=1)
    probability: float = Field(1.0, gt=0, le=1)
    match: str = ""
    status: int = Field(503, ge=400, le=599)
    body: str = ""
    headers: dict[str, str] = Field(default_factory=dict)
    delay_s: float = Field(0.0, ge=0, le=3600)


class _PlanFile(Model):
    seed: int = 0
    rules: tuple[FaultRule, ...] = ()


class FaultPlan:
    """Rules with their counters. Thread-safe; repeatable for the same seed and order of calls."""

    def __init__(self, rules: tuple[FaultRule, ...] = (), seed: int = 0) -> None:
        self._lock = threading.Lock()
        self._random = random.Random(seed)
        self._rules: list[FaultRule] = []
        self._seen: list[int] = []
        self._hits: list[int] = []
        for rule in rules:
            self.add(rule)

    @classmethod
    def from_file(cls, path: Path) -> FaultPlan:
        """Reads a plan.

        Raises:
            InputError: the file is unreadable or a rule is wrong.
        """
        try:
            data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            plan = _PlanFile.model_validate(data)
        except (OSError, UnicodeDecodeError, yaml.YAMLError, ValidationError) as error:
            raise InputError(f"fault file {str(path)!r} cannot be used: {error}") from None
        return cls(plan.rules, plan.seed)

    def add(self, rule: FaultRule) -> None:
        """Adds a rule; rules are tried in the order they were added."""
        with self._lock:
            self._rules.append(rule)
            self._seen.append(0)
            self._hits.append(0)

    def clear(self) -> None:
        """Removes every rule."""
        with self._lock:
            self._rules, self._seen, self._hits = [], [], []

    def take(self, server: ServerName, operation: str, job: str = "") -> FaultRule | None:
        """The rule that hits this call, if one does; counts the call."""
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.server not in ("*", server) or rule.operation not in ("*", operation):
                    continue
                if rule.match and not re.search(rule.match, job):
                    continue
                self._seen[index] += 1
                if self._seen[index] <= rule.after or self._hits[index] == rule.times:
                    continue
                if self._random.random() >= rule.probability:
                    continue
                self._hits[index] += 1
                return rule
        return None
