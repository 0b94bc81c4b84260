"""The pages for who comes from elsewhere have every name that is known there, and what they say of us is there.

The names are in ``names/``, each under the heading of its page.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from postbus import errors, events, stamps
from postbus.cli import main

ROOT = Path(__file__).parents[2]
NAMES = sorted((Path(__file__).parent / "names").glob("*.txt"))
SHOWN_BY = re.compile(r"<!-- ([^>]*) -->")
CODE = re.compile(r"`([^`]+)`")
LINK = re.compile(r"\]\(([^)\s]*)\)")

LEFT_OUT = ("*Missing*", "*Not here*")
"""How the second cell of a row begins, if there is nothing of ours that a test could show."""


class Row(NamedTuple):
    """A row of a table: what is there, what is here, and the tests that show it."""

    heading: str
    theirs: str
    ours: str
    tests: list[str]


def rows_of(page: Path) -> Iterator[Row]:
    """Yield each row of each table of two columns."""
    heading = ""
    lines = page.read_text(encoding="utf-8").splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        if not line.startswith("| ") or below.startswith("|--"):
            continue
        tests = [test for shown in SHOWN_BY.findall(line) for test in shown.split(", ")]
        _, theirs, ours, _ = SHOWN_BY.sub("", line).split("|")
        yield Row(heading, theirs.strip(), ours.strip(), tests)


PAGES = {names: ROOT / "docs" / f"coming-from-{names.stem}.md" for names in NAMES}
ROWS = {page: list(rows_of(page)) for page in PAGES.values()}

EACH_PAGE = pytest.mark.parametrize("page", ROWS, ids=lambda page: page.stem)


def anchors_of(page: Path) -> set[str]:
    """Return what a link can lead to on a page, as forges and the site make it of the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def functions_of(path: Path) -> set[str]:
    """Return the names of the functions of a file, its tests among them; none if there is no such file."""
    if not path.is_file():
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def options_of(command: click.Command, context: click.Context) -> set[str]:
    """Return the options of a command, and of those below it."""
    options = {option for parameter in command.params for option in parameter.opts}
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        options |= options_of(command.get_command(context, name), context)
    return options


@pytest.mark.once
@pytest.mark.parametrize("names", PAGES, ids=lambda names: names.stem)
def test_every_name_is_on_its_page(names):
    """In the first column of a table under its heading, so that none is missed."""
    there = {(row.heading, name) for row in ROWS[PAGES[names]] for name in CODE.findall(row.theirs)}
    heading, missing = "", []
    for line in filter(None, names.read_text(encoding="utf-8").splitlines()[1:]):
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif (heading, line) not in there:
            missing.append((heading, line))
    assert [] == missing


@pytest.mark.once
@EACH_PAGE
def test_a_row_leads_on_and_is_shown_by_a_test(page):
    """But for what is not here, of which it is said so in the first word."""
    assert [] == [
        row for row in ROWS[page] if not (row.tests and LINK.search(row.ours)) and not row.ours.startswith(LEFT_OUT)
    ]


@pytest.mark.once
@EACH_PAGE
def test_each_test_that_is_named_is_there(page):
    """By its file and its name."""
    named = {tuple(test.split("::")) for row in ROWS[page] for test in row.tests}
    assert [] == sorted((path, name) for path, name in named if name not in functions_of(ROOT / path))


@pytest.mark.once
@EACH_PAGE
def test_each_link_leads_to_a_page_and_a_heading(page):
    """Within the repository; nothing is asked for in the network."""
    lost = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert [] == lost


@pytest.mark.once
@EACH_PAGE
def test_what_is_named_of_ours_is_there(page):
    """Stamps, events and errors by their names, and options of commands."""
    ours = " ".join(row.ours for row in ROWS[page])
    named = {
        stamps: re.findall(r"`stamps\.(\w+)", ours),
        events: CODE.findall(" ".join(re.findall(r"\[([^\]]*)\]\(events\.md\)", ours))),
        errors: re.findall(r"\[`(\w+)`\]\(errors\.md\)", ours),
    }
    known = options_of(main, click.Context(main))

    assert [] == [name for module, names in named.items() for name in names if not hasattr(module, name)]
    assert [] == sorted({option for option in re.findall(r"`(--[a-z-]+)", ours) if option not in known})
