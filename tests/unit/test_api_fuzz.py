"""A short fuzzing of the API by its own description; `benchmarks/api_fuzz.py` does it for ten minutes."""

from __future__ import annotations

import pytest

from benchmarks.api_fuzz import run


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_request_makes_the_server_fail_or_answer_what_it_does_not_describe() -> None:
    """Valid and invalid requests to every endpoint: no 5xx, and every answer fits the OpenAPI document."""
    found = run(seconds=20, examples=5)
    assert found["server_errors"] == 0, found["errors"]
    assert not found["complaints"], found["complaints"][0]
    assert found["requests"] > 300
    assert {"200", "404", "422"} <= found["statuses"].keys()
    assert found["batches_accepted"] > 0
