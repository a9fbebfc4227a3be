"""The schedules of this project on a Prefect server: which there are, what they do, and switching them on and off.

They are off until somebody switches them on. Switched on here they keep the studio's time zone; what somebody changed
in Prefect's own pages is kept too, also when the project is deployed again.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from hybrid_video.errors import ConfigurationError, InputError, NotFoundError
from hybrid_video.local_time import parse_clock
from hybrid_video.models import Model
from hybrid_video.prefect_api import answers, call
from hybrid_video.prefect_deploy import patch_schedule
from hybrid_video.settings import Settings

UP_STATE_FILE = "up.json"


@dataclass(frozen=True)
class Known:
    """A schedule that this project ships."""

    name: str
    deployment: str
    slug: str
    what: str
    by_default: bool = True
    messages: bool = False
    """Whether its outcome can be sent through a notification block."""

    @property
    def path(self) -> str:
        """As Prefect names its deployment."""
        return f"{self.name}/{self.deployment}"


KNOWN: Final = (
    Known("nightly-batch", "every-night", "nightly", "makes the batches of the inbox", messages=True),
    Known("daily-report", "every-morning", "daily", "reports what yesterday came to", messages=True),
    Known("reconcile", "every-hour", "hourly", "settles what crashes left open"),
    Known("refresh-prices", "every-week", "weekly", "fetches RunPod's prices"),
    Known("prune", "every-month", "monthly", "backs up the ledger, deletes details of old batches"),
    Known(
        "watch-backends",
        "every-5-minutes",
        "every-5-minutes",
        "watches backends and pods, where neither `up` nor `watch` runs",
        by_default=False,
    ),
)


class ScheduleLine(Model):
    """One schedule as it stands on the server."""

    name: str
    what: str
    active: bool
    cron: str
    zone: str
    notify: str = ""
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_state: str = ""
    last_message: str = ""


def server_url(settings: Settings) -> str:
    """The Prefect server to talk to: PREFECT_API_URL, or the one that `up` runs here.

    Raises:
        ConfigurationError: there is none.
    """
    url = os.environ.get("PREFECT_API_URL", "").rstrip("/")
    if url:
        return url
    try:
        state = json.loads((settings.storage.home / UP_STATE_FILE).read_text(encoding="utf-8"))
        url = f"{state['prefect']}/api"
        if answers(url):
            return url
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigurationError(
        "no Prefect server is known: start everything with `hybrid-video up`, or set PREFECT_API_URL, for example to "
        "http://127.0.0.1:4200/api"
    )


def list_schedules(url: str) -> list[ScheduleLine]:
    """Every schedule of this project.

    Raises:
        ConfigurationError: the server does not answer, or the project is not deployed there.
    """
    return [_line(url, known, *_found(url, known)) for known in KNOWN]


def switch(
    url: str,
    names: Sequence[str],
    *,
    active: bool,
    zone: ZoneInfo,
    at: str | None = None,
    notify: str | None = None,
) -> list[ScheduleLine]:
    """Switches schedules on or off and returns all of them.

    Args:
        names: which; on without a name: all but the watcher's; off without a name: all.
        zone: time zone for those that are switched on.
        at: the studio's clock, like 23:00, instead of the present time of day.
        notify: block for the messages of those that send any, "" for none; unchanged when None.

    Raises:
        InputError: a name or a time of day is not understood, or does not fit.
        ConfigurationError: the server does not answer, or the project is not deployed there.
    """
    chosen = _chosen(names, active=active)
    if at is not None and len(names) != 1:
        raise InputError("--at: name the one schedule that it is for, for example nightly-batch")
    if notify and names and not any(known.messages for known in chosen):
        raise InputError(f"--notify: {', '.join(names)} sends no messages; nightly-batch and daily-report do")
    for known in chosen:
        deployment, schedule = _found(url, known)
        parameters = dict(schedule["parameters"] or {})
        if notify is not None and known.messages:
            parameters = {**parameters, "notify": notify}
        wanted = dict(schedule["schedule"])
        if active:
            wanted |= {"timezone": zone.key, "cron": _cron(wanted.get("cron", ""), at, known.name)}
        patch_schedule(url, deployment["id"], schedule["id"], active=active, parameters=parameters, schedule=wanted)
    return list_schedules(url)


def _chosen(names: Sequence[str], *, active: bool) -> list[Known]:
    by_name = {known.name: known for known in KNOWN}
    for name in names:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(by_name)}"
            raise NotFoundError(f"no schedule is called {name!r}; {hint}")
    if names:
        return [by_name[name] for name in dict.fromkeys(names)]
    return [known for known in KNOWN if known.by_default or not active]


def _cron(cron: str, at: str | None, name: str) -> str:
    """The cron expression with another time of day."""
    if at is None:
        return cron
    clock, fields = parse_clock(at), cron.split()
    if len(fields) != 5 or not fields[1].isdigit():
        raise InputError(f"--at: {name} runs by {cron!r}, not once a day; change it in Prefect's own pages")
    return " ".join([str(clock.minute), str(clock.hour), *fields[2:]])


def _found(url: str, known: Known) -> tuple[dict[str, Any], dict[str, Any]]:
    deployment = call(url, "GET", f"/deployments/name/{known.path}", allow=(404,))
    schedules = deployment["schedules"] if deployment else []
    wanted = next((schedule for schedule in schedules if schedule["slug"] == known.slug), None)
    if wanted is None:
        raise ConfigurationError(
            f"the Prefect server at {url!r} has no schedule of {known.path!r}; run `hybrid-video deploy` first"
        )
    return deployment, wanted


def _line(url: str, known: Known, deployment: dict[str, Any], schedule: dict[str, Any]) -> ScheduleLine:
    upcoming = _runs(url, deployment["id"], ["SCHEDULED"], "EXPECTED_START_TIME_ASC") if schedule["active"] else []
    ended = _runs(url, deployment["id"], ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"], "START_TIME_DESC")
    last = ended[0] if ended else None
    kind = schedule["schedule"]
    return ScheduleLine(
        name=known.name,
        what=known.what,
        active=schedule["active"],
        cron=kind.get("cron") or "see Prefect",
        zone=kind.get("timezone") or "UTC",
        notify=str((schedule["parameters"] or {}).get("notify") or ""),
        next_at=_time(upcoming[0]["expected_start_time"]) if upcoming else None,
        last_at=_time(last["end_time"] or last["start_time"]) if last else None,
        last_state=str(last["state_name"]) if last else "",
        last_message=str((last["state"] or {}).get("message") or "")[:300] if last else "",
    )


def _runs(url: str, deployment: str, states: list[str], sort: str) -> list[dict[str, Any]]:
    query = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": states}}},
        "sort": sort,
        "limit": 1,
    }
    found: list[dict[str, Any]] = call(url, "POST", "/flow_runs/filter", query)
    return found


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
