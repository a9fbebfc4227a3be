"""Each kind of trouble alone: what it may cost, and that it costs no more."""

from __future__ import annotations

from typing import Any

import pytest
from chaos_rig import SERVERS, Studio

from hybrid_video.models import AttemptState, JobState, Tier

PAID = (Tier.CLOUD, Tier.GEMINI)
STORM: dict[str, Any] = {"action": "status", "status": 429, "headers": {"Retry-After": "0.05"}}

READS = {
    "429 storm": {"operation": "status", **STORM, "times": 8},
    "503s": {"operation": "status", "action": "status", "status": 503, "times": 4},
    "garbage bodies": {"operation": "status", "action": "garbage", "times": 3},
    "cut connections": {"operation": "status", "action": "drop", "times": 3},
    "truncated downloads": {"operation": "download", "action": "truncate", "times": 2},
    "cut downloads": {"operation": "download", "action": "drop", "times": 2},
    "downloads refused for now": {"operation": "download", "action": "status", "status": 503, "times": 2},
}


@pytest.mark.parametrize("trouble", READS)
async def test_trouble_with_looking_and_fetching_costs_no_second_price(studio: Studio, trouble: str) -> None:
    """On all tiers at once: every clip arrives from its one submission."""
    for server in SERVERS.values():
        studio.fault(server=server, **READS[trouble])
    studio.made_for_one_price(await studio.run(studio.batch()))


@pytest.mark.parametrize("tier", Tier)
async def test_a_storm_of_429_at_submit_is_waited_out(studio: Studio, tier: Tier) -> None:
    """A refused submit was certainly not accepted, so it is made again, and paid once."""
    studio.use(tier)
    studio.fault(server=SERVERS[tier], operation="submit", **STORM, times=2)
    studio.made_for_one_price(await studio.run(studio.batch([tier])))


async def test_the_own_gpu_is_asked_by_our_id_when_its_answer_is_lost(studio: Studio) -> None:
    """ComfyUI took the job and cut the line: it is found again, in the same attempt."""
    studio.use(Tier.LOCAL)
    studio.fault(server="comfyui", operation="submit", action="drop_after")
    studio.made_for_one_price(await studio.run(studio.batch([Tier.LOCAL])))
    assert len(studio.attempts("s0")) == 1


@pytest.mark.parametrize("tier", PAID)
async def test_a_paid_submit_whose_answer_is_lost_is_never_sent_again(studio: Studio, tier: Tier) -> None:
    """Neither in the same run nor in the next; a person books what the vendor charged, and the books agree."""
    studio.fault(server=SERVERS[tier], operation="submit", action="drop_after")
    for _ in range(2):
        report = await studio.run(studio.batch([tier]))
        assert [error.kind for error in report.errors] == ["uncertain"]
        assert studio.charged() == {"s0": 1}
    assert studio.audit().leaked_usd > 0
    assert studio.person.book_accepted("film", studio.vendors.final_charges()) == 1
    assert studio.audit().clean, studio.audit()


@pytest.mark.parametrize("tier", PAID)
@pytest.mark.parametrize("action", ["refuse", "garbage"])
async def test_a_submit_that_never_arrived_is_made_once_a_person_says_so(
    studio: Studio, tier: Tier, action: str
) -> None:
    """Nobody can tell it from an accepted one, so it waits; released by a person it is made, and paid once."""
    studio.fault(server=SERVERS[tier], operation="submit", action=action)
    report = await studio.run(studio.batch([tier]))
    assert [error.kind for error in report.errors] == ["uncertain"]
    assert studio.person.release_never_accepted("film", studio.vendors.charges()) == 1
    studio.made_for_one_price(await studio.run(studio.batch([tier])))


async def test_a_restarted_comfyui_gets_its_jobs_again(studio: Studio) -> None:
    """Queue and history are gone in the middle of a run: the jobs are made again there, for nothing."""
    studio.use(Tier.LOCAL)
    studio.fault(server="comfyui", operation="execute", action="restart")
    report = await studio.run(studio.batch([Tier.LOCAL] * 3))
    assert report.errors == ()
    assert report.cost_usd == 0
    assert studio.audit().clean, studio.audit()


@pytest.mark.parametrize("tier", PAID)
async def test_an_expired_result_is_booked_and_made_again(studio: Studio, tier: Tier) -> None:
    """The vendor made it, charged it and deleted it: both attempts are on the books at what they cost."""
    studio.use(tier)
    studio.fault(server=SERVERS[tier], operation="execute", action="lose")
    report = await studio.run(studio.batch([tier]))
    assert report.errors == ()
    assert [attempt.state for attempt in studio.attempts("s0")] == [AttemptState.FAILED, AttemptState.SETTLED]
    found = studio.audit()
    assert (found.leaked_usd, found.findings) == (0, ())
    if tier is Tier.GEMINI:
        assert found.difference_usd == 0


DETERMINISTIC: tuple[tuple[Tier, dict[str, Any]], ...] = (
    (Tier.LOCAL, {"operation": "execute", "action": "oom"}),
    (Tier.LOCAL, {"operation": "execute", "action": "fail"}),
    (Tier.LOCAL, {"operation": "execute", "action": "black"}),
    (Tier.CLOUD, {"operation": "execute", "action": "oom"}),
    (Tier.CLOUD, {"operation": "execute", "action": "fail"}),
    (Tier.CLOUD, {"operation": "execute", "action": "garbage"}),
    (Tier.CLOUD, {"operation": "execute", "action": "black"}),
    (Tier.CLOUD, {"operation": "submit", "action": "status", "status": 400}),
    (Tier.CLOUD, {"operation": "submit", "action": "status", "status": 402}),
    (Tier.GEMINI, {"operation": "execute", "action": "filter"}),
    (Tier.GEMINI, {"operation": "execute", "action": "black"}),
    (Tier.GEMINI, {"operation": "submit", "action": "status", "status": 400}),
    (Tier.GEMINI, {"operation": "submit", "action": "status", "status": 403}),
    (Tier.GEMINI, {"operation": "submit", "action": "status", "status": 404}),
)


@pytest.mark.parametrize(
    ("tier", "rule"),
    DETERMINISTIC,
    ids=lambda value: "-".join(str(v) for v in value.values()) if isinstance(value, dict) else str(value),
)
async def test_what_fails_for_a_lasting_reason_is_tried_once(studio: Studio, tier: Tier, rule: dict[str, Any]) -> None:
    """With nowhere else to go, the job fails after one attempt, and nothing stays reserved."""
    studio.use(tier)
    studio.fault(server=SERVERS[tier], **rule, times=None)
    report = await studio.run(studio.batch([tier]))
    assert [line.job for line in report.errors] == ["s0"]
    assert len(studio.attempts("s0")) == 1, [each.error_message for each in studio.attempts("s0")]
    assert studio.ledger.job_rows("film")[0].state is JobState.FAILED
    found = studio.audit()
    assert (found.leaked_usd, found.difference_usd, found.findings) == (0, 0, ())
