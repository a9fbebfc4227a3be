"""The README stays short and true: its commands, options, files, make targets and settings exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main

from hybrid_video.batchfile import load_batch
from hybrid_video.cli import app
from hybrid_video.settings import GROUPS, variable_name

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_under_150_lines() -> None:
    """Longer ones are not read."""
    assert len(README.splitlines()) < 150


@pytest.mark.parametrize("usage", sorted(set(re.findall(r"hybrid-video ([a-z][^`\n#]*)", README))))
def test_every_command_and_option_in_the_readme_exists(usage: str) -> None:
    """A command that was renamed must be renamed here too."""
    command = typer.main.get_command(app)
    words = usage.split()
    while words and hasattr(command, "commands") and re.fullmatch(r"[a-z-]+", words[0]):
        assert words[0] in command.commands, usage
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in parameter.opts}
    assert not {word.strip("[]") for word in words if word.strip("[]").startswith("--")} - options


def test_every_command_that_a_message_or_a_page_tells_the_user_to_type_exists() -> None:
    """An error that sends people to a command which is not there is worse than no advice."""
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "flows").glob("*.py")]
    texts = {str(f.relative_to(ROOT)): f.read_text(encoding="utf-8") for f in [*places, ROOT / "prefect.yaml"]}
    known = set(typer.main.get_command(app).commands)
    named = {
        (name, word) for name, text in texts.items() for word in re.findall(r"`hybrid-video ([a-z]\S*?)[` ]", text)
    }
    assert len(named) > 20
    assert not {(name, word) for name, word in named if word not in known}


def test_every_setting_in_the_readme_and_the_example_exists() -> None:
    """A variable nobody reads would be set in vain."""
    text = README + (ROOT / ".env.example").read_text(encoding="utf-8")
    known = {variable_name(group, field) for group in GROUPS for field in group.model_fields}
    named = set(re.findall(r"\b(?:HYBRID_VIDEO|RUNPOD|GEMINI)_[A-Z_]+[A-Z]", text))
    assert named
    assert named <= known


def test_every_make_target_and_link_in_the_readme_exists() -> None:
    """`make x` and [text](path) lead somewhere."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)`", README)) <= targets
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]


def test_the_batch_file_in_the_readme_loads(tmp_path: Path) -> None:
    """The example is what people copy."""
    example = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert example is not None
    file = tmp_path / "shots.yaml"
    file.write_text(example.group(1), encoding="utf-8")
    assert [job.id for job in load_batch(file).jobs] == ["lighthouse", "kite", "hero"]
