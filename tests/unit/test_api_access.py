"""Who may ask the API what: tokens and roles, hosts and origins, rates and sizes, and what every refusal looks like."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from hybrid_video.api import create_app
from hybrid_video.api.limits import RateLimit
from hybrid_video.cli import app as command_line
from hybrid_video.cli.output import guarded as run_command
from hybrid_video.errors import ConfigurationError
from hybrid_video.settings import ApiSettings, Settings, StorageSettings
from tests.unit.api_rig import TOKENS, Served, serving
from tests.unit.ledger_rig import make_batch

PROBLEM = "application/problem+json"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An API with a token for each role."""
    with serving(tmp_path_factory.mktemp("guarded"), roles=True) as served:
        yield served


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An API on loopback without tokens."""
    with serving(tmp_path_factory.mktemp("local")) as served:
        yield served


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, object]:
    """The problem document, which must be complete."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == PROBLEM
    found = answer.json()
    assert found["status"] == status
    assert found["kind"] == kind
    assert found["title"]
    assert found["detail"]
    return dict(found)


def test_without_a_token_nothing_but_health_and_the_reference_is_shown(guarded: Served) -> None:
    """401 with the challenge, on addresses that exist and on those that do not."""
    with guarded.as_role(None) as nobody:
        for path in ("/api/loadbalancer/status", "/api/batches", "/metrics", "/api/nothing"):
            refused = nobody.get(path)
            problem(refused, 401, "unauthenticated")
            assert refused.headers["www-authenticate"].startswith("Bearer ")
        for path in ("/health", "/docs", "/openapi.json"):
            assert nobody.get(path).status_code == 200


def test_a_wrong_token_is_refused_and_guessing_is_slowed_down(tmp_path: Path) -> None:
    """The answer never says how near a guess was, and after thirty of them the address has to wait."""
    wrong = {"Authorization": f"Bearer {TOKENS['admin'][:-1]}x"}
    with serving(tmp_path, roles=True) as guarded, httpx.Client(base_url=guarded.url, headers=wrong) as guesser:
        refused = guesser.get("/api/batches")
        problem(refused, 401, "unauthenticated")
        assert "invalid_token" in refused.headers["www-authenticate"]
        last = [guesser.get("/api/batches") for _ in range(31)][-1]
        problem(last, 429, "rate")
        assert int(last.headers["retry-after"]) >= 1
        assert guarded.get("/api/batches").status_code == 200, "who knows the token is not locked out by others"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "", "Token abc", "bearer,abc"])
def test_other_ways_to_authenticate_are_no_tokens(guarded: Served, header: str) -> None:
    """Only a bearer token in the Authorization header counts."""
    problem(httpx.get(f"{guarded.url}/api/batches", headers={"Authorization": header}), 401, "unauthenticated")
    address = f"{guarded.url}/api/batches?token={TOKENS['admin']}"
    problem(httpx.get(address), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("role", "method", "path", "allowed"),
    [
        ("read", "GET", "/api/loadbalancer/status", True),
        ("read", "POST", "/api/loadbalancer/estimate-cost", True),
        ("read", "GET", "/metrics", True),
        ("read", "POST", "/api/batches", False),
        ("read", "POST", "/api/batches/film/cancel", False),
        ("read", "POST", "/api/loadbalancer/preferences", False),
        ("submit", "POST", "/api/batches/film/cancel", True),
        ("submit", "POST", "/api/batches/film/rerun", True),
        ("submit", "DELETE", "/api/loadbalancer/preferences", False),
        ("submit", "POST", "/api/cloud/spawn", False),
        ("submit", "POST", "/api/cloud/terminate/pod-1", False),
        ("submit", "POST", "/api/cloud/shutdown-all", False),
        ("submit", "PUT", "/api/cloud/config", False),
        ("admin", "DELETE", "/api/loadbalancer/preferences", True),
        ("admin", "POST", "/api/cloud/shutdown-all", True),
    ],
)
def test_a_role_may_do_its_part_and_no_more(guarded: Served, role: str, method: str, path: str, allowed: bool) -> None:
    """A refusal names the role that is needed; what is allowed is answered by the endpoint itself."""
    with guarded.as_role(role) as caller:
        answer = caller.request(method, path, json={} if method in ("POST", "PUT") else None)
    if allowed:
        assert answer.status_code in (200, 404, 409), answer.text
    else:
        assert "needs a token with the role" in str(problem(answer, 403, "role")["detail"])


