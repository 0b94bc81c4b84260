"""The examples of commands, as code."""

import click
from sphinx.application import Sphinx


def show_examples(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Put the examples at the end of a command's help into a block of code."""
    examples = [line.lstrip("| ").removeprefix("Examples: ").removeprefix("Example: ") for line in lines]
    examples = [line for line in examples if line]
    if examples:
        lines[:] = [".. code-block:: sh", "", *(f"   {line}" for line in examples), ""]


def setup(app: Sphinx) -> None:
    """Change the end of each command's help."""
    app.connect("sphinx-click-process-epilog", show_examples)
