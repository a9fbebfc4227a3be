"""Writes the reference pages from the code when the documentation is built, so that they cannot go out of date."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import typer.main
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic import AliasChoices, SecretStr

from hybrid_video.api.app import create_app
from hybrid_video.cli import app
from hybrid_video.failures import POLICIES
from hybrid_video.settings import GROUPS, Settings, variable_name

PAGES = ("settings", "commands", "failures", "api")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for name in PAGES:
        text = "\n".join(globals()[name]()) + "\n"
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def settings() -> Iterator[str]:
    """Every setting: variable, default, what it does."""
    yield "# Settings\n"
    yield "Read from the environment, then from `.env` in the working folder, then from `settings.env` in the home"
    yield "folder, which `install-comfyui` writes. Lists are comma-separated."
    for group in GROUPS:
        yield f"\n## {inspect.cleandoc(group.__doc__ or group.__name__).splitlines()[0].removesuffix('.')}\n"
        yield "| variable | default | meaning |\n|---|---|---|"
        for name, field in group.model_fields.items():
            default = field.get_default(call_default_factory=name != "home")
            shown = "" if default in (None, "", ()) or isinstance(default, SecretStr) else _plain(default)
            alias = field.validation_alias
            others = [str(c) for c in alias.choices[1:]] if isinstance(alias, AliasChoices) else []
            also = f" Also read from {', '.join(f'`{o}`' for o in others)}." if others else ""
            yield f"| `{variable_name(group, name)}` | {shown} | {_cell(field.description or '')}{also} |"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        value = ",".join(str(part) for part in value)
    if isinstance(value, dict) or "PydanticUndefined" in str(value):
        return ""
    return f"`{_cell(str(value).lower() if isinstance(value, bool) else str(value))}`"


def _cell(text: str) -> str:
    """For a cell of a table; `<home>` is no HTML, in a code span it is safe as it is."""
    spans = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(span if number % 2 else span.replace("<", "&lt;") for number, span in enumerate(spans))


def commands() -> Iterator[str]:
    """Every command with its arguments and options."""
    yield "# Commands\n\nExit codes: 0 done, 1 some jobs failed, 2 bad input or configuration, 3 refused by a limit."
    yield "With `--json` the last line of standard output is one JSON object; progress goes to standard error."
    yield from _command(typer.main.get_command(app), "hybrid-video")


def _command(command: Any, path: str) -> Iterator[str]:
    children: dict[str, Any] = getattr(command, "commands", {})
    if not children or command.invoke_without_command:
        yield f"\n## {path}\n\n{inspect.cleandoc(command.help or '')}\n"
        rows = [_parameter(parameter) for parameter in command.params]
        if rows:
            yield "| | |\n|---|---|"
            yield from rows
    for name, child in children.items():
        yield from _command(child, f"{path} {name}")


def _parameter(parameter: Any) -> str:
    words = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        words = f"`{(parameter.metavar or parameter.name or '').upper()}`"
    text = getattr(parameter, "help", "") or ""
    default = parameter.default
    plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    return f"| {words} | {_cell(text)}{f' Default: `{default}`.' if plain else ''} |"


def failures() -> Iterator[str]:
    """Every kind of failure: whose fault, what happens next, what to do."""
    yield "# Failures\n\nHow an attempt can end, and what follows. `hybrid-video explain` shows it for one job.\n"
    yield "| kind | whose | tried again | what to do |\n|---|---|---|---|"
    for kind, policy in POLICIES.items():
        yield f"| `{kind.value}` | {policy.fault} | {policy.next} | {_cell(policy.advice)} |"
    yield "\n*anywhere*: the same backend too, when no other can serve. *elsewhere*: never this one again for the job."
    yield "*nowhere*: the job fails at once. *look*: it may have been accepted, so it is only looked up."


def api() -> Iterator[str]:
    """Every endpoint of the REST API, from its own description."""
    document = create_app(Settings()).openapi()
    yield "# REST API\n\nThe server describes itself at `/openapi.json`. Errors are `application/problem+json`.\n"
    yield "| | | |\n|---|---|---|"
    for path, methods in document["paths"].items():
        for method, endpoint in methods.items():
            yield f"| `{method.upper()}` | `{path}` | {_cell(endpoint.get('summary', ''))} |"
