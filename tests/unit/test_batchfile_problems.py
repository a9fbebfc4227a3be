"""Batch files that do not load: every problem at once, each with file, line, field, value and remedy."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from hybrid_video.batchfile import load_batch, parse_batch
from hybrid_video.errors import InputError


def problems(folder: Path, name: str, content: str | bytes) -> list[str]:
    """The problems without the folder's name."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return refused(path)


def refused(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_batch(path)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return [text.removeprefix(f"{path.parent}{os.sep}") for text in caught.value.problems]


def one(folder: Path, name: str, content: str | bytes) -> str:
    found = problems(folder, name, content)
    assert len(found) == 1, found
    return found[0]


def test_all_problems_are_told_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
    """One run is enough to find every mistake."""
    found = problems(
        tmp_path,
        "shots.yaml",
        """\
nme: film
budget_usd: -1
jobs:
  - id: a b
    prompt: ""
  - id: c
    prompt: a cat
    duration_s: -3
    duraton: 5
    width: 833
    seed: 2.5
    fit: close
    preferences:
      backend: runpod
      max_cost: 1
  - id: d
  - just text
""",
    )
    name = "use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    tiers = "is not one of auto, local, cloud, gemini; give auto, local, cloud or gemini"
    assert found == [
        "shots.yaml:1: nme: 'nme' is not a field of a batch; did you mean 'name'?",
        "shots.yaml:2: budget_usd: -1 is below 0; give an amount in US dollars between 0 and 1000000",
        f"shots.yaml:4: jobs[0].id: 'a b' cannot be a file name; {name}",
        "shots.yaml:5: jobs[0].prompt: '' is empty; describe the shot in 1 to 8000 characters",
        "shots.yaml:8: jobs[1].duration_s: -3 is not above 0; give a length in seconds between 0.1 and 60",
        "shots.yaml:9: jobs[1].duraton: 'duraton' is not a field of a job; did you mean 'duration_s'?",
        "shots.yaml:10: jobs[1].width: 833 is odd; give an even number of pixels between 64 and 4096",
        "shots.yaml:11: jobs[1].seed: 2.5 is not a whole number; give a whole number between 0 and 9223372036854775807",
        "shots.yaml:12: jobs[1].fit: 'close' is not one of nearest, exact; give nearest or exact",
        f"shots.yaml:14: jobs[1].preferences.backend: 'runpod' {tiers}",
        "shots.yaml:15: jobs[1].preferences.max_cost: 'max_cost' is not a field of `preferences`; use max_cost_usd",
        "shots.yaml:16: jobs[2].prompt: is missing; describe the shot in 1 to 8000 characters",
        "shots.yaml:17: jobs[3]: 'just text' is text where a job is needed; write `prompt: ...` and its other fields",
    ]


def test_the_same_mistakes_in_json_and_csv_have_their_lines(tmp_path: Path) -> None:
    """Positions are kept in every format, over blank lines and cells of several lines too."""
    text = '{\n "jobs": [\n  {"prompt": "a"},\n\n  {"prompt": "b",\n   "fps": 0}\n ]\n}\n'
    assert one(tmp_path, "a.json", text).startswith(
        "a.json:6: jobs[1].fps: 0 is below 1; give a whole number of frames"
    )
    text = '# deadline_s: 60\n\nprompt,fps\n"two\nlines",16\n\n,,\nb,0\n'
    assert one(tmp_path, "a.csv", text).startswith("a.csv:8: jobs[1].fps: '0' is below 1; ")


def test_after_twenty_problems_the_rest_is_counted(tmp_path: Path) -> None:
    """A screen of sentences, not ten thousand."""
    found = problems(tmp_path, "a.yaml", "jobs:\n" + "- {prompt: a, fps: 0}\n" * 50)
    assert len(found) == 21
    assert found[0].startswith("a.yaml:2: ")
    assert found[-1] == "a.yaml: and 30 more problems; correct these first"


def test_the_error_survives_pickling(tmp_path: Path) -> None:
    """Prefect carries it between processes."""
    with pytest.raises(InputError) as caught:
        parse_batch({}, "request")
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own bytes
    assert copy.problems == caught.value.problems
    assert copy.exit_code == 2


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("duration: 5", "use duration_s"),
        ("frames: 80", "use duration_s (frames divided by fps)"),
        ("resolution: 832x480", "use width and height"),
        ("negativ_prompt: x", "did you mean 'negative_prompt'?"),
        ("max_cost_usd: 1", "it belongs under `preferences`"),
        ("deadline_s: 5", "it belongs to the batch, beside `jobs`"),
        ("backend: local", "it belongs under `preferences`"),
        ("zzz: 1", "remove it. It has id, prompt, negative_prompt"),
    ],
)
def test_an_unknown_field_gets_the_nearest_known_one(tmp_path: Path, line: str, hint: str) -> None:
    """By spelling, by meaning, and by the level where it belongs."""
    assert hint in one(tmp_path, "a.yaml", f"jobs:\n- prompt: a\n  {line}\n")


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ("seed: 99999999999999999999", "is above 9223372036854775807"),
        ("fps: .inf", "inf is not a finite number"),
        ("duration_s: .nan", "nan is not"),
        ("duration_s: 5s", "'5s' is not a number; give a length in seconds"),
        ('duration_s: "1,5"', "decimals are written with a point"),
        ("inputs: {x: .nan}", "inputs.x: nan is not a finite number"),
        ("inputs: {x: [1]}", "inputs.x: [1] is a list; give text, a number, true or false"),
        ("preferences: local", "'local' is text where a group of fields is needed; give fields such as"),
        ("preferences: {allow_cloud_fallback: maybe}", "'maybe' is not true or false; give true or false"),
        ("preferences: {weights: {cost: -1}}", "weights.cost: -1 is below 0; give a weight between 0 and 1000"),
        ("preferences: {weights: {priority: 0, cost: 0, speed: 0, queue: 0}}", "at least one weight must be above 0"),
        ("prompt: [a]", "['a'] is a list, not text"),
        ('negative_prompt: "a\\x01b"', "contains control characters"),
        (f"negative_prompt: {'x' * 9000}", "has 9000 characters, more than 8000"),
    ],
)
def test_values_are_refused_in_plain_words(tmp_path: Path, fields: str, text: str) -> None:
    """What is wrong and what to write instead, without the words of a library."""
    prompt = "" if fields.startswith("prompt") else "prompt: a, "
    assert text in one(tmp_path, "a.yaml", f"jobs: [{{{prompt}{fields}}}]")


