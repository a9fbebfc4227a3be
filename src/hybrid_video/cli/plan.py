"""`hybrid-video plan`."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from hybrid_video import planner
from hybrid_video.advice import advise
from hybrid_video.batchfile import load_batch
from hybrid_video.cli.app import app
from hybrid_video.cli.output import console, print_json
from hybrid_video.cli.run import BudgetOption, DeadlineOption, JsonOption, parse_seconds, parse_usd
from hybrid_video.engine.report import money
from hybrid_video.errors import InputError, LedgerError
from hybrid_video.estimates import default_slots, parse_slots, pod_offer, resources, tier_quote
from hybrid_video.history import History
from hybrid_video.history.queries import learned_times
from hybrid_video.models import MAX_JOBS, Quote, Tier, VideoJob
from hybrid_video.planner import Frontier, Plan, Resource
from hybrid_video.pod_plans import PodPlan, cheapest_with_pods, frontier_with_pods
from hybrid_video.preferences import effective
from hybrid_video.pricing.catalog import PriceBook
from hybrid_video.pricing.quoting import Quoter
from hybrid_video.pricing.refresh import load_prices
from hybrid_video.pricing.timings import ServiceTimes
from hybrid_video.scaling.state import PodOffer
from hybrid_video.settings import Settings


@app.command()
def plan(
    file: Annotated[Path | None, typer.Argument(help="Batch file; or give --jobs.", show_default=False)] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", help="Number of default clips instead of a file.")] = None,
    prices: Annotated[str | None, typer.Option("--prices", help="Price profile: current or seed.")] = None,
    slots: Annotated[
        str | None, typer.Option("--slots", help="Clips at once per tier, for example local=3,cloud=5,gemini=10.")
    ] = None,
    deadline: DeadlineOption = None,
    budget: BudgetOption = None,
    pods: Annotated[
        int | None,
        typer.Option("--pods", help="Also plan with up to so many RunPod pods opened for it, their starts included."),
    ] = None,
    json_output: JsonOption = False,
) -> int:
    """Show the cheapest split for a deadline, the fastest for a budget, and everything between. Spends nothing."""
    settings = effective(Settings.load())
    shots = _jobs(file, jobs)
    deadline_s = None if deadline is None else parse_seconds("--deadline", deadline)
    cap = None if budget is None else parse_usd("--budget", budget)
    book = load_prices(_profile(prices, settings), settings)
    quoter = Quoter(book, ServiceTimes() if book.profile == "seed" else _known_times(settings))
    counts = default_slots(settings) if slots is None else parse_slots(slots)
    distinct = _distinct(shots)
    quotes = {tier: [tier_quote(quoter, settings, tier, job) for job in distinct] for tier in Tier}
    pool = resources(quotes, counts)
    frontier = planner.frontier(pool, len(shots))
    chosen, note = choose(pool, len(shots), frontier, deadline_s, cap, settings.routing.value_of_time_usd_per_h)
    gemini = resources({Tier.GEMINI: quotes[Tier.GEMINI]}, {Tier.GEMINI: max(1, counts.get(Tier.GEMINI, 0))})[0]
    answer = describe(chosen, frontier, planner.all_on(gemini, len(shots)), note)
    answer["advice"] = advise(pool, len(shots), chosen)
    if pods is not None:
        offer = _pod_offer(settings, book, quotes[Tier.CLOUD], pods)
        answer["pods"] = _with_pods(pool, offer, len(shots), pods, deadline_s or chosen.duration_s)
    _show(answer, pool)
    if json_output:
        print_json(answer)
    return 0


def choose(
    pool: list[Resource],
    jobs: int,
    frontier: Frontier,
    deadline_s: float | None,
    budget_usd: Decimal | None,
    value_of_time_usd_per_h: float,
) -> tuple[Plan, str]:
    """The plan for a goal, and a sentence where the goal cannot be met: the nearest feasible one is given instead."""
    if deadline_s is not None:
        found = planner.cheapest_by(pool, jobs, deadline_s)
        if found is None:
            fastest = frontier.points[0]
            return (
                fastest,
                f"the deadline of {deadline_s:g} s cannot be met; the fastest plan takes {fastest.duration_s:g} s",
            )
        if budget_usd is not None and found.cost_usd > budget_usd:
            return found, f"the deadline costs ${money(found.cost_usd)}, more than the budget of ${money(budget_usd)}"
        return found, ""
    if budget_usd is not None:
        within = planner.within_budget(pool, jobs, budget_usd)
        if within is None:
            cheapest = frontier.points[-1]
            return (
                cheapest,
                f"the budget of ${money(budget_usd)} is too small; the cheapest plan costs ${money(cheapest.cost_usd)}",
            )
        return within, ""
    return planner.balanced(pool, jobs, value_of_time_usd_per_h), ""


def describe(chosen: Plan, frontier: Frontier, all_gemini: Plan, note: str) -> dict[str, Any]:
    """The contract's answer. Savings stand beside both durations, because cheaper is usually slower."""
    saved = all_gemini.cost_usd - chosen.cost_usd
    percent = round(float(saved / all_gemini.cost_usd * 100), 1) if all_gemini.cost_usd else 0.0
    return {
        "split": chosen.split,
        "cost_usd": money(chosen.cost_usd),
        "duration_s": round(chosen.duration_s, 3),
        "all_gemini_usd": money(all_gemini.cost_usd),
        "all_gemini_duration_s": round(all_gemini.duration_s, 3),
        "savings_percent": percent,
        "feasible": not note,
        "note": note,
        "kink": _point(frontier.kink),
        "frontier": [_point(point) for point in frontier.points],
    }


