"""Batch files that load: formats, defaults, names, words that look like something else, and writing back."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_video.batchfile import dump, load_batch, parse_batch
from hybrid_video.batchfile.loading import slug
from hybrid_video.errors import InputError
from hybrid_video.models import Batch, Preferences, ScoreWeights, VideoJob


def load(folder: Path, name: str, content: str | bytes) -> Batch:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_batch(path)


THREE = {
    "film.yaml": """
name: film
budget_usd: 1.50
jobs:
  - {id: a, prompt: a cat, duration_s: 4, preferences: {max_cost_usd: 0.10}}
  - {id: b, prompt: "a dog; with, signs", inputs: {strength: 0.5, loop: true}}
""",
    "film.json": """{"name": "film", "budget_usd": 1.50, "jobs": [
  {"id": "a", "prompt": "a cat", "duration_s": 4, "preferences": {"max_cost_usd": 0.10}},
  {"id": "b", "prompt": "a dog; with, signs", "inputs": {"strength": 0.5, "loop": true}}]}""",
    "film.csv": """# name: film
# budget_usd: 1.50
id,prompt,duration_s,preferences.max_cost_usd,inputs.strength,inputs.loop
a,a cat,4,0.10,,
b,"a dog; with, signs",,,0.5,true
""",
}


@pytest.mark.parametrize("name", THREE)
def test_the_three_formats_say_the_same(tmp_path: Path, name: str) -> None:
    """One batch, three ways to write it."""
    batch = load(tmp_path, name, THREE[name])
    assert (batch.name, batch.budget_usd) == ("film", Decimal("1.5"))
    cat, dog = batch.jobs
    assert (cat.id, cat.prompt, cat.duration_s) == ("a", "a cat", 4.0)
    assert cat.preferences == Preferences(max_cost_usd=Decimal("0.10"))
    assert (dog.prompt, dog.duration_s) == ("a dog; with, signs", 5.0)
    assert dog.inputs == {"strength": 0.5, "loop": True}


def test_the_name_comes_from_the_file_and_ids_from_the_position(tmp_path: Path) -> None:
    """What is left out is filled in the same way each time, so that a second run resumes the first."""
    batch = load(tmp_path, "Café scène (2).yml", "jobs: [{prompt: a}, {prompt: b, id: x}, {prompt: c}]")
    assert batch.name == "Cafe-scene-2"
    assert [job.id for job in batch.jobs] == ["shot-001", "x", "shot-003"]


@pytest.mark.parametrize(
    ("stem", "name"),
    [("a b", "a-b"), ("_x_", "x"), ("日本", "batch"), ("v1.2", "v1.2"), ("x" * 99, "x" * 64), ("..", "batch")],
)
def test_any_file_name_becomes_a_batch_name(stem: str, name: str) -> None:
    """The result is always a valid identifier."""
    assert slug(stem) == name


def test_defaults_hold_where_a_job_is_silent(tmp_path: Path) -> None:
    """Groups are merged field by field; null takes a default away."""
    batch = load(
        tmp_path,
        "a.yaml",
        """
defaults:
  fps: 24
  image: a.png
  inputs: {strength: 0.5, steps: 20}
  preferences: {backend: local, max_cost_usd: 1}
jobs:
  - prompt: a
  - {prompt: b, fps: 30, image: null, inputs: {steps: 30}, preferences: {max_cost_usd: 2}}
