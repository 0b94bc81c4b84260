"""``postbus plugins``: what is installed, what it promises, and which options it takes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import MISSING
from typing import Any

import click
from msgspec import Struct
from msgspec.structs import asdict

from postbus.cli.invocation import unknown
from postbus.cli.markdown import guarantees_table, options_table
from postbus.cli.options import completer, one_format_of
from postbus.cli.output import print_json, print_table
from postbus.dsn import Dsn, OptionInfo
from postbus.plugins import Plugin, Plugins, Scheme, installed_plugins
from postbus.spelling import nearest


@completer
def complete_plugins(context: click.Context) -> list[str]:
    """Offer the names of plugins, and the schemes that they serve."""
    return sorted(_names(installed_plugins()))


class SchemeLine(Struct, frozen=True):
    """What one or several schemes of a plugin take and promise."""

    schemes: list[str]
    guarantees: dict[str, Any] | None
    options: list[dict[str, Any]]


class PluginLine(Struct, frozen=True):
    """One plugin, and what it serves."""

    name: str
    distribution: str
    version: str
    schemes: list[SchemeLine]


@click.command(epilog="Example: postbus plugins sql")
@click.argument("name", required=False, shell_complete=complete_plugins)
@one_format_of(
    *("table", "json", "markdown"),
    help="How to print to stdout: for people, for programs, or, with NAME, for a README.",
)
def plugins(name: str | None, format: str) -> None:
    """Show the installed plugins, or all about one.

    NAME is a plugin or a scheme that it serves; then all its options and guarantees are shown.
    """
    # What is wrong with a plugin is part of the answer; it need not be logged too.
    logging.getLogger("postbus").setLevel(logging.ERROR)
    installed = installed_plugins()
    if format == "markdown":
        _print_markdown(installed, name)
        return

    lines = _all(installed) if name is None else [_one(installed, name)]
    problems = [str(problem) for problem in installed.problems]
    if format == "json":
        print_json({"plugins": lines, "problems": problems})
        return

    if name is None:
        _print_list(lines)
    else:
        _print_one(lines[0])
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)


def _all(installed: Plugins) -> list[PluginLine]:
    return [_plugin_line(plugin, installed.schemes.values()) for plugin in installed.loaded]


def _one(installed: Plugins, name: str) -> PluginLine:
    """Return the plugin of this name with all its schemes, or the one that serves this scheme with that one."""
    for plugin in installed.loaded:
        if name in (plugin.name, plugin.distribution):
            return _plugin_line(plugin, installed.schemes.values())
    names = _names(installed)
    scheme = name.removesuffix("://")
    if scheme not in names and nearest(scheme, names):
        raise unknown("plugin", name, sorted(names))
    found = installed.scheme_for(Dsn(scheme))  # or else it says what to install
    return _plugin_line(found.plugin, [found])


def _names(installed: Plugins) -> set[str]:
    return {*(plugin.name for plugin in installed.loaded), *installed.schemes}


def _plugin_line(plugin: Plugin, schemes: Iterable[Scheme]) -> PluginLine:
    alike: dict[tuple[int, int], list[Scheme]] = {}
    for scheme in schemes:
        if scheme.plugin == plugin:
            alike.setdefault((id(scheme.options), id(scheme.guarantees)), []).append(scheme)
    groups = [_scheme_line(group) for group in alike.values()]
    return PluginLine(plugin.name, plugin.distribution, plugin.version, groups)


def _scheme_line(alike: list[Scheme]) -> SchemeLine:
    scheme = alike[0]
    return SchemeLine(
        [scheme.name for scheme in alike],
        asdict(scheme.guarantees),
        [_option_line(info) for info in scheme.options.describe()] if scheme.options is not None else [],
    )


def _option_line(info: OptionInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "type": " or ".join(map(repr, info.choices)) or info.type,
        "default": _default(info),
        "unit": info.unit,
        "minimum": info.minimum,
        "maximum": info.maximum,
        "meaning": info.meaning,
        "symfony": info.symfony,
        "aliases": info.aliases,
        "no_effect": info.no_effect,
    }


def _default(info: OptionInfo) -> object:
    if info.default is MISSING:
        return "required"
    if info.default is None:
        return None
    plain = isinstance(info.default, bool | int | float | str)
    return info.default if plain and not info.secret else info.shown(info.default)


def _print_list(lines: list[PluginLine]) -> None:
    rows = [
        (line.name, line.version, ", ".join(f"{name}://" for name in group.schemes), _in_short(group.guarantees))
        for line in lines
        for group in line.schemes or [SchemeLine([], None, [])]
    ]
    if rows:
        print_table(("Plugin", "Version", "Schemes", "Guarantees"), rows)
        click.echo("All options of one: postbus plugins NAME", err=True)
    else:
        click.echo("No plugin is installed. For example: pip install postbus-sql", err=True)


def _in_short(guarantees: dict[str, Any] | None) -> str | None:
    """Return what is promised, without what is not."""
    if guarantees is None:
        return None
    words = [name for name, value in guarantees.items() if value is True]
    if guarantees["ordering"] != "none":
        words.append(guarantees["ordering"])
    return ", ".join(words).replace("_", " ")


def _print_markdown(installed: Plugins, name: str | None) -> None:
    """Print the tables of a plugin's schemes, those together that take and promise the same."""
    if name is None:
        raise click.UsageError("Name a plugin, or a scheme, for --format markdown.")
    for group in _one(installed, name).schemes:
        schemes = [installed.schemes[scheme] for scheme in group.schemes]
        title = ", ".join(f"`{scheme}://`" for scheme in group.schemes)
        click.echo(f"\nOptions of {title}:\n\n{options_table(schemes)}")
        click.echo(f"\nGuarantees of {title}:\n\n{guarantees_table(schemes)}\n")


def _print_one(line: PluginLine) -> None:
    click.echo(f"{line.name}: {line.distribution} {line.version}")
    for group in line.schemes:
        title = ", ".join(f"{name}://" for name in group.schemes)
        click.echo()
        if group.options:
            columns = ["Option", "Type", "Default", "Unit", "Meaning"]
            if any(option["symfony"] for option in group.options):
                columns.append("In Symfony")
            rows = [_option_row(option)[: len(columns)] for option in group.options]
            print_table(columns, rows, title=f"Options of {title}")
        else:
            click.echo(f"{title} takes no options.")
        click.echo()
        if group.guarantees is not None:
            values = [(name.replace("_", " "), _as_word(value)) for name, value in group.guarantees.items()]
            print_table(("Guarantee", "Value"), values, title=f"Guarantees of {title}")


def _option_row(option: dict[str, Any]) -> tuple[object, ...]:
    meaning = f"{option['meaning']} (Accepted, but without effect.)" if option["no_effect"] else option["meaning"]
    default = "" if option["default"] is None else _as_word(option["default"])
    return option["name"], option["type"], default, option["unit"], meaning, option["symfony"]


def _as_word(value: object) -> str:
    if value is None:
        return "no limit"
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
