"""`hybrid-video pods list | start | stop | stop-all`."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import suppress
from datetime import timedelta
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.table import Table

from hybrid_video.backends.runpod.pods import PodsClient
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import JsonOption, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.engine.session import open_ledger
from hybrid_video.errors import BackendError, ConfigurationError, InputError
from hybrid_video.installation import installation_id
from hybrid_video.ledger import Ledger
from hybrid_video.pods.accounting import Tariff
from hybrid_video.pods.listing import PodLine, PodListing, list_pods, pod_lines
from hybrid_video.pods.orphans import Stopped, stop_everything
from hybrid_video.pods.pool import PodPool
from hybrid_video.pods.records import PodRecord
from hybrid_video.preferences import effective
from hybrid_video.settings import PodPoolSettings, Settings

pods_app = typer.Typer(
    help="Rented GPU machines at RunPod: see, open and end them. Pods of others are never touched.",
    no_args_is_help=True,
)
app.add_typer(pods_app, name="pods")

MOST_SHOWN = 50
LOOK_EVERY_S = 2.0
STYLES = {"ready": "green", "starting": "cyan", "creating": "yellow", "closing": "yellow", "failed": "red"}


@pods_app.command("list")
def list_command(
    days: Annotated[float, typer.Option("--days", help="Also show pods that ended within so many days.")] = 1.0,
    json_output: JsonOption = False,
) -> int:
    """Show every pod of this installation with its state, lease and cost so far, and what else RunPod lists."""
    if not 0 <= days <= 3650:
        raise InputError(f"--days: {days!r} is not between 0 and 3650; give days")
    settings = Settings.load()
    ledger = open_ledger(settings)
    try:
        listing = asyncio.run(list_pods(settings, ledger, since=timedelta(days=days)))
    finally:
        ledger.close()
    _show(listing)
    if json_output:
        print_json(listing.to_json())
    return 0


@pods_app.command()
def start(
    gpu: Annotated[
        list[str] | None, typer.Option("--gpu", help="GPU type by RunPod's name; repeat for more. Default: settings'.")
    ] = None,
    cloud: Annotated[list[str] | None, typer.Option("--cloud", help="SECURE or COMMUNITY; repeat for both.")] = None,
    data_center: Annotated[
        list[str] | None, typer.Option("--data-center", help="Data centre, for example EU-RO-1; repeat for more.")
    ] = None,
    max_price: Annotated[
        str | None, typer.Option("--max-price", metavar="USD", help="Dearest pod to take, US dollars per hour.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it renders.")] = True,
    json_output: JsonOption = False,
) -> int:
    """Open one pod by hand, at the cheapest place that has one. Exit 1: it did not become ready.

    It ends itself when nobody renews its lease: a running batch or the watcher does.
    """
    settings = effective(Settings.load())
    wishes = _wishes(settings.pods, gpu, cloud, data_center, max_price)
    ledger = open_ledger(settings)
    try:
        pod = asyncio.run(_start(settings, ledger, wishes, wait=wait))
        lines = {line.name: line for line in pod_lines(settings, ledger)}
    finally:
        ledger.close()
    lease = f"{settings.pods.lease_s:g} s"
    good = pod.state == "ready" or (not wait and pod.alive)
    text = f"pod {pod.name!r} ({pod.pod_id or 'not confirmed yet'}) is {pod.state}: {pod.gpu}"
    if good:
        _say(f"{text}, ${pod.usd_per_h:.4f} per hour; it ends itself {lease} after the last renewal of its lease")
    else:
        _say(f"{text}; {pod.closed_because or pod.error}")
    if json_output:
        print_json(lines[pod.name].to_json())
    return 0 if good else 1


@pods_app.command()
def stop(
    pod: Annotated[str, typer.Argument(metavar="ID", help="RunPod's id, or the name, as `pods list` shows them.")],
    drain: Annotated[bool, typer.Option("--drain", help="Let the jobs on it end first; give it no new ones.")] = False,
    json_output: JsonOption = False,
) -> int:
    """End one pod of this installation. Jobs on it are made again elsewhere, unless you add --drain."""
    settings = Settings.load()
    ledger = open_ledger(settings)
    try:
        record = asyncio.run(_stop(settings, ledger, pod, drain=drain))
        cost = Tariff.of(settings).cost(record)
    finally:
        ledger.close()
    if record.state == "draining":
        _say(f"pod {record.name!r} gets no new jobs and is ended when its last one is over")
    elif record.alive:
        _say(
            f"RunPod has not confirmed the end of pod {record.name!r} yet ({record.error or 'it is not listed'}); "
            "`hybrid-video reconcile` tries again, and its lease ends it in any case"
        )
    else:
        _say(f"pod {record.name!r} is {record.state} and cost about ${money(cost)}")
    if json_output:
        print_json({"name": record.name, "pod_id": record.pod_id, "state": record.state, "cost_usd": money(cost)})
    return 0 if record.state in ("closed", "failed", "draining") else 1


@pods_app.command("stop-all")
def stop_all(
    all_installations: Annotated[
        bool,
        typer.Option("--all-installations", help="Also pods that other installations of hybrid-video have opened."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json_output: JsonOption = False,
) -> int:
    """End every pod of this installation, even when the ledger is lost: RUNPOD_API_KEY is all it needs.

    Exit 1: RunPod did not confirm all of them.
    """
    settings = Settings.load()
    if all_installations and not yes:
        _confirm("End the pods of every hybrid-video installation on this RunPod account?")
    stopped = asyncio.run(_stop_all(settings, all_installations=all_installations))
    total = sum((pod.cost_usd_per_h for pod in stopped.ended), start=0)
    _say(f"{len(stopped.ended)} pods ended, which cost ${total:.4f} per hour; {len(stopped.failed)} not confirmed")
    for text in stopped.failed:
        _say(f"{text}; run this command again, or end it in the RunPod console")
    if stopped.left_alone:
        names = ", ".join(pod.name for pod in stopped.left_alone[:5])
        _say(f"{len(stopped.left_alone)} pods of other installations run on ({names}); --all-installations ends them")
    if json_output:
        ended = [{"id": pod.id, "name": pod.name, "usd_per_h": money(pod.cost_usd_per_h)} for pod in stopped.ended]
        left = [{"id": pod.id, "name": pod.name} for pod in stopped.left_alone]
        print_json({"ended": ended, "failed": list(stopped.failed), "left_alone": left})
    return 1 if stopped.failed else 0


async def _start(settings: Settings, ledger: Ledger, wishes: PodPoolSettings, *, wait: bool) -> PodRecord:
    pool = PodPool(settings, ledger)
    try:
        pod = await pool.open("started by hand", pods=wishes)
        _say(f"opened {pod.name!r}: {pod.gpu}, {pod.cloud.lower()} cloud, ${pod.price_usd_per_h:f} per hour")
        told, began = "", time.monotonic()
        while wait and pod.state in ("creating", "starting"):
            await pool.tick()
            pod = pool.store.get(pod.name) or pod
            text = f"{pod.state}: {pod.error or 'waiting for the container'}"
            if text != told and pod.state in ("creating", "starting"):
                _say(f"{time.monotonic() - began:.0f} s, {text}")
                told = text
            await asyncio.sleep(LOOK_EVERY_S / settings.routing.time_scale)
        return pod
    finally:
        await pool.aclose()


async def _stop(settings: Settings, ledger: Ledger, text: str, *, drain: bool) -> PodRecord:
    pool = PodPool(settings, ledger)
    try:
        name = await _name_of(settings, ledger, text)
        try:
            if drain:
                return await pool.drain(name, "drained by hand")
            return await pool.close(name, "stopped by hand")
        except BackendError as error:
            record = pool.store.get(name)
            if record is None or record.state != "closing":
                raise
            _say(error.message)
            return record
    finally:
        await pool.aclose()


async def _name_of(settings: Settings, ledger: Ledger, text: str) -> str:
    """The name of the pod that is meant.

    Raises:
        InputError: there is none, or it is not this installation's.
    """
    listing = await list_pods(settings, ledger)
    for line in (*listing.alive, *listing.ended):
        if text in (line.name, line.pod_id):
            return line.name
    for pod in listing.without_record:
        if text in (pod.name, pod.id):
            await _take_in(settings, ledger)
            return pod.name
    for pod in listing.other_installations:
        if text in (pod.name, pod.id):
            raise InputError(
                f"pod {text!r} belongs to another installation of hybrid-video and is left alone; stop it there, or "
                "end all of them with `hybrid-video pods stop-all --all-installations`"
            )
    hint = f" ({listing.notice})" if listing.notice else ""
    raise InputError(
        f"no pod of this installation has the id {text!r}{hint}; `hybrid-video pods list` shows them, and pods of "
        "others are never touched"
    )


async def _take_in(settings: Settings, ledger: Ledger) -> None:
    """Gives pods of ours without a record one, so that they are ended and paid for like the others."""
    pool = PodPool(settings, ledger)
    try:
        await pool.tick()
    finally:
        await pool.aclose()


async def _stop_all(settings: Settings, *, all_installations: bool) -> Stopped:
    """With the ledger where it can be opened, and without it where not."""
    try:
        ledger: Ledger | None = open_ledger(settings)
    except ConfigurationError as error:
        _say(f"the ledger is left out: {error}")
        ledger = None
    if ledger is None:
        return await _stop_without_ledger(settings, all_installations)
    pool = PodPool(settings, ledger)
    try:
        return await pool.stop_all(all_installations=all_installations, tell=_say)
    finally:
        await pool.aclose()
        ledger.close()


async def _stop_without_ledger(settings: Settings, all_installations: bool) -> Stopped:
    client = PodsClient.from_settings(settings.runpod)
    installation = ""
    with suppress(OSError):
        installation = installation_id(settings.storage.home)
    try:
        return await stop_everything(client, installation=installation, all_installations=all_installations, tell=_say)
    finally:
        await client.close()


def _wishes(
    pods: PodPoolSettings,
    gpus: list[str] | None,
    clouds: list[str] | None,
    data_centers: list[str] | None,
    max_price: str | None,
) -> PodPoolSettings:
    """The settings with what the command line names.

    Raises:
        InputError: a cloud or price makes no sense.
    """
    changes: dict[str, Any] = {}
    if gpus:
        changes["gpus"] = tuple(gpus)
    if clouds:
        changes["clouds"] = tuple(cloud.upper() for cloud in clouds)
    if data_centers:
        changes["data_centers"] = tuple(data_centers)
    if max_price is not None:
        changes["max_price_usd_per_h"] = parse_usd("--max-price", max_price)
    try:
        return PodPoolSettings.model_validate({**pods.model_dump(), **changes})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0]).replace("_", "-")
        raise InputError(f"--{name}: {problem['input']!r} is not accepted: {problem['msg']}") from None


def _confirm(question: str) -> None:
    """Asks; without a terminal nobody can answer.

    Raises:
        InputError: there is no terminal.
        typer.Abort: the answer is no.
    """
    if not sys.stdin.isatty():
        raise InputError(f"{question} There is no terminal to ask on; add --yes if that is what you want")
    if not typer.confirm(question, err=True):
        raise typer.Exit(2)


def _show(listing: PodListing) -> None:
    for title, lines in (("Pods", listing.alive), ("Ended", listing.ended)):
        if lines:
            console.print(_table(title, lines[-MOST_SHOWN:]))
    if not listing.alive:
        _say(f"no pod is open; at most {listing.max_pods} may be (HYBRID_VIDEO_PODS_MAX_PODS)")
    for line in listing.alive:
        if line.error:
            _say(f"{line.name}: {line.error}")
    for pod in listing.without_record:
        _say(
            f"pod {pod.name!r} ({pod.id}, ${money(pod.cost_usd_per_h)} per hour) carries this installation's name and "
            "has no living record; `hybrid-video reconcile` ends it"
        )
    for pod in listing.other_installations:
        _say(
            f"pod {pod.name!r} ({pod.id}, ${money(pod.cost_usd_per_h)} per hour) is another installation's and left "
            "alone"
        )
    if listing.notice:
        _say(listing.notice)
    elif listing.spend_usd_per_h is not None:
        _say(
            f"{len(listing.alive)} of at most {listing.max_pods} pods, ${money(listing.spend_usd_per_h)} per hour now, "
            f"${money(listing.cost_usd)} so far; {listing.foreign} pods of others on the account"
        )


def _table(title: str, lines: tuple[PodLine, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in ("pod", "state", "gpu", "where", "age", "lease", "jobs", "cost", "overhead", "because"):
        right = name in ("age", "lease", "jobs", "cost", "overhead")
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(
            line.pod_id or line.name,
            f"[{STYLES.get(line.state, 'default')}]{line.state}[/]",
            line.gpu.removeprefix("NVIDIA ").removeprefix("GeForce "),
            f"{line.cloud.lower()} {line.data_center}",
            _duration(line.age_s),
            _duration(line.lease_left_s) if line.lease_left_s is not None else "",
            str(line.jobs),
            f"${line.cost_usd:.4f}",
            f"${line.overhead_usd:.4f}",
            line.closed_because or line.opened_because,
        )
    return table


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}" if whole >= 0 else "over"


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
