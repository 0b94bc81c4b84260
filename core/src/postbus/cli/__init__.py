"""The command ``postbus``: one module per command or family of commands, each imported when it is called."""

from postbus.cli.program import main

__all__ = ["main"]