def test_a_long_value_is_shortened(tmp_path: Path) -> None:
    """A message stays readable."""
    assert len(one(tmp_path, "a.yaml", f"jobs: [{{prompt: {'x' * 9000}}}]")) < 300


def test_a_secret_in_a_value_is_masked(tmp_path: Path) -> None:
    """A signature in an address does not reach the screen or a log."""
    text = one(tmp_path, "a.yaml", "jobs: [{prompt: a, fit: 'https://h/a.png?signature=abcdef123456'}]")
    assert "abcdef123456" not in text


def test_two_jobs_with_one_id_are_told_with_both_lines(tmp_path: Path) -> None:
    """Ids become file names, so case does not make a difference; generated ids count."""
    text = one(tmp_path, "a.yaml", "jobs:\n- {id: A, prompt: a}\n- {id: b, prompt: b}\n- {id: a, prompt: c}\n")
    assert text.startswith("a.yaml:4: jobs[2].id: 'a' is already the id of jobs[0] on line 2;")
    text = one(tmp_path, "a.yaml", "jobs:\n- {id: shot-002, prompt: a}\n- {prompt: b}\n")
    assert text.startswith("a.yaml:2: jobs[0].id: 'shot-002' is also the name that jobs[1] on line 3 gets")


def test_a_wrong_default_is_told_once(tmp_path: Path) -> None:
    """Not once for each of a thousand jobs."""
    text = "defaults:\n  fps: 0\njobs:\n" + "- prompt: a\n" * 1000
    assert one(tmp_path, "a.yaml", text).startswith("a.yaml:2: defaults.fps: 0 is below 1;")
    assert "would be the id of every job" in one(tmp_path, "a.yaml", "defaults: {id: x}\njobs: [{prompt: a}]")
    assert "defaults: 'x' is text" in one(tmp_path, "a.yaml", "defaults: x\njobs: [{prompt: a}]")


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.yaml", "jobs: []", "a.yaml:1: jobs: there is no job"),
        ("a.yaml", "name: x", "jobs: there is no job"),
        ("a.yaml", "jobs: {prompt: a}", "is a group of fields; give a list"),
        ("a.yaml", "- prompt: a", "is a list; put it under `jobs:`"),
        ("a.yaml", "hello", "holds 'hello', text, where a batch is needed"),
        ("a.yaml", "", "is empty"),
        ("a.json", " \n", "is empty"),
        ("a.yaml", "# only a remark", "is empty"),
        ("a.json", "null", "is empty"),
        ("a.csv", "id,prompt\n", "there is no job"),
        ("a.csv", "# name: x\n", "no header row"),
        ("a.yaml", "jobs:\n" + "- {prompt: a}\n" * 10_001, "10,001 jobs are more than 10,000; split the file"),
        ("a.txt", "x", "'.txt' is not a format of batch files; use .yaml, .yml, .json, .csv"),
    ],
)
def test_what_is_no_batch_is_named(tmp_path: Path, name: str, content: str, text: str) -> None:
    """Empty, of another shape, too long, or of another format."""
    assert text in one(tmp_path, name, content)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.yaml", "jobs:\n- prompt: a\n   fps: 3\n", "a.yaml:3: not readable as YAML (mapping values"),
        ("a.yaml", "jobs:\n\t- prompt: a\n", "a.yaml:2: not readable as YAML ("),
        ("a.yaml", 'jobs:\n- prompt: "a\n', "not readable as YAML ("),
        ("a.yaml", "jobs: [{prompt: a\0b}]", "the character U+0000 is not allowed"),
        ("a.yaml", "jobs: [{prompt: a}]\n---\njobs: []\n", "a.yaml:2: holds a second document"),
        ("a.yaml", "jobs: !!python/object/apply:os.system [ls]", "is not allowed in a batch"),
        ("a.yaml", "? [a, b]\n: 1\n", "stands where a field name belongs"),
        ("a.yaml", "jobs: *a", "`*a` refers to nothing"),
        ("a.yaml", "jobs: &a [*a]", "`*a` refers to nothing"),
        ("a.yaml", "jobs: [{<<: 3, prompt: a}]", "`<<:` takes a mapping"),
        ("a.json", '{"jobs": [{"prompt": "a",}]}', "no comma after the last field), found '}' in column 26"),
        (
            "a.json",
            '{"jobs": [\n{"prompt": "a"}\n',
            "a.json:3: not readable as JSON: expected ',' or ']', found the end",
        ),
        ("a.json", "{'jobs': []}", "field name in double quotes"),
        ("a.json", '{"jobs": [{"prompt": "a", "fps": NaN}]}', "'NaN' is not a value"),
        ("a.json", '{"jobs": [{"prompt": "a", "fps": 016}]}', "'016' is not a value"),
        ("a.json", '{"jobs": "a\nb"}', "not readable as JSON: invalid control character"),
        ("a.json", "{} {}", "expected the end of the file, found '{'"),
        ("a.csv", 'id,prompt\na,"b\nc', "a.csv:2: not readable as CSV (unexpected end of data)"),
    ],
)
def test_syntax_errors_have_a_line_and_a_remedy(tmp_path: Path, name: str, content: str, text: str) -> None:
    """The parser's finding in a sentence."""
    assert text in one(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_a_key_given_twice_is_refused(tmp_path: Path, name: str) -> None:
    """Parsers take the last one silently; a budget must not get lost that way."""
    text = '{"name": "x",\n "budget_usd": 1,\n "budget_usd": 100,\n "jobs": [{"prompt": "a"}]}'
    assert one(tmp_path, name, text) == f"{name}:3: 'budget_usd' is given twice, first on line 2; keep one"


def test_aliases_that_expand_without_bound_are_refused(tmp_path: Path) -> None:
    """A billion laughs: 100 bytes per level, ten times as many values each. Expanded it would never end."""
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]\n" for n in range(1, 12))
    assert "expands to more than 2,000,000 values" in one(tmp_path, "a.yaml", "l0: &l0 [x]\n" + levels)


