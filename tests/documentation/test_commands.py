"""Every command that a page shows is one that there is, with the options that it has."""

import re
import shlex
from pathlib import Path

import click
import pytest

from postbus.cli import main
from tests.documentation.tables import PLUGINS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *(folder / "README.md" for folder in PLUGINS)]


def shown():
    """Yield each line of a block of shell code that calls the command line, and where it is."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            first = text.count("\n", 0, block.start(1)) + 1
            for number, line in enumerate(block[1].splitlines(), first):
                if line.startswith("postbus "):
                    yield pytest.param(line, id=f"{page.relative_to(ROOT)}:{number}")


@pytest.mark.once
@pytest.mark.parametrize("line", list(shown()))
def test_a_command_is_one_that_there_is(line):
    """Its name, its options, and what they take."""
    arguments = shlex.split(line, comments=True)[1:]
    if ">" in arguments:  # The rest is for the shell.
        arguments = arguments[: arguments.index(">")]

    command, context = main, None
    while isinstance(command, click.Group):
        context = command.make_context(command.name, arguments, parent=context)
        name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, arguments, parent=context)
