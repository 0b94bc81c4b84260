"""The Python in the READMEs is valid, and what needs nothing else is run."""

import ast
import builtins
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation.tables import PLUGINS

ROOT = Path(__file__).parents[2]

# What an example can use without anything else being there.
EMBEDDED = {"in-memory", "sqlite", "sync"}


def examples():
    """Yield each example and its file."""
    for readme in (ROOT / "README.md", *(folder / "README.md" for folder in PLUGINS)):
        text = readme.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 2
            # The lines before it keep their numbers, so that an error shows where it is.
            yield pytest.param("\n" * (line - 1) + block[1], readme, id=f"{readme.relative_to(ROOT)}:{line}")


def stands_alone(program):
    """Tell whether a program takes every name from itself, and reaches no broker."""
    try:
        tree = ast.parse(program)
    except SyntaxError:  # That it is no Python is told by a test.
        return False
    given, taken = set(dir(builtins)) | {"__name__"}, set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                taken.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                given.add(name)
            case ast.alias(name=name, asname=as_name):
                given.add(as_name or name.partition(".")[0])
            case ast.ExceptHandler(name=str(name)):
                given.add(name)
    return taken <= given and set(re.findall(r"([\w.+-]+)://", program)) <= EMBEDDED


EXAMPLES = list(examples())


@pytest.mark.parametrize(("program", "readme"), EXAMPLES)
def test_an_example_is_python(program, readme):
    """It compiles."""
    compile(program, readme, "exec")


@pytest.mark.slow
@pytest.mark.parametrize(("program", "readme"), [each for each in EXAMPLES if stands_alone(each.values[0])])
def test_an_example_runs(program, readme, tmp_path):
    """It does what it says, in an empty folder, without any configuration."""
    (tmp_path / "example.py").write_text(program, encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}

    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 0, f"{readme}: {done.stderr}"