def _point(point: Plan) -> dict[str, Any]:
    return {"duration_s": round(point.duration_s, 3), "cost_usd": money(point.cost_usd), "split": point.split}


def _pod_offer(settings: Settings, book: PriceBook, quotes: list[Quote], pods: int) -> PodOffer:
    """The cheapest pod of the configured GPUs, with the time that the cloud tier's quotes say."""
    if not 0 <= pods <= 100:
        raise InputError(f"--pods: {pods} is not between 0 and 100")
    offer = pod_offer(settings, book, quotes)
    if offer is None:
        raise InputError(
            "--pods: no GPU of HYBRID_VIDEO_PODS_GPUS has a known price up to "
            f"${settings.pods.max_price_usd_per_h} an hour; see `hybrid-video prices`"
        )
    return offer


def _with_pods(pool: list[Resource], offer: PodOffer, jobs: int, most: int, deadline_s: float) -> dict[str, Any]:
    """The cheapest plan with pods for a duration, and every duration worth paying for."""
    found = cheapest_with_pods(pool, offer, jobs, deadline_s, most=most)
    points = frontier_with_pods(pool, offer, jobs, most=most)
    return {
        "price_usd_per_h": money(offer.price_usd_per_h),
        "cold_start_s": offer.cold_start_s,
        "service_s": round(offer.service_s, 3),
        "billing": offer.billing,
        "within_s": round(deadline_s, 3),
        "plan": None if found is None else _pod_point(found),
        "frontier": [_pod_point(point) for point in points],
    }


def _pod_point(point: PodPlan) -> dict[str, Any]:
    return {
        "duration_s": round(point.duration_s, 3),
        "cost_usd": money(round(point.cost_usd, 9)),
        "pods": point.pods,
        "opening_usd": money(round(point.opening_usd, 9)),
        "split": point.split,
    }


def _pod_sentence(answer: dict[str, Any]) -> str:
    """What opening pods would change, for people."""
    pods, found = answer["pods"], answer["pods"]["plan"]
    what = f"pods at ${pods['price_usd_per_h']}/h, {pods['cold_start_s']:g} s to start"
    if found is None:
        fastest = pods["frontier"][0]
        return f"{what}: not within {pods['within_s']:g} s; the fastest takes {fastest['duration_s']:g} s"
    if not found["pods"]:
        return f"{what}: none is worth opening for {pods['within_s']:g} s"
    split = ", ".join(f"{count} {key}" for key, count in found["split"].items() if count)
    return f"{what}: {found['pods']} of them make it ${found['cost_usd']} in {found['duration_s']:g} s ({split})"


def _jobs(file: Path | None, count: int | None) -> list[VideoJob]:
    if file is not None and count is not None:
        raise InputError("give a batch file or --jobs, not both")
    if file is not None:
        return list(load_batch(file).jobs)
    if count is None:
        raise InputError("give a batch file, or --jobs with the number of clips")
    if not 1 <= count <= MAX_JOBS:
        raise InputError(f"--jobs: {count} is not between 1 and {MAX_JOBS}")
    return [VideoJob(id=f"shot-{number}", prompt="planned") for number in range(1, count + 1)]


def _distinct(shots: list[VideoJob]) -> list[VideoJob]:
    """One job of each size where all have the same, else all: the mean quote is what counts."""
    shapes = {(job.width, job.height, job.frames, job.duration_s, job.workflow) for job in shots}
    return shots[:1] if len(shapes) == 1 else shots


def _known_times(settings: Settings) -> ServiceTimes:
    """What earlier batches taught; the published times where there is no history or it cannot be read."""
    if not settings.storage.history_path.exists():
        return ServiceTimes()
    try:
        return learned_times(History(settings.storage.history_path))
    except LedgerError:
        return ServiceTimes()


def _profile(prices: str | None, settings: Settings) -> Literal["current", "seed"]:
    if prices is None:
        return settings.routing.prices
    if prices == "seed":
        return "seed"
    if prices == "current":
        return "current"
    raise InputError(f"--prices: {prices!r} is not a price profile; use current or seed")


def _show(answer: dict[str, Any], pool: list[Resource]) -> None:
    table = Table(title="Frontier: what each duration costs", title_justify="left")
    for name in ("duration", "cost", *(resource.key for resource in pool)):
        table.add_column(name, justify="right")
    points = answer["frontier"]
    step = max(1, len(points) // 25)
    for point in [*points[:-1:step], points[-1]]:
        mark = "bold" if point["duration_s"] == answer["duration_s"] else ""
        counts = (str(point["split"][resource.key]) for resource in pool)
        table.add_row(f"{point['duration_s']:g} s", f"${point['cost_usd']}", *counts, style=mark)
    console.print(table)
    split = ", ".join(f"{count} {tier}" for tier, count in answer["split"].items())
    console.print(f"[bold]{split}: ${answer['cost_usd']} in {answer['duration_s']:g} s[/]")
    console.print(
        f"everything on Google: ${answer['all_gemini_usd']} in {answer['all_gemini_duration_s']:g} s; the plan saves "
        f"{answer['savings_percent']} % of the money"
    )
    if "pods" in answer:
        console.print(_pod_sentence(answer))
    if answer["note"]:
        console.print(f"[yellow]{answer['note']}[/]")
    for sentence in answer["advice"]:
        console.print(sentence)
