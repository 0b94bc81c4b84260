"""Runs every block of Python in the pages, one after the other, in a folder of its own for each page.

A block that begins with the name of a file, ``# shop/messages.py``, is written there instead; the tests in
``tests/documentation/`` use these files as the page says. What a page leaves out, because its readers have it already,
stands before the block in a comment that nobody sees: ``<!-- invisible-code-block: python ... -->``.
"""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

FILE = re.compile(r"# ([\w./-]+\.\w+)\n")

run = PythonEvaluator()
opened: dict[int, ExitStack] = {}
"""What is closed after a page, by the namespace of its examples."""


def evaluate(example: Example) -> None:
    """Run a block, or write it if it is a file."""
    name = FILE.match(example.parsed)
    if name is None:
        run(example)
        return
    compile(example.parsed, name[1], "exec")
    path = Path(name[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(example.parsed, encoding="utf-8")


def begin(namespace: dict[str, Any]) -> None:
    """Enter an empty folder, as a program that is configured by nothing from outside."""
    stack = opened[id(namespace)] = ExitStack()
    folder = stack.enter_context(TemporaryDirectory())
    stack.enter_context(chdir(folder))
    own = {name: value for name, value in os.environ.items() if not name.startswith("POSTBUS_")}
    stack.enter_context(patch.dict(os.environ, own, clear=True))
    stack.enter_context(patch.object(sys, "path", [folder, *sys.path]))
    namespace["__name__"] = "shop"


def end(namespace: dict[str, Any]) -> None:
    """Close the app, and leave the folder."""
    with opened.pop(id(namespace)):
        for app in apps(namespace):
            app.close()


def apps(namespace: dict[str, Any]) -> Iterator[Any]:
    """Yield what a page has made and not closed."""
    yield from (value for value in namespace.values() if type(value).__name__ == "Postbus")


pytest_collect_file = Sybil(
    parsers=[CodeBlockParser(language="python", evaluator=evaluate)],
    patterns=["*.md"],
    setup=begin,
    teardown=end,
).pytest()