""",
    )
    first, second = batch.jobs
    assert (first.fps, first.image, first.preferences) == (24, "a.png", Preferences(backend="local", max_cost_usd=1))
    assert (second.fps, second.image) == (30, None)
    assert second.inputs == {"strength": 0.5, "steps": 30}
    assert second.preferences == Preferences(backend="local", max_cost_usd=2)
    assert "defaults" not in batch.model_dump()


@pytest.mark.parametrize("word", ["001", "no", "on", "7", "1.0", "1e3", "2026-11-22", "0x1F", "true", "12_5"])
def test_an_unquoted_id_stays_as_it_is_written(tmp_path: Path, word: str) -> None:
    """YAML 1.1 would make numbers, booleans and dates of these."""
    assert load(tmp_path, "a.yaml", f"jobs: [{{id: {word}, prompt: {word}}}]").jobs[0].id == word


def test_words_of_yaml_1_1_do_not_surprise(tmp_path: Path) -> None:
    """`no` is false only where a yes or no is wanted, 010 is ten, and a time of day is text."""
    job = load(
        tmp_path,
        "a.yaml",
        "jobs: [{prompt: 12:30:00, negative_prompt: no, seed: 010, inputs: {a: no, b: 12:30:00, c: 010, d: 1.5, e: ~x},"
        " preferences: {allow_cloud_fallback: no}}]",
    ).jobs[0]
    assert (job.prompt, job.negative_prompt, job.seed) == ("12:30:00", "no", 10)
    assert job.inputs == {"a": "no", "b": "12:30:00", "c": "010", "d": 1.5, "e": "~x"}
    assert job.preferences == Preferences(allow_cloud_fallback=False)


def test_numbers_in_quotes_are_accepted(tmp_path: Path) -> None:
    """Harmless, and common in generated files."""
    job = load(tmp_path, "a.json", '{"jobs": [{"prompt": "a", "fps": "24", "duration_s": "2.5"}]}').jobs[0]
    assert (job.fps, job.duration_s) == (24, 2.5)


def test_money_is_exact(tmp_path: Path) -> None:
    """0.1 is ten cents, not its nearest binary fraction."""
    assert load(tmp_path, "a.yaml", "budget_usd: 0.1\njobs: [{prompt: a}]").budget_usd == Decimal("0.1")


def test_json_escapes_and_tabs_are_read_as_json(tmp_path: Path) -> None:
    """What a YAML parser gets wrong about JSON: surrogate pairs, escaped slashes, tabs, control characters."""
    batch = load(tmp_path, "a.json", '{\n\t"jobs": [\t{"prompt": "\\ud83d\\ude00 \\/ \\u00e9\\n"}\r\n]}')
    assert batch.jobs[0].prompt == "😀 / é\n"


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_separators_are_recognised(tmp_path: Path, delimiter: str) -> None:
    """Excel writes semicolons in much of Europe."""
    batch = load(tmp_path, "a.csv", f'id{delimiter}prompt\n001{delimiter}"a{delimiter} b"\n')
    assert (batch.jobs[0].id, batch.jobs[0].prompt) == ("001", f"a{delimiter} b")


def test_csv_that_excel_has_saved(tmp_path: Path) -> None:
    """Byte order mark, `sep=`, CRLF, comment lines with trailing separators or in quotes, empty rows and columns."""
    text = (
        "sep=;\r\n# name: film;;\r\n\"# budget_usd: 2\";;\r\n## kept: as a remark;;\r\n# defaults.fps: 24;;\r\n;;\r\n"
        "Prompt;Width;\r\n\"two\r\nlines\";640;\r\n;;\r\nb;;\r\n"
    )  # fmt: skip
    batch = load(tmp_path, "a.csv", b"\xef\xbb\xbf" + text.encode())
    assert (batch.name, batch.budget_usd) == ("film", Decimal(2))
    assert [(job.prompt, job.width, job.fps) for job in batch.jobs] == [("two\r\nlines", 640, 24), ("b", 832, 24)]


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    """Honest use of aliases is welcome."""
    batch = load(tmp_path, "a.yaml", "jobs:\n- &a {prompt: a, fps: 24, width: 640}\n- {<<: *a, fps: 30}\n- *a\n")
    assert [(job.fps, job.width, job.id) for job in batch.jobs] == [
        (24, 640, "shot-001"),
        (30, 640, "shot-002"),
        (24, 640, "shot-003"),
    ]


def test_parsed_data_obeys_the_same_rules() -> None:
    """The API gives a mapping; a name is needed, everything else is as in a file."""
    batch = parse_batch({"name": "x", "defaults": {"fps": 24}, "jobs": ({"prompt": "a"},)}, "request")
    assert (batch.jobs[0].id, batch.jobs[0].fps) == ("shot-001", 24)
    with pytest.raises(InputError, match=r"^request: name: is missing"):
        parse_batch({"jobs": [{"prompt": "a"}]}, "request")


def test_parsing_leaves_the_given_data_alone() -> None:
    """The caller's mapping is not changed."""
    data = {"name": "x", "defaults": {"fps": 24}, "jobs": [{"prompt": "a", "seed": None}]}
    before = repr(data)
    parse_batch(data)
    assert repr(data) == before


text = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t"), min_size=1, max_size=40)
jobs = st.builds(
    VideoJob,
    id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True),
    prompt=text.map(lambda value: value.strip()).filter(bool),
    seed=st.none() | st.integers(0, 2**63 - 1),
    inputs=st.dictionaries(
        st.from_regex(r"[A-Za-z][\w.]{0,5}", fullmatch=True),
        st.one_of(st.integers(-(10**9), 10**9), st.booleans(), st.floats(allow_nan=False, allow_infinity=False), text),
        max_size=3,
    ),
    preferences=st.none()
    | st.builds(Preferences, max_cost_usd=st.decimals(0, 10, places=2), weights=st.just(ScoreWeights())),
)


@pytest.mark.parametrize("form", ["yaml", "json"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(jobs, min_size=1, max_size=3, unique_by=lambda job: job.id.casefold()))
def test_a_batch_written_and_read_is_the_same(
    tmp_path: Path, form: Literal["yaml", "json"], shots: list[VideoJob]
) -> None:
    """Whatever is in a prompt or an input survives the way through a file."""
    batch = Batch(name="film", jobs=tuple(shots), budget_usd=Decimal("1.20"))
    assert load(tmp_path, f"a.{form}", dump(batch, form)) == batch


def test_a_csv_written_and_read_is_the_same(tmp_path: Path) -> None:
    """Groups become dotted columns; quotes, separators and line breaks are kept."""
    jobs = (
        VideoJob(id="a", prompt='say "hi", twice;\nplease', preferences=Preferences(backend="local"), seed=3),
        VideoJob(id="b", prompt="b", inputs={"x": 1, "y": "no"}, fps=24),
    )
    batch = Batch(name="film", jobs=jobs, deadline_s=600, preferences=Preferences(max_cost_usd=Decimal("0.5")))
    assert load(tmp_path, "a.csv", dump(batch, "csv")) == batch


@pytest.mark.parametrize("form", ["yaml", "json", "csv"])
def test_ten_thousand_jobs_load(tmp_path: Path, form: Literal["yaml", "json", "csv"]) -> None:
    """How quickly is `python -m benchmarks.core`'s to say."""
    shots = tuple(
        VideoJob(id=f"s{n}", prompt=f"shot {n} in the rain", fps=24, seed=n, preferences=Preferences(max_cost_usd=1))
        for n in range(10_000)
    )
    content = dump(Batch(name="big", jobs=shots), form)
    assert len(load(tmp_path, f"a.{form}", content).jobs) == 10_000