@pytest.mark.parametrize("name", ["a.yaml", "a.json"])
def test_deep_nesting_is_refused(tmp_path: Path, name: str) -> None:
    """A hundred thousand brackets neither crash nor hang."""
    assert "nested more than 16 levels deep" in one(tmp_path, name, "[" * 100_000)


def test_other_encodings_are_recognised(tmp_path: Path) -> None:
    """UTF-16 by its mark or its zeros, other ones by the line of the first foreign byte."""
    assert "is UTF-16" in one(tmp_path, "a.csv", "id,prompt\n".encode("utf-16"))
    assert "looks like UTF-16" in one(tmp_path, "a.csv", "id,prompt\n".encode("utf-16-le"))
    assert one(tmp_path, "a.csv", b"id,prompt\na,caf\xe9\n").startswith("a.csv:2: holds the byte 0xe9, but")


def test_files_that_cannot_be_read_are_explained(tmp_path: Path) -> None:
    """Missing (with the nearest name), a folder, a pipe, too large."""
    (tmp_path / "shots.yaml").write_text("jobs: [{prompt: a}]")
    assert "does not exist; did you mean" in refused(tmp_path / "shot.yaml")[0]
    assert "nor does its folder" in refused(tmp_path / "nowhere" / "a.yaml")[0]
    assert "is a folder" in refused(tmp_path)[0]
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "is not a regular file" in refused(tmp_path / "pipe.yaml")[0]
    with (tmp_path / "big.yaml").open("wb") as file:
        file.truncate(50_000_001)
    assert "more than 50" in refused(tmp_path / "big.yaml")[0]


