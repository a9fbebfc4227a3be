"""What may not stand in the code at all: running or unpacking data from outside, a shell, or a check switched off.

Read from the syntax tree of every file that is shipped, so a comment or a text that names one of these is nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "tasks", "flows", "dashboard", "installers", "deploy", "docker")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)

MODULES = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle", "code"}
"""Whoever reads their files runs what is in them."""

CALLS = {
    "eval": "runs a text",
    "exec": "runs a text",
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "asyncio.create_subprocess_shell": "a shell",
    "torch.load": "unpickles",
    "pandas.read_pickle": "unpickles",
    "pd.read_pickle": "unpickles",
    "yaml.load": "makes objects; yaml.safe_load does not",
    "yaml.load_all": "makes objects; yaml.safe_load_all does not",
    "yaml.unsafe_load": "makes objects",
    "yaml.full_load": "makes objects",
    "tempfile.mktemp": "a name that another may take first",
    "ssl._create_unverified_context": "believes every certificate",
}
KEYWORDS = {"shell": True, "verify": False, "allow_pickle": True, "weights_only": False, "ssl": False}
"""Given with exactly this value to any call."""


def findings(source: str) -> Iterator[tuple[int, str]]:
    """Line and reason of everything dangerous."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").partition(".")[0]] if not node.level else []
        else:
            names = []
        yield from ((node.lineno, f"imports {name}") for name in names if name in MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield node.lineno, f"{called}: {CALLS[called]}"
            for keyword in node.keywords:
                value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
                if keyword.arg in KEYWORDS and value is KEYWORDS[keyword.arg]:
                    yield node.lineno, f"{called}({keyword.arg}={value})"
            given = {keyword.arg for keyword in node.keywords}
            if called.endswith((".extractall", ".extract")) and "tar" in called.lower() and "filter" not in given:
                yield node.lineno, f"{called} without filter: leaves its folder"


def test_nothing_dangerous_is_in_the_code() -> None:
    """No exceptions: whoever needs one of these writes it another way."""
    assert len(FILES) > 300
    found = [
        f"{path.relative_to(ROOT)}:{line}: {reason}"
        for path in FILES
        for line, reason in findings(path.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import marshal as m",
        "eval(text)",
        "exec(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "torch.load(file)",
        "numpy.load(file, allow_pickle=True)",
        "httpx.get(url, verify=False)",
        "tar.extractall(folder)",
    ],
)
def test_each_kind_would_be_found(source: str) -> None:
    """The search itself."""
    assert list(findings(source))


def test_no_flow_or_task_stores_its_result() -> None:
    """Prefect stores results as pickles by default, and whoever reads one runs it."""
    made = [
        (path.name, decorator)
        for path in FILES
        if path.parts[-2] in {"flows", "tasks"}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for decorator in map(ast.unparse, node.decorator_list)
        if decorator.partition("(")[0] in {"flow", "task"}
    ]
    assert len(made) >= 8
    steps = (ROOT / "tasks" / "steps.py").read_text(encoding="utf-8")
    lean = next(line for line in steps.splitlines() if line.startswith("LEAN"))
    assert '"persist_result": False' in lean
    assert not [entry for entry in made if "persist_result=False" not in entry[1] and "**LEAN" not in entry[1]]