def test_tokens_can_be_listed_with_their_roles(tmp_path: Path) -> None:
    """Several people can have tokens of their own."""
    with serving(tmp_path, tokens="read:first-reader-0123456789,submit:second-0123456789") as s:
        for token, status in (("first-reader-0123456789", 403), ("second-0123456789", 404)):
            headers = {"Authorization": f"Bearer {token}"}
            assert httpx.post(f"{s.url}/api/batches/film/rerun", headers=headers).status_code == status


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.20", "studio.example.com"])
def test_listening_beyond_this_machine_without_a_token_is_refused(tmp_path: Path, host: str) -> None:
    """The sentence says what would happen and what to set."""
    settings = Settings(storage=StorageSettings(home=tmp_path), api=ApiSettings(host=host))
    with pytest.raises(ConfigurationError, match="HYBRID_VIDEO_API_ADMIN_TOKEN"):
        create_app(settings)


@pytest.mark.parametrize("token", ["aBc-12", "read:xYz", "boss:0123456789abcdef0123"])
def test_weak_and_unreadable_tokens_are_refused_without_being_shown(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """The message names the variable and never the value."""
    name = "HYBRID_VIDEO_API_TOKENS" if ":" in token else "HYBRID_VIDEO_API_READ_TOKEN"
    monkeypatch.setenv(name, token)
    with pytest.raises(ConfigurationError, match=name) as refused:
        Settings.load()
    assert token not in str(refused.value)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "[::2]:80", ""])
def test_on_loopback_a_foreign_name_gets_no_answer(local: Served, host: str) -> None:
    """DNS rebinding: a page whose name points at this machine is recognised by its Host header."""
    problem(httpx.get(f"{local.url}/api/batches", headers={"Host": host}), 400, "host")


@pytest.mark.parametrize("host", ["localhost", "localhost:8321", "127.0.0.1", "[::1]:8321", "LOCALHOST"])
def test_on_loopback_every_name_of_this_machine_is_answered(local: Served, host: str) -> None:
    """With and without a port, in either case."""
    assert httpx.get(f"{local.url}/api/batches", headers={"Host": host}).status_code == 200


def test_further_host_names_can_be_allowed(tmp_path: Path) -> None:
    """Behind a proxy of one's own the API may have another name."""
    with serving(tmp_path, hosts=("studio.example",)) as served:
        assert httpx.get(f"{served.url}/health", headers={"Host": "studio.example"}).status_code == 200
        assert httpx.get(f"{served.url}/health", headers={"Host": "other.example"}).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://localhost.evil.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_foreign_page_cannot_change_anything_through_the_browser(local: Served, headers: dict[str, str]) -> None:
    """Without tokens the browser on this machine would do whatever any page tells it."""
    for method, path in (("POST", "/api/batches"), ("DELETE", "/api/loadbalancer/preferences")):
        problem(httpx.request(method, f"{local.url}{path}", headers=headers), 403, "origin")
    assert not local.submitted.batches


def test_a_page_of_the_same_origin_may(local: Served) -> None:
    """The API's own pages, and programs that send no Origin at all."""
    headers = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
    assert httpx.delete(f"{local.url}/api/loadbalancer/preferences", headers=headers).status_code == 200


def test_only_listed_origins_get_cors_headers(tmp_path: Path) -> None:
    """A preflight is answered for them and refused for others."""
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with serving(tmp_path, roles=True, origins=("https://studio.example",)) as served:
        ours = httpx.options(f"{served.url}/api/batches", headers={"Origin": "https://studio.example", **asked})
        assert ours.headers["access-control-allow-origin"] == "https://studio.example"
        theirs = httpx.options(f"{served.url}/api/batches", headers={"Origin": "https://evil.example", **asked})
        assert "access-control-allow-origin" not in theirs.headers
        seen = served.get("/api/batches", headers={"Origin": "https://studio.example"})
        assert seen.headers["access-control-allow-origin"] == "https://studio.example"