def test_csv_columns_are_checked_once_in_the_header(tmp_path: Path) -> None:
    """Not in each of a thousand rows."""
    found = problems(
        tmp_path, "a.csv", "prompt,duration,preferences.max_cost,preferences,prompt\n" + "a,1,1,1,b\n" * 1000
    )
    assert found == [
        "a.csv:1: column 'duration' is not a field of a job; use duration_s",
        "a.csv:1: column 'max_cost' is not a field of `preferences`; use max_cost_usd",
        "a.csv:1: the column 'preferences' is a group; name its parts, for example 'preferences.max_cost_usd'",
        "a.csv:1: the column 'prompt' is there twice; keep one",
    ]
    assert "has no column 'prompt'" in problems(tmp_path, "a.csv", "id,fps\na,16\n")[0]
    assert "has 3 cells where the header has 2" in one(tmp_path, "a.csv", "id,prompt\na,a cat, and a dog\n")


def test_a_misspelt_setting_above_a_csv_is_not_taken_for_a_remark(tmp_path: Path) -> None:
    """A budget that is not read would not hold."""
    text = one(tmp_path, "a.csv", "# buget_usd: 1.5\nprompt\na\n")
    assert "did you mean 'budget_usd'?" in text
    assert "start plain remarks with `##`" in text
