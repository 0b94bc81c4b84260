"""``postbus completion``: what a shell needs to complete names and ids."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(epilog="""Example: eval "$(postbus completion bash)" """)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what a shell needs to complete names and ids.

    In bash and zsh, put the example's line into ~/.bashrc or ~/.zshrc; for fish, write the output to
    ~/.config/fish/completions/postbus.fish.
    """
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(context.find_root().command, {}, "postbus", "_POSTBUS_COMPLETE").source())
