"""The program itself: its commands by name, the options before them, and what becomes of an error."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import IO, Any, NoReturn, cast

import click
from click.core import ParameterSource

from postbus import __version__
from postbus.cli import logs
from postbus.cli.ending import end_within
from postbus.cli.invocation import Invocation, unknown
from postbus.cli.output import escape_what_has_no_form
from postbus.display import printable
from postbus.errors import ConfigurationError, NoHandler, NoRoute, PostbusError, describe
from postbus.plugins import installed_plugins
from postbus.worker.dispatching import exit_code

COMMANDS: Mapping[str, str] = {
    "init": "postbus.cli.init:init",
    "consume": "postbus.cli.consume:consume",
    "stop-workers": "postbus.cli.control:stop_workers",
    "pause": "postbus.cli.control:pause",
    "resume": "postbus.cli.control:resume",
    "dispatch": "postbus.cli.dispatch:dispatch",
    "stats": "postbus.cli.transports:stats",
    "failed": "postbus.cli.failed:failed",
    "setup": "postbus.cli.transports:setup",
    "purge": "postbus.cli.transports:purge",
    "check": "postbus.cli.check:check",
    "debug": "postbus.cli.debug:debug",
    "plugins": "postbus.cli.plugins:plugins",
    "certify": "postbus.testing.certifying:certify",
    "completion": "postbus.cli.completion:completion",
}
"""Where each command is, in the order of ``--help``."""

INTERRUPTED = 130
"""The exit code of what Ctrl+C ended, as a shell has it: 128 and the number of the signal."""


class Failure(click.ClickException):
    """An error as the user sees it: a sentence for each problem, and the exit code."""

    def __init__(self, error: PostbusError | OSError) -> None:
        self.problems = error.problems if isinstance(error, ConfigurationError) else (str(error) or describe(error),)
        super().__init__("\n".join(self.problems))

    def show(self, file: IO[Any] | None = None) -> None:
        for problem in self.problems:
            click.echo(f"Error: {printable(problem)}", file=file, err=file is None)


class Mistake(Failure):
    """A `Failure` that the arguments or the configuration are to blame for."""

    exit_code = 2


class Program(click.Group):
    """A group whose commands are imported when they are called for, and whose errors are sentences."""

    owns_process = False
    """Whether this process ends with the command."""
    grace: float | None = None
    """Seconds that the process may take to end once the command has; None for any time."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.owns_process = options.get("standalone_mode", True)
        if self.owns_process:
            escape_what_has_no_form(sys.stdout)
        try:
            return super().__call__(*args, **options)
        except SystemExit as error:
            if self.owns_process and self.grace is not None:
                end_within(self.grace, exit_code(error))
            raise

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(name for name in _commands_of_plugins() if name not in COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        # Plugins are loaded only for a name that is not ours, so that theirs cannot take its place either.
        if cmd_name not in COMMANDS:
            return _commands_of_plugins().get(cmd_name)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        return cast(click.Command, getattr(import_module(module), attribute))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            raise unknown("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except click.NoSuchOption as error:
            if error.option_name in (option for parameter in self.params for option in parameter.opts):
                rest = "MODULE:ATTRIBUTE " if error.option_name == "--app" else ""
                example = f"{ctx.command_path} {error.option_name} {rest}{ctx.invoked_subcommand}"
                raise click.UsageError(f"{error.option_name} goes before the command: {example}", error.ctx) from None
            raise
        except (PostbusError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # Whoever reads our output has seen enough; click ends without a word.
            self._fail(ctx, error)

    def _fail(self, ctx: click.Context, error: PostbusError | OSError) -> NoReturn:
        if ctx.params["debug"]:
            click.echo(printable("".join(traceback.format_exception(error))), nl=False, err=True)
        raise (Mistake if isinstance(error, ConfigurationError | NoHandler | NoRoute) else Failure)(error) from error


@cache
def _commands_of_plugins() -> Mapping[str, click.Command]:
    group = click.Group()
    installed_plugins().add_commands(group)
    return group.commands


@click.command(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: postbus --app shop.app:app consume --all -v",
)
@click.option(
    "--app",
    "reference",
    metavar="MODULE:ATTRIBUTE",
    envvar="POSTBUS_APP",
    help="Where the app is. By default what POSTBUS_APP names, or 'app' in postbus.toml or [tool.postbus]; "
    "without that, the app that the file describes.",
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error too.")
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context, reference: str | None, debug: bool) -> None:
    """Dispatch messages, consume them, and look after those that failed.

    Exit codes: 0, done; 1, something failed or was found wrong; 2, a mistake in the arguments or the
    configuration. Names and ids complete in the shell: see `postbus completion --help`.
    """
    logs.configure()
    named_by = context.get_parameter_source("reference")
    key = "POSTBUS_APP" if named_by is ParameterSource.ENVIRONMENT else "--app"
    owns_process = cast(Program, context.command).owns_process
    context.obj = context.with_resource(Invocation(reference, key, owns_process=owns_process))