def test_too_many_requests_are_refused_with_the_time_to_wait(tmp_path: Path) -> None:
    """429 with Retry-After and RateLimit fields; looking and changing are counted apart."""
    with serving(tmp_path, writes_per_minute=3, reads_per_minute=1000) as served:
        answers = [served.http.delete("/api/loadbalancer/preferences") for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit-remaining"] for answer in answers] == ["2", "1", "0", "0"]
        problem(answers[-1], 429, "rate")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 20
        assert served.get("/health").headers["ratelimit-limit"] == "1000"


def test_a_bucket_fills_again_with_time() -> None:
    """Sixty a minute is one a second, and never more than a minute's worth at once."""
    now = 0.0
    limit = RateLimit(60, clock=lambda: now)
    assert all(limit.take("a").granted for _ in range(60))
    refused = limit.take("a")
    assert (refused.granted, refused.retry_s, refused.remaining) == (False, 1, 0)
    assert limit.take("b").granted, "one caller does not use up another's allowance"
    now = 2.0
    assert [limit.take("a").granted for _ in range(3)] == [True, True, False]
    now = 10_000.0
    assert limit.take("a").remaining == 59


def test_a_body_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """By its announced length, and while it comes in where none is announced."""
    with serving(tmp_path, max_body_mb=1) as served:
        big = b"x" * 1_100_000
        headers = {"Content-Type": "application/json"}
        problem(served.http.post("/api/batches", content=big, headers=headers), 413, "size")

        def chunks() -> Iterator[bytes]:
            for _ in range(11):
                yield big[:100_000]

        problem(served.http.post("/api/batches", content=chunks(), headers=headers), 413, "size")
        problem(served.http.post("/api/loadbalancer/select", content=chunks(), headers=headers), 413, "size")


def test_every_answer_carries_the_security_headers(local: Served) -> None:
    """Successes, problems and files alike."""
    for path in ("/health", "/docs", "/api/nothing", "/api/batches"):
        headers = local.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_every_kind_of_error_is_a_problem(local: Served) -> None:
    """404, 405, 415 and 422 with the field, the value and a sentence."""
    problem(local.get("/api/nothing"), 404, "not_found")
    refused = local.http.put("/api/batches")
    problem(refused, 405, "method")
    assert "POST" in refused.headers["allow"]
    problem(local.http.post("/api/batches", content=b"x", headers={"Content-Type": "image/png"}), 415, "media_type")
    wrong = problem(local.post("/api/loadbalancer/estimate-cost", {"jobs": 0, "fps": "many"}), 422, "input")
    parts = {part["field"]: part["message"] for part in wrong["problems"]}  # type: ignore[attr-defined]
    assert set(parts) == {"jobs", "fps"}
    assert "'many'" in parts["fps"]
    unknown = problem(local.post("/api/loadbalancer/estimate-cost", {"jobbs": 5}), 422, "input")
    assert "jobbs" in str(unknown["detail"])
    broken = local.http.post("/api/loadbalancer/select", content=b"{", headers={"Content-Type": "application/json"})
    problem(broken, 422, "input")


def test_a_defect_of_ours_is_answered_with_a_reference_and_no_traceback(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback under the reference that the answer names."""

    def broken(*_arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    with serving(tmp_path, submitter=broken) as served:
        document = {"name": "film", "jobs": [{"id": "a", "prompt": "x"}]}
        assert served.post("/api/batches", document).status_code == 409, "no backend is configured, so none is tried"
        served.ledger.register(make_batch("film"), out_dir=tmp_path)
        answer = served.post("/api/batches/film/rerun")
        found = problem(answer, 500, "unexpected")
        assert "secret detail" not in answer.text
        assert str(found["instance"]) in caplog.text
        assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--host", "0.0.0.0"], "HYBRID_VIDEO_API_ADMIN_TOKEN"),
        (["--port", "70000"], "is not between 0 and 65535"),
        (["--host", "nowhere.invalid"], "no token is set"),
    ],
)
def test_the_command_refuses_what_cannot_work_in_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, what to change, and no traceback."""
    assert run_command(command_line, ["api", *arguments]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert said in told
    assert "Traceback" not in told


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With what to give instead."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert run_command(command_line, ["api", "--port", str(port)]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert f"port {port}" in told
    assert "--port" in told
