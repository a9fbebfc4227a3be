"""The SDK's models are made once for each type, and say the same as before."""

from __future__ import annotations

import importlib

import pydantic
import pytest

from hybrid_video.backends.google import quickening


@pytest.fixture(autouse=True)
def as_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK as it is before anything is kept, and again after the test."""
    monkeypatch.setattr(importlib.import_module(quickening.MODULE), "create_model", pydantic.create_model)
    quickening._made.cache_clear()


def read_and_written() -> tuple[object, str]:
    """An answer as it is read, and a request as it is written."""
    serializers = importlib.import_module(quickening.MODULE)
    return serializers.unmarshal_json(b'{"a": [1, 2]}', dict[str, list[int]]), serializers.marshal_json(3, int | str)


def test_the_installed_sdk_makes_its_models_once() -> None:
    """A look costs no new class; when this fails after an update of the SDK, it may no longer be needed."""
    before = read_and_written()
    assert quickening.make_models_once()
    assert quickening.make_models_once(), "a second session changes nothing"
    assert [read_and_written() for _ in range(3)] == [before] * 3
    assert quickening._made.cache_info().misses == 2


def test_answers_of_the_wrong_form_are_still_refused() -> None:
    """A class that is kept checks as strictly as a new one."""
    serializers = importlib.import_module(quickening.MODULE)
    assert quickening.make_models_once()
    for _ in range(2):
        with pytest.raises(pydantic.ValidationError):
            serializers.unmarshal_json(b'{"a": "no list"}', dict[str, list[int]])


def test_types_that_are_equal_but_read_differently_are_told_apart() -> None:
    """Of two ways that fit as well, a union takes the first one."""
    assert quickening.make_models_once()
    serializers = importlib.import_module(quickening.MODULE)
    assert isinstance(serializers.unmarshal(["1"], list[int | float])[0], int)
    assert isinstance(serializers.unmarshal(["1"], list[float | int])[0], float)


def test_an_sdk_that_is_made_otherwise_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a missing module nor another function is an error."""
    serializers = importlib.import_module(quickening.MODULE)
    monkeypatch.setattr(serializers, "create_model", len)
    assert not quickening.make_models_once()
    assert serializers.create_model is len
    monkeypatch.setattr(quickening, "MODULE", "google.genai.no_such_module")
    assert not quickening.make_models_once()
